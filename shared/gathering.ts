/**
 * Plain pushes of one turn of the event loop, gathered into few script calls: a call costs more than what it does, on both
 * ends. Nobody waits longer for it, because the commands of a turn leave together anyway (redis.ts).
 */
import type { Appended, Log, PlainAppend } from "./log.js";
import type { RedisLink } from "./redis.js";

/** Messages of one call: fewer than a producer's bitmap has bits (rule 3), and half a millisecond of Redis. */
const messagesMax = 64;
/** Bytes of their bodies. */
const bytesMax = 131_072;

/** A push that waits for the end of the turn. */
interface Waiting {
  push: PlainAppend;
  resolve(appended: Appended | Promise<Appended>): void;
  reject(error: unknown): void;
}

/** One call to be. */
interface Call {
  connections: Map<string, Waiting[]>;
  messages: number;
  bytes: number;
}

export class Gathering {
  readonly #log: Pick<Log, "append" | "appendMany">;
  readonly #redis: Pick<RedisLink, "mode" | "atEndOfTurn">;
  /** By place: a script touches one slot, which on a Cluster is one connection. */
  readonly #calls = new Map<string, Call>();

  constructor(
    log: Pick<Log, "append" | "appendMany">,
    redis: Pick<RedisLink, "mode" | "atEndOfTurn">,
  ) {
    this.#log = log;
    this.#redis = redis;
  }

  /** As `Log.append`. Pushes to a connection are appended in the order in which they come here. */
  append(push: PlainAppend): Promise<Appended> {
    return new Promise((resolve, reject) => {
      const { connectionId, body } = push;
      const place = this.#redis.mode === "cluster" ? connectionId : "";
      let call = this.#calls.get(place);
      if (
        call !== undefined &&
        (call.messages >= messagesMax || call.bytes + body.length > bytesMax)
      ) {
        this.#send(place, call);
        call = undefined;
      }
      if (call === undefined) {
        call = { connections: new Map(), messages: 0, bytes: 0 };
        if (this.#calls.size === 0) this.#redis.atEndOfTurn(() => this.flush());
        this.#calls.set(place, call);
      }
      const waiting = { push, resolve, reject };
      const others = call.connections.get(connectionId);
      if (others) others.push(waiting);
      else call.connections.set(connectionId, [waiting]);
      call.messages += 1;
      call.bytes += body.length;
    });
  }

  /** Sends what was gathered: before a push that goes another way and must not come first. */
  flush(): void {
    for (const [place, call] of this.#calls) this.#send(place, call);
  }

  #send(place: string, { connections, messages }: Call): void {
    this.#calls.delete(place);
    const all = [...connections.values()].flat();
    const [first] = all;
    if (first !== undefined && messages === 1) {
      this.#log.append(first.push).then(first.resolve, first.reject);
      return;
    }
    this.#log
      .appendMany(
        [...connections.values()].map((some) => some.map(({ push }) => push)),
      )
      .then(
        (outcomes) => {
          for (const [index, { resolve, reject }] of all.entries()) {
            const outcome = outcomes[index];
            if (outcome === undefined)
              reject(new Error("a push has no outcome"));
            else resolve(outcome);
          }
        },
        (error: unknown) => {
          for (const { reject } of all) reject(error);
        },
      );
  }
}
