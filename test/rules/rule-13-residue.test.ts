/** Delivery rule 13: a connection that ended leaves nothing once its windows are over, its queue included. */
import t from "tap";
import { endScript } from "../../shared/registry-scripts.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { until } from "../../scripts/lab/until.js";
import {
  changed,
  connect,
  prepare,
  pushAll,
  startWorld,
} from "../fixtures/world.js";

/** Adds under way when a connection ended are waited for, 5 s; and 500 connections have to be looked at. */
const longPatience = { ms: 45_000, every: 200 };

/** Connections get mail, ack it and end. The keys that are there when nobody looks at any of them any more. */
async function residue(t: Scope, guarded: boolean, connections: number) {
  const redis = await singleRedis(t);
  const world = await startWorld(t, redis.url, {
    endedMs: 100,
    receiptMs: 100,
    idempotencyMs: 100,
    lingerMs: 5,
    scripts: guarded ? [] : [changed(endScript, "expire(1, 7, keep)")],
  });
  const one = async (n: number) => {
    const id = await prepare(world);
    await pushAll(world, id, "early");
    const client = await connect(t, world, id);
    await pushAll(world, id, "1", "2");
    await client.receives("early", "1", "2");
    client.ack();
    // Half of them with their run under way.
    if (n % 2 === 0)
      await until(
        async () => (await redis.cli("LLEN", `bull:{${id}}:active`)) === 0,
        longPatience,
      );
    await client.connection.onClose(1000);
  };
  for (let from = 0; from < connections; from += 20)
    await Promise.all(
      Array.from({ length: Math.min(20, connections - from) }, (_, n) =>
        one(from + n),
      ),
    );
  const remove = guarded
    ? (id: string) => world.queues.remove(id)
    : () => Promise.resolve();
  await until(async () => {
    if (guarded) await world.registry.sweep(remove);
    else await redis.cli("DEL", "bridge:due", "bridge:connections");
    return (await redis.cli("ZCARD", "bridge:due")) === 0;
  }, longPatience);
  const keys = (await redis.cli("KEYS", "*")) as string[];
  // The stream of events is nobody's own: bounded by count and age (test/shared/events.test.ts). What is known of
  // everybody's group is nobody's residue either, and goes when nobody has been here for a while.
  const base = ["bridge:token-secret", "bridge:{g:$all}:meta"];
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

t.test("the queue of a live connection does not grow", async (t) => {
  const redis = await singleRedis(t);
  const world = await startWorld(t, redis.url, { lingerMs: 1 });
  const id = await prepare(world);
  const client = await connect(t, world, id);
  const all: string[] = [];
  for (let n = 0; n < 30; n += 1) {
    all.push(`${n}`);
    await pushAll(world, id, `${n}`);
    await client.receives(...all);
    await until(
      async () => (await redis.cli("LLEN", `bull:{${id}}:active`)) === 0,
      longPatience,
    );
  }
  t.ok(Number(await redis.cli("XLEN", `bull:{${id}}:events`)) <= 100);
  // The bell brings a message before its job is added: the last job may still come, run and go.
  await until(
    async () => {
      const keys = (await redis.cli("KEYS", `bull:{${id}}:*`)) as string[];
      return !keys.some((key) => /:\d+$/.test(key));
    },
    { ...longPatience, message: "no job is kept" },
  );
});
