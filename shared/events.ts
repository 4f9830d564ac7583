/**
 * The stream of events for backends: one bounded Redis stream, in a slot of its own, that everybody appends to and
 * anybody reads. An event has an identity; appending it again under the same identity does nothing.
 *
 * Positions follow the clock in microseconds and grow with every event. Each entry names the position before it, so a
 * reader sees when something between its own position and the next entry is not there any more.
 *
 * How an event is appended exactly once although its cause lies in another slot: see outbox.ts. What the webhook is to
 * be told of goes into its lane in the same script: see lane-scripts.ts.
 */
import type { BridgeEvent, EventType } from "./api.js";
import { paged, pageBytesMax } from "./bulk-reads.js";
import { userTag } from "./ids.js";
import { channels, keys } from "./keys.js";
import { enlane } from "./lane-scripts.js";
import { clock } from "./lua.js";
import type { RedisLink, Script } from "./redis.js";
import type { WebhookSettings } from "./webhook-settings.js";

/** An event before it has its place in the stream. */
export interface NewEvent {
  /** Its identity: the same event has the same one, whoever tells of it. */
  id: string;
  type: EventType;
  /** For how long its identity is known, milliseconds; default three days. What a client says is known for minutes. */
  knownMs?: number;
  /** The connection it is about. */
  subject: string;
  /** When it happened, milliseconds since 1970. */
  timeMs: number;
  data: BridgeEvent["data"];
}

/** An event with its place. */
export interface PlacedEvent {
  position: number;
  event: BridgeEvent;
  /** Its size, about. */
  bytes: number;
}

export interface EventPage {
  events: PlacedEvent[];
  /** The position of the newest event there ever was, 0 for none. */
  last: number;
  /** Something between the position asked for and what is here is not kept any more. */
  gap: boolean;
}

export interface EventsOptions {
  /** About so many events are kept, … */
  eventsMax: number;
  /** … of at most so many bytes together (the newest one always), and … */
  eventsMaxBytes: number;
  /** … none longer than this, milliseconds. */
  eventsMs: number;
  /** Of both, how much one client may add in `eventsMs`; as much again at once. 0: any. */
  eventsShare: number;
  /** What the webhook wants, and how much of it may wait. */
  webhook?:
    Pick<WebhookSettings, "events" | "giveUpMs" | "pendingBytes"> | undefined;
  /** For tests: who read a mark this long ago (it stood still) must read it again. Default 30 s, in milliseconds. */
  standstillMs?: number;
}

const standstillMs = 30_000;
/** An identity whose mark is gone is kept so many standstills: longer than anybody may still use what it read of it. */
const settledAfter = 4;
/** An identity whose mark may still be there is kept this long: longer than any mark (keys.ts, horizonMs). */
const identityMs = 3 * 86_400_000;
/** What waits for the webhook stays so much longer than it is tried, in case that nobody is awake to try. */
const asleepMs = 7 * 86_400_000;
/** Clients' own events may take this share of what may wait; the rest is for what becomes of connections. */
const clientsShare = 0.8;
/** What an event takes beside its text, bytes. */
const overheadBytes = 128;
/** Events that one append takes out for want of room, at most: a smaller limit is reached in steps. */
const trimMax = 1_000;
/** CloudEvents `source`: which system speaks. */
const source = "urn:push-bridge";

/**
 * KEYS events last identities pending bodies lanes state bytes shares
 * ARGV 1 when (ms) the cause was read|'' 2 eventsMax 3 eventsMs 4 standstillMs 5 pendingBytes 6 what of it is for clients 7 pendingMs
 *   8 eventsMaxBytes 9, 10 what an event and a byte take of a client's share (ms), then identity, event, lane|'', of a
 *   client's how long it is known (ms)|'', its client, …
 * A client's share is a bucket (GCRA): each event moves the time at which it would be free again, at most eventsMs ahead.
 * Each entry tells the bytes of all events up to and with it, so that what is kept is known by its two ends.
 * Returns 'stale', 'full', 'often', or {how many found no room in their lane, a lane that began, its generation, …}.
 */
