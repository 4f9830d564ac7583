/**
 * The Lua of the registry: who a connection is, which instance owns it, and until when. One connection's keys only.
 *
 * States: prepared → open ⇄ away → ended. The owner is fenced by an epoch that follows the clock, so that it grows
 * across a failover; every effect of an owner compares it (log-scripts.ts).
 */
import { drains } from "./full.js";
import { horizonMs } from "./keys.js";
import { messagesNamedMax, undelivered } from "./outbox.js";
import type { Script } from "./redis.js";

const prelude = `
local T = redis.call('TIME')
local us = T[1] * 1000000 + T[2]
local ms = math.floor(us / 1000)
local function text(n) return string.format('%.0f', n) end
local function expire(first, last, after)
  for i = first, last do redis.call('PEXPIRE', KEYS[i], after) end
end
`;

/** Messages that are looked through for those to name when a connection ends, at most. */
const indexRowsMax = 500;

/** Notes what a connection that ends at \`at\` has not delivered (receipts.ts says the same of each); before its log goes. */
const leftBehind = `
local function leftBehind(at, reason)
  local c = redis.call('HMGET', KEYS[1], 'acked', 'sent')
  local count, sent = redis.call('XLEN', KEYS[2]), tonumber(c[2] or 0)
  local items, from = {}, '(' .. (c[1] or '0')
  for _ = 1, count > 0 and ${indexRowsMax / 100} or 0 do
    local rows = redis.call('XRANGE', KEYS[4], from, '+', 'COUNT', 100)
    for _, row in ipairs(rows) do
      local seq = string.match(row[1], '^%d+')
      local expires = tonumber(string.match(row[2][2], ' (%d+) '))
      from = '(' .. row[1]
      if redis.call('ZCOUNT', KEYS[6], seq, seq) == 0 then
        if tonumber(seq) > sent and expires < at then items[#items + 1] = seq .. ':expired::' .. text(expires)
        else items[#items + 1] = seq .. ':undeliverable:' .. reason .. ':' .. text(at) end
      end
    end
    if #rows < 100 or #items >= ${messagesNamedMax} then break end
  end
  local scheduled = redis.call('HGETALL', KEYS[7])
  for i = 1, #scheduled, 2 do
    if string.sub(scheduled[i + 1], 1, 1) == 'w' then
      count = count + 1
      if #items < ${messagesNamedMax} then
        items[#items + 1] = 's' .. scheduled[i] .. ':undeliverable:' .. reason .. ':' .. text(at)
      end
    end
  end
  undelivered(items, count)
end
`;

/**
 * Ends a connection; conn is KEYS[1], log KEYS[2], topics KEYS[3], its own keys KEYS[1..7] (index 4, marks 5, fates 6,
 * scheduled 7). The queue keeps its expiry, so that whoever looks next, soon or late, still finds in its lists which jobs
 * are there to be removed; and the hash outlives its time until its events are told (outbox.ts).
 */
const ending = `${undelivered}${leftBehind}
local function finish(epoch, at, reason, code, words, keep, publish, bell, news)
  -- A delete comes first: an end makes room, so a full Redis must not refuse it (full.ts).
  redis.call('HDEL', KEYS[1], 'flag', 'run', 'owner', 'lease', 'until')
  leftBehind(at, reason)
  local fields = redis.call('HKEYS', KEYS[1])
  for _, f in ipairs(fields) do
    if string.sub(f, 1, 2) == 'p:' then redis.call('HDEL', KEYS[1], f) end
  end
  redis.call('HSET', KEYS[1], 'state', 'ended', 'ended', text(at), 'reason', reason, 'endCode', code, 'endWords', words,
    'keepTo', text(ms + keep), 'evEnd', text(at) .. ' ' .. reason .. ' ' .. code .. ' ' .. words)
  redis.call('DEL', KEYS[2], KEYS[3])
  expire(1, 7, keep)
  expire(1, 1, math.max(keep, ${horizonMs}))
  -- Names the jobs that somebody has to remove; goes with the hash.
  expire(7, 7, math.max(keep, ${horizonMs}))
  if epoch > 0 then redis.call(publish, bell .. text(epoch), 'closed ' .. code .. ' ' .. words) end
  redis.call(publish, news, 'e')
end
`;

