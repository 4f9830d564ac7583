/** Delivery rule 6: a message that waits for its time waits for nothing else, and enters the log once. */
import t from "tap";
import { newScheduledId } from "../../shared/ids.js";
import { appendFullScript } from "../../shared/log-scripts.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { until } from "../../scripts/lab/until.js";
import {
  changed,
  connect,
  patience,
  prepare,
  push,
  startWorld,
  type World,
} from "../fixtures/world.js";

const redis = await singleRedis(t);

/** As http-fn accepts it and as the chores of any instance carry it over. */
async function later(world: World, id: string, text: string, ms: number) {
  const message = push(id, text);
  const scheduledId = newScheduledId();
  await world.log.schedule(message, scheduledId, Date.now() + ms);
  await world.queues.schedule(message, scheduledId, ms);
  return { message, scheduledId };
}

const carry = (world: World) =>
  world.queues.startSchedule(async (message, scheduledId) => {
    const appended = await world.log.appendDue(message, scheduledId);
    if (appended?.unheard)
      await world.queues.wake(message.connectionId, appended.unheard);
  });

t.test("it comes to an idle connection", async (t) => {
  const world = await startWorld(t, redis.url);
  await carry(world);
  const id = await prepare(world);
  const client = await connect(t, world, id);
  await later(world, id, "later", 200);
  await client.receives("later");
});

t.test("it comes to the socket that is there when it is due", async (t) => {
  const world = await startWorld(t, redis.url);
  const other = await startWorld(t, redis.url);
  const id = await prepare(world);
  const first = await connect(t, world, id);
  await later(world, id, "later", 300);
  await first.connection.onClose(1006);
  const second = await connect(t, other, id, { resumeSeq: 0 });
  await carry(other);
  await second.receives("later");
  t.same(first.socket.messages, []);
});

t.test("nobody awake: it waits for the next instance", async (t) => {
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  await later(world, id, "later", 1);
  const other = await startWorld(t, redis.url);
  const client = await connect(t, other, id);
  t.same(client.socket.messages, []);
  await carry(other);
  await client.receives("later");
});

/** Its job runs twice, as after a lost answer or a stall. What the client gets. */
async function twice(t: Scope, guarded: boolean) {
  const eager = changed(
    appendFullScript,
    "if not waiting or string.sub(waiting, 1, 1) ~= 'w' then return {'done', waiting and string.match(waiting, '^s:(%d+)') or ''} end",
    "waiting = string.match(waiting, 'w:.*$')",
  );
  const world = await startWorld(t, redis.url, {
    scripts: guarded ? [] : [eager],
  });
  const id = await prepare(world);
  const client = await connect(t, world, id);
  const { message, scheduledId } = await later(world, id, "later", 3_600_000);
  await world.log.appendDue(message, scheduledId);
  await world.log.appendDue(message, scheduledId);
  await world.log.append(push(id, "end"));
  await until(() => client.socket.messages.includes("end"), patience);
  return client.socket.messages;
}

t.test("a due job that runs twice", async (t) => {
  t.same(await twice(t, false), ["later", "later", "end"]);
  t.same(await twice(t, true), ["later", "end"]);
});
