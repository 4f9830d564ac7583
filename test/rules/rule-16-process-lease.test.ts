/** Delivery rule 16: one lease for a process stands for all that it holds, and only for what it held when it ended. */
import t, { type Test } from "tap";
import { keys } from "../../shared/keys.js";
import { lapseScript } from "../../shared/registry-scripts.js";
import type { Script } from "../../shared/redis.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { until } from "../../scripts/lab/until.js";
import {
  changed,
  connect,
  patience,
  prepare,
  push,
  pushAll,
  startWorld,
  type World,
} from "../fixtures/world.js";

const redis = await singleRedis(t);

/** The end of a process' lease, as Redis has it. */
const leaseEnd = async (world: World) =>
  Number(await redis.cli("ZSCORE", keys.instances, world.instance));

/** A process with a connection, whose lease is over. */
async function dead(t: Scope, scripts: readonly Script[] = []) {
  const world = await startWorld(t, redis.url, { leaseMs: 60, keeps: false });
  const id = await prepare(world);
  await world.registry.claim(id, { owner: world.instance, protocol: "raw" });
  await world.registry.live(world.instance);
  const endMs = await leaseEnd(world);
  const other = await startWorld(t, redis.url, { scripts });
  await until(() => Date.now() > endMs + 5, patience);
  return { world, other, id, endMs };
}

t.test(
  "a process that dies leaves its connections at the end of its lease",
  async (t) => {
    const { world, other, id, endMs } = await dead(t);
    await Promise.all([1, 2].map(() => other.registry.sweep(other.sweeping)));
    const { state, expiresAt } = await other.registry.inspect(id);
    t.equal(state, "away");
    t.equal(Date.parse(expiresAt ?? ""), endMs + world.windows.resumeMs);
    await until(async () => {
      await other.registry.sweep(other.sweeping);
      return (
        Number.isNaN(await leaseEnd(world)) || (await leaseEnd(world)) === 0
      );
    }, patience);
    t.pass("and is forgotten");
  },
);

/** A sweep that saw the process dead does its work after the process has come back and confirmed its connection. */
async function late(t: Test, scripts: readonly Script[]) {
  const { world, other, id, endMs } = await dead(t, scripts);
  await world.registry.live(world.instance);
  const { epoch, identity } = await world.registry.claim(id, {
    owner: world.instance,
    protocol: "raw",
  });
  t.ok(epoch > 0 && identity.userId === "");
  await other.registry.lapse(id, {
    instance: world.instance,
    leaseEndMs: endMs,
  });
  return (await other.registry.inspect(id)).state;
}

t.test("a sweep that comes too late", async (t) => {
  const guard = `and lease - ${2 * 86_400_000} <= dead`;
  const off = changed(lapseScript, guard);
  t.equal(await late(t, [off]), "away", "takes what was taken again since");
  t.equal(await late(t, []), "open", "takes nothing");
});

t.test("another owner's connection is not its", async (t) => {
  const { world, other, id, endMs } = await dead(t);
  await other.registry.claim(id, { owner: other.instance, protocol: "raw" });
  await other.registry.lapse(id, {
    instance: world.instance,
    leaseEndMs: endMs,
  });
  t.equal((await other.registry.inspect(id)).state, "open");
});

t.test(
  "a push to a connection of a dead process is told the truth",
  async (t) => {
    const { other, id } = await dead(t);
    const blind = await startWorld(t, redis.url);
    await other.registry.directory.look(10);
    // What a look found is settled before the push.
    await other.registry.sweep({
      ...other.sweeping,
      away: () => Promise.resolve(),
    });
    t.equal((await other.registry.inspect(id)).state, "away");
    t.match(await blind.log.append(push(id, "x")), {
      online: false,
      unheard: undefined,
    });
  },
);

t.test("a process gives back what it does not hold", async (t) => {
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  const { epoch } = await world.registry.claim(id, {
    owner: world.instance,
    protocol: "raw",
  });
  // Its word that it left was lost on the way.
  const lost = await startWorld(t, redis.url);
  await lost.registry
    .release(id, { epoch: epoch + 1, owner: world.instance })
    .catch(() => undefined);
  await redis.cli("SADD", keys.held(world.instance), id);
  await world.registry.abandon(id, "nobody");
  t.equal((await world.registry.inspect(id)).state, "open", "stuck");
  for (let n = 0; n < 2; n += 1) await world.registry.live(world.instance);
  t.equal((await world.registry.inspect(id)).state, "away");
});

t.test(
  "a client is delivered to across many renewals without a word of its own",
  async (t) => {
    const world = await startWorld(t, redis.url, { leaseMs: 300 });
    const id = await prepare(world);
    const client = await connect(t, world, id);
    const first = await leaseEnd(world);
    await until(async () => (await leaseEnd(world)) > first + 600, patience);
    await pushAll(world, id, "1");
    await client.receives("1");
    t.equal((await world.registry.inspect(id)).state, "open");
  },
);
