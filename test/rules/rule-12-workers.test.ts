/** Delivery rule 12: a Worker exists around runs only, and an idle one closes at once. */
import t from "tap";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";
import {
  altered,
  connect,
  patience,
  prepare,
  pushAll,
  startWorld,
} from "../fixtures/world.js";

const redis = await singleRedis(t);

t.test("an idle connection has no worker until its first job", async (t) => {
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  let rings = 0;
  const queues = altered(world.queues, {
    consume: (...call) => {
      const worker = world.queues.consume(...call);
      return altered(worker, {
        ring: () => {
          rings += 1;
          worker.ring();
        },
      });
    },
  });
  const client = await connect(t, world, id, { deps: { queues } });
  // A consumer that was not rung has no Worker (the contract of the queues).
  t.equal(rings, 0);
  await pushAll(world, id, "1");
  await client.receives("1");
  await until(() => rings === 1, patience);
});

t.test("an idle worker is woken to close", async (t) => {
  // Neither the deadline of a close (1 s) nor the end of a wait for jobs (5 s) may be what ends it.
  const { setTimeout: original } = globalThis;
  t.teardown(() => {
    globalThis.setTimeout = original;
  });
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  const { epoch } = await world.registry.claim(id, {
    owner: "test",
    protocol: "raw",
  });
  let runs = 0;
  const worker = world.queues.consume(id, () => {
    runs += 1;
    return Promise.resolve("done");
  });
  await world.queues.wake(id, epoch);
  const endless = (run: () => void, ms?: number) =>
    ms !== undefined && ms >= 900 && ms <= 10_000
      ? original(run, 2 ** 30).unref()
      : original(run, ms);
  globalThis.setTimeout = endless as typeof setTimeout;
  worker.ring();
  await until(() => runs === 1, patience);
  const empty = async (list: string) =>
    (await redis.cli("LLEN", `bull:{${id}}:${list}`)) === 0;
  await until(() => empty("active"), patience);
  await worker.close();
  t.pass("closed");
});

t.test("a lost lock ends its own run, and the next one lingers", async (t) => {
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  const { epoch } = await world.registry.claim(id, {
    owner: "test",
    protocol: "raw",
  });
  const signals: AbortSignal[] = [];
  const worker = world.queues.consume(id, (signal) => {
    signals.push(signal);
    return Promise.resolve("done");
  });
  t.teardown(() => worker.close());
  for (const nth of [1, 2]) {
    await world.queues.wake(id, epoch);
    worker.ring();
    await until(() => signals.length === nth, patience);
  }
  t.not(signals[0], signals[1], "each run is told by its own signal");
});
