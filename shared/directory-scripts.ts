/**
 * The Lua of the directory (directory.ts): who is in it, which process holds whom, and what is due. All keys lie in one slot,
 * that of `$all`, because whoever enters becomes a member of `$all` in the same script.
 */
import { prelude as group } from "./fanout-scripts.js";
import { drains } from "./full.js";
import { clock } from "./lua.js";
import type { Script } from "./redis.js";

/** Its keys live half as long again as they must, so that few calls set an expiry. */
const outlive = `
local function outlive(key, span)
  if redis.call('PTTL', key) < span then redis.call('PEXPIRE', key, text(span * 1.5)) end
end
`;

/**
 * A connection that waits for its client is listed, a member of `$all`, and due when its time is over. Refused on a full Redis.
 * KEYS meta history members until due; ARGV keepMs waitMs spanMs connectionId
 * Returns {epoch, offset} of `$all`.
 */
export const listScript: Script = {
  name: "bridgeList",
  keys: 5,
  lua: `${group}${outlive}
local epoch, offset = group()
local till = ms + tonumber(ARGV[2])
redis.call('ZADD', KEYS[3], 0, ARGV[4])
redis.call('ZADD', KEYS[4], text(till), ARGV[4])
redis.call('ZADD', KEYS[5], text(till + 1), ARGV[4])
for i = 3, 5 do outlive(KEYS[i], tonumber(ARGV[2]) + tonumber(ARGV[3])) end
outlive(KEYS[1], tonumber(ARGV[1]))
return {epoch, text(offset)}
`,
};

/**
 * A process holds these connections: listed, members of `$all` and online in it, due no more.
 * KEYS meta history members until online due held; ARGV keepMs spanMs, then IDs
 * Returns {epoch, offset} of `$all`.
 */
export const holdAllScript: Script = {
  name: "bridgeHoldAll",
  keys: 7,
  lua: `${group}${outlive}${drains()}local epoch, offset = group()
local span = tonumber(ARGV[2])
local till = text(ms + span)
for i = 3, #ARGV do
  redis.call('ZADD', KEYS[3], 0, ARGV[i])
  redis.call('ZADD', KEYS[4], till, ARGV[i])
  redis.call('ZADD', KEYS[5], till, ARGV[i])
  redis.call('ZREM', KEYS[6], ARGV[i])
  redis.call('SADD', KEYS[7], ARGV[i])
end
for i = 3, 7 do if i ~= 6 then outlive(KEYS[i], span) end end
outlive(KEYS[1], tonumber(ARGV[1]))
return {epoch, text(offset)}
`,
};

/**
 * A process holds them no more. Begins with a delete (full.ts).
 * KEYS members until online due held; ARGV of each: connectionId, until when (ms) it is a member | 0: no more | -: as it is,
 * when it is due (ms) | 0: never | -: as it was
 */
export const departScript: Script = {
  name: "bridgeDepart",
  keys: 5,
  lua: `
for i = 1, #ARGV, 3 do
  local id, till, due = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  redis.call('SREM', KEYS[5], id)
  if till ~= '-' then redis.call('ZREM', KEYS[3], id) end
  if till == '0' then
    redis.call('ZREM', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
  elseif till ~= '-' then
    redis.call('ZADD', KEYS[2], 'XX', till, id)
  end
  if due == '0' then redis.call('ZREM', KEYS[4], id)
  elseif due ~= '-' then redis.call('ZADD', KEYS[4], due, id) end
end
return 1
`,
};

/**
 * A process is alive. KEYS instances held; ARGV instance leaseMs heldMs
 * Returns {whether it was known, how many connections it holds}.
 */
export const liveScript: Script = {
  name: "bridgeLive",
  keys: 2,
  lua: `${clock}
-- Renewing must work on a full Redis, too (full.ts): what is not there is removed.
redis.call('ZREM', KEYS[1], '')
local known = redis.call('ZADD', KEYS[1], text(ms + tonumber(ARGV[2])), ARGV[1]) == 0
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {known and 1 or 0, redis.call('SCARD', KEYS[2])}
`,
};

/**
 * What is due, and who is dead. KEYS due instances; ARGV how many, prefix of the held sets
 * Returns {nowMs, number of due IDs, ID, …, of each dead process: its name, the end of its lease, number of IDs, ID, …}.
 */
export const lookScript: Script = {
  name: "bridgeLook",
  keys: 2,
  lua: `${clock}
local limit = tonumber(ARGV[1])
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(ms), 'LIMIT', 0, limit)
local out = {text(ms), #due, unpack(due)}
local dead = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. text(ms), 'WITHSCORES', 'LIMIT', 0, 20)
for i = 1, #dead, 2 do
  local held = redis.call('SRANDMEMBER', ARGV[2] .. dead[i], limit)
  out[#out + 1] = dead[i]
  out[#out + 1] = dead[i + 1]
  out[#out + 1] = #held
  for _, id in ipairs(held) do out[#out + 1] = id end
end
return out
`,
};

/** A process that is gone is forgotten once it holds nothing; one that has come back stays. KEYS instances held; ARGV instance leaseMs|'' (as it was seen) */
export const retireScript: Script = {
  name: "bridgeRetire",
  keys: 2,
  lua: `
if redis.call('SCARD', KEYS[2]) > 0 then return 0 end
if ARGV[2] ~= '' and redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
`,
};

export const directoryScripts: readonly Script[] = [
  listScript,
  holdAllScript,
  departScript,
  liveScript,
  lookScript,
  retireScript,
];
