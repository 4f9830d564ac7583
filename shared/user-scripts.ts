/**
 * The Lua of users: which connections a user has, what waits for the first of them, and what became of each message.
 * Each script touches keys of one user only (slot `{u:…}`), never of a connection; what has to happen in both is done in
 * steps that may be repeated (users.ts). Times are milliseconds of this Redis, places are 11 characters.
 *
 * A message of a user is a hash: `state` and since when (`at`), `accepted`, `expires`, `due`, `user`, and once it was given
 * to connections `to` (`connection:seq,…`), `recipients` and `online`. Its states:
 *
 *   begun ──▶ given | parked ──▶ given        (parked: nobody was there; the first connection to come gets it)
 *   waiting (for its time) ──▶ as begun       recalled, replaced, undeliverable: from waiting and parked
 *
 * A parked message lies in the stream `parked` until it is given. Who is to get it is claimed in the hash `claims` first;
 * the append to that connection may be repeated by anybody, since it is known there by the message's ID.
 */
import { clock } from "./lua.js";
import type { Script } from "./redis.js";

/** A claim that is not confirmed for this long is looked after by whoever comes next: its process may be dead. */
const claimPatienceMs = 5_000;
/** Connections of a user that are looked at. */
export const userConnectionsMax = 1_000;
/** Parked messages that are given in one step. */
const parkedPage = 1_000;

const prelude = `${clock}
local tag = string.match(KEYS[1], '{(.-)}')
local function news(word) redis.call('@publish', 'news:{' .. tag .. '}', word) end
local function record(place) return 'bridge:{' .. tag .. '}:message:' .. place end
local function outlive(key, after)
  if redis.call('PTTL', key) < after then redis.call('PEXPIRE', key, text(after)) end
end
`;

/** The arrivals seen so far are known by the highest score: who arrives gets a higher one. */
const arrivals = `
local function newest(index)
  local top = redis.call('ZREVRANGE', index, 0, 0, 'WITHSCORES')
  return top[2] and text(tonumber(top[2])) or '0'
end
local function everybody(out, index, parked)
  out[#out + 1] = newest(index)
  out[#out + 1] = redis.call('XLEN', parked)
  for _, id in ipairs(redis.call('ZRANGE', index, 0, ${userConnectionsMax - 1})) do out[#out + 1] = id end
  return out
end
`;

/** Takes a row out of what is parked. Header: expires topic|- flags contentType (flags: entry.ts). */
const unpark = `
local function unpark(parked, claims, row)
  redis.call('XDEL', parked, row[1])
  redis.call('HDEL', claims, row[2][2])
  redis.call('HINCRBY', claims, '#bytes', text(-#row[2][6]))
  if redis.call('XLEN', parked) == 0 then redis.call('DEL', parked, claims) end
end
`;

/**
 * A connection is there, and takes what is parked (with take = 1; 'only': without being listed anew).
 * KEYS index parked claims; ARGV connectionId keepMs take
 * Returns rows of {place, connectionId, header, body}: to be appended there. Another connection's ID: its claim is old.
 */
export const arriveScript: Script = {
  name: "bridgeArrive",
  keys: 3,
  lua: `${prelude}${arrivals}${unpark}
if ARGV[3] ~= 'only' then
  local score = math.max(us, tonumber(newest(KEYS[1])) + 1)
  redis.call('ZADD', KEYS[1], text(score), ARGV[1])
  outlive(KEYS[1], tonumber(ARGV[2]))
end
local out = {}
if ARGV[3] == '0' then return out end
for _, row in ipairs(redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', ${parkedPage})) do
  local place = row[2][2]
  if tonumber(string.match(row[2][4], '^%d+')) <= ms then unpark(KEYS[2], KEYS[3], row)
  else
    local claim = redis.call('HGET', KEYS[3], place)
    local whose, since = ARGV[1], ms
    if claim then whose, since = string.match(claim, '^(%S+) (%d+)')
    else redis.call('HSET', KEYS[3], place, ARGV[1] .. ' ' .. text(ms)) end
    if whose == ARGV[1] or tonumber(since) + ${claimPatienceMs} < ms then
      out[#out + 1] = place
      out[#out + 1] = whose
      out[#out + 1] = row[2][4]
      out[#out + 1] = row[2][6]
    end
  end
end
return out
`,
};

/** Hands a claim on, when it is still \`from\`'s. KEYS claims; ARGV place from to. Returns 1 or 0. */
export const passScript: Script = {
  name: "bridgePass",
  keys: 1,
  lua: `${prelude}
local claim = redis.call('HGET', KEYS[1], ARGV[1])
if not claim or string.match(claim, '^%S+') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3] .. ' ' .. text(ms))
return 1
`,
};