/**
 * Where a connection stands in its groups: a field `g:<group>` each, 'epoch offset'. `positions` is 'group epoch offset …'.
 */
const places = `
local function place(positions)
  for name, at in string.gmatch(positions, '(%S+) (%S+ %S+)') do redis.call('HSET', KEYS[1], 'g:' .. name, at) end
end
`;

/**
 * KEYS conn; ARGV waitMs keepMs user groups labels permissions positions
 * Returns untilMs.
 */
export const prepareScript: Script = {
  name: "bridgePrepare",
  keys: 1,
  lua: `${prelude}${places}
local expires = ms + tonumber(ARGV[1])
-- What every push looks at stands first: a small hash is searched from its head.
redis.call('HSET', KEYS[1], 'state', 'prepared', 'lease', '0', 'seq', '0', 'epoch', '0', 'flag', '0', 'total', '0', 'trimmed', '0',
  'readTo', '0', 'until', text(expires), 'created', text(ms), 'user', ARGV[3],
  'groups', ARGV[4], 'labels', ARGV[5], 'permissions', ARGV[6])
place(ARGV[7])
-- Somebody still has to tell of its end, if it is never used.
redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[1]) + math.max(tonumber(ARGV[2]), ${horizonMs}))
return text(expires)
`,
};

/**
 * Who a connection is, decided before its first socket. KEYS conn; ARGV field value …
 * Returns 1, or 0 when it has been opened meanwhile, or is gone.
 */
export const identifyScript: Script = {
  name: "bridgeIdentify",
  keys: 1,
  lua: `
if redis.call('HGET', KEYS[1], 'state') ~= 'prepared' then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
`,
};

/**
 * A socket takes the connection: a new epoch, the old owner is fenced.
 * KEYS 1..7 the connection's keys (conn first), 8.. its queue's (wait, active, meta first)
 * ARGV owner leaseMs resumeSeq|'' protocol publish bell resumeMs horizonMs attempt|''
 * Returns {'claimed', …}, {'not_found'}, {'ended', …}, {'lapsed'} or {'overtaken'}.
 */
export const claimScript: Script = {
  name: "bridgeClaim",
  keys: 20,
  lua: `${prelude}${drains()}local c = redis.call('HMGET', KEYS[1], 'state', 'until', 'lease', 'ended', 'reason', 'seq', 'epoch', 'acked', 'readTo',
  'user', 'groups', 'labels', 'permissions', 'created', 'suspect', 'connected', 'attempt')
if not c[1] then return {'not_found'} end
if c[1] == 'ended' then return {'ended', c[4], c[5]} end
if c[1] == 'open' then
  if ms > tonumber(c[3]) + tonumber(ARGV[7]) then return {'lapsed'} end
elseif ms > tonumber(c[2]) then return {'lapsed'} end
-- A request that its client gave up may be read after the one that followed it: it must not take that one's socket away.
local who, attempt = string.match(ARGV[9], '^(%w+)%.(%d+)$')
local last = who and string.match(c[17] or '', '^' .. who .. '%.(%d+)$')
if last and tonumber(last) > tonumber(attempt) then return {'overtaken'} end
local old = tonumber(c[7] or 0)
local epoch = math.max(old + 1, us)
local seq, acked = tonumber(c[6] or 0), tonumber(c[8] or 0)
local cur, lost = acked, 0
if ARGV[3] ~= '' then
  local seen = tonumber(ARGV[3])
  -- More than Redis knows: its history was lost. Less than was acked: the client lost its own.
  if seen > seq then lost = 1; seq = seen; redis.call('HSET', KEYS[1], 'seq', text(seq))
  elseif seen < acked then lost = 1 end
  cur = math.max(seen, acked)
end
redis.call('HDEL', KEYS[1], 'flag', 'run', 'until')
redis.call('HSET', KEYS[1], 'state', 'open', 'epoch', text(epoch), 'owner', ARGV[1], 'lease', text(ms + tonumber(ARGV[2])),
  'protocol', ARGV[4], 'connected', text(ms), 'attempt', ARGV[9])
-- Once for a connection, not for each of its sockets.
if not c[16] then redis.call('HSET', KEYS[1], 'evOpen', text(ms) .. ' ' .. ARGV[4]) end
local fields = redis.call('HGETALL', KEYS[1])
local positions, version = {}, '0'
for i = 1, #fields, 2 do
  local kind = string.sub(fields[i], 1, 2)
  if kind == 'p:' and tonumber(string.match(fields[i + 1], '(%d+)$')) < ms - 600000 then
    redis.call('HDEL', KEYS[1], fields[i])
  elseif kind == 'g:' then
    positions[#positions + 1] = string.sub(fields[i], 3) .. ' ' .. fields[i + 1]
  elseif fields[i] == 'gv' then version = fields[i + 1] end
end
-- BullMQ's event stream is not used and must not grow; nothing of the queue outlives the connection.
redis.call('HSET', KEYS[10], 'opts.maxLenEvents', 0)
expire(1, #KEYS, tonumber(ARGV[8]))
if old > 0 then redis.call(ARGV[5], ARGV[6] .. text(old), 'fenced') end
return {'claimed', text(epoch), text(cur), text(seq), c[9] or '0', lost, redis.call('LLEN', KEYS[8]), redis.call('LLEN', KEYS[9]),
  c[10] or '', c[11] or '[]', c[12] or '{}', c[13] or '[]', c[14] or text(ms), text(acked), c[15] or '', c[16] and 0 or 1,
  version, table.concat(positions, ' '), old > 0 and 0 or 1}
`,
};

