/** A9, A10: Redis that does not answer, and Redis that is not there when the functions start. */
import { setTimeout as sleep } from "node:timers/promises";

import type { Answer } from "../../lab/backend.js";
import type { TestRedis } from "../../lab/redis.js";
import { until } from "../../lab/until.js";
import { row } from "../row.js";

/** Every POST is answered within this, ms (scoreboard A9); the contract's own bound is one second. */
const ANSWERED_MS = 3_000;
/** Functions serve so long after Redis is up at the latest, ms (scoreboard A10). */
const READY_MS = 2_000;
/** For waits on a busy machine, ms. */
const PATIENCE_MS = 30_000;

/** The ways in which a Redis stays silent; each resolves when it answers again. */
const silences: Readonly<
  Record<string, (redis: TestRedis, ms: number) => Promise<unknown>>
> = {
  SIGSTOP: async (redis, ms) => {
    redis.freeze();
    await sleep(ms);
    redis.thaw();
  },
  "DEBUG SLEEP": async (redis, ms) => {
    // The answer comes when it is over, which may be longer than a command line waits.
    void redis.cli("DEBUG", "SLEEP", String(ms / 1_000)).catch(() => undefined);
    await sleep(ms);
  },
  "CLIENT PAUSE": async (redis, ms) => {
    await redis.cli("CLIENT", "PAUSE", String(ms), "ALL");
    await sleep(ms);
  },
};

export const frozen = row({
  id: "A9",
  title: "Redis silent: SIGSTOP, DEBUG SLEEP, CLIENT PAUSE",
  world: { redis: "single" },
  sizes: {
    short: {
      clients: 8,
      messages: 30,
      silent: {
        SIGSTOP: [1_800],
        "DEBUG SLEEP": [1_500],
        "CLIENT PAUSE": [1_500],
      },
    },
    long: {
      clients: 200,
      messages: 600,
      silent: {
        SIGSTOP: [5_000, 30_000],
        "DEBUG SLEEP": [5_000],
        "CLIENT PAUSE": [10_000],
      },
    },
  },
  guard: { name: "the Idempotency-Key of a retry: a new one for each attempt" },
  async inject(run, { clients: count, messages, silent }) {
    const clients = await run.clients(count);
    let slowest = 0;
    let unknown = 0;
    let late = 0;
    const other = new Set<number | undefined>();
    const heard = (answer: Answer | undefined, ms: number) => {
      slowest = Math.max(slowest, ms);
      const { status } = answer ?? {};
      if (status !== 202 && status !== 503) other.add(status);
      if (answer?.headers["idempotency-replayed"] === "true") late += 1;
      if (status === 503 && answer?.json()["code"] === "outcome_unknown") {
        unknown += 1;
      }
    };
    const load = run.load(clients, {
      publishers: 24,
      rate: 200,
      freshKeys: run.isBroken,
      heard,
    });
    for (const [how, times] of Object.entries(silent)) {
      for (const ms of times) {
        await load.more(messages);
        run.fault();
        await silences[how]?.(run.world.single, ms);
        await run.healed(clients);
      }
    }
    await load.stop();
    run.figure("slowest answer s", slowest / 1_000);
    run.figure("answered outcome_unknown", unknown);
    run.figure("of them stored, found by the retry", late);
    run.check(unknown > 0, "the silence met pushes under way");
    run.check(
      slowest <= ANSWERED_MS,
      `an answer took ${Math.round(slowest)} ms`,
    );
    run.check(
      other.size === 0,
      `answered ${[...other].join()} instead of 202 or 503`,
    );
  },
});

export const absentAtStart = row({
  id: "A10",
  title: "Redis down when the functions start",
  world: { redis: "single" },
  sizes: {
    short: { clients: 8, messages: 30, rounds: 1 },
    long: { clients: 200, messages: 600, rounds: 10 },
  },
  async inject(run, { clients: count, messages, rounds }) {
    const clients = await run.clients(count);
    const places = [...run.world.httpFns, ...run.world.wsFns];
    const health = ({ process }: (typeof places)[number]) =>
      fetch(`${process.url.replace("ws:", "http:")}/readyz`).then(
        ({ status }) => status,
      );
    let slowest = 0;
    for (let round = 0; round < rounds; round += 1) {
      const load = run.load(clients, { rate: 200 });
      await load.more(messages);
      // Nothing is under way when Redis goes: this row is about the start.
      await load.stop();
      run.fault();
      await Promise.all(places.map((place) => place.end()));
      await run.world.single.stop();
      await Promise.all(places.map((place) => place.replace()));
      const before = await Promise.all(places.map(health));
      run.check(
        before.every((status) => status === 503),
        `/readyz answered ${before.join()} without Redis`,
      );
      const pids = places.map(({ process }) => process.pid);
      await run.world.single.start();
      const back = performance.now();
      const times = await Promise.all(
        places.map(async (place) => {
          await until(async () => (await health(place)) === 200, {
            ms: PATIENCE_MS,
            every: 10,
            message: "/readyz answers 200",
          });
          return performance.now() - back;
        }),
      );
      slowest = Math.max(slowest, ...times);
      await run.healed(clients, back);
      run.check(
        places.every(({ process }, index) => process.pid === pids[index]),
        "nothing was restarted",
      );
    }
    run.figure("ready after s", slowest / 1_000);
    run.check(
      slowest <= READY_MS,
      `ready ${Math.round(slowest)} ms after Redis`,
    );
  },
});
