/**
 * The Lua of the registry: who a connection is, and which process owns it. One connection's keys only.
 *
 * States: prepared → open ⇄ away → ended. The owner is fenced by an epoch that follows the clock, so that it grows
 * across a failover; every effect of an owner compares it (log-scripts.ts). `lease` is when an open connection counts as left
 * if nobody says more: days ahead, because its owner has a lease of its own for all its connections (directory.ts). Who finds that
 * over shortens `lease` to it (lapseScript).
 */
import { drains } from "./full.js";
import { horizonMs } from "./keys.js";
import { clock } from "./lua.js";
import { forMany } from "./many.js";
import { messagesNamedMax, undelivered } from "./outbox.js";
import type { Script } from "./redis.js";

const prelude = `${clock}
local function expire(first, last, after)
  for i = first, last do redis.call('PEXPIRE', KEYS[i], text(after)) end
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
 * scheduled 7). The hash outlives its time until its events are told (outbox.ts). Returns what there is to tell and to clear
 * up after it: {evOpen|'', more marks (1|0), evEnd, user, connected|'', scheduled messages that wait (1|0), its groups as JSON}.
 */
const ending = `${undelivered}${leftBehind}
local function finish(epoch, at, reason, code, words, keep, publish, bell, news)
  -- A delete comes first: an end makes room, so a full Redis must not refuse it (full.ts).
  redis.call('HDEL', KEYS[1], 'flag', 'owner', 'lease', 'until')
  leftBehind(at, reason)
  local fields = redis.call('HKEYS', KEYS[1])
  for _, f in ipairs(fields) do
    if string.sub(f, 1, 2) == 'p:' then redis.call('HDEL', KEYS[1], f) end
  end
  local last = text(at) .. ' ' .. reason .. ' ' .. code .. ' ' .. words
  redis.call('HSET', KEYS[1], 'state', 'ended', 'ended', text(at), 'reason', reason, 'endCode', code, 'endWords', words,
    'keepTo', text(ms + keep), 'evEnd', last)
  redis.call('DEL', KEYS[2], KEYS[3])
  expire(4, 6, keep)
  expire(1, 1, math.max(keep, ${horizonMs}))
  -- Names the jobs that somebody has to remove; goes with the hash.
  expire(7, 7, math.max(keep, ${horizonMs}))
  if epoch > 0 then redis.call(publish, bell .. text(epoch), 'closed ' .. code .. ' ' .. words) end
  redis.call(publish, news, 'e')
  local c = redis.call('HMGET', KEYS[1], 'evOpen', 'evTold', 'evMail', 'user', 'connected', 'groups')
  return {c[1] or '', (c[2] or c[3]) and 1 or 0, last, c[4] or '', c[5] or '', redis.call('EXISTS', KEYS[7]), c[6] or '[]'}
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
redis.call('PEXPIRE', KEYS[1], text(tonumber(ARGV[1]) + math.max(tonumber(ARGV[2]), ${horizonMs})))
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
 * KEYS the connection's keys (conn first)
 * ARGV owner horizonMs resumeSeq|'' protocol publish bell resumeMs attempt|'' epoch of its resume token|''
 * Returns {'claimed', …}, {'not_found'}, {'ended', …}, {'lapsed'}, {'overtaken'} or {'replaced'}.
 */
