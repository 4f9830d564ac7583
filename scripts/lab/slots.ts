// Moves one slot of a Cluster from master to master, as `redis-cli --cluster reshard` does.
import type { TestRedis } from "./redis.js";

/** Keys asked for, and moved, at once. */
const KEYS_AT_ONCE = 1_000;
const MOVE_MS = 5_000;

const idOf = async (node: TestRedis) =>
  String(await node.cli("CLUSTER", "MYID"));

/** Which of these masters owns the slot; undefined while none does. */
export async function ownerOf(
  masters: readonly TestRedis[],
  slot: number,
): Promise<TestRedis | undefined> {
  const [any] = masters;
  const shards = (await any?.cli("CLUSTER", "SLOTS")) as [
    number,
    number,
    [string, number],
  ][];
  const shard = shards.find(([from, to]) => from <= slot && slot <= to);
  return masters.find(({ port }) => port === shard?.[2][1]);
}

/** Returns how many keys it moved. All of `masters` hear of it. */
export async function moveSlot(
  slot: number,
  from: TestRedis,
  to: TestRedis,
  masters: readonly TestRedis[],
): Promise<number> {
  const set = (at: TestRedis, ...rest: string[]) =>
    at.cli("CLUSTER", "SETSLOT", String(slot), ...rest);
  const newOwner = await idOf(to);
  await set(to, "IMPORTING", await idOf(from));
  await set(from, "MIGRATING", newOwner);
  let moved = 0;
  for (;;) {
    const keys = (await from.cli(
      ...["CLUSTER", "GETKEYSINSLOT", String(slot), String(KEYS_AT_ONCE)],
    )) as string[];
    if (keys.length === 0) break;
    moved += keys.length;
    await from.cli(
      ...["MIGRATE", "127.0.0.1", String(to.port), "", "0"],
      ...[String(MOVE_MS), "KEYS", ...keys],
    );
  }
  // The new owner first: it must not be told by the old one's gossip that it has nothing.
  for (const one of new Set([to, from, ...masters]))
    await set(one, "NODE", newOwner);
  return moved;
}
