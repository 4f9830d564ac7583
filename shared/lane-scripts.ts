/**
 * What waits for the webhook, in the slot of the stream of events. Each connection has a lane: its events in their order,
 * of which only the first is ever posted, and which the next one follows when the receiver has taken it or it was given
 * up. That alone keeps the order, whoever works on a lane and however often: a repeat is possible, a step ahead is not.
 *
 * A lane begins with its first event, under a generation (that event's position), and ends in the script that finds it
 * empty. Its BullMQ job is named by both, so adding it again is adding it once, and no job of an ended lane hides the
 * next one's. Whoever takes a lane writes its token into it; who finds another one there stops (`fenced`).
 *
 * Beside the lanes stands what all know of the receiver (fields of the state hash):
 *
 *             3 lanes in a row failed, Retry-After, 410, no permission
 *      up ────────────────────────────────────────────────────────────────▶ down until …
 *       ▲                                                                    │ then one lane may try
 *       └──────────────────────────── it took an event ──────────────────────┘ (`probe`)
 */
import { drains } from "./full.js";
import { clock } from "./lua.js";
import type { Script } from "./redis.js";

/** A lane whose job should have been heard of by now is looked after this long, milliseconds. */
const watchMs = 60_000;
/** The same for one whose job is just being added. */
const addedMs = 5_000;
/** What an event takes beside its text, bytes (measured: 400 for one of 165). */
const overheadBytes = 256;
/** What a lane takes, its job included (measured: 1,110). */
const laneBytes = 1_100;
/**
 * A client may have so much waiting, as a share of the room that is left. So it is never one client that fills it: alone it
 * gets a fifth, four of them half together, and whoever has nothing waiting finds room.
 */
const clientShare = 1 / 4;
/** While somebody asks for permission the others come again after this long, or when they are called; milliseconds. */
const askPauseMs = 2_000;
/** Lanes that fail one after the other, none between them done, before all wait: it is not the one event then. */
const lanesDown = 3;

/**
 * Puts an event into its lane; part of the append script (events.ts). Needs the keys pending, bodies, lanes, state from \`KEYS[first]\` on.
 */
export const enlane = (first: number): string => `
local pendingBytes = tonumber(redis.call('HGET', KEYS[${first + 3}], 'bytes') or '0')
local begun = {}
local function hasRoom(event, limit) return pendingBytes + #event + ${overheadBytes + laneBytes} <= limit end
local function hasShare(client, event, limit)
  local own = tonumber(redis.call('HGET', KEYS[${first + 3}], 'b:' .. client) or '0')
  -- One event may be larger than a small installation's share.
  return own == 0 or own + #event + ${overheadBytes} <= (limit - pendingBytes) * ${clientShare}
end
-- What waits in a lane is its client's for as long as the lane lasts: the one that it began with.
local function enlane(lane, position, event, client)
  local member = lane .. ' ' .. string.format('%016.0f', tonumber(position))
  redis.call('ZADD', KEYS[${first}], 0, member)
  redis.call('HSET', KEYS[${first + 1}], member, event)
  pendingBytes = redis.call('HINCRBY', KEYS[${first + 3}], 'bytes', text(#event + ${overheadBytes}))
  redis.call('HSETNX', KEYS[${first + 3}], 'u:' .. lane, client)
  client = redis.call('HGET', KEYS[${first + 3}], 'u:' .. lane)
  redis.call('HINCRBY', KEYS[${first + 3}], 'b:' .. client, text(#event + ${overheadBytes}))
  if redis.call('HSETNX', KEYS[${first + 3}], 'g:' .. lane, position) == 1 then
    pendingBytes = redis.call('HINCRBY', KEYS[${first + 3}], 'bytes', ${laneBytes})
    redis.call('ZADD', KEYS[${first + 2}], text(ms + ${addedMs}), lane)
    begun[#begun + 1] = lane
    begun[#begun + 1] = position
  end
end
`;

/** KEYS pending bodies lanes state. */
const laneParts = `${clock}
local function drop(lane, member)
  if redis.call('ZREM', KEYS[1], member) == 0 then return end
  local size = redis.call('HSTRLEN', KEYS[2], member) + ${overheadBytes}
  redis.call('HDEL', KEYS[2], member)
  redis.call('HINCRBY', KEYS[4], 'bytes', text(-size))
  redis.call('HDEL', KEYS[4], 'n:' .. lane)
  local client = redis.call('HGET', KEYS[4], 'u:' .. lane)
  if client and redis.call('HINCRBY', KEYS[4], 'b:' .. client, text(-size)) <= 0 then redis.call('HDEL', KEYS[4], 'b:' .. client) end
end
local function waiting(lane) return redis.call('ZLEXCOUNT', KEYS[1], '[' .. lane .. ' ', '(' .. lane .. '!') end
`;

