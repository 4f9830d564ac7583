/**
 * One script for many connections in one call. A call costs more than what it does, on both ends, so what the connections
 * of a process ask in one turn of the event loop goes together where all keys lie in one slot; on a Cluster each connection
 * has its own call, and the calls of a turn leave in one write all the same.
 */
import type { Argument, RedisLink, Script } from "./redis.js";

/** Connections of one call: about half a millisecond of Redis, in which nobody else is served. */
const connectionsMax = 64;

/**
 * A script that does `body` for each connection, as if each had come alone. `body` sees its own `KEYS` and `ARGV`, and
 * `T`, `us`, `ms` and `text` (log-scripts.ts) of the whole call. What Redis cannot do for one is 'failed' for that one; an
 * error for all is the call's.
 */
export function forMany(
  name: string,
  counts: { keys: number; args: number },
  prelude: string,
  body: string,
): Script {
  const { keys, args } = counts;
  return {
    name,
    lua: `${prelude}
local all, given, out = KEYS, ARGV, {}
local function one(KEYS, ARGV)
  local tag = string.sub(KEYS[1], 8, -6)
  local function news(word) redis.call('@publish', 'news:' .. tag, word) end
${body}
end
local well, fault = false, nil
for i = 0, #all / ${keys} - 1 do
  local done, reply = pcall(one, {unpack(all, i * ${keys} + 1, (i + 1) * ${keys})}, {unpack(given, i * ${args} + 1, (i + 1) * ${args})})
  if done then well = true else fault = reply end
  out[i + 1] = done and reply or 'failed'
end
if fault and not well then return redis.error_reply(type(fault) == 'table' and fault.err or fault) end
return out
`,
  };
}

/** What one connection asks. */
export interface Ask {
  keys: readonly string[];
  args: readonly Argument[];
}

interface Waiting extends Ask {
  resolve(reply: unknown): void;
  reject(error: unknown): void;
}

/** Gathers the calls of a script. */
export class ManyCalls {
  readonly #redis: Pick<RedisLink, "mode" | "atEndOfTurn" | "run">;
  readonly #script: Script;
  readonly #windowMs: number;
  #waiting: Waiting[] = [];
  #isPlanned = false;
  #sentAtMs = -Infinity;

  /**
   * `windowMs`: who comes within so many milliseconds of the last call waits for the rest of them. Default 0: what comes in
   * one turn goes at its end.
   */
  constructor(
    redis: Pick<RedisLink, "mode" | "atEndOfTurn" | "run">,
    script: Script,
    windowMs = 0,
  ) {
    this.#redis = redis;
    this.#script = script;
    this.#windowMs = windowMs;
  }

  /** Resolves with what the script says of this connection. Throws as `RedisLink.run`. */
  call(ask: Ask): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ ...ask, resolve, reject });
      if (this.#isPlanned) return;
      this.#isPlanned = true;
      const leftMs = this.#sentAtMs + this.#windowMs - performance.now();
      if (leftMs > 0) setTimeout(() => this.#send(), leftMs);
      else this.#redis.atEndOfTurn(() => this.#send());
    });
  }

  #send(): void {
    const all = this.#waiting;
    this.#waiting = [];
    this.#isPlanned = false;
    this.#sentAtMs = performance.now();
    const each = this.#redis.mode === "cluster" ? 1 : connectionsMax;
    for (let from = 0; from < all.length; from += each)
      this.#run(all.slice(from, from + each));
  }

  #run(some: readonly Waiting[]): void {
    this.#redis
      .run(
        this.#script,
        some.flatMap(({ keys }) => keys),
        some.flatMap(({ args }) => args),
      )
      .then(
        (reply) => {
          for (const [index, { resolve }] of some.entries())
            resolve((reply as unknown[])[index] ?? "failed");
        },
        (error: unknown) => {
          for (const { reject } of some) reject(error);
        },
      );
  }
}