/**
 * The owner is alive and nothing has changed, which is nearly always so: a longer lease.
 * KEYS conn, its queue's wait; ARGV epoch leaseMs cur positions
 * Returns {'ok', seq, waiting, version of its groups}, or {'changed'}: ask restoreScript.
 */
export const renewScript: Script = {
  name: "bridgeRenew",
  keys: 2,
  lua: `${prelude}${places}${drains()}local c = redis.call('HMGET', KEYS[1], 'state', 'epoch', 'seq', 'gv')
if c[1] ~= 'open' or c[2] ~= ARGV[1] or tonumber(c[3] or 0) < tonumber(ARGV[3]) then return {'changed'} end
redis.call('HSET', KEYS[1], 'lease', ms + tonumber(ARGV[2]))
if ARGV[4] ~= '' then place(ARGV[4]) end
return {'ok', c[3] or '0', redis.call('LLEN', KEYS[2]), c[4] or '0'}
`,
};

/**
 * The owner is alive. Recreates what a failover lost; the higher epoch wins. Renews the expiry of all keys.
 * KEYS as in claim
 * ARGV epoch owner leaseMs cur protocol user groups labels permissions created horizonMs positions
 * Returns {'ok', seq, waiting, recreated (1|0), version of its groups}, {'fenced'} or {'ended', code, words}.
 */
export const restoreScript: Script = {
  name: "bridgeRestore",
  keys: 20,
  lua: `${prelude}${places}${drains()}local c = redis.call('HMGET', KEYS[1], 'state', 'epoch', 'seq', 'endCode', 'endWords', 'gv')
local mine = tonumber(ARGV[1])
if c[1] == 'ended' then return {'ended', c[4] or '1000', c[5] or ''} end
local epoch = tonumber(c[2] or 0)
if epoch > mine then return {'fenced'} end
if not c[1] or epoch < mine then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'protocol', ARGV[5], 'user', ARGV[6], 'groups', ARGV[7], 'labels', ARGV[8],
    'permissions', ARGV[9], 'created', ARGV[10], 'connected', text(ms))
end
local seq = math.max(tonumber(c[3] or 0), tonumber(ARGV[4]))
redis.call('HSET', KEYS[1], 'state', 'open', 'owner', ARGV[2], 'lease', text(ms + tonumber(ARGV[3])), 'seq', text(seq))
if c[1] ~= 'open' then redis.call('HDEL', KEYS[1], 'until') end
place(ARGV[12])
expire(1, #KEYS, tonumber(ARGV[11]))
return {'ok', text(seq), redis.call('LLEN', KEYS[8]), c[1] and 0 or 1, c[6] or '0'}
`,
};

