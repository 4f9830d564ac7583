/**
 * The Lua of groups: publish, hold and leave memberships, read history, count what was sent, receipts. Each script touches
 * one group's keys only and takes its time from Redis. `meta` is always the first key and `history` the second, since
 * whoever finds a group that nobody knows begins it.
 *
 * Offsets follow the clock as a seq does (delivery rule 2), and so does an epoch: an offset below its epoch is of another
 * life of the group. An entry of the history has `h`, the header, `s`, the selection as JSON or nothing, and `b`, the body.
 * Header, separated by spaces (fanout.ts reads it):
 *   expiresAt bytesBefore prev scheduledId|- onceOnly binary contentType
 */
import { paged } from "./bulk-reads.js";
import { drains } from "./full.js";
import { prelude as common } from "./log-scripts.js";
import type { Script } from "./redis.js";

/** A message up to this many bytes travels in the bell; a larger one is read by each instance. */
export const groupBellBytesMax = 16_384;
/** What a message counts for in the history besides its body, bytes. */
const overheadBytes = 64;
/** How many members that are none any more are removed by one script. */
const pruneMax = 200;
/**
 * Receipts of messages that nobody could hear lie in the facts, two fields each, up to so many fields. A stream takes 4 KB
 * from its first entry on.
 */
const unheardFieldsMax = 128;

/** Clock, expiry, and a group that nobody knows yet; `KEYS[1]` is its meta, `KEYS[2]` its history. */
export const prelude = `${common}
local fresh = ''
local function keep(key, span)
  if redis.call('PTTL', key) < span then redis.call('PEXPIRE', key, text(span)) end
end
local function begin(at)
  -- The delete comes last: a publish must be refused whole when Redis is full (full.ts).
  redis.call('HSET', KEYS[1], 'epoch', text(at), 'offset', text(at), 'total', '0', 'trimmed', '0')
  redis.call('DEL', KEYS[2])
  fresh = ' new'
end
local function group()
  local g = redis.call('HMGET', KEYS[1], 'epoch', 'offset')
  if g[1] then return g[1], tonumber(g[2]) end
  begin(us)
  return text(us), us
end
`;

const hold = `
local epoch, offset = group()
if ARGV[4] == epoch and (ARGV[5] == 'lost' or tonumber(ARGV[5]) > offset) then
  offset = math.max(us, offset + 1, (tonumber(ARGV[5]) or 0) + 1)
  epoch = text(offset)
  begin(offset)
end
local gone = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', text(ms), 'LIMIT', 0, ${pruneMax})
if #gone > 0 then
  for i = 3, 5 do redis.call('ZREM', KEYS[i], unpack(gone)) end
end
local span = tonumber(ARGV[2])
local to = text(ms + span)
local shown = ARGV[3] ~= '' and text(ms + tonumber(ARGV[3]))
-- One command for each set, however many members: five hundred of them kept Redis busy for 5 ms.
if #ARGV > 5 then
  local named, until_, online = {}, {}, {}
  for i = 6, #ARGV do
    local at = (i - 6) * 2 + 1
    named[at], until_[at], online[at] = 0, to, shown
    named[at + 1], until_[at + 1], online[at + 1] = ARGV[i], ARGV[i], ARGV[i]
  end
  redis.call('ZADD', KEYS[3], unpack(named))
  redis.call('ZADD', KEYS[4], unpack(until_))
  if shown then redis.call('ZADD', KEYS[5], unpack(online)) end
end
-- What nobody renews goes by itself, with the last membership in it.
if #ARGV > 5 then
  for i = 3, 5 do keep(KEYS[i], span + 1000) end
end
keep(KEYS[1], math.max(tonumber(ARGV[1]), span))
return {epoch, text(offset), fresh}
`;

/**
 * Members are alive: they stay members for \`spanMs\`, and online for \`onlineMs\`. Tells where the group stands. An instance
 * that has heard more than Redis knows says so: history was lost, and a new epoch tells everybody.
 * KEYS meta history members until online; ARGV 1 keepMs 2 spanMs 3 onlineMs|'' 4 epoch|'' 5 offset|lost, then IDs
 * Returns {epoch, offset, ' new' when it begins the group|''}.
 */
