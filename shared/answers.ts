/**
 * What became of a client's event at the backend's webhook, for the client that waits for its `result`. Whoever delivered
 * the event stores it in the connection's slot for as long as the client may come back, and rings the connection's bell;
 * whoever holds the socket reads it there. So it does not matter which instance delivers, which holds the socket, whether
 * the bell is heard, and whether the client has moved meanwhile.
 */
import { channels, keys } from "./keys.js";
import type { RedisLink, Script } from "./redis.js";

/** How a client's event ended at the webhook, or that it has not yet. */
export interface EventAnswer {
  kind: "answered" | "refused" | "later" | "given_up";
  /** The webhook's status; 0 when there was none. */
  status: number;
  contentType: string;
  /** What it answered; with `later` the milliseconds until it is tried again. */
  body: Buffer;
  /** The body went on beyond what was read. */
  truncated: boolean;
}

/**
 * What is said last is stored, but a delay never hides an answer. KEYS conn answer
 * ARGV kind status contentType body truncated keepMs bell id
 */
const storeAnswerScript: Script = {
  name: "bridgeStoreAnswer",
  keys: 2,
  lua: `
local before = redis.call('HGET', KEYS[2], 'kind')
if ARGV[1] == 'later' and before and before ~= 'later' then return 0 end
redis.call('HSET', KEYS[2], 'kind', ARGV[1], 'status', ARGV[2], 'type', ARGV[3], 'body', ARGV[4], 'truncated', ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[6])
local c = redis.call('HMGET', KEYS[1], 'state', 'epoch')
if c[1] == 'open' then redis.call('@publish', ARGV[7] .. c[2], 'answer ' .. ARGV[8]) end
return 1
`,
};

const readAnswerScript: Script = {
  name: "bridgeReadAnswer",
  keys: 1,
  lua: `return redis.call('HMGET', KEYS[1], 'kind', 'status', 'type', 'body', 'truncated')`,
};

export const answerScripts: readonly Script[] = [
  storeAnswerScript,
  readAnswerScript,
];

/** Throws `redis_unavailable` or `outcome_unknown` when Redis is away or silent. */
export class Answers {
  readonly #redis: RedisLink;
  readonly #keepMs: number;

  /** `keepMs`: for how long a client may say an event again and still be told. */
  constructor(redis: RedisLink, keepMs: number) {
    this.#redis = redis;
    this.#keepMs = keepMs;
  }

  get keepMs(): number {
    return this.#keepMs;
  }

  /** May be repeated. Throws redis_full, too. */
  async store(
    connectionId: string,
    eventId: string,
    { kind, status, contentType, body, truncated }: EventAnswer,
  ): Promise<void> {
    await this.#redis.run(
      storeAnswerScript,
      [keys.connection(connectionId), keys.answer(connectionId, eventId)],
      [
        kind,
        status,
        contentType,
        body,
        truncated ? 1 : 0,
        this.#keepMs,
        channels.bell(connectionId),
        eventId,
      ],
    );
  }

  async read(
    connectionId: string,
    eventId: string,
  ): Promise<EventAnswer | undefined> {
    const [kind, status, type, body, truncated] = (await this.#redis.runBuffer(
      readAnswerScript,
      [keys.answer(connectionId, eventId)],
      [],
    )) as (Buffer | null)[];
    return kind && body
      ? {
          kind: kind.toString() as EventAnswer["kind"],
          status: Number(String(status)),
          contentType: String(type),
          body,
          truncated: String(truncated) === "1",
        }
      : undefined;
  }
}