export const appendEventsScript: Script = {
  name: "bridgeAppendEvents",
  keys: 9,
  lua: `${clock}${enlane(4)}
-- Stood still since it looked: the mark may be gone since, and this identity with it.
if ARGV[1] ~= '' and ms - tonumber(ARGV[1]) > tonumber(ARGV[4]) then return 'stale' end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', text(ms))
-- A client can be told to come back; what has become of a connection cannot.
local free = {}
for i = 11, #ARGV, 5 do
  local event, client, limit = ARGV[i + 1], ARGV[i + 4], tonumber(ARGV[6])
  if ARGV[i + 3] ~= '' and not redis.call('ZSCORE', KEYS[3], ARGV[i]) then
    if ARGV[i + 2] ~= '' and not (hasRoom(event, limit) and hasShare(client, event, limit)) then return 'full' end
    local at = free[client] or math.max(ms, tonumber(redis.call('ZSCORE', KEYS[9], client) or '0'))
    if at - ms >= tonumber(ARGV[3]) then return 'often' end
    free[client] = at + math.max(tonumber(ARGV[9]), tonumber(ARGV[10]) * (#event + ${overheadBytes}))
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[9], '-inf', text(ms))
for client, at in pairs(free) do
  if at > ms then
    redis.call('ZADD', KEYS[9], text(at), client)
    redis.call('PEXPIRE', KEYS[9], text(2 * tonumber(ARGV[3])))
  end
end
local last = redis.call('GET', KEYS[2]) or '0'
local added, missed, laned = 0, 0, false
local bytes = redis.call('GET', KEYS[8])
if not bytes then
  local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  bytes = newest and newest[2][6] or '0'
end
bytes = tonumber(bytes)
for i = 11, #ARGV, 5 do
  local known = ARGV[i + 3] == '' and ${identityMs} or tonumber(ARGV[i + 3])
  local fresh = redis.call('ZADD', KEYS[3], 'NX', text(ms + known), ARGV[i]) == 1
  if fresh then
    local position = text(math.max(us, tonumber(last) + 1))
    bytes = bytes + #ARGV[i + 1] + ${overheadBytes}
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], position .. '-0', 'p', last, 'e', ARGV[i + 1], 'c', text(bytes))
    last = position
    added = added + 1
    if ARGV[i + 2] ~= '' and hasRoom(ARGV[i + 1], tonumber(ARGV[5])) then
      enlane(ARGV[i + 2], position, ARGV[i + 1], ARGV[i + 4])
      laned = true
    elseif ARGV[i + 2] ~= '' then
      missed = missed + 1
    end
  end
end
if added > 0 then
  redis.call('SET', KEYS[2], last)
  redis.call('SET', KEYS[8], text(bytes))
  for _ = 1, bytes > tonumber(ARGV[8]) and ${trimMax} or 0 do
    local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
    local before = tonumber(oldest[2][6] or '0') - #oldest[2][4] - ${overheadBytes}
    if bytes - before <= tonumber(ARGV[8]) or oldest[1] == last .. '-0' then break end
    redis.call('XDEL', KEYS[1], oldest[1])
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  redis.call('PEXPIRE', KEYS[8], ARGV[3])
  redis.call('PEXPIRE', KEYS[3], ${identityMs})
  redis.call('@publish', '${channels.events}', last)
end
if laned then
  for k = 4, 7 do redis.call('PEXPIRE', KEYS[k], ARGV[7]) end
end
return {text(missed), unpack(begun)}
`,
};

/** What nobody needs any more. KEYS events identities bytes; ARGV eventsMs settledMs, then identities whose mark is gone. */
export const tidyEventsScript: Script = {
  name: "bridgeTidyEvents",
  keys: 3,
  lua: `${clock}
-- Tidying makes room, so a full Redis must not refuse it (full.ts).
redis.call('ZREM', KEYS[2], '')
for i = 3, #ARGV do redis.call('ZADD', KEYS[2], 'XX', text(ms + tonumber(ARGV[2])), ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text(ms))
-- With everybody asleep it goes by itself.
local longest = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2]
if longest then redis.call('PEXPIREAT', KEYS[2], longest) end
redis.call('XTRIM', KEYS[1], 'MINID', text(us - tonumber(ARGV[1]) * 1000))
if redis.call('XLEN', KEYS[1]) == 0 then redis.call('DEL', KEYS[1], KEYS[3]) end
return 1
`,
};

/** KEYS events last; ARGV after count eventsMs bytes; returns {last, position, before, event, …}. */
const readEventsScript: Script = {
  name: "bridgeReadEvents",
  keys: 2,
  lua: `${clock}${paged}
local out = {redis.call('GET', KEYS[2]) or '0'}
-- What is too old is not there, whether somebody has tidied or not.
local from = math.max(tonumber(ARGV[1]) + 1, us - tonumber(ARGV[3]) * 1000)
local rows, bytes, start = 0, 0, text(from)
while rows < tonumber(ARGV[2]) and bytes < tonumber(ARGV[4]) do
  local look = math.min(few(rows, bytes, tonumber(ARGV[4])), tonumber(ARGV[2]) - rows)
  local page = redis.call('XRANGE', KEYS[1], start, '+', 'COUNT', look)
  for _, row in ipairs(page) do
    out[#out + 1] = string.match(row[1], '^%d+')
    out[#out + 1] = row[2][2]
    out[#out + 1] = row[2][4]
    bytes = bytes + #row[2][4]
    rows = rows + 1
    start = '(' .. row[1]
  end
  if #page < look then break end
end
return out
`,
};

export const eventScripts: readonly Script[] = [
  appendEventsScript,
  tidyEventsScript,
  readEventsScript,
];

/** A lane that has something to deliver again, and needs a job. */
export interface BegunLane {
  lane: string;
  generation: string;
}

/** Whoever cares for the webhook's lanes. Neither may throw, and both may be late: a sweep finds the same. */
export interface LaneKeeper {
  begun(lanes: readonly BegunLane[]): Promise<void>;
  /** So many events found no room in their lanes; they are in the stream only. */
  missed(count: number): void;
}