export const holdScript: Script = {
  name: "bridgeGroupHold",
  keys: 5,
  lua: `${prelude}${drains()}${hold}`,
};

/**
 * The same for who is to become a member: refused when Redis is full. With ARGV 5 'known' only in a group that there is;
 * otherwise it returns {'names'}.
 */
export const admitScript: Script = {
  name: "bridgeGroupAdmit",
  keys: 5,
  lua: `${prelude}
if ARGV[5] == 'known' and redis.call('EXISTS', KEYS[1]) == 0 then return {'names'} end
${hold}`,
};

/**
 * Members are away (\`spanMs\`: they may come back), or none any more (0). Begins with a delete (full.ts).
 * What is known of a group without members lives as long as its history may be asked for.
 * KEYS meta members until online; ARGV 1 spanMs 2 keepMs, then IDs
 */
export const leaveScript: Script = {
  name: "bridgeGroupLeave",
  keys: 4,
  lua: `${common}
for i = 3, #ARGV do
  redis.call('ZREM', KEYS[4], ARGV[i])
  if ARGV[1] == '0' then
    redis.call('ZREM', KEYS[2], ARGV[i])
    redis.call('ZREM', KEYS[3], ARGV[i])
  else
    redis.call('ZADD', KEYS[3], 'XX', text(ms + tonumber(ARGV[1])), ARGV[i])
  end
end
if redis.call('EXISTS', KEYS[3]) == 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
`,
};

/** Members and members online; a time that is over counts for nothing, whoever died. \`until\` and \`online\` are key numbers. */
const counts = (until: number, online: number) => `
local recipients = redis.call('ZCOUNT', KEYS[${until}], '(' .. text(ms), '+inf')
local online = redis.call('ZCOUNT', KEYS[${online}], '(' .. text(ms), '+inf')
`;

/** Was this Idempotency-Key used before? Stored: the fingerprint and the first answer. */
const replay = (key: number, argument: number) => `
if ARGV[${argument}] ~= '' then
  local v = redis.call('GET', KEYS[${key}])
  if v then
    local known, answer = string.match(v, '^(%S+) (.*)$')
    if known ~= ARGV[${argument}] then return 'mismatch' end
    return 'replayed ' .. answer
  end
end
`;

/**
 * Publishes: next offset, history, receipt, one bell. O(1), however many members. Where there is no member, and nobody who may
 * come back as one, nobody can ask for what is said now: no history is kept, a group that nobody knows is not begun, and
 * the receipt is two fields of the facts. Whoever becomes a member has its position after it.
 * KEYS 1 meta 2 history 3 index 4 facts 5 until 6 online 7 scheduled 8 idempotency|meta
 * ARGV 1 nonce 2 body 3 'binary from contentType' 4 ttlMs 5 selection|'' 6 maxMessages 7 maxBytes 8 historyMs 9 receiptMs 10 keepMs
 *      11 scheduledId|- 12 fingerprint|'' 13 idempotencyMs 14 '1' where a replica shall have it|''
 *      15 '1' where it may begin no group|'', then IDs of \`except\`
 * Returns 'accepted|replayed epoch place expiresAt recipients online status', and ' new' after it when nobody knew the group;
 * 'mismatch', 'names' when it may not begin one, or 'done' for a scheduled message that has nothing left to do.
 */
