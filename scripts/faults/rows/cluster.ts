/** A13: a Cluster that loses a master, changes masters in order, and moves a slot, all under load. */
import type { TestRedis } from "../../lab/redis.js";
import { moveSlot } from "../../lab/slots.js";
import { until } from "../../lab/until.js";
import type { Client } from "../clients.js";
import { row, type Run } from "../row.js";

/** The Cluster's own timeouts are 2 s (scripts/lab/redis.ts). */
const SETTLED_MS = 60_000;

interface Node {
  readonly id: string;
  readonly redis: TestRedis;
  readonly isMaster: boolean;
  /** Of the master that it follows; "-" for a master. */
  readonly follows: string;
  holds(slot: number): boolean;
}

/** CLUSTER NODES, as one node that answers sees it; those that it takes for failed are left out. */
async function nodesOf({ world }: Run): Promise<Node[]> {
  const servers = [...world.cluster.masters, ...world.cluster.replicas];
  for (const server of servers) {
    const text = await server.cli("CLUSTER", "NODES").catch(() => undefined);
    if (typeof text !== "string") continue;
    return text.split("\n").flatMap((line) => {
      const [id, address, flags = "", follows = "-", , , , link, ...slots] =
        line.split(" ");
      const port = Number(/:(\d+)@/.exec(address ?? "")?.[1]);
      const redis = servers.find((one) => one.port === port);
      if (!id || !redis || /fail/.test(flags) || link !== "connected")
        return [];
      const ranges = slots
        .filter((range) => !range.startsWith("["))
        .map((range) => range.split("-").map(Number));
      return {
        id,
        redis,
        isMaster: flags.includes("master"),
        follows,
        holds: (slot: number) =>
          ranges.some(([from = -1, to = from]) => from <= slot && slot <= to),
      };
    });
  }
  throw new Error("No node of the Cluster answers");
}

const ownerOf = (nodes: readonly Node[], slot: number) =>
  nodes.find(({ isMaster, holds }) => isMaster && holds(slot));

/** Waits until another than `old` owns the slot and the whole Cluster works. */
async function ownerOtherThan(
  run: Run,
  slot: number,
  old: Node,
): Promise<void> {
  await until(
    async () => {
      const owner = ownerOf(await nodesOf(run), slot);
      if (owner === undefined || owner.id === old.id) return false;
      const info = String(await owner.redis.cli("CLUSTER", "INFO"));
      return info.includes("cluster_state:ok");
    },
    { ms: SETTLED_MS, message: "the slot has another owner" },
  );
}

/** A replica of this master that has all its data. */
async function followerOf(run: Run, master: Node): Promise<Node> {
  return until(
    async () => {
      for (const node of await nodesOf(run)) {
        if (node.follows !== master.id) continue;
        const info = String(await node.redis.cli("INFO", "replication"));
        if (info.includes("master_link_status:up")) return node;
      }
      return undefined;
    },
    { ms: SETTLED_MS, message: "the master has a replica" },
  );
}

async function slotOf(run: Run, { connection }: Client): Promise<number> {
  const [any] = await nodesOf(run);
  return Number(await any?.redis.cli("CLUSTER", "KEYSLOT", `{${connection}}`));
}

async function owner(run: Run, slot: number): Promise<Node> {
  return until(async () => ownerOf(await nodesOf(run), slot), {
    ms: SETTLED_MS,
    message: "the slot has an owner",
  });
}

/** To any other master; returns how many keys that were. */
async function moveSlotAway(run: Run, slot: number): Promise<number> {
  const from = await owner(run, slot);
  const masters = (await nodesOf(run)).filter(({ isMaster }) => isMaster);
  const to = masters.find(({ id }) => id !== from.id);
  if (!to) throw new Error("There is no other master");
  return moveSlot(
    slot,
    from.redis,
    to.redis,
    masters.map(({ redis }) => redis),
  );
}

export const cluster = row({
  id: "A13",
  title: "Cluster: a master killed, CLUSTER FAILOVER, a slot moved",
  world: { redis: "cluster" },
  sizes: {
    short: { clients: 9, rounds: 1, messages: 60 },
    long: { clients: 200, rounds: 10, messages: 600 },
  },
  async inject(run, { clients: count, rounds, messages }) {
    const clients = await run.clients(count);
    // Everything that is broken is where the first client is.
    const [first] = clients;
    if (!first) return;
    const slot = await slotOf(run, first);
    const load = run.load(clients, { publishers: 24, rate: 300 });
    let gap = 0;
    let moved = 0;
    for (let round = 0; round < rounds; round += 1) {
      await load.more(messages);
      run.fault();
      moved += await moveSlotAway(run, slot);
      await run.healed(clients);

      await load.more(messages);
      const ruling = await owner(run, slot);
      const heir = await followerOf(run, ruling);
      run.fault();
      await heir.redis.cli("CLUSTER", "FAILOVER");
      await ownerOtherThan(run, slot, ruling);
      await run.healed(clients);

      await load.more(messages);
      const victim = await owner(run, slot);
      await followerOf(run, victim);
      run.fault();
      const killedAt = performance.now();
      await victim.redis.stop("SIGKILL");
      await ownerOtherThan(run, slot, victim);
      await run.healed(clients);
      gap = Math.max(gap, performance.now() - killedAt);
      await victim.redis.start();
    }
    await load.stop();
    run.figure("keys moved", moved);
    run.figure("longest gap of a kill s", gap / 1_000);
    run.figure("slowest add s", run.ledger.slowestAnswer() / 1_000);
    run.check(moved > 0, "the moved slot had keys");
  },
});
