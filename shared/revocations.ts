/**
 * Tokens that count no more although they have not run out: those of a user up to now, one by its ID, all that a key
 * signed. One small sorted set in Redis, by when. Each ws-fn process reads it once, hears what is added, and reads on after a
 * gap, so that neither a connect nor an open connection costs a command.
 */
import { tokenTag, userTag } from "./ids.js";
import { channels, keys } from "./keys.js";
import type { Logger } from "./logging.js";
import { clock } from "./lua.js";
import type { RedisLink, Script } from "./redis.js";

/** What is revoked: the tokens of a user that were issued before now, one token (`jti`), or all of a key (`kid`). */
export type Revoked = { user: string } | { jti: string } | { kid: string };

/** Where a client's right to be here comes from: its first token, also where it came back since. */
export interface Origin {
  /** The key that signed it. */
  kid: string;
  /** `tokenTag` of its `jti`; "": it has none. */
  token: string;
  /** Its `iat`, seconds since 1970; 0: it says none, and counts as old. */
  issuedAt: number;
  /** Its user; "": none. */
  userId: string;
}

/** What was added while a reader was cut off is read with so much before it, milliseconds: clocks differ, a replica may lag. */
const overlapMs = 60_000;
/** Open sockets are looked through once for all that comes within this time, milliseconds. */
const gatherMs = 50;

/** KEYS revoked; ARGV name keepMs. Returns when, milliseconds since 1970. */
export const revokeScript: Script = {
  name: "bridgeRevoke",
  keys: 1,
  lua: `${clock}
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(ms - tonumber(ARGV[2])))
redis.call('ZADD', KEYS[1], text(ms), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('@publish', '${channels.revoked}', text(ms) .. ' ' .. ARGV[1])
return text(ms)
`,
};

const nameOf = (revoked: Revoked): string =>
  "user" in revoked
    ? userTag(revoked.user)
    : "jti" in revoked
      ? tokenTag(revoked.jti)
      : keyName(revoked.kid);

const keyName = (kid: string) => `k:${kid}`;

/** Revokes. `keepMs`: how long it is kept in mind. Resolves with when. Throws redis_unavailable, redis_full, outcome_unknown. */
export async function revoke(
  redis: Pick<RedisLink, "run">,
  revoked: Revoked,
  keepMs: number,
): Promise<number> {
  const name = nameOf(revoked);
  return Number(await redis.run(revokeScript, [keys.revoked], [name, keepMs]));
}

/** What a ws-fn process knows of it. */
export class Revocations {
  readonly #redis: Pick<RedisLink, "command" | "subscriptions">;
  readonly #logger: Pick<Logger, "warn">;
  /** By name: when, milliseconds since 1970. */
  readonly #known = new Map<string, number>();
  #newestMs = 0;
  #loading: Promise<void> | undefined;
  #isLoaded = false;
  #timer: NodeJS.Timeout | undefined;
  /** Called when something was added: open sockets may have lost their right. */
  onAdded = () => {};
  readonly #onGap = () => {
    void this.#load().catch((error: unknown) => {
      // The next connect asks again, and so does the next gap.
      this.#isLoaded = false;
      this.#logger.warn({ err: error }, "revoked tokens not read");
    });
  };

  constructor(
    redis: Pick<RedisLink, "command" | "subscriptions">,
    logger: Pick<Logger, "warn">,
  ) {
    this.#redis = redis;
    this.#logger = logger;
  }

  /** Begins to listen. */
  start(): void {
    this.#redis.subscriptions.on("gap", this.#onGap);
    void this.ready().catch(() => undefined);
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#redis.subscriptions.off("gap", this.#onGap);
  }

  /** Resolves when it is known what was revoked. Throws redis_unavailable, outcome_unknown. */
  async ready(): Promise<void> {
    if (!this.#isLoaded) await this.#load();
  }

  /** Whether what a client came with counts no more. */
  covers({ kid, token, issuedAt, userId }: Origin): boolean {
    if (this.#known.size === 0) return false;
    if (this.hasKey(kid)) return true;
    if (token !== "" && this.#known.has(token)) return true;
    const since = userId === "" ? undefined : this.#known.get(userTag(userId));
    return since !== undefined && issuedAt * 1_000 < since;
  }

  /** Whether nothing that this key signed counts. */
  hasKey(kid: string): boolean {
    return this.#known.has(keyName(kid));
  }

  #load(): Promise<void> {
    return (this.#loading ??= this.#read().finally(() => {
      this.#loading = undefined;
    }));
  }

  async #read(): Promise<void> {
    // Heard from now on, then read: nothing comes in between.
    await this.#redis.subscriptions.subscribe(channels.revoked, (payload) => {
      const [ms = "", name = ""] = payload.toString("latin1").split(" ");
      this.#add(name, Number(ms));
    });
    const from = Math.max(0, this.#newestMs - overlapMs);
    // Pairs in RESP3, a flat list in RESP2.
    const rows = (
      (await this.#redis.command(
        "ZRANGEBYSCORE",
        keys.revoked,
        String(from),
        "+inf",
        "WITHSCORES",
      )) as unknown[]
    ).flat();
    for (let at = 0; at < rows.length; at += 2)
      this.#add(String(rows[at]), Number(rows[at + 1]));
    this.#isLoaded = true;
  }

  #add(name: string, ms: number): void {
    if ((this.#known.get(name) ?? -1) >= ms) return;
    this.#known.set(name, ms);
    this.#newestMs = Math.max(this.#newestMs, ms);
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.onAdded();
    }, gatherMs);
  }
}
