/** Delivery rule 8: a job for what nobody heard, none for what was heard, and no message depends on either. */
import t, { type Test } from "tap";
import { channels } from "../../shared/keys.js";
import { appendScript, readScript } from "../../shared/log-scripts.js";
import type { Script } from "../../shared/redis.js";
import { Delivery } from "../../ws-fn/delivery.js";
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
  takeJobs,
} from "../fixtures/world.js";

const redis = await singleRedis(t);

/** A connection whose owner is deaf to its bell, and takes its jobs or not. What it has got once a second push was heard. */
async function unheard(t: Scope, takes: boolean) {
  const world = await startWorld(t, redis.url);
  if (takes) await takeJobs(world);
  const id = await prepare(world);
  const client = await connect(t, world, id);
  const channel = `${channels.bell(id)}${client.epoch}`;
  await world.redis.subscriptions.unsubscribe(channel);
  await pushAll(world, id, "1");
  if (takes) await client.receives("1");
  return client.socket.messages;
}

t.test("a message that nobody heard", async (t) => {
  t.same(await unheard(t, false), [], "waits when no job wakes its owner");
  t.same(await unheard(t, true), ["1"], "comes by its job");
});

t.test("a message that its owner heard makes no job", async (t) => {
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  const client = await connect(t, world, id);
  for (const text of ["1", "2"]) {
    const { unheard } = await world.log.append(push(id, text));
    t.equal(unheard, undefined);
  }
  await client.receives("1", "2");
  t.same(await redis.cli("KEYS", `bull:{i-${world.instance}}*`), []);
});

/** http-fn dies between the append and the add of its job. What the client has after a comparison. */
async function noJob(t: Test, guarded: boolean) {
  const world = await startWorld(t, redis.url);
  await takeJobs(world);
  const id = await prepare(world);
  const client = await connect(t, world, id);
  await world.redis.subscriptions.unsubscribe(
    `${channels.bell(id)}${client.epoch}`,
  );
  const { unheard: job } = await world.log.append(push(id, "1"));
  t.same(job, { instance: world.instance, epoch: client.epoch });
  if (guarded) {
    await world.keeper.compareAll();
    await client.receives("1");
  }
  return client.socket.messages;
}

t.test("a message whose job was never added", async (t) => {
  t.same(await noJob(t, false), [], "waits");
  t.same(await noJob(t, true), ["1"], "comes with the next comparison");
});

/** A run while Redis fails for a while, over ports that pass errors on, or over the delivery. */
function failingReads(failures: number) {
  const sent: number[] = [];
  let reads = 0;
  const read = () => {
    reads += 1;
    return reads <= failures
      ? Promise.reject(new Error("Redis is away"))
      : Promise.resolve({
          kind: "rows" as const,
          seq: 1,
          more: false,
          rows: [
            {
              seq: 1,
              id: "m",
              expiresAtMs: Date.now() + 60_000,
              total: 0,
              binary: false,
              onlyEpoch: undefined,
              contentType: "text/plain",
              body: Buffer.from("1"),
            },
          ],
        });
  };
  const delivery = new Delivery(
    {
      read,
      recall: () => Promise.resolve("recalled"),
      mayWrite: () => true,
      confirm: () => Promise.resolve(true),
      send: ({ seq }) => {
        sent.push(seq);
        return false;
      },
      skip: () => undefined,
      fenced: () => undefined,
      lost: () => undefined,
    },
    { epoch: 1, cur: 0, readTo: 0 },
  );
  return { read, delivery, sent, reads: () => reads };
}

t.test("a Redis error while a job is worked on", async (t) => {
  const bare = failingReads(1);
  await t.rejects(bare.read(), "would fail the job, and the wake-up is gone");
  const { delivery, sent } = failingReads(4);
  t.equal(await delivery.read(), 0, "the job is done");
  await until(() => sent.length > 0, patience);
  t.same(sent, [1], "it looks again by itself");
});

t.test("Redis is back while a failed look is put off", async (t) => {
  const { delivery, sent, reads } = failingReads(4);
  delivery.lookNow();
  t.equal(reads(), 0, "nothing is put off, nothing is asked");
  // From here on each look that fails puts the next one off twice as long, two seconds in the end.
  for (let look = 0; look < 4; look += 1) await delivery.read();
  t.same(sent, []);
  delivery.lookNow();
  await until(() => reads() > 4, { every: 1 });
  t.same(sent, [1], "it looks at once");
  t.equal(reads(), 5);
  delivery.stop();
});

t.test("a flag whose job is lost runs out by itself", async (t) => {
  /** What each push says of its job, on a connection whose first job was asked for and never added. */
  const flagged = async (scripts: readonly Script[]) => {
    const world = await startWorld(t, redis.url, { scripts });
    const id = await prepare(world);
    await world.registry.claim(id, { owner: "test", protocol: "raw" });
    const job = async () => (await world.log.append(push(id, "x"))).unheard;
    t.match(await job(), { instance: "test" });
    t.equal(await job(), undefined);
    return job;
  };
  const forEver = changed(
    appendScript,
    "'flag', text(ms + 2000)",
    "'flag', '9e15'",
  );
  const stuck = await flagged([forEver]);
  const job = await flagged([]);
  await until(async () => (await job()) !== undefined, patience);
  t.equal(await stuck(), undefined, "one that does not asks for no job again");
});

/** A push that nobody hears comes right after the owner has read. Whether it asks for a job. */
async function afterRead(t: Scope, guarded: boolean) {
  const world = await startWorld(t, redis.url, {
    scripts: guarded
      ? []
      : [changed(readScript, "redis.call('HDEL', KEYS[1], 'flag')")],
  });
  const id = await prepare(world);
  const { epoch } = await world.registry.claim(id, {
    owner: "test",
    protocol: "raw",
  });
  await world.log.append(push(id, "read"));
  await world.log.read(id, epoch, 0);
  return (await world.log.append(push(id, "after"))).unheard?.epoch === epoch;
}

t.test("a push after the read that its job was for", async (t) => {
  t.equal(await afterRead(t, false), false, "is taken for covered by that job");
  t.equal(await afterRead(t, true), true, "asks for a job of its own");
});
