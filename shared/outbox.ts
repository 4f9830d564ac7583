/**
 * What a connection still has to tell of itself. A connection and the stream of events lie in different slots, and any
 * process may die between the two; so whatever is an event leaves a mark in the connection's own hash, in the script
 * that made it happen. Whoever finds a mark (who made it, or a sweep) appends the event under an identity of its own,
 * then clears the mark, then lets the stream forget the identity soon. Done twice, by anybody, at any time, it is done
 * once.
 *
 * Marks (fields of the hash): `evOpen` when it was opened first; `evMail` messages that became undeliverable since;
 * `evTold` those of them that are being told under one identity; `evEnd` how it ended.
 */
import type { Reason, UndeliveredMessage } from "./api.js";
import type { Events, NewEvent } from "./events.js";
import { messageId, scheduledMessageId } from "./ids.js";
import { keys } from "./keys.js";
import { clock } from "./lua.js";
import type { RedisLink, Script } from "./redis.js";

/** An event names at most so many messages and counts the rest, so that ending a full log stays a bounded step. */
export const messagesNamedMax = 100;
/** Mail, then mail that came meanwhile, then the end; more rounds than that are left to the next look. */
const roundsMax = 4;

/**
 * Notes messages that can never arrive; conn is KEYS[1]. `items` are 'place:status:reason:at', place a seq or 's' and
 * the ID of a scheduled message; `count` of them when that is more than are named.
 */
export const undelivered = `
local function undelivered(items, count)
  count = count or #items
  if count == 0 then return end
  local named, list = 0, ''
  local before = redis.call('HGET', KEYS[1], 'evMail')
  if before then
    local total
    total, named, list = string.match(before, '^(%d+) (%d+) (.*)$')
    count, named = count + tonumber(total), tonumber(named)
  end
  local parts = {list}
  for _, item in ipairs(items) do
    if named >= ${messagesNamedMax} then break end
    named = named + 1
    parts[#parts + 1] = item .. ','
  end
  redis.call('HSET', KEYS[1], 'evMail', text(count) .. ' ' .. text(named) .. ' ' .. table.concat(parts))
end
`;

/**
 * What is to be told now. Mail gets its identity here, so that what comes later is told under another one.
 * KEYS conn index
 * Returns {nowMs, evOpen|'', evTold|'', evEnd|'', user, connected|'', more (1|0)}.
 */
export const tellScript: Script = {
  name: "bridgeTell",
  keys: 2,
  lua: `${clock}
local c = redis.call('HMGET', KEYS[1], 'evOpen', 'evTold', 'evMail', 'evEnd', 'user', 'connected')
local told, mail = c[2], c[3]
if not told and mail then
  local count, named, list = string.match(mail, '^(%d+) (%d+) (.*)$')
  -- A scheduled message has an ID of its own, which its seq does not tell.
  list = string.gsub(list, '(%d+)(:[^,]*,)', function(seq, rest)
    local row = redis.call('XRANGE', KEYS[2], seq, seq, 'COUNT', 1)[1]
    local who = row and string.match(row[2][2], '^%S+')
    if who and not string.find(who, ':', 1, true) then return 's' .. who .. rest end
  end)
  told = text(us) .. ' ' .. count .. ' ' .. list
  mail = false
  redis.call('HSET', KEYS[1], 'evTold', told)
  redis.call('HDEL', KEYS[1], 'evMail')
end
-- The end comes last.
local last = not mail and c[4] or ''
return {text(ms), c[1] or '', told or '', last, c[5] or '', c[6] or '', mail and 1 or 0}
`,
};

/**
 * Clears marks that were told and have not changed. An ended connection without marks goes when its time is over.
 * KEYS conn; ARGV evOpen|'' evTold|'' evEnd|''
 */
export const clearMarksScript: Script = {
  name: "bridgeClearMarks",
  keys: 1,
  lua: `
for i, field in ipairs({'evOpen', 'evTold', 'evEnd'}) do
  if ARGV[i] ~= '' and redis.call('HGET', KEYS[1], field) == ARGV[i] then redis.call('HDEL', KEYS[1], field) end
end
local c = redis.call('HMGET', KEYS[1], 'state', 'keepTo', 'evOpen', 'evTold', 'evMail', 'evEnd')
if c[1] == 'ended' and not (c[3] or c[4] or c[5] or c[6]) then
  redis.call('PEXPIREAT', KEYS[1], c[2])
end
return 1
`,
};

