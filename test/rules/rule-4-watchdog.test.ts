/** Delivery rule 4: what no bell told, and what Redis lost, is found by comparing with Redis, some connections at a time. */
import t, { type Test } from "tap";
import { channels } from "../../shared/keys.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { until } from "../../scripts/lab/until.js";
import {
  altered,
  connect,
  patience,
  prepare,
  push,
  startWorld,
} from "../fixtures/world.js";

const redis = await singleRedis(t);

/** A connection that is deaf to its bell, and no job is added. What it has got after some comparisons. */
async function deaf(t: Scope, guarded: boolean) {
  const world = await startWorld(t, redis.url, { leaseMs: 600 });
  const id = await prepare(world);
  let compared = 0;
  const registry = altered(world.registry, {
    confirm: async (...call) => {
      const confirmation = await world.registry.confirm(...call);
      compared += 1;
      if (guarded || confirmation.kind !== "ok") return confirmation;
      // Without the watchdog nobody compares the positions.
      return { ...confirmation, seq: call[1].cur };
    },
  });
  const client = await connect(t, world, id, { deps: { registry } });
  await world.redis.subscriptions.unsubscribe(
    `${channels.bell(id)}${client.epoch}`,
  );
  const { online } = await world.log.append(push(id, "1"));
  if (online) throw new Error("somebody heard it");
  compared = 0;
  if (guarded) await client.receives("1");
  else await until(() => compared >= 2, patience);
  return client.socket.messages;
}

t.test("a bell that nobody heard", async (t) => {
  t.same(await deaf(t, false), [], "accepted, and nothing comes");
  t.same(await deaf(t, true), ["1"], "comes with the next comparison");
});

t.test(
  "a connection that was taken for lost while its socket lives",
  async (t) => {
    const world = await startWorld(t, redis.url, { leaseMs: 600 });
    const other = await startWorld(t, redis.url);
    const id = await prepare(world);
    const client = await connect(t, world, id);
    await redis.cli(
      "HSET",
      `bridge:{${id}}:conn`,
      "lease",
      `${Date.now() - 1}`,
    );
    t.equal((await other.registry.lapse(id)).state, "away");
    t.match(await other.log.append(push(id, "1")), { online: false });
    await client.receives("1");
    await until(
      async () => (await other.registry.inspect(id)).state === "open",
      patience,
    );
    t.pass("its owner opens it again");
  },
);

/** Redis forgets a process and all that it holds. Whether a message still comes. */
async function forgotten(t: Test, guarded: boolean) {
  const own = await singleRedis(t);
  const world = await startWorld(t, own.url, { leaseMs: 900, keeps: guarded });
  const other = await startWorld(t, own.url);
  const id = await prepare(world);
  const client = await connect(t, world, id);
  await own.cli("FLUSHALL");
  if (!guarded) {
    await t.rejects(other.log.append(push(id, "1")), {
      code: "connection_not_found",
    });
    return;
  }
  await until(
    () =>
      other.log.append(push(id, "1")).then(
        () => true,
        () => false,
      ),
    patience,
  );
  await client.receives("1");
  const { held } = await world.registry.directory.live(world.instance, 900);
  t.equal(held, 1, "and the directory knows it again");
}

t.test("a Redis that forgot the process", async (t) => {
  await forgotten(t, false);
  await forgotten(t, true);
});

t.test("a push makes no connection", async (t) => {
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  await redis.cli("DEL", `bridge:{${id}}:conn`);
  await t.rejects(world.log.append(push(id, "x")), {
    code: "connection_not_found",
  });
  t.same(await redis.cli("KEYS", `*${id}*`), []);
});
