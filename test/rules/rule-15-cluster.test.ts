/** Delivery rule 15: on a Cluster a bell is not lost for good because its slot moves. */
import t from "tap";
import { slotOf } from "../../shared/slots.js";
import { clusterRedis } from "../../scripts/lab/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { moveSlot, ownerOf } from "../../scripts/lab/slots.js";
import { until } from "../../scripts/lab/until.js";
import {
  connect,
  patience,
  prepare,
  push,
  startWorld,
} from "../fixtures/world.js";

const { url, masters } = await clusterRedis(t);

/** The slot of a connection goes to another master, and a push comes before its owner listens there. */
async function slotMoves(t: Scope, guarded: boolean) {
  // No renewal may come in between and make it good by itself: it reads the log as well (rule 4).
  const world = await startWorld(t, url, { leaseMs: 36_000_000 });
  const pusher = await startWorld(t, url);
  const id = await prepare(world);
  const { subscriptions } = world.redis;
  // Its keeper is who hears that channels were subscribed again.
  if (!guarded) world.keeper.close();
  let gaps = 0;
  subscriptions.on("gap", () => (gaps += 1));
  const client = await connect(t, world, id);
  const slot = slotOf(id);
  const sent: string[] = [];
  await until(async () => {
    const from = await ownerOf(masters, slot);
    const to = masters.find((one) => one !== from);
    if (!from || !to) return false;
    const before = gaps;
    await moveSlot(slot, from, to, masters);
    const text = `${sent.length}`;
    const { online } = await pusher.log.append(push(id, text));
    sent.push(text);
    subscriptions.refresh();
    await until(() => gaps > before, patience);
    return !online;
  }, patience);
  if (guarded) await client.receives(...sent);
  return { messages: client.socket.messages, sent, client, pusher, id };
}

t.test("a push while the slot of its connection moves", async (t) => {
  const without = await slotMoves(t, false);
  t.notSame(without.messages, without.sent, "nothing tells of it");
  await without.pusher.log.append(push(without.id, "next"));
  await without.client.receives(...without.sent, "next");
  const { messages, sent } = await slotMoves(t, true);
  t.same(messages, sent, "is read once all channels are subscribed again");
});
