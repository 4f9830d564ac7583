/** Delivery rule 8: no message depends on its job, and no run on a Redis that answers. */
import t from "tap";
import { appendScript } from "../../shared/log-scripts.js";
import type { Script } from "../../shared/redis.js";
import { deliveryRun } from "../../ws-fn/delivery-run.js";
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
  startWorld,
} from "../fixtures/world.js";

const redis = await singleRedis(t);

/** http-fn dies between the append and the add of its job. What the client gets before it hears of its end. */
async function noJob(t: Scope, guarded: boolean) {
  const silent = changed(
    appendScript,
    "heard = redis.call('@publish', 'bell:' .. tag .. ':' .. epoch, payload)",
  );
  const world = await startWorld(t, redis.url, {
    scripts: guarded ? [] : [silent],
  });
  const id = await prepare(world);
  const client = await connect(t, world, id);
  const { jobEpoch } = await world.log.append(push(id, "1"));
  if (jobEpoch !== client.epoch) throw new Error("a job was wanted");
  await world.registry.end(id, {
    reason: "closed_by_backend",
    code: 4510,
    words: "",
  });
  await until(() => client.socket.closedWith, patience);
  return client.socket.messages;
}

t.test("a message whose job was never added", async (t) => {
  t.same(await noJob(t, false), [], "waits when only its job rings");
  t.same(await noJob(t, true), ["1"], "comes by its own bell");
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

t.test("a Redis error inside a run", async (t) => {
  const { signal } = new AbortController();
  const quiet = { activeAtMs: () => -Infinity, live: () => true };
  const bare = failingReads(1);
  await t.rejects(
    deliveryRun({ ...quiet, read: bare.read }, 10, signal),
    "fails the job, and the wake-up is gone",
  );
  const { delivery, sent } = failingReads(4);
  t.equal(
    await deliveryRun(
      { ...quiet, read: (mode) => delivery.read(mode) },
      10,
      signal,
    ),
    "done",
  );
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

t.test("a run on a quiet connection does not linger", async (t) => {
  const modes: string[] = [];
  const outcome = await deliveryRun(
    {
      read: (mode) => Promise.resolve(modes.push(mode)),
      activeAtMs: () => -Infinity,
      live: () => true,
    },
    3_600_000,
    new AbortController().signal,
  );
  t.equal(outcome, "done");
  t.same(modes, ["begin", "end"]);
});

t.test("a flag whose job is lost runs out by itself", async (t) => {
  /** What each push says of its job, on a connection whose first job was asked for and never added. */
  const flagged = async (scripts: readonly Script[]) => {
    const world = await startWorld(t, redis.url, { scripts });
    const id = await prepare(world);
    const { epoch } = await world.registry.claim(id, {
      owner: "test",
      protocol: "raw",
    });
    const job = async () => (await world.log.append(push(id, "x"))).jobEpoch;
    t.equal(await job(), epoch);
    t.equal(await job(), 0);
    return { epoch, job };
  };
  const forEver = changed(appendScript, "'flag', ms + 2000", "'flag', '9e15'");
  const stuck = await flagged([forEver]);
  const { epoch, job } = await flagged([]);
  await until(async () => (await job()) === epoch, patience);
  t.equal(await stuck.job(), 0, "one that does not asks for no job again");
});
