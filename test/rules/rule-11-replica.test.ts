/** Delivery rule 11: nobody is told that a replica has a message unless one has it. */
import t from "tap";
import { parseMessageId, userTag } from "../../shared/ids.js";
import { groupTag, keys } from "../../shared/keys.js";
import { createLogger } from "../../shared/logging.js";
import type { MasterConnection } from "../../shared/redis.js";
import { Replication, type Held } from "../../shared/replication.js";
import {
  clusterRedis,
  replicatedRedis,
  singleRedis,
} from "../../scripts/lab/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { until } from "../../scripts/lab/until.js";
import {
  patience,
  prepare,
  push,
  startWorld,
  type World,
} from "../fixtures/world.js";

const quiet = createLogger("test", "silent");
/** What a confirmation that is to come may take here; one that is not to come takes `shortMs`. */
const longMs = 20_000;
const shortMs = 700;

async function append(
  world: World,
  id: string,
): Promise<Extract<Held, { connectionId: string }>> {
  const { place } = await world.log.append(push(id, "x"));
  return { connectionId: id, place };
}

/** WAIT alone on its connection: as one would write it first. */
class Bare extends Replication {
  protected override witness(): Promise<unknown> {
    return Promise.resolve();
  }
  protected override holds(): Promise<boolean> {
    return Promise.resolve(true);
  }
}

/** With the write, but whoever answers is believed. */
class Trusting extends Replication {
  protected override holds(): Promise<boolean> {
    return Promise.resolve(true);
  }
}

const outcome = (confirmation: Promise<void>) =>
  confirmation.then(
    () => "replica",
    ({ code }: { code: string }) => code,
  );

/** The replica is stopped; then a push. What its sender is told about the replica. */
async function stoppedReplica(t: Scope, make: typeof Replication) {
  const { master, replica } = await replicatedRedis(t);
  const world = await startWorld(t, master.url);
  const replication = new make(world.redis, quiet);
  const id = await prepare(world);
  // The connection is there already, and the replica has said that it has everything until then.
  await replication.ready(id);
  await until(async () => {
    const [, offset, [first] = []] = (await master.cli("ROLE")) as [
      string,
      number,
      [string, string, string][],
    ];
    return Number(first?.[2]) >= offset;
  }, patience);
  replica.freeze();
  return outcome(replication.confirm(await append(world, id), shortMs));
}

t.test("a push while the replica is stopped", async (t) => {
  t.equal(
    await stoppedReplica(t, Bare),
    "replica",
    "WAIT without a write of its own connection says what is not so",
  );
  t.equal(await stoppedReplica(t, Replication), "outcome_unknown");
});

/** The push went to a server that is gone; another one, with a replica of its own, is the master now. */
async function promotedInBetween(t: Scope, make: typeof Replication) {
  const before = await startWorld(t, (await singleRedis(t)).url);
  const { master } = await replicatedRedis(t);
  const after = await startWorld(t, master.url);
  const held = await append(before, await prepare(before));
  return outcome(new make(after.redis, quiet).confirm(held, longMs));
}

t.test("a push that only the former master has", async (t) => {
  t.equal(await promotedInBetween(t, Trusting), "replica", "is vouched for");
  t.equal(await promotedInBetween(t, Replication), "outcome_unknown");
});

t.test("many pushes share one WAIT", async (t) => {
  const { master, replica } = await replicatedRedis(t);
  const world = await startWorld(t, master.url, { keeps: false });
  const { replication } = world;
  const ids = await Promise.all(
    Array.from({ length: 10 }, () => prepare(world)),
  );
  await replication.ready(ids[0] ?? "");
  const held = await Promise.all(
    Array.from({ length: 300 }, (_, n) => append(world, ids[n % 10] ?? "")),
  );
  await Promise.all(held.map((each) => replication.confirm(each, longMs)));
  const stats = String(await master.cli("INFO", "commandstats"));
  const calls = Number(/cmdstat_wait:calls=(\d+)/.exec(stats)?.[1]);
  t.ok(calls >= 1 && calls <= 10, `${calls} WAITs for 300 pushes`);
  for (const { connectionId, place } of held) {
    const seq = "seq" in place ? String(place.seq) : "";
    const row = await replica.cli("XRANGE", keys.index(connectionId), seq, seq);
    t.same(Array.isArray(row) && row.length, 1, "the replica has it");
  }
  const clients = String(await master.cli("CLIENT", "LIST", "TYPE", "normal"));
  // The world's own, the one for WAIT, and the one that asks.
  t.equal(clients.trim().split("\n").length, 3);
});

