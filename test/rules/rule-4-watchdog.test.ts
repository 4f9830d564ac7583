/** Delivery rule 4: the renewal is the watchdog. What no bell told, and what Redis lost, it finds. */
import t from "tap";
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

/** A connection that is deaf to its bell. What it has got after some renewals. */
async function deaf(t: Scope, guarded: boolean) {
  const world = await startWorld(t, redis.url, { leaseMs: 1_500 });
  const id = await prepare(world);
  let renewals = 0;
  const registry = altered(world.registry, {
    renew: async (...call) => {
      const renewal = await world.registry.renew(...call);
      renewals += 1;
      if (guarded || renewal.kind !== "ok") return renewal;
      // Without the watchdog nobody compares the positions.
      return { ...renewal, seq: call[1].cur, waiting: 0 };
    },
  });
  const client = await connect(t, world, id, { deps: { registry } });
  await world.redis.subscriptions.unsubscribe(
    `${channels.bell(id)}${client.epoch}`,
  );
  const { online } = await world.log.append(push(id, "1"));
  if (online) throw new Error("somebody heard it");
  renewals = 0;
  if (guarded) await client.receives("1");
  else await until(() => renewals >= 2, patience);
  return client.socket.messages;
}

t.test("a bell that nobody heard", async (t) => {
  t.same(await deaf(t, false), [], "accepted, and nothing comes");
  t.same(await deaf(t, true), ["1"], "comes with the next renewal");
});

t.test("a registration that lapsed while its socket lives", async (t) => {
  const world = await startWorld(t, redis.url, { leaseMs: 1_500 });
  const other = await startWorld(t, redis.url);
  const id = await prepare(world);
  const client = await connect(t, world, id);
  await redis.cli("HSET", `bridge:{${id}}:conn`, "lease", `${Date.now() - 1}`);
  t.equal((await other.registry.lapse(id)).state, "away");
  t.match(await other.log.append(push(id, "1")), { online: false });
  await client.receives("1");
  await until(
    async () => (await other.registry.inspect(id)).state === "open",
    patience,
  );
  t.pass("its renewal opens it again");
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
