// Sessions that are made, used and abandoned, through the scripts that the two functions use, and what is left of them
// in Redis: keys, memory, bytes for each. Every fourth one ends in another way. Run by itself it prints its findings:
//   node dist/scripts/lab/cycles.js redis://127.0.0.1:6379 20000 '{"EVENTS_SECONDS":"30"}'

import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

import { connectionKeys, keys, queueKeys } from "../../shared/keys.js";
import { parseConfig, type Config } from "../../shared/config.js";
import { newScheduledId } from "../../shared/ids.js";
import type { Append } from "../../shared/log.js";
import { createLogger } from "../../shared/logging.js";
import { Registry } from "../../shared/registry.js";
import { openStores, type Stores } from "../../shared/stores.js";
import { until } from "./until.js";

/** Every window of a session's life, in seconds; short, because what is looked at is when all of them are over. */
export const SHORT_WINDOWS = {
  LEASE_SECONDS: "3",
  RESUME_SECONDS: "0.5",
  PREPARED_SECONDS: "10",
  ENDED_SECONDS: "0.5",
  RECEIPT_SECONDS: "0.5",
  IDEMPOTENCY_SECONDS: "1",
  EVENTS_SECONDS: "5",
};
export type CycleWindows = Readonly<Record<keyof typeof SHORT_WINDOWS, string>>;

export interface CycleOptions {
  count: number;
  windows?: CycleWindows;
  /** Sessions at the same time. Default 50. */
  lanes?: number;
  /** Sessions before the first measurement, so that caches are warm. Default 100. */
  warmUp?: number;
  /** How long an identity of an event is kept after its mark is gone, in ms. Default 500. */
  standstillMs?: number;
}

export interface CycleFindings {
  count: number;
  /** DBSIZE before and after. */
  keysBefore: number;
  keysAfter: number;
  /** Keys of sessions that are left, a few of them. */
  left: string[];
  /** used_memory in bytes: before, at its highest, and after all windows. */
  memoryBefore: number;
  memoryPeak: number;
  memoryAfter: number;
  /** What a session costs when it is over, in bytes. */
  bytesPerDeadSession: number;
  /** Events of the type `disconnected` that were appended for the sessions. */
  disconnected: number;
  /** Of sessions that had more than one, or none. */
  wrong: number;
  seconds: number;
}

/** The instance of the sessions that end by a word. */
const owner = "cycles";

/** How long the last windows may take, in ms: they are short, the sweep of many sessions takes its time. */
const patienceMs = 600_000;

/** Runs the cycles on the Redis at `redisUrl`, which nobody else uses meanwhile. */
export async function runCycles(
  redisUrl: string,
  {
    count,
    windows = SHORT_WINDOWS,
    lanes = 50,
    warmUp = 100,
    standstillMs = 500,
  }: CycleOptions,
): Promise<CycleFindings> {
  const config = parseConfig({ REDIS_URL: redisUrl, ...windows });
  const stores = openStores(
    { ...config, standstillMs },
    createLogger("cycles", "silent"),
  );
  try {
    await until(() => stores.redis.ready().then(() => true));
    await stores.queues.startDeliver(owner, () => Promise.resolve());
    const lab = new Lab(stores, config);
    await lab.run(warmUp, lanes);
    await stores.redis.command("MEMORY", "PURGE");
    const keysBefore = await lab.keys();
    const memoryBefore = await lab.memory();
    const from = performance.now();
    lab.forget();
    await lab.run(count, lanes);
    await stores.redis.command("MEMORY", "PURGE");
    // On a busy machine some run out a little later.
    let keysAfter = await lab.keys();
    await until(async () => (keysAfter = await lab.keys()) <= keysBefore).catch(
      () => undefined,
    );
    const memoryAfter = await lab.memory();
    const wrong = [...lab.ends.values()].filter((ends) => ends !== 1).length;
    return {
      count,
      keysBefore,
      keysAfter,
      left: await lab.left(),
      memoryBefore,
      memoryPeak: lab.peak,
      memoryAfter,
      bytesPerDeadSession: (memoryAfter - memoryBefore) / count,
      disconnected: [...lab.ends.values()].reduce((sum, n) => sum + n, 0),
      wrong,
      seconds: (performance.now() - from) / 1_000,
    };
  } finally {
    await stores.close();
  }
}

class Lab {
  readonly #stores: Stores;
  readonly #config: Config;
  /** By session: `disconnected` events seen. */
  readonly ends = new Map<string, number>();
  peak = 0;
  #position = 0;

  constructor(stores: Stores, config: Config) {
    this.#stores = stores;
    this.#config = config;
  }

  forget(): void {
    this.ends.clear();
    this.peak = 0;
  }

  async keys(): Promise<number> {
    const { redis } = this.#stores;
    // BullMQ's own few keys of our queue come and go.
    const own = queueKeys(keys.deliverQueue(owner));
    const [all, ours] = await Promise.all([
      redis.command("DBSIZE"),
      redis.command("EXISTS", ...own),
    ]);
    return Number(all) - Number(ours);
  }