/**
 * A parked message is in a connection's log. KEYS message parked claims; ARGV place connectionId seq
 * Returns 1, or 0 when that was known.
 */
export const givenScript: Script = {
  name: "bridgeGiven",
  keys: 3,
  lua: `${prelude}${unpark}
local c = redis.call('HMGET', KEYS[1], 'state', 'row')
if c[1] ~= 'parked' then return 0 end
local row = redis.call('XRANGE', KEYS[2], c[2], c[2])[1]
if row then unpark(KEYS[2], KEYS[3], row) end
redis.call('HSET', KEYS[1], 'state', 'given', 'at', text(ms), 'to', ARGV[2] .. ':' .. ARGV[3], 'recipients', '1')
news('g')
return 1
`,
};

/**
 * A push begins: is it known, who is there?
 * KEYS message (the fresh place's; that of a repetition lies beside it) idempotency index parked
 * ARGV 1 place 2 fingerprint 3 idempotencyMs 4 busyMs 5 ttlMs 6 dueMs|0 7 keepMs 8 userId 9 connections open, for a due one
 * Returns {'begun', place, acceptedMs, expiresMs, newest, parked, connectionId, …}, {'replayed', place, answer},
 * {'mismatch'} or {'running'}.
 */
export const beginScript: Script = {
  name: "bridgeBegin",
  keys: 4,
  lua: `${prelude}${arrivals}
local place, message = ARGV[1], KEYS[1]
if ARGV[2] ~= '' then
  local v = redis.call('GET', KEYS[2])
  if v then
    local known, busy, first, answer = string.match(v, '^(%S+) (%d+) (%S+) ?(.*)$')
    if known ~= ARGV[2] then return {'mismatch'} end
    if answer ~= '' then return {'replayed', first, answer} end
    if tonumber(busy) > ms then return {'running'} end
    place, message = first, record(first)
    if redis.call('HGET', message, 'state') ~= 'begun' then return {'replayed', first, ''} end
    -- Whoever began it is gone: go on where it was.
  end
  redis.call('SET', KEYS[2], ARGV[2] .. ' ' .. text(ms + tonumber(ARGV[4])) .. ' ' .. place .. ' ', 'PX', ARGV[3])
end
local c = redis.call('HMGET', message, 'accepted', 'expires')
local accepted, expires = c[1], c[2]
if not accepted then
  local due = tonumber(ARGV[6])
  accepted = text(ms)
  expires = text((due > 0 and due or ms) + tonumber(ARGV[5]))
  redis.call('HSET', message, 'state', due > 0 and 'waiting' or 'begun', 'at', accepted, 'accepted', accepted,
    'expires', expires, 'due', ARGV[6], 'user', ARGV[8], 'online', ARGV[9])
  redis.call('PEXPIRE', message, text(tonumber(expires) - ms + tonumber(ARGV[7])))
end
return everybody({'begun', place, accepted, expires}, KEYS[3], KEYS[4])
`,
};

/** A message is due: as begun, unless it is not waiting any more ({'done'}). KEYS message index parked; ARGV place */
export const dueScript: Script = {
  name: "bridgeUserDue",
  keys: 3,
  lua: `${prelude}${arrivals}
local c = redis.call('HMGET', KEYS[1], 'state', 'accepted', 'expires')
if c[1] ~= 'waiting' then return {'done'} end
return everybody({'begun', ARGV[1], c[2], c[3]}, KEYS[2], KEYS[3])
`,
};

/**
 * Where a push went. Without any connection it is parked, unless somebody has arrived since the look around.
 * KEYS message index parked claims
 * ARGV 1 place 2 to 3 recipients 4 online 5 newest seen 6 'topic|- flags contentType' 7 body 8 maxMessages 9 maxBytes 10 topic|-
 *      11 'park' or the reason why not
 * Returns {'given'}, {'parked'}, {'undeliverable'}, {'done'}, {'full', what, limit, actual} or {'changed', newest, …}.
 */
