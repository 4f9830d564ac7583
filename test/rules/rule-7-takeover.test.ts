/** Delivery rule 7: a takeover hears before it reads, and a late claim takes nothing over. */
import t from "tap";
import { claimScript } from "../../shared/registry-scripts.js";
import type { RedisLink } from "../../shared/redis.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import {
  changed,
  connect,
  prepare,
  push,
  startWorld,
} from "../fixtures/world.js";

const redis = await singleRedis(t);

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