/** The socket is gone, the connection waits for its client. KEYS conn; ARGV epoch resumeMs positions. Returns untilMs or ''. */
export const releaseScript: Script = {
  name: "bridgeRelease",
  keys: 1,
  lua: `${prelude}${places}
local c = redis.call('HMGET', KEYS[1], 'state', 'epoch')
if c[1] ~= 'open' or tonumber(c[2] or 0) ~= tonumber(ARGV[1]) then return '' end
local expires = text(ms + tonumber(ARGV[2]))
redis.call('HDEL', KEYS[1], 'flag', 'run', 'owner', 'lease')
redis.call('HSET', KEYS[1], 'state', 'away', 'until', expires)
place(ARGV[3])
return expires
`,
};

/**
 * Ends a connection, as its owner (epoch given: nothing happens when it is over) or from the backend.
 * KEYS conn log topics then the other keys of the connection and its queue
 * ARGV epoch|'' reason code words keepMs publish bell news
 * Returns 'ended', 'fenced', 'not_found' or 'before'.
 */
export const endScript: Script = {
  name: "bridgeEnd",
  keys: 20,
  lua: `${prelude}${ending}
local c = redis.call('HMGET', KEYS[1], 'state', 'epoch')
if not c[1] then return 'not_found' end
if c[1] == 'ended' then return 'before' end
local epoch = tonumber(c[2] or 0)
if ARGV[1] ~= '' and tonumber(ARGV[1]) ~= epoch then return 'fenced' end
finish(ARGV[1] == '' and epoch or 0, ms, ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7], ARGV[8])
return 'ended'
`,
};

/**
 * Looks whether a connection's time is over: a lease that ran out makes it away, a window that ran out ends it.
 * KEYS as in end; ARGV resumeMs keepMs publish bell news
 * Returns {state, dueMs, nowMs, endedMs|'0', '1' when there is something to tell}; {'gone', …} when nothing is left.
 */
export const lapseScript: Script = {
  name: "bridgeLapse",
  keys: 20,
  lua: `${prelude}${ending}
local c = redis.call('HMGET', KEYS[1], 'state', 'until', 'lease', 'ended', 'epoch', 'evOpen', 'evTold', 'evMail', 'evEnd', 'keepTo')
if not c[1] then return {'gone', '0', text(ms), '0', '0'} end
local keep = tonumber(ARGV[2])
local marks = (c[6] or c[7] or c[8] or c[9]) and '1' or '0'
local function answer(state, due, ended) return {state, due, text(ms), ended or '0', marks} end
if c[1] == 'ended' then return answer('ended', c[10] or text(tonumber(c[4]) + keep), c[4]) end
local over, reason
if c[1] == 'open' then
  local lease = tonumber(c[3])
  if ms <= lease then return answer('open', c[3]) end
  over = lease + tonumber(ARGV[1])
  reason = 'resume_expired'
  if ms <= over then
    redis.call('HDEL', KEYS[1], 'flag', 'run', 'owner', 'lease')
    redis.call('HSET', KEYS[1], 'state', 'away', 'until', text(over))
    return answer('away', text(over))
  end
else
  over = tonumber(c[2])
  if ms <= over then return answer(c[1], c[2]) end
  reason = c[1] == 'prepared' and 'never_connected' or 'resume_expired'
end
finish(tonumber(c[5] or 0), over, reason, '4510', 'the connection is gone', keep, ARGV[3], ARGV[4], ARGV[5])
marks = '1'
return answer('ended', text(ms + keep), text(over))
`,
};

/**
 * A connection's place in one of the lists of all. Draining needs it, too (full.ts): of a sorted set a member that is not
 * there is removed. KEYS list; ARGV score connectionId
 */
export const placeScript: Script = {
  name: "bridgePlace",
  keys: 1,
  lua: `
redis.call('ZREM', KEYS[1], '')
return redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
`,
};

/** KEYS conn log; returns {nowMs, pending, field, value, …}. */
export const inspectScript: Script = {
  name: "bridgeInspect",
  keys: 2,
  lua: `${prelude}
local all = redis.call('HGETALL', KEYS[1])
table.insert(all, 1, redis.call('XLEN', KEYS[2]))
table.insert(all, 1, text(ms))
return all
`,
};
