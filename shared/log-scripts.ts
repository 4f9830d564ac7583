/**
 * The Lua of the log: append, schedule, read, report, recall, receipt. Each script touches one connection's
 * keys only and takes its time from Redis. Times are milliseconds, a seq is microseconds or one more than the last.
 *
 * An entry of the log has two fields: `h`, the header, and `b`, the body as posted. The doorbell carries the same
 * header, so that the writers of the wire format stand here and its readers in entry.ts. Header, separated by spaces:
 *   expiresAt cumulativeBytes scheduledId|- onlyEpoch|- topic|- flags contentType      (flags: entry.ts)
 */
import { paged } from "./bulk-reads.js";
import { drains } from "./full.js";
import { horizonMs } from "./keys.js";
import { clock, text } from "./lua.js";
import { forMany } from "./many.js";
import { undelivered } from "./outbox.js";
import type { Script } from "./redis.js";

/** The names that follow from the connection's key `bridge:{id}:conn`. */
const names = `
local tag = string.sub(KEYS[1], 8, -6)
local function news(word) redis.call('@publish', 'news:' .. tag, word) end
`;
/** A key that a script may have begun lives no longer than its connection, `KEYS[1]`. */
export const bounded = `
local function bounded(key)
  local rest = redis.call('PTTL', KEYS[1])
  if rest > 0 then redis.call('PEXPIRE', key, text(rest)) end
end
`;
export const prelude = `${clock}${names}`;

/**
 * Whether the connection takes messages. A lapse (prepared too long, away too long, lease and resume window over) is
 * found on read; who finds it ends it.
 */
const liveness = `
local function refuse(state, lease, till, resume)
  if state == 'open' then
    if ms > tonumber(lease) and ms > tonumber(lease) + tonumber(resume) then return {'lapsed'} end
    return nil
  end
  if not state then return {'not_found'} end
  if state == 'ended' then
    local r = redis.call('HMGET', KEYS[1], 'ended', 'reason')
    return {'ended', r[1], r[2] or ''}
  end
  if ms > tonumber(till) then return {'lapsed'} end
  return nil
end
`;

/**
 * Is this Idempotency-Key known? Stored: fingerprint, busy-until, then the facts of the first answer, then the answer.
 */
const idempotency = `
local function replay(key, fingerprint)
  if fingerprint == '' then return nil end
  local v = redis.call('GET', key)
  if not v then return nil end
  local known, busy, seq, exp, online, status, answer = string.match(v, '^(%S+) (%d+) (%S+) (%d+) (%d) (%S+) ?(.*)$')
  if known ~= fingerprint then return {'mismatch'} end
  if answer == '' and tonumber(busy) > ms then return {'running'} end
  return {'replayed', seq, exp, tonumber(online), status, answer}
end
`;

/** A message up to this many bytes travels in the doorbell itself; a larger one is read from the log. */
export const bellBytesMax = 4_096;
/** While a job is on its way no second one is needed; if it is lost, for this long, milliseconds (rule 8). */
const queuedFlagMs = 2_000;

/** After so many of a user's messages those identities go that no repetition needs any more. */
const identitiesPerTidy = 256;

/** What a message counts for besides its body, bytes; so a log of empty messages is bounded by bytes, too. */
export const messageOverheadBytes = 64;

/** Takes one message out of the log (conn KEYS[1], log KEYS[2]), and its bytes out of what waits. */
export const drop = `
local function drop(seq)
  local row = redis.call('XRANGE', KEYS[2], seq, seq)[1]
  if not row then return false end
  redis.call('XDEL', KEYS[2], row[1])
  redis.call('HINCRBY', KEYS[1], 'trimmed', text(#row[2][4] + ${messageOverheadBytes}))
  return true
end
`;

/**
 * The producer's counter makes a second execution harmless: ioredis sends a command again when its reply was
 * lost. Only a set bit is a duplicate; a counter older than the bitmap's 64 is an unknown outcome, never a 202.
 */