export const outboxScripts: readonly Script[] = [tellScript, clearMarksScript];

/** What the first events of many connections wait for each other, milliseconds. */
const openedWindowMs = 25;
/** Identities whose marks are gone are told together after this long, milliseconds. */
const tidyMs = 250;
/** Events of one append. */
const eventsMax = 100;

/** What a script said that happened to a connection, before anybody told. */
export interface Happened {
  connectionId: string;
  /** The value of its mark `evOpen`, or "". */
  opened: string;
  /** The value of its mark `evEnd`, or "". */
  ended: string;
  userId: string;
  /** When it was opened first (ms), or "". */
  connected: string;
  /** When (ms, Redis' clock) the script said so. */
  nowMs: number;
  /** How long an ended connection is remembered, milliseconds. */
  keepMs: number;
}

interface Telling extends Happened {
  resolve(told: boolean): void;
  reject(error: unknown): void;
}

/** Tells what connections have to tell. Throws `redis_unavailable` or `outcome_unknown`; the marks are there still. */
export class Outbox {
  readonly #redis: RedisLink;
  readonly #events: Events;
  #telling: Telling[] = [];
  #tellTimer: NodeJS.Timeout | undefined;
  #isTellingNow = false;
  #settled: string[] = [];
  #tidyTimer: NodeJS.Timeout | undefined;

  constructor(redis: RedisLink, events: Events) {
    this.#redis = redis;
    this.#events = events;
  }

  /**
   * Tells what has just happened, and nothing else: the marks need not be read, and those of many connections are told
   * together. Resolves with false when `tell` has to look again.
   */
  happened(what: Happened): Promise<boolean> {
    return new Promise((resolve, reject) => {
      this.#telling.push({ ...what, resolve, reject });
      // Who has ended may be frozen as soon as it is told; who was opened has time.
      if (what.ended === "" && this.#telling.length < eventsMax)
        this.#tellTimer ??= setTimeout(
          () => void this.#tellAll(),
          openedWindowMs,
        );
      else if (!this.#isTellingNow) {
        this.#isTellingNow = true;
        this.#redis.atEndOfTurn(() => void this.#tellAll());
      }
    });
  }

  /** What waits for others goes now: what comes after it in the stream must not come before it. */
  hurry(): void {
    if (this.#telling.length > 0) void this.#tellAll();
  }

  async #tellAll(): Promise<void> {
    clearTimeout(this.#tellTimer);
    this.#tellTimer = undefined;
    this.#isTellingNow = false;
    const all = this.#telling;
    this.#telling = [];
    for (let from = 0; from < all.length; from += eventsMax)
      await this.#tellSome(all.slice(from, from + eventsMax));
  }

  async #tellSome(some: readonly Telling[]): Promise<void> {
    const events = some.map(({ connectionId, opened, ended, ...who }) =>
      eventsOf(connectionId, {
        opened,
        told: "",
        ended,
        userId: who.userId === "" ? null : who.userId,
        connectedAt: timeOf(who.connected),
      }),
    );
    try {
      const word = await this.#events.append(
        events.flat(),
        Math.min(...some.map(({ nowMs }) => nowMs)),
      );
      if (word !== "ok") {
        for (const { resolve } of some) resolve(false);
        return;
      }
      // Neither mark can have changed: each is made once in the life of a connection.
      await Promise.all(
        some.flatMap(({ connectionId, ended, keepMs }) => {
          const key = keys.connection(connectionId);
          return ended === ""
            ? [this.#redis.command("HDEL", key, "evOpen")]
            : [
                this.#redis.command("HDEL", key, "evOpen", "evEnd"),
                this.#redis.command("PEXPIRE", key, keepMs),
              ];
        }),
      );
      this.#tidy(events.flat().map(({ id }) => id));
      for (const { resolve } of some) resolve(true);
    } catch (error) {
      for (const { reject } of some) reject(error);
    }
  }