const nobody: LaneKeeper = {
  begun: () => Promise.resolve(),
  missed: () => undefined,
};

/** The stream, in Redis. All methods throw `redis_unavailable` or `outcome_unknown` when Redis is away or silent. */
export class Events {
  readonly #redis: RedisLink;
  readonly #options: EventsOptions & { standstillMs: number };
  readonly #keeper: LaneKeeper;

  constructor(
    redis: RedisLink,
    options: EventsOptions,
    keeper: LaneKeeper = nobody,
  ) {
    this.#redis = redis;
    this.#options = { standstillMs, ...options };
    this.#keeper = keeper;
  }

  /**
   * Appends those events that are new, in order. `readAtMs`: when (Redis's clock) the caller read what they tell of;
   * without it the identities must be the caller's own for three days. "stale" did nothing: look again, then append.
   * "full" and "often" did nothing either: too much of clients' own events, or of this client's, waits for the webhook;
   * this client has added its share.
   */
  async append(
    events: readonly NewEvent[],
    readAtMs?: number,
  ): Promise<"ok" | "stale" | "full" | "often"> {
    const { eventsMax, eventsMaxBytes, eventsMs, eventsShare } = this.#options;
    const { standstillMs, webhook } = this.#options;
    /** Of a client's share, milliseconds. */
    const costOf = (most: number) =>
      eventsShare === 0 ? 0 : eventsMs / (most * eventsShare);
    const pendingBytes = webhook?.pendingBytes ?? 0;
    const reply = await this.#redis.run(
      appendEventsScript,
      [
        keys.events,
        keys.lastEvent,
        keys.eventIdentities,
        keys.webhookPending,
        keys.webhookBodies,
        keys.webhookLanes,
        keys.webhookState,
        keys.eventBytes,
        keys.eventShares,
      ],
      [
        readAtMs ?? "",
        eventsMax,
        eventsMs,
        standstillMs,
        pendingBytes,
        Math.floor(pendingBytes * clientsShare),
        (webhook?.giveUpMs ?? 0) + asleepMs,
        eventsMaxBytes,
        costOf(eventsMax),
        costOf(eventsMaxBytes),
        ...events.flatMap(({ id, type, subject, timeMs, data, knownMs }) => {
          const time = new Date(timeMs).toISOString();
          const wanted: ReadonlySet<string> | undefined = webhook?.events;
          return [
            id,
            JSON.stringify({ id, type, subject, time, data }),
            wanted?.has(type) ? subject : "",
            type === "event" ? (knownMs ?? identityMs) : "",
            data.userId === null ? subject : userTag(data.userId),
          ];
        }),
      ],
    );
    if (reply === "stale" || reply === "full" || reply === "often")
      return reply;
    const [missed, ...begun] = (reply as unknown[]).map(String);
    if (missed !== "0") this.#keeper.missed(Number(missed));
    if (begun.length > 0) await this.#keeper.begun(pairs(begun));
    return "ok";
  }

  /** Drops what is too old. `settled`: identities that nobody can append again but who has read their mark already. */
  async tidy(settled: readonly string[] = []): Promise<void> {
    const { eventsMs, standstillMs } = this.#options;
    await this.#redis.run(
      tidyEventsScript,
      [keys.events, keys.eventIdentities, keys.eventBytes],
      [eventsMs, standstillMs * settledAfter, ...settled],
    );
  }

  /** Up to `count` events after a position, and about 128 KiB; 0 is before all of them, and then nothing is missing. */
  async read(after: number, count: number): Promise<EventPage> {
    const [last, ...rest] = (
      (await this.#redis.read(
        readEventsScript,
        [keys.events, keys.lastEvent],
        [after, count, this.#options.eventsMs, pageBytesMax],
        pageBytesMax,
      )) as unknown[]
    ).map(String);
    const events: PlacedEvent[] = [];
    for (let i = 0; i + 2 < rest.length; i += 3)
      events.push(placed(Number(rest[i]), rest[i + 2] ?? "{}"));
    const newest = Number(last);
    // A position ahead of the newest is of a history that Redis has lost.
    const before = rest.length > 0 ? Number(rest[1]) : newest;
    return {
      events,
      last: newest,
      gap: after > 0 && (before > after || after > newest),
    };
  }
}

/** From the flat list of a script's reply. */
export function pairs(flat: readonly string[]): BegunLane[] {
  const lanes: BegunLane[] = [];
  for (let i = 0; i + 1 < flat.length; i += 2)
    lanes.push({ lane: flat[i] ?? "", generation: flat[i + 1] ?? "" });
  return lanes;
}

function placed(position: number, json: string): PlacedEvent {
  const stored = JSON.parse(json) as Omit<NewEvent, "timeMs"> & {
    time: string;
  };
  return {
    position,
    bytes: json.length + overheadBytes,
    event: {
      specversion: "1.0",
      id: stored.id,
      type: stored.type,
      source,
      subject: stored.subject,
      time: stored.time,
      datacontenttype: "application/json",
      position: String(position),
      data: stored.data,
    } as BridgeEvent,
  };
}
