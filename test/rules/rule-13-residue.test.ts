/** Delivery rule 13: a connection that ended leaves nothing once its windows are over, and a dead process no queue. */
import t from "tap";
import { endScript } from "../../shared/registry-scripts.js";
import { keys as names } from "../../shared/keys.js";
import { singleRedis, type TestRedis } from "../../scripts/lab/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { until } from "../../scripts/lab/until.js";
import {
  changed,
  connect,
  prepare,
  pushAll,
  startWorld,
  takeJobs,
} from "../fixtures/world.js";

/** Adds under way when a connection ended are waited for, 5 s; and 500 connections have to be looked at. */
const longPatience = { ms: 45_000, every: 200 };

/** Connections get mail, ack it and end. The keys that are there when nobody looks at any of them any more. */
async function residue(t: Scope, guarded: boolean, connections: number) {
  const redis = await singleRedis(t);
  const world = await startWorld(t, redis.url, {
    resumeMs: 300,
    endedMs: 100,
    receiptMs: 100,
    idempotencyMs: 100,
    scripts: guarded ? [] : [changed(endScript, "expire(4, 6, keep)")],
  });
  const one = async (n: number) => {
    const id = await prepare(world);
    await pushAll(world, id, "early");
    const client = await connect(t, world, id);
    await pushAll(world, id, "1", "2");
    await client.receives("early", "1", "2");
    client.ack();
    // Half of them wait for their client until that is over.
    await client.connection.onClose(n % 2 === 0 ? 1000 : 1006);
  };
  for (let from = 0; from < connections; from += 20)
    await Promise.all(
      Array.from({ length: Math.min(20, connections - from) }, (_, n) =>
        one(from + n),
      ),
    );
  await until(async () => {
    await world.registry.sweep(world.sweeping);
    return (await redis.cli("ZCARD", names.due)) === 0;
  }, longPatience);
  const base = [
    "bridge:token-secret",
    "bridge:{g:$all}:meta",
    "bridge:{g:$all}:instances",
  ];
  // What is kept for a receipt goes a moment after its connection.
  if (guarded)
    await until(async () => {
      const { length } = await left(redis, base);
      return length === 0;
    }, longPatience).catch(() => undefined);
  return left(redis, base);
}

/** The stream of events is nobody's own: bounded by count and age (test/shared/events.test.ts). */
async function left(redis: TestRedis, base: readonly string[]) {
  const keys = (await redis.cli("KEYS", "*")) as string[];
  return keys.filter((key) => !base.includes(key) && !key.includes("{events}"));
}

t.test("connections that got mail and ended", async (t) => {
  t.ok((await residue(t, false, 5)).length >= 5, "leave keys for ever");
  t.same(
    await residue(t, true, 500),
    [],
    "leave nothing, five hundred of them",
  );
});

t.test("the queue of a process", async (t) => {
  const redis = await singleRedis(t);
  const world = await startWorld(t, redis.url);
  await takeJobs(world);
  const queue = () =>
    redis.cli("KEYS", `bull:{i-${world.instance}}:*`) as Promise<string[]>;
  for (let n = 0; n < 30; n += 1)
    await world.queues.wake(`c${n}`, { instance: world.instance, epoch: 1 });
  await until(async () => !(await queue()).some((key) => /:\d+$/.test(key)), {
    ...longPatience,
    message: "no job is kept",
  });
  t.ok(
    Number(await redis.cli("XLEN", `bull:{i-${world.instance}}:events`)) <= 100,
  );

  // Its process dies, and a job is added all the same.
  const dead = await startWorld(t, redis.url, { leaseMs: 50, keeps: false });
  await world.queues.wake("c", { instance: dead.instance, epoch: 1 });
  const left = () =>
    redis.cli("KEYS", `bull:{i-${dead.instance}}:*`) as Promise<string[]>;
  t.ok((await left()).length > 0);
  for (const key of await left())
    t.ok(Number(await redis.cli("PTTL", key)) > 0, `${key} expires`);
  await until(async () => {
    await world.registry.sweep(world.sweeping);
    return (await left()).length === 0;
  }, longPatience);
  t.pass("whoever sweeps takes it away");
});
