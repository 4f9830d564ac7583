/**
 * Keeps what this process holds: one lease for all of it, renewed at a third of its length, and a comparison of its
 * connections with Redis, some at a time, so that an idle connection costs nothing by itself. After a break all are compared: bells
 * were missed, or Redis may have forgotten them (delivery rules 1, 4 and 5).
 */
import type { Logger } from "../shared/logging.js";
import type { WakeUp } from "../shared/queue.js";
import type { RedisLink } from "../shared/redis.js";
import type { Registry } from "../shared/registry.js";
import type { Connection } from "./connection.js";
import type { Lease } from "./lease.js";
import { startRounds } from "./rounds.js";

/** A renewal that failed is tried again after this long. */
const retryMs = 500;
/** Connections that are compared in a second, at most. */
const comparedPerSecond = 64;
/** After a break so many are compared at a time. */
const abreast = 512;

export interface KeeperDeps {
  lease: Lease;
  leaseMs: number;
  redis: Pick<RedisLink, "subscriptions">;
  registry: Pick<Registry, "unsure">;
  logger: Logger;
}

export class Keeper {
  readonly #deps: KeeperDeps;
  readonly #connections = new Set<Connection>();
  readonly #byId = new Map<string, Connection>();
  #timer: NodeJS.Timeout | undefined;
  #endRounds = () => {};
  #doubt = 0;
  #comparing = false;
  #again = false;
  #closed = false;
  readonly #onGap = () => {
    this.#deps.registry.unsure();
    void this.compareAll();
  };
  readonly #onBack = () => {
    this.#renewSoon(0);
    for (const connection of this.#connections.values()) connection.lookNow();
  };

  constructor(deps: KeeperDeps) {
    this.#deps = deps;
  }

  /** Sockets that are open or closing. */
  get connections(): IterableIterator<Connection> {
    return this.#connections.values();
  }

  get size(): number {
    return this.#connections.size;
  }

  /** Holds a connection until it is closed. */
  keep(connection: Connection): void {
    this.#connections.add(connection);
    this.#byId.set(connection.id, connection);
    void connection.closed.then(() => {
      this.#connections.delete(connection);
      if (this.#byId.get(connection.id) === connection)
        this.#byId.delete(connection.id);
    });
  }

  start(): void {
    const { redis, leaseMs } = this.#deps;
    redis.subscriptions.on("gap", this.#onGap);
    redis.subscriptions.on("back", this.#onBack);
    this.#renewSoon(0);
    this.#endRounds = startRounds({
      everyMs: leaseMs / 3,
      most: Math.max(1, (comparedPerSecond * leaseMs) / 30_000),
      things: this.#connections,
      visit: (some) =>
        Promise.allSettled(some.map((connection) => connection.compare())),
    });
  }

  #renewSoon(ms: number): void {
    // A renewal may have been under way: a process that has given up its lease must not take it again.
    if (this.#closed) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#renew(), ms);
    // Sockets keep the process alive, not their lease.
    this.#timer.unref();
  }

  async #renew(): Promise<void> {
    const { lease, leaseMs, logger } = this.#deps;
    try {
      await lease.renew();
      this.#renewSoon(leaseMs / 3);
      // Stopped, or forgotten by Redis: each connection may be another's by now.
      if (lease.doubt !== this.#doubt && this.#connections.size > 0) {
        logger.info(
          { connections: this.#connections.size },
          "the lease was in doubt: all connections are compared",
        );
        void this.compareAll();
      }
      this.#doubt = lease.doubt;
    } catch (error) {
      logger.debug({ err: error }, "the lease waits for Redis");
      this.#renewSoon(retryMs);
    }
  }

  /** Compares all connections with Redis. What is not reached now is done by the rounds. */
  async compareAll(): Promise<void> {
    this.#again = true;
    if (this.#comparing) return;
    this.#comparing = true;
    while (this.#again) {
      this.#again = false;
      const all = [...this.#connections.values()];
      for (let from = 0; from < all.length; from += abreast)
        await Promise.allSettled(
          all.slice(from, from + abreast).map((one) => one.compare()),
        );
    }
    this.#comparing = false;
  }

  /** A deliver job: somebody appended a message that was not heard here (shared/queue.ts). */
  async wake({ connectionId, epoch }: WakeUp): Promise<void> {
    const connection = this.#byId.get(connectionId);
    if (connection?.epoch === epoch) await connection.look();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#endRounds();
    const { subscriptions } = this.#deps.redis;
    subscriptions.off("gap", this.#onGap);
    subscriptions.off("back", this.#onBack);
  }
}