t.test(
  "a confirmation is not carried over to another connection",
  async (t) => {
    const { master, replica } = await replicatedRedis(t);
    const world = await startWorld(t, master.url);
    const id = await prepare(world);
    await world.replication.ready(id);
    replica.freeze();
    const told = outcome(
      world.replication.confirm(await append(world, id), longMs),
    );
    // Sent again after a reconnect, a lone WAIT would find nothing to wait for.
    await master.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
    t.equal(await told, "outcome_unknown");
  },
);

t.test("without a replica nothing is stored in the first place", async (t) => {
  const redis = await singleRedis(t);
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  await t.rejects(world.replication.ready(id), { code: "no_replica" });
  await redis.stop();
  await t.rejects(world.replication.ready(id), { code: "redis_unavailable" });
});

t.test("on a Cluster each master's own replica is asked", async (t) => {
  const cluster = await clusterRedis(t, { replicas: 1 });
  const world = await startWorld(t, cluster.url);
  const { replication } = world;
  const opened: MasterConnection[] = [];
  const ids = await Promise.all(
    Array.from({ length: 30 }, () => prepare(world)),
  );
  const open = world.redis.openMaster.bind(world.redis);
  world.redis.openMaster = (master) => {
    const client = open(master);
    opened.push(client);
    return client;
  };
  await Promise.all(
    ids.map(async (id) => {
      await replication.ready(id);
      await replication.confirm(await append(world, id), longMs);
    }),
  );
  t.equal(opened.length, 3, "one connection for each master");
  const later = push(ids[0] ?? "", "later", { durability: "replica" });
  const dueAtMs = Date.now() + 600_000;
  const { place } = await world.log.schedule(later, "00000000001", dueAtMs);
  await world.queues.schedule(later, "00000000001", 600_000);
  await replication.confirm(
    { connectionId: later.connectionId, place },
    longMs,
  );
  await replication.confirmJob(later, "00000000001", longMs);
  const waiting = { connectionId: later.connectionId, place, due: true };
  t.equal(
    await outcome(replication.confirm(waiting, longMs)),
    "outcome_unknown",
    "it is not in the log yet",
  );
  await world.log.appendDue(later, "00000000001");
  await replication.confirm(waiting, longMs);

  // A group and a user lie wherever their names say, a user's copies with their connections.
  const message = {
    ...push("", "x", { durability: "replica" }),
    group: "room",
  };
  await replication.ready(groupTag("room"));
  const { position } = await world.fanout.publish(message);
  await replication.confirm(
    { group: "room", place: { offset: position?.offset ?? 0 } },
    longMs,
  );
  const never = { group: "room", place: { offset: 1 } };
  t.equal(await outcome(replication.confirm(never, longMs)), "outcome_unknown");
  const record = { userTag: userTag("ann"), place: "00000000000" };
  t.equal(
    await outcome(
      replication.confirmOfUser({ ...record, deliveries: [] }, longMs),
    ),
    "outcome_unknown",
  );
  const route = parseMessageId(
    (await world.users.push({ ...message, userId: "ann" })).messageId,
  );
  if (route?.kind !== "user") throw new Error("that is a user's");
  await replication.confirmOfUser({ ...route, deliveries: [] }, longMs);
  t.match(await world.users.record(route.userTag, route.place), {
    state: "parked",
    durable: true,
  });
  const lost = { connectionId: ids[0] ?? "", seq: 1 };
  t.equal(
    await outcome(
      replication.confirmOfUser({ ...route, deliveries: [lost] }, longMs),
    ),
    "outcome_unknown",
    "one copy is not there",
  );
  t.equal(opened.length, 3, "and still one connection for each master");
});