export const claimScript: Script = {
  name: "bridgeClaim",
  keys: 7,
  lua: `${prelude}${drains()}local c = redis.call('HMGET', KEYS[1], 'state', 'until', 'lease', 'ended', 'reason', 'seq', 'epoch', 'acked', 'readTo',
  'user', 'groups', 'labels', 'permissions', 'created', 'suspect', 'connected', 'attempt', 'total', 'tok')
if not c[1] then return {'not_found'} end
if c[1] == 'ended' then return {'ended', c[4], c[5]} end
if c[1] == 'open' then
  if ms > tonumber(c[3]) + tonumber(ARGV[7]) then return {'lapsed'} end
elseif ms > tonumber(c[2]) then return {'lapsed'} end
-- A request that its client gave up may be read after the one that followed it: it must not take that one's socket away.
local who, attempt = string.match(ARGV[8], '^(%w+)%.(%d+)$')
local last = who and string.match(c[17] or '', '^' .. who .. '%.(%d+)$')
if last and tonumber(last) > tonumber(attempt) then return {'overtaken'} end
-- Resume tokens from before the one that was used last are over. That one is not: a welcome with the next may have been lost.
if ARGV[9] ~= '' and tonumber(ARGV[9]) < tonumber(c[19] or 0) then return {'replaced'} end
local old = tonumber(c[7] or 0)
local epoch = math.max(old + 1, us)
local seq, acked = tonumber(c[6] or 0), tonumber(c[8] or 0)
local cur, said, lost = acked, acked, 0
if ARGV[3] ~= '' then
  local seen = tonumber(ARGV[3])
  -- More than Redis knows: its history was lost. Less than was acked: the client lost its own.
  if seen > seq then lost = 1; seq = seen; redis.call('HSET', KEYS[1], 'seq', text(seq))
  elseif seen < acked then lost = 1 end
  said = math.max(seen, acked)
  -- What a client says it has seen counts as far as it was handed out.
  cur = math.max(math.min(seen, tonumber(c[9] or 0)), acked)
end
redis.call('HDEL', KEYS[1], 'flag', 'until')
redis.call('HSET', KEYS[1], 'state', 'open', 'epoch', text(epoch), 'owner', ARGV[1], 'lease', text(ms + tonumber(ARGV[2])),
  'protocol', ARGV[4], 'connected', text(ms), 'attempt', ARGV[8], 'tok', ARGV[9] ~= '' and ARGV[9] or text(epoch))
-- Once for a connection, not for each of its sockets.
if not c[16] then redis.call('HSET', KEYS[1], 'evOpen', text(ms) .. ' ' .. ARGV[4]) end
local positions, version = {}, '0'
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local kind = string.sub(fields[i], 1, 2)
  if kind == 'p:' and tonumber(string.match(fields[i + 1], '(%d+)$')) < ms - 600000 then
    redis.call('HDEL', KEYS[1], fields[i])
  elseif kind == 'g:' then
    positions[#positions + 1] = string.sub(fields[i], 3) .. ' ' .. fields[i + 1]
  elseif fields[i] == 'gv' then version = fields[i + 1] end
end
-- Without a message it has no other keys.
expire(1, c[18] == '0' and old == 0 and 1 or #KEYS, tonumber(ARGV[2]))
if old > 0 then redis.call(ARGV[5], ARGV[6] .. text(old), 'fenced') end
return {'claimed', text(epoch), text(cur), text(seq), c[9] or '0', lost,
  c[10] or '', c[11] or '[]', c[12] or '{}', c[13] or '[]', c[14] or text(ms), text(acked), c[15] or '', c[16] and 0 or 1,
  version, table.concat(positions, ' '), old > 0 and 0 or 1, text(ms), text(said)}
`,
};

/**
 * The owner compares what it knows with Redis: nearly always nothing has changed.
 * KEYS conn; ARGV epoch cur positions
 * Returns 'ok <seq> <version of its groups>', or 'changed': ask restoreScript.
 */
export const confirmScript: Script = forMany(
  "bridgeConfirm",
  { keys: 1, args: 3 },
  clock,
  `${places}${drains()}local c = redis.call('HMGET', KEYS[1], 'state', 'epoch', 'seq', 'gv')
if c[1] ~= 'open' or c[2] ~= ARGV[1] or tonumber(c[3] or 0) < tonumber(ARGV[2]) then return 'changed' end
if ARGV[3] ~= '' then place(ARGV[3]) end
return 'ok ' .. (c[3] or '0') .. ' ' .. (c[4] or '0')
`,
);

/**
 * The owner is alive. Recreates what a failover lost; the higher epoch wins. Renews the expiry of all keys.
 * KEYS as in claim
 * ARGV epoch owner horizonMs cur protocol user groups labels permissions created positions
 * Returns {'ok', seq, version of its groups, restored (1|0)}, {'fenced'} or {'ended', code, words}.
 */