const deduplicate = `
  -- Nearly always the counter follows on and all before it were seen: no bits to shift.
  local seen = string.format('%d:4294967295:4294967295:', ARGV[2] - 1)
  if c[8] and string.sub(c[8], 1, #seen) == seen or not c[8] and ARGV[2] == '1' then
    mark = ARGV[2] .. ':4294967295:4294967295:' .. now
  else
  local n = tonumber(ARGV[2])
  local high, lo, hi = n - 1, 0, 0
  local fresh = true
  if c[8] then
    local a, b, d = string.match(c[8], '^(%d+):(%d+):(%d+)')
    high, lo, hi = tonumber(a), tonumber(b), tonumber(d)
  end
  if n == high + 1 then
    hi = bit.bor(bit.lshift(hi, 1), bit.rshift(lo, 31))
    lo = bit.bor(bit.lshift(lo, 1), 1)
    high = n
  elseif n > high then
    local d = n - high
    if d >= 64 then lo, hi = 0, 0
    elseif d >= 32 then hi = bit.lshift(lo, d - 32); lo = 0
    else
      hi = bit.bor(bit.lshift(hi, d), bit.rshift(lo, 32 - d))
      lo = bit.lshift(lo, d)
    end
    lo = bit.bor(lo, 1)
    high = n
  else
    local d = high - n
    if d >= 64 then return {'unknown'} end
    if d >= 32 then
      local b = bit.lshift(1, d - 32)
      if bit.band(hi, b) ~= 0 then fresh = false else hi = bit.bor(hi, b) end
    else
      local b = bit.lshift(1, d)
      if bit.band(lo, b) ~= 0 then fresh = false else lo = bit.bor(lo, b) end
    end
  end
  if not fresh then
    local wanted = ARGV[1] .. ':' .. ARGV[2]
    for _, row in ipairs(redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1000)) do
      local who, exp, online = string.match(row[2][2], '^(%S+) (%d+) (%d)')
      if who == wanted then
        local first = (ARGV[5] == '0' and online == '0') and 'undeliverable' or 'queued'
        return 'accepted ' .. string.match(row[1], '^%d+') .. ' ' .. exp .. ' ' .. online .. ' 0 ' .. first
      end
    end
    return {'unknown'}
  end
  if lo < 0 then lo = lo + 4294967296 end
  if hi < 0 then hi = hi + 4294967296 end
  mark = high .. ':' .. lo .. ':' .. hi .. ':' .. now
  end
`;

/** The time of an append, as text wherever it can be. */
const appendClock = `${text}
local T = redis.call('TIME')
local clock = T[1] .. string.sub('00000' .. T[2], -6)
local now = string.sub(clock, 1, -4)
local ms = tonumber(now)
`;

/** What an append reads of its connection. */
const known = (more = "") => `
local field = 'p:' .. ARGV[1]
local c = redis.call('HMGET', KEYS[1], 'state', 'lease', 'seq', 'epoch', 'flag', 'total', 'trimmed', field, 'until'${more})
`;

/**
 * Append + flag + doorbell, in two sizes: the plain push, and the one with topic, schedule, idempotency or ttl 0; and the
 * plain push as one of many. Made of the same text, because most pushes are plain and every key and argument costs on both
 * ends. One of many leaves in `c` what the next one for its connection has to know.
 *
 * KEYS conn log index, full: fates topics scheduled idempotency
 * ARGV 1 producer 2 counter 3 body 4 'flags contentType' 5 ttlMs
 *      6 bytes below which no limit is reached 7 'maxMessages maxBytes' 8 resumeMs, full: 9 topic|- 10 scheduledId|- 11 fingerprint 12 idempotencyMs 13 busyMs
 *      14 ID in the header|- 15 expiresAt of a message to a user|0 16 '1': only to one that is open
 *      17 how long a reply is taken (ms)|0: its place is made here, before anybody has the message (replies.ts) 18 how long it is kept (ms)
 * A message to a user with an ID in 10 as well is appended once, however often this runs; {'done', seq} from then on.
 * Times stay text wherever they can: turning numbers into text and back was a third of this script. Text of the same
 * length (or '0') compares as its numbers do.
 * Returns 'accepted seq expiresAt online job status' (job: 'epoch@owner' when nobody heard and a job is needed, else 0) or {refusal, …}.
 */
function appendLua(size: "plain" | "full" | "one of many"): string {
  const full = size === "full";
  const one = size === "one of many";
  const fullOnly = (lua: string) => (full ? lua : "");
  return `${one ? "" : `${names}${appendClock}${bounded}${liveness}${fullOnly(idempotency)}${fullOnly(drop)}${known(fullOnly(", 'readTo'"))}`}
if c[1] ~= 'open' or now > c[2] then
  local no = refuse(c[1], c[2], c[9], ARGV[8])
  if no then return no end
${fullOnly("  if ARGV[16] == '1' then return {'not_open'} end")}
end

local mark, waiting
${fullOnly("local to_user = ARGV[15] ~= '0'")}
${full ? "if ARGV[10] == '-' then" : "do"}
${deduplicate}
end
${fullOnly(`
if ARGV[10] ~= '-' then
  waiting = redis.call('HGET', KEYS[6], ARGV[10])
  if not waiting and to_user then waiting = 'w:0:' .. ARGV[15] .. ':' .. now .. ':0' end
  if not waiting or string.sub(waiting, 1, 1) ~= 'w' then return {'done', waiting and string.match(waiting, '^s:(%d+)') or ''} end
  if to_user and redis.call('HLEN', KEYS[6]) % ${identitiesPerTidy} == ${identitiesPerTidy - 1} then
    local oldest = redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1]
    local kept = oldest and tonumber(string.match(oldest[1], '^%d+')) or 0
    local all = redis.call('HGETALL', KEYS[6])
    for i = 1, #all, 2 do
      local at = string.match(all[i + 1], '^s:(%d+)')
      if at and tonumber(at) < kept then redis.call('HDEL', KEYS[6], all[i]) end
    end
  end