export const publishScript: Script = {
  name: "bridgeGroupPublish",
  keys: 8,
  lua: `${prelude}${replay(8, 12)}
local isKnown = redis.call('EXISTS', KEYS[1]) == 1
local size = redis.call('HLEN', KEYS[4])
if ARGV[15] == '1' and not isKnown and size == 0 then return 'names' end
local unheard = redis.call('EXISTS', KEYS[5]) == 0
local lean = unheard and ARGV[11] == '-' and ARGV[14] == '' and size < ${unheardFieldsMax}
local epoch, last = text(us), us
if isKnown or not lean then epoch, last = group() end
if not isKnown and size == 0 then fresh = ' new' else fresh = '' end
local seen = redis.call('HGET', KEYS[4], 'n' .. ARGV[1])
if seen then
  -- ioredis sends a command again when its reply was lost (rule 3).
  local line = redis.call('HGET', KEYS[4], 'r' .. seen)
  local row = not line and redis.call('XRANGE', KEYS[3], seen, seen, 'COUNT', 1)[1]
  if row then line = row[2][2] end
  if line then return 'accepted ' .. epoch .. ' ' .. seen .. ' ' .. string.match(line, '^(%S+ %S+ %S+ %l+)') end
  return 'unknown'
end
local waiting
local from = ms
if ARGV[11] ~= '-' then
  waiting = redis.call('HGET', KEYS[7], ARGV[11])
  if not waiting or string.sub(waiting, 1, 1) ~= 'w' then return 'done' end
  from = tonumber(string.match(waiting, '^w:(%d+)'))
end
${counts(5, 6)}
for i = 16, #ARGV do
  local lease = redis.call('ZSCORE', KEYS[6], ARGV[i])
  if lease and tonumber(lease) > ms then online = online - 1 end
end
if ARGV[5] ~= '' then recipients = -1 end
local offset = math.max(last + 1, us)
local id = text(offset)
local ttl, window = tonumber(ARGV[4]), tonumber(ARGV[8])
-- What the history does not keep is not delivered later, so it is not promised either.
local exp = text(from + math.min(ttl, window))
local total = tonumber(redis.call('HGET', KEYS[1], 'total') or 0)
local header = exp .. ' ' .. text(total) .. ' ' .. text(last) .. ' ' .. ARGV[11] .. ' ' .. (ttl == 0 and 1 or 0) .. ' ' .. ARGV[3]
if unheard then
  if isKnown or not lean then
    redis.call('HSET', KEYS[1], 'offset', id, 'trimmed', text(total))
    -- What was said before goes as well: a history has no hole in it.
    redis.call('DEL', KEYS[2])
  end
else
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[6], id .. '-0', 'h', header, 's', ARGV[5], 'b', ARGV[2])
  redis.call('XTRIM', KEYS[2], 'MINID', text(us - window * 1000))
  total = total + #ARGV[2] + ${overheadBytes}
  redis.call('HSET', KEYS[1], 'offset', id, 'total', text(total))
  local trimmed = tonumber(redis.call('HGET', KEYS[1], 'trimmed') or 0)
  if total - trimmed > tonumber(ARGV[7]) then
    for _ = 1, tonumber(ARGV[6]) do
      local row = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
      trimmed = tonumber(string.match(row[2][2], '^%d+ (%d+)'))
      if total - trimmed <= tonumber(ARGV[7]) then break end
      redis.call('XDEL', KEYS[2], row[1])
    end
    redis.call('HSET', KEYS[1], 'trimmed', text(trimmed))
  end
  redis.call('PEXPIRE', KEYS[2], ARGV[8])
end
local status = (ttl == 0 and online == 0) and 'undeliverable' or 'queued'
local answer = exp .. ' ' .. recipients .. ' ' .. online .. ' ' .. status
local receipts = window + tonumber(ARGV[9])
local receipt = answer .. ' ' .. ARGV[11] .. ' ' .. ARGV[1]
if lean then
  redis.call('HSET', KEYS[4], 'r' .. id, receipt, 'n' .. ARGV[1], id)
else
  redis.call('XADD', KEYS[3], id .. '-0', 'r', receipt)
  redis.call('HSET', KEYS[4], 'n' .. ARGV[1], id)
  for _, row in ipairs(redis.call('XRANGE', KEYS[3], '-', text(us - receipts * 1000), 'COUNT', 8)) do
    local old = string.match(row[1], '^%d+')
    redis.call('XDEL', KEYS[3], row[1])
    redis.call('HDEL', KEYS[4], old, 't' .. old, 'n' .. string.match(row[2][2], '(%S+)$'))
  end
  redis.call('PEXPIRE', KEYS[3], text(receipts))
  keep(KEYS[1], tonumber(ARGV[10]))
end
redis.call('PEXPIRE', KEYS[4], text(receipts))
if waiting then
  redis.call('HSET', KEYS[7], ARGV[11], 's:' .. id .. ':' .. waiting)
  news('q')
end
local place = epoch .. ' ' .. id .. ' ' .. answer
if ARGV[12] ~= '' then redis.call('SET', KEYS[8], ARGV[12] .. ' ' .. place, 'PX', ARGV[13]) end
local bell = 'bell:' .. tag
local line = id .. ' ' .. text(last) .. ' ' .. epoch
if #ARGV[2] + #ARGV[5] <= ${groupBellBytesMax} then
  redis.call('@publish', bell, 'm ' .. line .. ' ' .. header .. '\\n' .. ARGV[5] .. '\\n' .. ARGV[2])
else
  redis.call('@publish', bell, 'n ' .. line)
end
return 'accepted ' .. place .. fresh
`,
};