export const restoreScript: Script = {
  name: "bridgeRestore",
  keys: 7,
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
place(ARGV[11])
expire(1, #KEYS, tonumber(ARGV[3]))
return {'ok', text(seq), c[6] or '0', c[1] == 'open' and 0 or 1}
`,
};

/**
 * The socket is gone, the connection waits for its client. KEYS conn; ARGV epoch resumeMs positions handedTo|'': its owner, or one
 * before it, handed out everything up to here and nothing above. Returns untilMs or ''.
 */
export const releaseScript: Script = {
  name: "bridgeRelease",
  keys: 1,
  lua: `${prelude}${places}
local c = redis.call('HMGET', KEYS[1], 'state', 'epoch', 'readTo')
if c[1] ~= 'open' or tonumber(c[2] or 0) ~= tonumber(ARGV[1]) then return '' end
-- What it heard or read and did not write was given to nobody.
if ARGV[4] ~= '' and tonumber(c[3] or 0) > tonumber(ARGV[4]) then redis.call('HSET', KEYS[1], 'readTo', ARGV[4]) end
local expires = text(ms + tonumber(ARGV[2]))
redis.call('HDEL', KEYS[1], 'flag', 'owner', 'lease')
redis.call('HSET', KEYS[1], 'state', 'away', 'until', expires)
place(ARGV[3])
return expires
`,
};

/**
 * Ends a connection, as its owner (epoch given: nothing happens when it is over) or from the backend.
 * KEYS conn log topics then the other keys of the connection
 * ARGV epoch|'' reason code words keepMs publish bell news
 * Returns {'ended', nowMs, the owner it had|'', what `finish` returns …}, {'fenced'}, {'not_found'} or {'before'}.
 */
export const endScript: Script = {
  name: "bridgeEnd",
  keys: 7,
  lua: `${prelude}${ending}
local c = redis.call('HMGET', KEYS[1], 'state', 'epoch', 'owner')
if not c[1] then return {'not_found'} end
if c[1] == 'ended' then return {'before'} end
local epoch = tonumber(c[2] or 0)
if ARGV[1] ~= '' and tonumber(ARGV[1]) ~= epoch then return {'fenced'} end
local facts = finish(ARGV[1] == '' and epoch or 0, ms, ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7], ARGV[8])
return {'ended', text(ms), c[3] or '', unpack(facts)}
`,
};

/**
 * Looks whether a connection's time is over: an owner that is dead makes it away, a window that ran out ends it. An owner is
 * dead for a connection that it took before the end of its lease, and not again since.
 * KEYS as in end; ARGV resumeMs keepMs publish bell news dead owner|'' the end of its lease (ms)|''
 * Returns {state, dueMs, nowMs, what happened: ''|'left'|'ended', '1' when there is something to tell, owner|'', groups as
 * JSON, '1' when scheduled messages may wait}; {'gone', …} when nothing is left.
 */
export const lapseScript: Script = {
  name: "bridgeLapse",
  keys: 7,
  lua: `${prelude}${ending}
local c = redis.call('HMGET', KEYS[1], 'state', 'until', 'lease', 'ended', 'epoch', 'evOpen', 'evTold', 'evMail', 'evEnd', 'owner', 'groups')
if not c[1] then return {'gone', '0', text(ms), '', '0', '', '[]', '0'} end
local marks = (c[6] or c[7] or c[8] or c[9]) and '1' or '0'
local groups = c[11] or '[]'
local function answer(state, due, happened)
  return {state, due, text(ms), happened or '', marks, c[10] or '', groups, redis.call('EXISTS', KEYS[7])}
end
if c[1] == 'ended' then return answer('ended', '0') end
local over, reason
if c[1] == 'open' then
  local lease = tonumber(c[3])
  local dead = tonumber(ARGV[7])
  if dead and c[10] == ARGV[6] and lease - ${horizonMs} <= dead then lease = math.min(lease, dead) end
  if ms <= lease then return answer('open', text(lease)) end
  over = lease + tonumber(ARGV[1])
  reason = 'resume_expired'
  if ms <= over then
    redis.call('HDEL', KEYS[1], 'flag', 'owner', 'lease')
    redis.call('HSET', KEYS[1], 'state', 'away', 'until', text(over))
    return answer('away', text(over), 'left')
  end
else
  over = tonumber(c[2])
  if ms <= over then return answer(c[1], c[2]) end
  reason = c[1] == 'prepared' and 'never_connected' or 'resume_expired'
end
finish(tonumber(c[5] or 0), over, reason, '4510', 'the connection is gone', tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5])
marks = '1'
return answer('ended', '0', 'ended')
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