end
local again = replay(KEYS[7], ARGV[11])
if again then return again end`)}

local bytes = #ARGV[3]
local size = (c[6] or 0) + bytes + ${messageOverheadBytes}
local held = size - (c[7] or 0)
-- Each message counts for its overhead, so few bytes held means few messages held.
if held > tonumber(ARGV[6]) then
  local maxMessages, maxBytes = string.match(ARGV[7], '(%d+) (%d+)')
  local count = redis.call('XLEN', KEYS[2])
  if count >= tonumber(maxMessages) then return {'full', 'messages', maxMessages, count} end
  if count > 0 and held > tonumber(maxBytes) then return {'full', 'bytes', maxBytes, held} end
end

local last = c[3] or '0'
local id
if clock > last then id = clock else id = text(tonumber(last) + 1) end
local exp
${full ? "if waiting then exp = string.match(waiting, '^w:%d+:(%d+)') elseif to_user then exp = ARGV[15] else exp = string.format('%d', ms + ARGV[5]) end" : "exp = string.format('%d', ms + ARGV[5])"}
local epoch = c[4] or '0'
local total = string.format('%d', size)
${
  full
    ? `local now_only = ARGV[5] == '0'
local header = exp .. ' ' .. total .. ' ' .. ARGV[14] .. ' ' .. (now_only and epoch or '-') .. ' ' .. ARGV[9] .. ' ' .. ARGV[4]`
    : "local header = exp .. ' ' .. total .. ' - - - ' .. ARGV[4]"
}

-- The first write comes before the bell: where Redis refuses writes (disk full, out of memory, replicas missing) it refuses
-- here, and nobody has heard of a message that its publisher will send again.
${fullOnly("if now_only then redis.call('HSET', KEYS[1], 'seq', id) else")}
  redis.call('XADD', KEYS[2], id .. '-0', 'h', header, 'b', ARGV[3])
${fullOnly("end")}
local heard = 0
-- Whoever owned it last hears it, also when its lease is over: it may be alive and renew (rule 4).
if epoch ~= '0' then
  local payload
  if bytes <= ${bellBytesMax} then payload = 'm ' .. id .. ' ' .. last .. ' ' .. header .. '\\n' .. ARGV[3]
  else payload = 'n ' .. id .. ' ' .. last end
  heard = redis.call('@publish', 'bell:' .. tag .. ':' .. epoch, payload)
end
local live = c[1] == 'open' and now < c[2]
local online = (live and heard > 0) and '1' or '0'
local status = 'queued'
local job = '0'
-- Its owner should have heard: a job in the owner's queue wakes it, unless one is on its way (rule 8).
if live and heard == 0 and (c[5] or '0') <= now${fullOnly(" and not now_only")} then
  local owner = redis.call('HGET', KEYS[1], 'owner')
  if owner then job = epoch .. '@' .. owner end
${
  one
    ? `  c[5] = string.format('%d', ms + ${queuedFlagMs})
  c.flag = c[5]`
    : `  redis.call('HSET', KEYS[1], 'flag', text(ms + ${queuedFlagMs}))`
}
end

${fullOnly(`if now_only and online == '0' then
  status = 'undeliverable'
  total = tonumber(c[6] or 0)
  redis.call('ZADD', KEYS[4], id, id .. ':undeliverable:not_connected:' .. text(ms))
  bounded(KEYS[4])
elseif now_only then
  redis.call('XADD', KEYS[2], id .. '-0', 'h', header, 'b', ARGV[3])
end`)}
redis.call('XADD', KEYS[3], id .. '-0', 'f', ${full ? "(waiting and not to_user and ARGV[10] or (ARGV[1] .. ':' .. ARGV[2]))" : "ARGV[1] .. ':' .. ARGV[2]"} .. ' ' .. exp .. ' ' .. online)
${
  one
    ? `c[3], c[6], c[8] = id, total, mark