/**
 * What follows \`after\`. Not recovered: it is of another epoch, or below what is kept, so something is missing.
 * KEYS meta history; ARGV 1 epoch|'' 2 after 3 historyMs 4 maxRows 5 maxBytes
 * Returns {epoch, offset, recovered, more, id, header, selection, body, …}.
 */
export const historyScript: Script = {
  name: "bridgeGroupHistory",
  keys: 2,
  lua: `${prelude}${drains()}${paged}
local epoch, offset = group()
local after = tonumber(ARGV[2])
redis.call('XTRIM', KEYS[2], 'MINID', text(us - tonumber(ARGV[3]) * 1000))
local out = {epoch, text(offset), 0, 0}
if ARGV[1] ~= '' and ARGV[1] ~= epoch or after < tonumber(epoch) or after > offset then return out end
local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
local floor = first and tonumber(string.match(first[2][2], '^%d+ %d+ (%d+)')) or offset
if after < floor then return out end
out[3] = 1
local rows, size, from = 0, 0, '(' .. text(after)
while rows < tonumber(ARGV[4]) and size < tonumber(ARGV[5]) do
  local look = few(rows, size, tonumber(ARGV[5]))
  local page = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', look)
  for _, row in ipairs(page) do
    out[#out + 1] = string.match(row[1], '^%d+')
    out[#out + 1] = row[2][2]
    out[#out + 1] = row[2][4]
    out[#out + 1] = row[2][6]
    rows = rows + 1
    size = size + #row[2][6]
    from = '(' .. row[1]
  end
  if #page < look then return out end
end
out[4] = 1
return out
`,
};

/** How many sockets of an instance were handed what. KEYS meta facts; ARGV 'offset:count,…' keepMs */
export const sentScript: Script = {
  name: "bridgeGroupSent",
  keys: 2,
  lua: `${common}${drains()}
for offset, count in string.gmatch(ARGV[1], '(%d+):(%d+)') do
  redis.call('HINCRBY', KEYS[2], offset, count)
  redis.call('HSETNX', KEYS[2], 't' .. offset, text(ms))
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
news('s')
return 1
`,
};

/**
 * Takes a message for later. KEYS meta history scheduled until online idempotency|meta
 * ARGV 1 scheduledId 2 dueMs 3 ttlMs 4 historyMs 5 receiptMs 6 maxWaiting 7 '1' when it is for a selection 8 fingerprint|''
 *      9 idempotencyMs 10 '1' where it may begin no group|''
 * Returns as publish does, or 'full count'.
 */