export const settleUserScript: Script = {
  name: "bridgeSettleUser",
  keys: 4,
  lua: `${prelude}${arrivals}${unpark}
local c = redis.call('HMGET', KEYS[1], 'state', 'expires')
if c[1] ~= 'begun' and c[1] ~= 'waiting' then return {'done'} end
local function become(state, ...)
  redis.call('HSET', KEYS[1], 'state', state, 'at', text(ms), 'recipients', ARGV[3], 'online', ARGV[4], ...)
  news('g')
  return {state}
end
if ARGV[2] ~= '' then return become('given', 'to', ARGV[2]) end
if ARGV[11] ~= 'park' then return become('undeliverable', 'reason', ARGV[11]) end
if tonumber(newest(KEYS[2])) > tonumber(ARGV[5]) then return everybody({'changed'}, KEYS[2], KEYS[3]) end
local room = tonumber(ARGV[9]) - #ARGV[7]
local function count() return redis.call('XLEN', KEYS[3]) end
local function bytes() return tonumber(redis.call('HGET', KEYS[4], '#bytes') or 0) end
if count() >= tonumber(ARGV[8]) or bytes() > room then
  for _, row in ipairs(redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 100)) do
    if tonumber(string.match(row[2][4], '^%d+')) <= ms then unpark(KEYS[3], KEYS[4], row) end
  end
  if count() >= tonumber(ARGV[8]) then return {'full', 'messages', ARGV[8], count()} end
  if count() > 0 and bytes() > room then return {'full', 'bytes', ARGV[9], bytes() + #ARGV[7]} end
end
if ARGV[10] ~= '-' then
  for _, row in ipairs(redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', ${parkedPage})) do
    local topic = string.match(row[2][4], '^%d+ (%S+) ')
    if topic == ARGV[10] and redis.call('HEXISTS', KEYS[4], row[2][2]) == 0 then
      unpark(KEYS[3], KEYS[4], row)
      redis.call('HSET', record(row[2][2]), 'state', 'replaced', 'at', text(ms))
      news('g')
    end
  end
end
local row = redis.call('XADD', KEYS[3], '*', 'p', ARGV[1], 'h', c[2] .. ' ' .. ARGV[6], 'b', ARGV[7])
redis.call('HINCRBY', KEYS[4], '#bytes', text(#ARGV[7]))
-- What is given by nobody goes with its time.
local rest = tonumber(c[2]) - ms + 1000
outlive(KEYS[3], rest)
outlive(KEYS[4], rest)
return become('parked', 'row', row)
`,
};

/** Forgets a push that was refused. KEYS message idempotency; ARGV hasKey. */
export const forgetUserScript: Script = {
  name: "bridgeForgetUser",
  keys: 2,
  lua: `
redis.call('DEL', KEYS[1])
if ARGV[1] == '1' then redis.call('DEL', KEYS[2]) end
return 1
`,
};

/** The first answer to an idempotency key; "" says that there will be none. KEYS idempotency; ARGV answer. */
export const answerUserScript: Script = {
  name: "bridgeAnswerUser",
  keys: 1,
  lua: `
local v = redis.call('GET', KEYS[1])
if not v then return 0 end
local known, busy, place = string.match(v, '^(%S+) (%d+) (%S+)')
if ARGV[1] == '' then busy = '0' end
redis.call('SET', KEYS[1], known .. ' ' .. busy .. ' ' .. place .. ' ' .. ARGV[1], 'KEEPTTL')
return 1
`,
};

/**
 * Recalls what was not given yet. KEYS message parked claims
 * Returns 'recalled', 'waiting' (recalled, its job may go), 'given', 'maybe', 'final' or 'not_found'.
 */
export const recallUserScript: Script = {
  name: "bridgeRecallUser",
  keys: 3,
  lua: `${prelude}${unpark}
local c = redis.call('HMGET', KEYS[1], 'state', 'expires', 'row')
if not c[1] then return 'not_found' end
if c[1] == 'given' then return 'given' end
if c[1] == 'begun' then return 'maybe' end
if c[1] ~= 'waiting' and c[1] ~= 'parked' then return 'final' end
if c[1] == 'parked' then
  if tonumber(c[2]) <= ms then return 'final' end
  local row = redis.call('XRANGE', KEYS[2], c[3], c[3])[1]
  if not row or redis.call('HEXISTS', KEYS[3], row[2][2]) == 1 then return 'maybe' end
  unpark(KEYS[2], KEYS[3], row)
end
redis.call('HSET', KEYS[1], 'state', 'recalled', 'at', text(ms))
news('g')
return c[1] == 'waiting' and 'waiting' or 'recalled'
`,
};

/** It was seen to be delivered. KEYS message; ARGV deliveredMs. */
export const sealUserScript: Script = {
  name: "bridgeSealUser",
  keys: 1,
  lua: `
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSETNX', KEYS[1], 'delivered', ARGV[1]) end
return 1
`,
};

/** What is known of a message. KEYS message; returns {nowMs, field, value, …}. */
export const userRecordScript: Script = {
  name: "bridgeUserRecord",
  keys: 1,
  lua: `${prelude}
local all = redis.call('HGETALL', KEYS[1])
table.insert(all, 1, text(ms))
return all
`,
};

export const userScripts: readonly Script[] = [
  arriveScript,
  passScript,
  givenScript,
  beginScript,
  dueScript,
  settleUserScript,
  forgetUserScript,
  answerUserScript,
  recallUserScript,
  sealUserScript,
  userRecordScript,
];
