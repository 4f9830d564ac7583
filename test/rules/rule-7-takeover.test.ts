/** Delivery rule 7: a takeover hears before it reads, and finishes the jobs of who is gone. */
import t from "tap";
import { DeliveryQueues } from "../../shared/queue.js";
import { claimScript } from "../../shared/registry-scripts.js";
import type { RedisLink } from "../../shared/redis.js";
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
} from "../fixtures/world.js";

const redis = await singleRedis(t);

class ForgetsOrphans extends DeliveryQueues {
  override recoverOrphans(): Promise<number> {
    return Promise.resolve(0);
  }
}

/** An instance dies while its worker holds a job; another takes over. Jobs in `active` once it has had its turn. */
async function orphan(t: Scope, guarded: boolean) {
  const dead = await startWorld(t, redis.url);
  const world = await startWorld(t, redis.url);
  const id = await prepare(dead);
  const { epoch } = await dead.registry.claim(id, {
    owner: "dead",
    protocol: "raw",
  });
  let started = false;
  t.teardown(() => {
    release();
    return worker.close();
  });
  let release: () => void = () => undefined;
  const dies = new Promise<"again">((resolve) => {
    release = () => resolve("again");
  });
  const worker = dead.queues.consume(id, () => {
    started = true;
    return dies;
  });
  const { jobEpoch } = await dead.log.append(push(id, "1"));
  if (jobEpoch !== epoch) throw new Error("no job wanted");
  await dead.queues.wake(id, epoch);
  worker.ring();
  await until(() => started, patience);

  const queues = guarded
    ? world.queues
    : new ForgetsOrphans(world.redis, world.deps.logger);
  const client = await connect(t, world, id, { deps: { queues } });
  await client.receives("1");
  await pushAll(world, id, "2");
  await client.receives("1", "2");
  const count = async (list: string) =>
    Number(await redis.cli("LLEN", `bull:{${id}}:${list}`));
  await until(async () => (await count("wait")) === 0, patience);
  // The run of the second push lingers a moment.
  await until(async () => (await count("active")) <= (guarded ? 0 : 1), {
    ...patience,
    message: "the runs are over",
  });
  return count("active");
}

t.test("a job of a dead instance", async (t) => {
  t.equal(await orphan(t, false), 1, "stays in active for ever");
  t.equal(await orphan(t, true), 0, "is taken over and done");
});

/** `redis` whose subscriptions say that they are there before they are. */
function hasty(redis: RedisLink) {
  const late: (() => Promise<void>)[] = [];
  const subscriptions = new Proxy(redis.subscriptions, {
    get(target, name) {
      if (name === "subscribe")
        return (...call: Parameters<typeof target.subscribe>) => {
          late.push(() => target.subscribe(...call));
          return Promise.resolve();
        };
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function"
        ? (value.bind(target) as unknown)
        : value;
    },
  });
  return {
    redis: { subscriptions, publish: redis.publish } as unknown as RedisLink,
    settle: async () => {
      for (const subscribe of late) await subscribe();
    },
  };
}

/** A push arrives between the log read and the end of a claim. What the client has when a subscription is sure. */
async function between(t: Scope, guarded: boolean) {
  const world = await startWorld(t, redis.url);
  const pusher = await startWorld(t, redis.url);
  const id = await prepare(world);
  const log = new Proxy(world.log, {
    get(target, name) {
      if (name === "read")
        return async (...call: Parameters<typeof target.read>) => {
          const page = await target.read(...call);
          if (!pushed) {
            pushed = true;
            await pusher.log.append(push(id, "between"));
          }
          return page;
        };
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function"
        ? (value.bind(target) as unknown)
        : value;
    },
  });
  let pushed = false;
  const early = hasty(world.redis);
  const client = await connect(t, world, id, {
    deps: guarded ? { log } : { log, redis: early.redis },
  });
  if (guarded) await client.receives("between");
  else await early.settle();
  return client.socket.messages;
}

t.test("a push between the read and the bell of a takeover", async (t) => {
  t.same(await between(t, false), [], "is not noticed when the read is first");
  t.same(await between(t, true), ["between"], "rings when the bell is first");
});

/** A client gives its first attempt up and dials again, and the first is read after the second. Who has the connection? */
async function ghost(t: Scope, scripts: (typeof claimScript)[]) {
  const world = await startWorld(t, redis.url, { scripts });
  const id = await prepare(world);
  const claim = (owner: string, attempt: string) =>
    world.registry.claim(id, { owner, protocol: "raw", attempt });
  await claim("alive", "client.2");
  await claim("ghost", "client.1").catch(() => undefined);
  return (await world.registry.inspect(id)).instance;
}

t.test("an attempt that its client gave up is read late", async (t) => {
  const guard = "if last and tonumber(last) > tonumber(attempt) then";
  const off = [changed(claimScript, guard, "if false then")];
  t.equal(await ghost(t, off), "ghost", "and takes the connection away");
  t.equal(await ghost(t, []), "alive", "and is refused");
});

t.test("a run whose epoch is over puts its job back", async (t) => {
  const world = await startWorld(t, redis.url, { lingerMs: 60_000 });
  const other = await startWorld(t, redis.url);
  const id = await prepare(world);
  const first = await connect(t, world, id);
  await pushAll(world, id, "1");
  await first.receives("1");
  const second = await connect(t, other, id);
  await second.receives("1");
  await until(() => first.socket.closedWith, patience);
  await first.connection.onClose(4509);
  await pushAll(other, id, "2");
  await second.receives("1", "2");
  for (const list of ["active", "wait"])
    await until(
      async () => (await redis.cli("LLEN", `bull:{${id}}:${list}`)) === 0,
      { ...patience, message: `nothing is left in ${list}` },
    );
});
