/**
 * Replies: what a client answered to a message whose sender waits for it. A reply has its place in the slot of the message
 * (of the connection, or of the user), made before anybody can have the message; there the first one stays, and whoever
 * waits reads it there. A bell that nobody hears only delays: they look again.
 *
 *   made ──▶ replied (kept for a minute; with an Idempotency-Key as long as the key)
 *     └──▶ gone: nobody waits any more, or its time was over
 */
import { parseMessageId } from "./ids.js";
import { channels, keys } from "./keys.js";
import type { RedisLink, Script } from "./redis.js";

/** A reply is kept so long for a sender who missed the bell, milliseconds. */
const keptMs = 60_000;

/** Where the reply to a message lies: `tag` is a connection ID or a user's tag. */
export interface ReplyPlace {
  tag: string;
  place: string;
}

export interface Reply {
  /** The connection that replied. */
  connectionId: string;
  contentType: string;
  body: Buffer;
}

/** Where the reply to a message lies; undefined for messages that nobody can reply to. */
export function replyPlace(id: string): ReplyPlace | undefined {
  const route = parseMessageId(id);
  if (route?.kind === "sequence")
    return { tag: route.connectionId, place: String(route.seq) };
  return route?.kind === "user"
    ? { tag: route.userTag, place: route.place }
    : undefined;
}

/** Makes the place, or keeps it for longer. KEYS reply; ARGV forMs keepMs. */
const openReplyScript: Script = {
  name: "bridgeOpenReply",
  keys: 1,
  lua: `
if redis.call('HEXISTS', KEYS[1], 'by') == 0 then
  redis.call('HSET', KEYS[1], 'keep', ARGV[2])
  if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
end
return 1
`,
};

/**
 * The first reply stays. Once more the same one from the same connection is the same reply: its sender, or the link to
 * Redis, did not hear that it was stored. KEYS reply; ARGV connectionId contentType body news place
 * Returns 'stored', 'answered' or 'nobody'.
 */
export const replyScript: Script = {
  name: "bridgeReply",
  keys: 1,
  lua: `
local c = redis.call('HMGET', KEYS[1], 'keep', 'by', 'type')
if not c[1] then return 'nobody' end
if c[2] then
  if c[2] == ARGV[1] and c[3] == ARGV[2] and redis.call('HGET', KEYS[1], 'body') == ARGV[3] then return 'stored' end
  return 'answered'
end
redis.call('HSET', KEYS[1], 'by', ARGV[1], 'type', ARGV[2], 'body', ARGV[3])
redis.call('PEXPIRE', KEYS[1], c[1])
redis.call('@publish', ARGV[4], 'a ' .. ARGV[5])
return 'stored'
`,
};

/**
 * The reply; with close = 1, when there is none, nobody waits any more: none is taken from here on.
 * KEYS reply; ARGV close. Returns {by, type, body} or {}.
 */
const takeReplyScript: Script = {
  name: "bridgeTakeReply",
  keys: 1,
  lua: `
local c = redis.call('HMGET', KEYS[1], 'by', 'type', 'body')
if c[1] then return c end
if ARGV[1] == '1' then redis.call('DEL', KEYS[1]) end
return {}
`,
};

export const replyScripts: readonly Script[] = [
  openReplyScript,
  replyScript,
  takeReplyScript,
];

/** How long a reply is kept once it is there. */
export const replyKeptMs = (idempotencyMs: number, hasKey: boolean): number =>
  hasKey ? idempotencyMs : keptMs;

/** Replies, in Redis. All methods throw `redis_unavailable` or `outcome_unknown` when Redis is away or silent. */
export class Replies {
  readonly #redis: RedisLink;
  readonly #idempotencyMs: number;

  constructor(redis: RedisLink, { idempotencyMs }: { idempotencyMs: number }) {
    this.#redis = redis;
    this.#idempotencyMs = idempotencyMs;
  }

  /** Takes a reply for `forMs` from now on; nothing changes where one is already. */
  async open(
    { tag, place }: ReplyPlace,
    forMs: number,
    hasKey: boolean,
  ): Promise<void> {
    await this.#redis.run(
      openReplyScript,
      [keys.reply(tag, place)],
      [forMs, replyKeptMs(this.#idempotencyMs, hasKey)],
    );
  }

  /** Stores a reply; "nobody" waits, or the first one was another. May be repeated. Throws redis_full, too. */
  async store(
    { tag, place }: ReplyPlace,
    { connectionId, contentType, body }: Reply,
  ): Promise<"stored" | "answered" | "nobody"> {
    return (await this.#redis.run(
      replyScript,
      [keys.reply(tag, place)],
      [connectionId, contentType, body, channels.news(tag), place],
    )) as "stored" | "answered" | "nobody";
  }

  read(at: ReplyPlace): Promise<Reply | undefined> {
    return this.#take(at, false);
  }

  /** The reply, or else none will be taken any more: a client that is told of success has reached its sender. */
  close(at: ReplyPlace): Promise<Reply | undefined> {
    return this.#take(at, true);
  }

  async #take(
    { tag, place }: ReplyPlace,
    close: boolean,
  ): Promise<Reply | undefined> {
    const [by, type, body] = (await this.#redis.runBuffer(
      takeReplyScript,
      [keys.reply(tag, place)],
      [close ? 1 : 0],
    )) as (Buffer | undefined)[];
    return by && type && body
      ? {
          connectionId: by.toString(),
          contentType: type.toString(),
          body,
        }
      : undefined;
  }
}
