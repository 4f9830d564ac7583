/** Delivery rule 5: any bell makes the owner read, and a cut line is made good. */
import { once } from "node:events";
import t from "tap";
import { singleRedis } from "../../scripts/lab/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { until } from "../../scripts/lab/until.js";
import {
  connect,
  patience,
  prepare,
  push,
  startWorld,
} from "../fixtures/world.js";

const redis = await singleRedis(t);

/** The subscriber's line is cut, and a push comes before it is back. What has come when all channels are back. */
async function cut(t: Scope, guarded: boolean) {
  // No renewal may come in between and make it good by itself: it reads the log as well (rule 4).
  const world = await startWorld(t, redis.url, { leaseMs: 36_000_000 });
  const pusher = await startWorld(t, redis.url);
  const id = await prepare(world);
  const { subscriptions } = world.redis;
  // Its keeper is who hears that the line was cut.
  if (!guarded) world.keeper.close();
  const client = await connect(t, world, id);
  const sent: string[] = [];
  await until(async () => {
    await redis.cli("CLIENT", "KILL", "TYPE", "pubsub");
    const gap = once(subscriptions, "gap");
    const text = `${sent.length}`;
    const { online } = await pusher.log.append(push(id, text));
    sent.push(text);
    await gap;
    return !online;
  }, patience);
  if (guarded) await client.receives(...sent);
  return { messages: client.socket.messages, sent, client, pusher, id };
}

t.test("a push while the subscriber was cut off", async (t) => {
  const without = await cut(t, false);
  t.notSame(without.messages, without.sent, "nothing tells of it");
  await without.pusher.log.append(push(without.id, "next"));
  await without.client.receives(...without.sent, "next");
  const { messages, sent } = await cut(t, true);
  t.same(messages, sent, "is read when the line is back");
});

t.test("a line that is open and deaf is given up", async (t) => {
  const world = await startWorld(t, redis.url);
  const { subscriptions } = world.redis;
  const heard: string[] = [];
  await subscriptions.subscribe("somebody", (payload) =>
    heard.push(String(payload)),
  );
  // Canaries are sent and none arrives.
  const gap = once(subscriptions, "gap");
  await subscriptions.watch(world.instance, () => undefined);
  await gap;
  await world.redis.publish("somebody", "after");
  await until(() => heard.length > 0, patience);
  t.same(heard, ["after"]);
});