/**
 * A step along a lane: first what became of the last one, then what to do next.
 *
 * KEYS pending bodies lanes state proof
 * ARGV 1 lane 2 generation 3 token 4 word: take | done | given | proven 5 the member that is done or given up
 *   6 giveUpMs 7 probeMs 8 who asks whom: what the proof must be of 9 proofMs 10 rate a minute (with proven; 0: any)
 *
 * Returns {what, recovered, …}; recovered is '' or 'mode since failures' of a time that is over now.
 *   'none'                        another generation, or none: this job's lane is over
 *   'fenced'                      somebody else has the lane
 *   'empty'                       and ended
 *   'wait' ms mode                the receiver is down
 *   'pause' ms spreadMs           somebody asks for permission just now, or its rate is reached
 *   'old' member event attempts why   too old, and the receiver is down
 *   'ask'                         get permission first
 *   'post' member event attempts probe|''
 */
export const laneStepScript: Script = {
  name: "bridgeLaneStep",
  keys: 5,
  lua: `${drains("KEYS[4]")}${laneParts}
local lane, token, word = ARGV[1], ARGV[3], ARGV[4]
local giveUpMs, probeMs = tonumber(ARGV[6]), tonumber(ARGV[7])
local recovered = ''
local function recover()
  local c = redis.call('HMGET', KEYS[4], 'mode', 'since', 'failures')
  if c[1] then recovered = c[1] .. ' ' .. c[2] .. ' ' .. c[3] end
  redis.call('HDEL', KEYS[4], 'mode', 'since', 'failures', 'until', 'why', 'streak', 'last')
end

if word == 'done' then
  -- It was taken, whoever has the lane by now.
  drop(lane, ARGV[5])
  recover()
end
if redis.call('HGET', KEYS[4], 'g:' .. lane) ~= ARGV[2] then return {'none', recovered} end
if word == 'take' then
  redis.call('HSET', KEYS[4], 't:' .. lane, token)
elseif redis.call('HGET', KEYS[4], 't:' .. lane) ~= token then
  return {'fenced', recovered}
end
if word == 'given' then drop(lane, ARGV[5]) end
if word == 'proven' then
  redis.call('SET', KEYS[5], ARGV[8] .. ' ' .. ARGV[10], 'PX', ARGV[9])
  redis.call('HDEL', KEYS[4], 'asking')
  if redis.call('HGET', KEYS[4], 'mode') == 'unproven' then recover() end
end

local member = redis.call('ZRANGEBYLEX', KEYS[1], '[' .. lane .. ' ', '(' .. lane .. '!', 'LIMIT', 0, 1)[1]
if not member then
  -- The end and the look for more are one: what is appended from here on begins a lane, with a job of its own.
  redis.call('HDEL', KEYS[4], 'g:' .. lane, 't:' .. lane, 'n:' .. lane, 'u:' .. lane)
  redis.call('HINCRBY', KEYS[4], 'bytes', ${-laneBytes})
  redis.call('ZREM', KEYS[3], lane)
  return {'empty', recovered}
end
local function watched(after) redis.call('ZADD', KEYS[3], 'XX', text(ms + after + ${watchMs}), lane) end
watched(0)

local event = redis.call('HGET', KEYS[2], member) or ''
local attempts = redis.call('HGET', KEYS[4], 'n:' .. lane) or '0'
local c = redis.call('HMGET', KEYS[4], 'mode', 'until', 'why', 'asking', 'tat')
local probe = ''
if c[1] then
  -- Who just got permission has the try.
  if tonumber(c[2]) > ms and word ~= 'proven' then
    if us - tonumber(string.sub(member, -16)) > giveUpMs * 1000 then
      return {'old', recovered, member, event, attempts, c[3] or ''}
    end
    watched(tonumber(c[2]) - ms)
    return {'wait', recovered, text(tonumber(c[2]) - ms), c[1]}
  end
  probe = 'probe'
end
local function begin()
  -- One may try; the others go on waiting.
  if probe ~= '' then redis.call('HSET', KEYS[4], 'until', text(ms + probeMs)) end
end
local proof = redis.call('GET', KEYS[5])
local rate = proof and string.match(proof, '^' .. ARGV[8] .. ' (%d+)$')
if not rate then
  if c[4] and tonumber(c[4]) > ms then return {'pause', recovered, '${askPauseMs}', '${askPauseMs}'} end
  redis.call('HSET', KEYS[4], 'asking', text(ms + probeMs))
  begin()
  return {'ask', recovered}
end
if tonumber(rate) > 0 then
  -- A minute's worth may go at once, then evenly (GCRA).
  local each = 60000 / tonumber(rate)
  local tat = math.max(tonumber(c[5] or '0'), ms)
  if tat - ms > 60000 - each then
    local others = redis.call('ZCARD', KEYS[3]) * each
    return {'pause', recovered, text(tat - ms - 60000 + each), text(math.min(others, 60000))}
  end
  redis.call('HSET', KEYS[4], 'tat', string.format('%.3f', tat + each))
end
begin()
return {'post', recovered, member, event, attempts, probe}
`,
};