export const scheduleGroupScript: Script = {
  name: "bridgeGroupSchedule",
  keys: 6,
  lua: `${prelude}${replay(6, 8)}
local due = tonumber(ARGV[2])
local rest = math.max(0, due - ms) + tonumber(ARGV[4]) + tonumber(ARGV[5])
if redis.call('HLEN', KEYS[3]) >= tonumber(ARGV[6]) then
  -- Only what still waits counts; the rest goes once its receipt is over.
  local all, count = redis.call('HGETALL', KEYS[3]), 0
  for i = 1, #all, 2 do
    local at = tonumber(string.match(all[i + 1], 'w:(%d+)'))
    if string.sub(all[i + 1], 1, 1) == 'w' then count = count + 1
    elseif at + tonumber(ARGV[4]) + tonumber(ARGV[5]) < ms then redis.call('HDEL', KEYS[3], all[i]) end
  end
  if count >= tonumber(ARGV[6]) then return 'full ' .. count end
end
if ARGV[10] == '1' and redis.call('EXISTS', KEYS[1]) == 0 then return 'names' end
local epoch = group()
${counts(4, 5)}
if ARGV[7] == '1' then recipients = -1 end
local exp = text(due + math.min(tonumber(ARGV[3]), tonumber(ARGV[4])))
redis.call('HSETNX', KEYS[3], ARGV[1], 'w:' .. ARGV[2] .. ':' .. exp .. ':' .. text(ms) .. ':' .. recipients .. ':' .. online)
keep(KEYS[3], rest)
keep(KEYS[1], rest)
local place = epoch .. ' ' .. ARGV[1] .. ' ' .. exp .. ' ' .. recipients .. ' ' .. online .. ' scheduled'
if ARGV[8] ~= '' then redis.call('SET', KEYS[6], ARGV[8] .. ' ' .. place, 'PX', ARGV[9]) end
return 'accepted ' .. place .. fresh
`,
};

/** Forgets a scheduled message whose job could not be stored. KEYS scheduled idempotency|scheduled; ARGV scheduledId hasKey */
export const unscheduleGroupScript: Script = {
  name: "bridgeGroupUnschedule",
  keys: 2,
  lua: `
redis.call('HDEL', KEYS[1], ARGV[1])
if ARGV[2] == '1' then redis.call('DEL', KEYS[2]) end
return 1
`,
};

/** Recalls a message that waits for its time. KEYS meta scheduled; ARGV scheduledId. Returns what became of it. */
export const recallGroupScript: Script = {
  name: "bridgeGroupRecall",
  keys: 2,
  lua: `${common}${drains()}
local w = redis.call('HGET', KEYS[2], ARGV[1])
if not w then return 'not_found' end
local kind = string.sub(w, 1, 1)
if kind == 's' then return 'sent' end
if kind == 'r' then return 'final' end
redis.call('HSET', KEYS[2], ARGV[1], 'r:' .. text(ms) .. ':' .. w)
news('f')
return 'recalled'
`,
};

/**
 * The facts of one receipt. KEYS meta index facts scheduled; ARGV 1 offset|'' 2 scheduledId|''
 * Returns {'missing'}, {'waiting', nowMs, record} or {'facts', nowMs, offset, 'expiresAt recipients online status …', sent|'', sentAt|'', record|'', durable}.
 */
export const groupReceiptScript: Script = {
  name: "bridgeGroupReceipt",
  keys: 4,
  lua: `${common}
local offset, record = ARGV[1], ''
if offset == '' then
  record = redis.call('HGET', KEYS[4], ARGV[2])
  if not record then return {'missing'} end
  offset = string.match(record, '^s:(%d+)')
  if not offset then return {'waiting', text(ms), record} end
end
local line = redis.call('HGET', KEYS[3], 'r' .. offset)
local row = not line and redis.call('XRANGE', KEYS[2], offset, offset, 'COUNT', 1)[1]
if row then line = row[2][2] end
if not line then return {'missing'} end
local scheduled = string.match(line, ' (%S+) %S+$')
if ARGV[1] ~= '' and scheduled ~= '-' then return {'missing'} end
local f = redis.call('HMGET', KEYS[3], offset, 't' .. offset)
return {'facts', text(ms), offset, line, f[1] or '', f[2] or '', record, redis.call('HGET', KEYS[1], 'durable') or '0'}
`,
};