if heard > 0 then c.readTo = id end`
    : `if heard > 0 then redis.call('HSET', KEYS[1], 'seq', id, 'total', total, 'readTo', id${full ? ")" : ", field, mark)"}
else redis.call('HSET', KEYS[1], 'seq', id, 'total', total${full ? ")" : ", field, mark)"} end`
}
${fullOnly(`if mark then redis.call('HSET', KEYS[1], field, mark) end
if waiting then
  redis.call('HSET', KEYS[6], ARGV[10], 's:' .. id .. ':' .. waiting)
  if to_user then bounded(KEYS[6]) end
  news('q')
end`)}
if size == bytes + ${messageOverheadBytes} then
  -- The first message begins its streams: they live no longer than their connection.
  local rest = redis.call('PTTL', KEYS[1])
  if rest > 0 then
    redis.call('PEXPIRE', KEYS[2], rest)
    redis.call('PEXPIRE', KEYS[3], rest)
  end
end
${fullOnly(`
if ARGV[9] ~= '-' and status == 'queued' then
  local old = redis.call('HGET', KEYS[5], ARGV[9])
  redis.call('HSET', KEYS[5], ARGV[9], id)
  bounded(KEYS[5])
  -- With a live owner the owner decides, when it reads; without one only what no owner was given may go.
  if old and heard == 0 and tonumber(old) > tonumber(c[10] or 0) and drop(old) then
    redis.call('ZADD', KEYS[4], old, old .. ':replaced::' .. text(ms))
    bounded(KEYS[4])
    news('f')
  end
end
if ARGV[17] ~= '0' and status == 'queued' then
  local place = 'bridge:' .. tag .. ':reply:' .. id
  redis.call('HSET', place, 'keep', ARGV[18])
  redis.call('PEXPIRE', place, ARGV[17])
end
if ARGV[11] ~= '' then
  redis.call('SET', KEYS[7], ARGV[11] .. ' ' .. text(ms + tonumber(ARGV[13])) .. ' ' .. id .. ' ' .. exp .. ' ' .. online .. ' ' .. status, 'PX', ARGV[12])
end`)}
return 'accepted ' .. id .. ' ' .. exp .. ' ' .. online .. ' ' .. job .. ' ' .. status
`;
}

/** The plain push. */
export const appendScript: Script = {
  name: "bridgeAppend",
  keys: 3,
  lua: appendLua("plain"),
};

/** The push with topic, schedule, idempotency or ttl 0. */
export const appendFullScript: Script = {
  name: "bridgeAppendFull",
  keys: 7,
  lua: appendLua("full"),
};

/**
 * Plain pushes, many in one call: to one connection, or to several that lie in one slot. Each is accepted or refused for
 * itself, as if it had come alone; those for a connection are appended in their order, and what is known of it is read and
 * written once. A Redis that refuses writes refuses all of it, and that is the answer; it refuses none once one was
 * done (full.ts).
 * KEYS conn log index, of each connection
 * ARGV 1 producer 2 bytes below which no limit is reached 3 'maxMessages maxBytes' 4 resumeMs, then of each connection the
 *      number of its messages, and of each message: counter, body, 'binary contentType', ttlMs
 * Returns what the plain push does for each, in this order; {'failed'} for one that Redis could not take.
 */
export const appendManyScript: Script = {
  name: "bridgeAppendMany",
  lua: `${names}${appendClock}
local out, at, wrote, fault = {}, 5, false, nil
local function connection(KEYS)
  local tag = string.sub(KEYS[1], 8, -6)
${known()}${bounded}${liveness}
  local before = c[3]
  local function append(ARGV)
${appendLua("one of many")}
  end
  local count = tonumber(ARGV[at])
  at = at + 1
  for _ = 1, count do
    local done, reply = pcall(append, {ARGV[1], ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[2], ARGV[3], ARGV[4]})
    if not done then fault = reply end
    out[#out + 1] = done and reply or {'failed'}
    at = at + 4
  end
  if c[3] ~= before then
    wrote = true
    local set = {'seq', c[3], 'total', c[6], field, c[8]}
    if c.readTo then set[7], set[8] = 'readTo', c.readTo end
    if c.flag then set[#set + 1] = 'flag'; set[#set + 1] = c.flag end
    redis.call('HSET', KEYS[1], unpack(set))
  end
end
for i = 1, #KEYS, 3 do connection({KEYS[i], KEYS[i + 1], KEYS[i + 2]}) end
if fault and not wrote then return redis.error_reply(fault) end
return out
`,
};

/**
 * Makes room in a log that is full: messages whose time is over and that no owner was given. A bounded look at the oldest.
 * KEYS conn log fates; returns how many went.
 */
export const makeRoomScript: Script = {
  name: "bridgeMakeRoom",
  keys: 3,
  lua: `${prelude}${bounded}${undelivered}
local readTo = tonumber(redis.call('HGET', KEYS[1], 'readTo') or 0)
local gone, items = 0, {}
for _, row in ipairs(redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 100)) do
  local exp, cum = string.match(row[2][2], '^(%d+) (%d+)')
  local seq = string.match(row[1], '^%d+')
  if tonumber(exp) > ms or tonumber(seq) <= readTo then break end
  redis.call('XDEL', KEYS[2], row[1])
  redis.call('ZADD', KEYS[3], seq, seq .. ':expired::' .. exp)
  bounded(KEYS[3])
  redis.call('HSET', KEYS[1], 'trimmed', cum)
  gone = gone + 1
  items[gone] = seq .. ':expired::' .. exp
end
undelivered(items)
if gone > 0 then news('f') end
return gone
`,
};

/** A due message that finds its log full is undeliverable. KEYS conn scheduled; ARGV scheduledId. */
export const dropDueScript: Script = {
  name: "bridgeDropDue",
  keys: 2,
  lua: `${prelude}${undelivered}${drains()}local waiting = redis.call('HGET', KEYS[2], ARGV[1])
if waiting and string.sub(waiting, 1, 1) == 'w' then
  redis.call('HSET', KEYS[2], ARGV[1], 'u:' .. text(ms) .. ':' .. waiting)
  undelivered({'s' .. ARGV[1] .. ':undeliverable:log_full:' .. text(ms)})
  news('f')
end
return 1
`,
};

/**
 * Takes a scheduled message: it is `w`aiting in a hash of its connection until its job runs.
 * KEYS conn scheduled idempotency index
 * ARGV 1 scheduledId 2 dueMs 3 ttlMs 4 fingerprint 5 idempotencyMs 6 busyMs 7 resumeMs 8 maxMessages 9 receiptMs
 * Returns {'accepted', scheduledId, expiresAt, online, 0, 'scheduled'} or a refusal.
 */
export const scheduleScript: Script = {
  name: "bridgeSchedule",
  keys: 4,
  lua: `${prelude}${bounded}${liveness}${idempotency}
local c = redis.call('HMGET', KEYS[1], 'state', 'lease', 'until')
local no = refuse(c[1], c[2], c[3], ARGV[7])
if no then return no end
local again = replay(KEYS[3], ARGV[4])
if again then return again end
if redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[8]) then
  -- Only what still waits counts; of the rest, what no receipt needs any more goes.
  local oldest = redis.call('XRANGE', KEYS[4], '-', '+', 'COUNT', 1)[1]
  local kept = oldest and tonumber(string.match(oldest[1], '^%d+')) or us
  local all = redis.call('HGETALL', KEYS[2])
  local count = 0
  for i = 1, #all, 2 do
    local kind, at = string.match(all[i + 1], '^(%a):(%d+)')
    if kind == 'w' then count = count + 1
    elseif kind == 's' and tonumber(at) < kept or kind ~= 's' and tonumber(at) + tonumber(ARGV[9]) < ms then
      redis.call('HDEL', KEYS[2], all[i])
    end
  end
  if count >= tonumber(ARGV[8]) then return {'full', 'messages', ARGV[8], count} end
end
local exp = text(tonumber(ARGV[2]) + tonumber(ARGV[3]))
local online = (c[1] == 'open' and ms < tonumber(c[2])) and 1 or 0
redis.call('HSETNX', KEYS[2], ARGV[1], 'w:' .. ARGV[2] .. ':' .. exp .. ':' .. text(ms) .. ':' .. online)
bounded(KEYS[2])
if ARGV[4] ~= '' then
  redis.call('SET', KEYS[3], ARGV[4] .. ' ' .. text(ms + tonumber(ARGV[6])) .. ' ' .. ARGV[1] .. ' ' .. exp .. ' ' .. online .. ' scheduled', 'PX', ARGV[5])
end
return {'accepted', ARGV[1], exp, online, 0, 'scheduled'}
`,
};

/** Forgets a scheduled message whose job could not be stored. KEYS scheduled idempotency; ARGV scheduledId hasKey. */
export const unscheduleScript: Script = {
  name: "bridgeUnschedule",
  keys: 2,
  lua: `
redis.call('HDEL', KEYS[1], ARGV[1])
if ARGV[2] == '1' then redis.call('DEL', KEYS[2]) end
return 1
`,
};

/**
 * What the owner reads after \`cur\`, within its epoch. The flag goes first: who appends from here on adds a job again, if
 * nobody hears (rule 8).
 * KEYS conn log fates topics
 * ARGV 1 epoch 2 cur 3 maxRows 4 maxBytes
 * Returns {'ok', seq, more, id, header, body, …} or {'fenced'} or {'missing'}: our registration is not there (lapsed, or
 * a failover lost it), which is no takeover; a confirmation says what is true.
 */
export const readScript: Script = {
  name: "bridgeRead",
  keys: 4,
  lua: `${prelude}${bounded}${drop}${paged}local c = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'readTo', 'state')
if not c[4] then return {'missing'} end
if tonumber(c[1] or 0) > tonumber(ARGV[1]) then return {'fenced'} end
if tonumber(c[1] or 0) < tonumber(ARGV[1]) or c[4] ~= 'open' then return {'missing'} end
-- The first write is a delete (full.ts).
redis.call('HDEL', KEYS[1], 'flag')
local out = {'ok', c[2] or '0', 0}
local size, rows, from = 0, 0, '(' .. ARGV[2]
local topics = redis.call('EXISTS', KEYS[4]) == 1
local to
while rows < tonumber(ARGV[3]) and size < tonumber(ARGV[4]) do
  local look = few(rows, size, tonumber(ARGV[4]))
  local page = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', look)
  for _, row in ipairs(page) do
    local seq = string.match(row[1], '^%d+')
    local header, body = row[2][2], row[2][4]
    local newest
    if topics then
      local topic = string.match(header, '^%d+ %d+ %S+ %S+ (%S+) ')
      if topic ~= '-' then newest = redis.call('HGET', KEYS[4], topic) end
    end
    if newest and tonumber(newest) > tonumber(seq) then
      drop(seq)
      redis.call('ZADD', KEYS[3], seq, seq .. ':replaced::' .. text(ms))
      bounded(KEYS[3])
      news('f')
    else
      out[#out + 1] = seq
      out[#out + 1] = header
      out[#out + 1] = body
      size = size + #body
      rows = rows + 1
      to = seq
    end
    from = '(' .. row[1]
  end
  out[3] = #page < look and 0 or 1
  if #page < look then break end
end
if to and tonumber(to) > tonumber(c[3] or 0) then redis.call('HSET', KEYS[1], 'readTo', to) end
return out
`,
};

/**
 * The owner's report: what was sent and when, what was acked, what ended otherwise. An ack trims the log.
 * KEYS conn log marks fates
 * ARGV 1 epoch 2 acked|'' 3 cumulative bytes at acked|'' 4 kind (client|socket) 5 sent marks 'pos:ms,…' 6 fates 'seq:status:reason,…'
 *      7 when to prune first (ms from now)
 * Returns 'ok', 'prune' (ok, and pruneScript is due), 'fenced' or 'missing'.
 */
export const reportScript: Script = forMany(
  "bridgeReport",
  { keys: 4, args: 7 },
  clock,
  `${undelivered}local c = redis.call('HMGET', KEYS[1], 'epoch', 'state', 'acked', 'sent', 'pruneAt')
if not c[2] then return 'missing' end
if c[1] ~= ARGV[1] then
  return tonumber(c[1] or 0) > tonumber(ARGV[1]) and 'fenced' or 'missing'
end
if c[2] ~= 'open' then return 'missing' end
local set = {}
local to = string.match(ARGV[5], '(%d+):%d+$')
if to and tonumber(to) > tonumber(c[4] or 0) then set[1] = 'sent'; set[2] = to end
-- The first write is a delete (full.ts).
if ARGV[2] ~= '' and tonumber(ARGV[2]) > tonumber(c[3] or 0) then
  local cum = ARGV[3]
  if cum == '' then
    local row = redis.call('XREVRANGE', KEYS[2], ARGV[2], '-', 'COUNT', 1)[1]
    if row then cum = string.match(row[2][2], '^%d+ (%d+)') end
  end
  if cum ~= '' then set[#set + 1] = 'trimmed'; set[#set + 1] = cum end
  redis.call('XTRIM', KEYS[2], 'MINID', text(tonumber(ARGV[2]) + 1))
  set[#set + 1] = 'acked'
  set[#set + 1] = ARGV[2]
else
  ${drains()}end
if ARGV[6] ~= '' then
  local items = {}
  for seq, status, reason in string.gmatch(ARGV[6], '(%d+):(%l+):([%l_]*)') do
    redis.call('ZADD', KEYS[4], seq, seq .. ':' .. status .. ':' .. reason .. ':' .. text(ms))
    redis.call('XDEL', KEYS[2], seq .. '-0')
    items[#items + 1] = seq .. ':' .. status .. ':' .. reason .. ':' .. text(ms)
  end
  redis.call('PEXPIRE', KEYS[4], ${horizonMs})
  undelivered(items)
end
if #set > 0 then
  if not c[5] then set[#set + 1] = 'pruneAt'; set[#set + 1] = text(ms + ARGV[7]) end
  redis.call('HSET', KEYS[1], unpack(set))
  -- One mark for all of it: positions sent with their times, the position acked, and by whom.
  redis.call('XADD', KEYS[3], '*', 's', ARGV[5], 'a', ARGV[2], 'k', ARGV[4])
  if not c[3] and not c[4] then redis.call('PEXPIRE', KEYS[3], ${horizonMs}) end
end
news('r')
if c[5] and tonumber(c[5]) < ms then return 'prune' end
return 'ok'
`,
);

/**
 * Now and then: receipts whose time is over, topics that are delivered, producers that are gone.
 * KEYS conn index marks fates topics; ARGV receiptMs
 */
export const pruneScript: Script = {
  name: "bridgePrune",
  keys: 5,
  lua: `${prelude}${drains()}redis.call('HSET', KEYS[1], 'pruneAt', text(ms + tonumber(ARGV[1]) / 4))
for _, row in ipairs(redis.call('XREVRANGE', KEYS[3], text(ms - tonumber(ARGV[1])), '-', 'COUNT', 50)) do
  local acked = row[2][4]
  if acked ~= '' then
    redis.call('XTRIM', KEYS[2], 'MINID', text(tonumber(acked) + 1))
    redis.call('XTRIM', KEYS[3], 'MINID', row[1])
    redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', acked)
    break
  end
end
local acked = tonumber(redis.call('HGET', KEYS[1], 'acked') or 0)
local topics = redis.call('HGETALL', KEYS[5])
for i = 1, math.min(#topics, 2000), 2 do
  if tonumber(topics[i + 1]) <= acked then redis.call('HDEL', KEYS[5], topics[i]) end
end
local conn = redis.call('HGETALL', KEYS[1])
for i = 1, #conn, 2 do
  if string.sub(conn[i], 1, 2) == 'p:' and tonumber(string.match(conn[i + 1], '(%d+)$')) < ms - 600000 then
    redis.call('HDEL', KEYS[1], conn[i])
  end
end
return 1
`,
};

/**
 * Recall. As the owner (epoch given) everything above cur may go; without a live owner everything that no owner was given.
 * KEYS conn log fates index
 * ARGV 1 seq 2 epoch|''
 * Returns 'recalled', 'sent', 'final', 'ask:<epoch>', 'maybe', 'not_found', 'fenced'.
 */
export const recallScript: Script = {
  name: "bridgeRecall",
  keys: 4,
  lua: `${prelude}${bounded}${drop}${drains()}local c = redis.call('HMGET', KEYS[1], 'state', 'epoch', 'lease', 'acked', 'sent', 'readTo')
if not c[1] then return 'not_found' end
local seq = tonumber(ARGV[1])
local row = redis.call('XRANGE', KEYS[4], ARGV[1], ARGV[1], 'COUNT', 1)[1]
if not row then return 'not_found' end
if redis.call('ZCOUNT', KEYS[3], seq, seq) > 0 then return 'final' end
if seq <= tonumber(c[4] or 0) then return 'final' end
if c[1] == 'ended' then return 'final' end
if tonumber(string.match(row[2][2], ' (%d+) ')) < ms and seq > tonumber(c[5] or 0) then return 'final' end
if ARGV[2] ~= '' then
  if tonumber(c[2] or 0) > tonumber(ARGV[2]) then return 'fenced' end
elseif seq <= tonumber(c[5] or 0) then return 'sent'
elseif c[1] == 'open' and ms < tonumber(c[3]) then return 'ask:' .. c[2]
elseif seq <= tonumber(c[6] or 0) then return 'maybe' end
drop(ARGV[1])
redis.call('ZADD', KEYS[3], seq, ARGV[1] .. ':recalled::' .. text(ms))
bounded(KEYS[3])
news('f')
return 'recalled'
`,
};

/** Recalls a message that waits for its time. KEYS conn scheduled; ARGV scheduledId. Returns its state. */
export const recallScheduledScript: Script = {
  name: "bridgeRecallScheduled",
  keys: 2,
  lua: `${prelude}${drains()}local w = redis.call('HGET', KEYS[2], ARGV[1])
if not w then return 'not_found' end
if string.sub(w, 1, 1) ~= 'w' then return w end
if redis.call('HGET', KEYS[1], 'state') == 'ended' then return 'ended' end
redis.call('HSET', KEYS[2], ARGV[1], 'r:' .. text(ms) .. ':' .. w)
news('f')
return 'recalled'
`,
};

/**
 * The facts of one receipt.
 * KEYS conn index marks fates scheduled
 * ARGV 1 seq|'' 2 scheduledId|''
 * Returns {'missing'} or {'waiting', record, state, ended, endedReason} or
 * {'facts', nowMs, seq, expiresAt, online, acked, sent, state, ended, reason, epoch, leaseLive, fate|'', sentAt|'', ackedAt|'', ackKind|'', record|'', durable}.
 */
export const receiptScript: Script = {
  name: "bridgeReceipt",
  keys: 5,
  lua: `${prelude}
local c = redis.call('HMGET', KEYS[1], 'state', 'acked', 'sent', 'ended', 'reason', 'epoch', 'lease', 'durable')
if not c[1] then return {'missing'} end
local seq, record = ARGV[1], ''
if seq == '' then
  record = redis.call('HGET', KEYS[5], ARGV[2])
  if not record then return {'missing'} end
  seq = string.match(record, '^s:(%d+)')
  if not seq then return {'waiting', record, c[1], c[4] or '', c[5] or '', text(ms)} end
end
local row = redis.call('XRANGE', KEYS[2], seq, seq, 'COUNT', 1)[1]
if not row then return {'missing'} end
local who, exp, online = string.match(row[2][2], '^(%S+) (%d+) (%d)')
if ARGV[1] ~= '' and not string.find(who, ':', 1, true) then return {'missing'} end
local s = tonumber(seq)
local fate = redis.call('ZRANGEBYSCORE', KEYS[4], seq, seq, 'LIMIT', 0, 1)[1] or ''
local sentAt, ackedAt, kind = '', '', ''
-- Marks older than the message say nothing about it; a minute of slack for a seq that ran ahead of the clock.
local from = text(math.max(0, math.floor(s / 1000) - 60000))
for _ = 1, 50 do
  local page = redis.call('XRANGE', KEYS[3], from, '+', 'COUNT', 200)
  for _, m in ipairs(page) do
    if sentAt == '' then
      for pos, at in string.gmatch(m[2][2], '(%d+):(%d+)') do
        if tonumber(pos) >= s then sentAt = at; break end
      end
    end
    if ackedAt == '' and m[2][4] ~= '' and tonumber(m[2][4]) >= s then
      ackedAt = string.match(m[1], '^%d+')
      kind = m[2][6]
    end
    from = '(' .. m[1]
  end
  if #page < 200 or (ackedAt ~= '' and sentAt ~= '') then break end
end
return {'facts', text(ms), seq, exp, online, c[2] or '0', c[3] or '0', c[1], c[4] or '', c[5] or '',
  c[6] or '0', (c[1] == 'open' and ms < tonumber(c[7] or 0)) and 1 or 0, fate, sentAt, ackedAt, kind, record, c[8] or '0'}
`,
};

/**
 * A page of the log for people, bodies cut. KEYS conn log; ARGV after rows bytes
 * Returns {nowMs, sent, more, id, header, bytes, beginning, …}.
 */
export const pendingScript: Script = {
  name: "bridgePending",
  keys: 2,
  lua: `${prelude}
local rows = tonumber(ARGV[2])
local page = redis.call('XRANGE', KEYS[2], '(' .. ARGV[1], '+', 'COUNT', text(rows + 1))
local out = {text(ms), redis.call('HGET', KEYS[1], 'sent') or '0', #page > rows and '1' or '0'}
for i = 1, math.min(rows, #page) do
  local row = page[i]
  out[#out + 1] = string.match(row[1], '^%d+')
  out[#out + 1] = row[2][2]
  out[#out + 1] = text(#row[2][4])
  out[#out + 1] = string.sub(row[2][4], 1, tonumber(ARGV[3]))
end
return out
`,
};

/**
 * How full a log is, and what is known of an idempotency key. KEYS conn log idempotency
 * Returns {messages, bytes, stored|'', oldest may make room (1|0)}.
 */
export const roomScript: Script = {
  name: "bridgeRoom",
  keys: 3,
  lua: `${prelude}
local c = redis.call('HMGET', KEYS[1], 'total', 'trimmed', 'readTo')
local row = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
local room = 0
if row and tonumber(string.match(row[2][2], '^%d+')) <= ms and tonumber(string.match(row[1], '^%d+')) > tonumber(c[3] or 0) then room = 1 end
return {redis.call('XLEN', KEYS[2]), (c[1] or 0) - (c[2] or 0), redis.call('GET', KEYS[3]) or '', room}
`,
};

/** Completes a stored first answer; an empty one says that there will be none. KEYS idempotency conn; ARGV answer. */
export const settleScript: Script = {
  name: "bridgeSettle",
  keys: 2,
  lua: `
${drains("KEYS[2]")}local v = redis.call('GET', KEYS[1])
if not v then return 0 end
local facts = string.match(v, '^(%S+ %d+ %S+ %d+ %d %S+)')
if ARGV[1] == '' then facts = string.gsub(facts, '^(%S+) %d+', '%1 0') end
redis.call('SET', KEYS[1], facts .. ' ' .. ARGV[1], 'KEEPTTL')
return 1
`,
};