/**
 * An attempt that did not succeed.
 *
 * KEYS pending bodies lanes state proof
 * ARGV 1 lane 2 generation 3 token 4 scope: any | throttled | gone | unproven 5 why 6 wantedMs (Retry-After, or how long to
 *   rest; 0) 7 baseMs 8 laneMsMax 9 downMsMax 10 random 0.5..1 11 what it was: '' | probe | ask (for permission)
 * Returns {'fenced'}, or {'failed', attempts, delayMs, waiting, change, failures, mode}; change: '' | 'down' | 'still'.
 */
export const laneFailedScript: Script = {
  name: "bridgeLaneFailed",
  keys: 5,
  lua: `${drains("KEYS[4]")}${laneParts}
local lane, scope, why = ARGV[1], ARGV[4], ARGV[5]
local wanted, base, laneMax, downMax = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local random = tonumber(ARGV[10])
if redis.call('HGET', KEYS[4], 'g:' .. lane) ~= ARGV[2] or redis.call('HGET', KEYS[4], 't:' .. lane) ~= ARGV[3] then
  return {'fenced'}
end
local function after(n, most) return math.min(most, base * 2 ^ math.min(n - 1, 30)) * random end
local attempts
if ARGV[11] == 'ask' then
  redis.call('HDEL', KEYS[4], 'asking')
  attempts = tonumber(redis.call('HGET', KEYS[4], 'n:' .. lane) or '0')
else
  attempts = redis.call('HINCRBY', KEYS[4], 'n:' .. lane, 1)
end
local delay = math.max(wanted, after(math.max(attempts, 1), laneMax))

local mode = redis.call('HGET', KEYS[4], 'mode')
local opens = scope ~= 'any' or ARGV[11] == 'ask'
if not mode and redis.call('HGET', KEYS[4], 'last') ~= lane then
  -- The same lane again and again may be its event's fault.
  redis.call('HSET', KEYS[4], 'last', lane)
  opens = redis.call('HINCRBY', KEYS[4], 'streak', 1) >= ${lanesDown} or opens
end
local change, failures = '', tonumber(redis.call('HGET', KEYS[4], 'failures') or '0')
if opens or mode then
  local next = scope
  if scope == 'any' then next = mode and ARGV[11] == '' and mode or 'down' end
  local ends = tonumber(redis.call('HGET', KEYS[4], 'until') or '0')
  -- Of those that were under way when it went down only the first one counts.
  if ARGV[11] ~= '' or mode ~= next then
    change = mode ~= next and 'down' or 'still'
    if not mode then redis.call('HSET', KEYS[4], 'since', text(ms)) end
    failures = redis.call('HINCRBY', KEYS[4], 'failures', 1)
    ends = ms + after(failures, downMax)
    redis.call('HSET', KEYS[4], 'mode', next, 'why', why)
    mode = next
  end
  ends = math.max(ends, ms + wanted)
  redis.call('HSET', KEYS[4], 'until', text(ends))
  if scope == 'gone' then redis.call('DEL', KEYS[5]) end
  delay = ends - ms
end
redis.call('ZADD', KEYS[3], 'XX', text(ms + delay + ${watchMs}), lane)
return {'failed', text(attempts), text(delay), text(waiting(lane)), change, text(failures), mode or ''}
`,
};

/**
 * Lanes whose job nobody has heard of for too long: it was never added, or Redis has lost it.
 * KEYS lanes state; ARGV most; returns {lane, generation, …}.
 */
export const lostLanesScript: Script = {
  name: "bridgeLostLanes",
  keys: 2,
  lua: `${drains("KEYS[2]")}${clock}
local out = {}
for _, lane in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(ms), 'LIMIT', 0, ARGV[1])) do
  local generation = redis.call('HGET', KEYS[2], 'g:' .. lane)
  if generation then
    redis.call('ZADD', KEYS[1], text(ms + ${watchMs}), lane)
    out[#out + 1] = lane
    out[#out + 1] = generation
  else
    redis.call('ZREM', KEYS[1], lane)
  end
end
return out
`,
};

export const laneScripts: readonly Script[] = [
  laneStepScript,
  laneFailedScript,
  lostLanesScript,
];