  async memory(): Promise<number> {
    const info = String(await this.#stores.redis.command("INFO", "memory"));
    return Number(/^used_memory:(\d+)/m.exec(info)?.[1]);
  }

  /** Keys of sessions that are there still. */
  async left(): Promise<string[]> {
    const { redis } = this.#stores;
    const found: string[] = [];
    for (const id of this.ends.keys()) {
      const all = connectionKeys(id);
      // One slot, one question.
      if (Number(await redis.command("EXISTS", ...all)) > 0)
        found.push(`${id}: one of ${all.join(" ")}`);
      if (found.length > 20) break;
    }
    return found;
  }

  /** `count` sessions from their beginning until all of their windows are over. */
  async run(count: number, lanes: number): Promise<void> {
    let next = 0;
    let working = true;
    const sessions = Promise.all(
      Array.from({ length: lanes }, async () => {
        while (next < count) await this.#session(next++);
      }),
    ).finally(() => {
      working = false;
    });
    // As ws-fn does it, while they live and after.
    const sweeping = (async () => {
      while (working) await this.#sweep();
    })();
    let counting = true;
    const counted = (async () => {
      while (counting) {
        await this.#count();
        await sleep(200);
      }
    })();
    await Promise.all([sessions, sweeping]);
    await until(
      async () => {
        await this.#sweep();
        return (await this.#waiting()) === 0;
      },
      { ms: patienceMs, every: 200, message: "all windows are over" },
    );
    counting = false;
    await counted;
  }

  async #sweep(): Promise<void> {
    const { registry, sweeping } = this.#stores;
    await registry.live(owner);
    await registry.sweep(sweeping);
    this.peak = Math.max(this.peak, await this.memory());
  }

  /** Connections that are due some time, and what the stream of events still holds. */
  async #waiting(): Promise<number> {
    const { redis, events } = this.#stores;
    await events.tidy();
    const counts = await Promise.all([
      redis.command("ZCARD", keys.due),
      // The last one is ours.
      redis.command("ZCOUNT", keys.instances, "-inf", Date.now() - 1),
      redis.command("XLEN", "bridge:{events}:stream"),
      redis.command("ZCARD", "bridge:{events}:identities"),
      redis.command("ZCARD", "bull:{schedule}:delayed"),
    ]);
    return counts.reduce<number>((sum, n) => sum + Number(n), 0);
  }

  async #count(): Promise<void> {
    for (;;) {
      const page = await this.#stores.events.read(this.#position, 500);
      if (page.gap)
        throw new Error("events went unread: longer EVENTS_SECONDS");
      for (const { position, event } of page.events) {
        this.#position = position;
        if (event.type !== "disconnected") continue;
        this.ends.set(event.subject, (this.ends.get(event.subject) ?? 0) + 1);
      }
      if (page.events.length < 500) return;
    }
  }

  /** A session, ended in one of four ways. */
  async #session(nth: number): Promise<void> {
    const { log, queues, redis, events } = this.#stores;
    // Every fourth is of an instance of its own, which freezes or dies: nobody says anything.
    const dies = nth % 4 === 3;
    const instance = dies ? `dies${nth}` : owner;
    const registry = dies
      ? new Registry(redis, this.#config, events)
      : this.#stores.registry;
    if (dies) await registry.live(instance);
    const { connectionId } = await registry.prepare({ userId: `u${nth}` });
    this.ends.set(connectionId, 0);
    const push: Append = {
      connectionId,
      body: Buffer.from(`{"nth":${nth}}`),
      contentType: "application/json",
      binary: false,
      ttlSeconds: 60,
    };
    await log.append({
      ...push,
      topic: "news",
      idempotency: { key: "once", fingerprint: "f", busyMs: 0 },
    });
    const { epoch, cur } = await registry.claim(connectionId, {
      owner: instance,
      protocol: "bridge.v1.json",
    });
    const { unheard } = await log.append(push);
    if (unheard) await queues.wake(connectionId, unheard);
    const page = await log.read(connectionId, epoch, cur);
    const last = page.kind === "rows" ? page.rows.at(-1) : undefined;
    if (last)
      await log.report(connectionId, epoch, {
        acked: last.seq,
        ackedTotal: last.total,
        ackedBy: "client",
        sent: [{ seq: last.seq, atMs: Date.now() }],
        fates: [],
      });
    // What nobody will ever take.
    await log.append(push);
    const scheduledId = newScheduledId();
    await log.schedule(push, scheduledId, Date.now() + 3_600_000);
    await queues.schedule(push, scheduledId, 3_600_000);
    if (nth % 4 === 0)
      await registry.end(connectionId, {
        epoch,
        owner: instance,
        reason: "client_closed",
        code: 1000,
        words: "closed by the client",
      });
    else if (nth % 4 === 1) {
      await registry.end(connectionId, {
        reason: "closed_by_backend",
        code: 4510,
        words: "closed by the backend",
      });
      await registry.abandon(connectionId, instance);
    } else if (nth % 4 === 2)
      await registry.release(connectionId, { epoch, owner: instance });
  }
}

async function main(): Promise<void> {
  const [, , url = "redis://127.0.0.1:6379", count = "20000", windows = "{}"] =
    process.argv;
  const findings = await runCycles(url, {
    count: Number(count),
    windows: {
      ...SHORT_WINDOWS,
      ...(JSON.parse(windows) as Partial<CycleWindows>),
    },
  });
  console.log(JSON.stringify(findings, null, 2));
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) await main();