  /** Their marks are gone, so they may be forgotten. */
  #tidy(identities: readonly string[]): void {
    this.#settled.push(...identities);
    this.#tidyTimer ??= setTimeout(() => void this.flush(), tidyMs);
  }

  /** Tells what waits to be told together with others. Never throws: what is not done now runs out by itself. */
  async flush(): Promise<void> {
    if (this.#telling.length > 0) await this.#tellAll();
    clearTimeout(this.#tidyTimer);
    this.#tidyTimer = undefined;
    const settled = this.#settled;
    this.#settled = [];
    if (settled.length > 0)
      await this.#events.tidy(settled).catch(() => undefined);
  }

  /** Tells all there is; false when something is left for the next look. Any number of processes at once. */
  async tell(connectionId: string): Promise<boolean> {
    for (let round = 0; round < roundsMax; round += 1) {
      const reply = (
        (await this.#redis.run(
          tellScript,
          [keys.connection(connectionId), keys.index(connectionId)],
          [],
        )) as unknown[]
      ).map(String);
      const [now, opened = "", told = "", ended = "", user, connected] = reply;
      const events = eventsOf(connectionId, {
        opened,
        told,
        ended,
        userId: user === "" || user === undefined ? null : user,
        connectedAt: timeOf(connected),
      });
      if (events.length === 0) return true;
      // Stood still in between: what was read may be over.
      if ((await this.#events.append(events, Number(now))) === "stale")
        continue;
      await this.#redis.run(
        clearMarksScript,
        [keys.connection(connectionId)],
        [opened, told, ended],
      );
      // Only after the marks are gone: an identity that is forgotten while its mark is there would be told again.
      this.#tidy(events.map(({ id }) => id));
      if (reply[6] !== "1") return true;
    }
    return false;
  }
}

const timeOf = (ms: string | undefined): string | null =>
  ms === "" || ms === undefined ? null : new Date(Number(ms)).toISOString();

interface Marks {
  opened: string;
  told: string;
  ended: string;
  userId: string | null;
  connectedAt: string | null;
}

function eventsOf(
  connectionId: string,
  { opened, told, ended, userId, connectedAt }: Marks,
): NewEvent[] {
  const events: NewEvent[] = [];
  const common = { subject: connectionId };
  if (opened !== "") {
    const [at, protocol = ""] = opened.split(" ");
    events.push({
      ...common,
      id: `${connectionId}.connected`,
      type: "connected",
      timeMs: Number(at),
      data: { userId, protocol: protocol as "raw" | "bridge.v1.json" },
    });
  }
  if (told !== "") {
    const [identity = "", count, list = ""] = told.split(" ");
    events.push({
      ...common,
      id: `${connectionId}.undelivered.${identity}`,
      type: "message.undelivered",
      timeMs: Math.floor(Number(identity) / 1_000),
      data: {
        userId,
        count: Number(count),
        messages: list
          .split(",")
          .filter((item) => item !== "")
          .map((item) => undeliveredMessage(connectionId, item)),
      },
    });
  }
  if (ended !== "") {
    const [at, word = "", code, ...words] = ended.split(" ");
    const reason = word as Reason;
    const by = endedBy[reason] ?? "bridge";
    const occurredAt = new Date(Number(at)).toISOString();
    events.push({
      ...common,
      id: `${connectionId}.disconnected`,
      type: "disconnected",
      timeMs: Number(at),
      data: {
        userId,
        by,
        reason,
        code: by === "bridge" ? null : Number(code),
        words: by === "bridge" ? "" : words.join(" "),
        connectedAt,
        occurredAt,
      },
    });
  }
  return events;
}

/** Who wanted the end; what ran out was ended by nobody but the bridge. */
const endedBy: Partial<Record<Reason, "client" | "backend">> = {
  client_closed: "client",
  closed_by_backend: "backend",
};

/** `place:status:reason:at`. */
function undeliveredMessage(
  connectionId: string,
  item: string,
): UndeliveredMessage {
  const [place = "", status, reason = "", at] = item.split(":");
  return {
    id: place.startsWith("s")
      ? scheduledMessageId(connectionId, place.slice(1))
      : messageId(connectionId, Number(place)),
    status: status as UndeliveredMessage["status"],
    reason: reason === "" ? null : (reason as Reason),
    at: new Date(Number(at)).toISOString(),
  };
}
