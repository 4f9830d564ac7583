/** Delivery rule 2: numbers follow the clock, so that a Redis that forgot goes on above what the client has. */
import t from "tap";
import { appendScript } from "../../shared/log-scripts.js";
import { restoreScript } from "../../shared/registry-scripts.js";
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

/** Redis comes back with counters and log of before; then a push. What the client got, and whether it was told. */
async function setBack(t: Scope, guarded: boolean) {
  const scripts = guarded
    ? []
    : [changed(appendScript, "if clock > last then", "if false then")];
  const world = await startWorld(t, redis.url, { scripts });
  const id = await prepare(world);
  const client = await connect(t, world, id);
  const [conn, log] = [`bridge:{${id}}:conn`, `bridge:{${id}}:log`];
  for (const text of ["1", "2"]) await world.log.append(push(id, text));
  await client.receives("1", "2");
  const then = String(await redis.cli("HGET", conn, "seq"));
  for (const text of ["3", "4", "5"]) await world.log.append(push(id, text));
  await client.receives("1", "2", "3", "4", "5");
  // A replica that lagged by three messages is the master now.
  await redis.cli("HSET", conn, "seq", then);
  await redis.cli("XTRIM", log, "MAXLEN", "2");
  await redis.cli("XSETID", log, "999999999999999999-0");
  await redis.cli("DEL", log, `bridge:{${id}}:index`);
  await world.log.append(push(id, "6"));
  await world.log.append(push(id, "7"));
  if (guarded) await client.receives("1", "2", "3", "4", "5", "6", "7");
  // A word that comes by the same bell, after them.
  await world.registry.end(id, {
    reason: "closed_by_backend",
    code: 4510,
    words: "",
  });
  await until(() => client.socket.closedWith, patience);
  return {
    messages: client.socket.messages,
    told: client.socket.said.some(({ type }) => type === "error"),
  };
}

t.test("a counter that went back", async (t) => {
  const without = await setBack(t, false);
  t.same(without.messages, ["1", "2", "3", "4", "5"], "accepted and dropped");
  const { messages, told } = await setBack(t, true);
  t.same(messages, ["1", "2", "3", "4", "5", "6", "7"]);
  t.equal(told, true, "and the client hears that history was lost");
});

t.test("a client that has more than Redis is told of the loss", async (t) => {
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  const client = await connect(t, world, id);
  await world.log.append(push(id, "1"));
  await client.receives("1");
  const seq = Number(client.socket.said.at(-1)?.["seq"]);
  await redis.cli("HSET", `bridge:{${id}}:conn`, "seq", "5");
  await redis.cli("DEL", `bridge:{${id}}:log`);
  const again = await connect(t, world, id, { resumeSeq: seq });
  t.match(again.socket.said[0], { type: "welcome", lost: true, seq });
  await world.log.append(push(id, "2"));
  await again.receives("2");
});

/** Redis forgets everything; pushes until one is accepted again, or the owner has renewed without effect. */
async function forget(t: Scope, guarded: boolean) {
  const scripts = guarded
    ? []
    : [
        changed(
          restoreScript,
          "if epoch > mine then",
          "if not c[1] then return {'ok', ARGV[4], 0, 0} end\nif epoch > mine then",
        ),
      ];
  const world = await startWorld(t, redis.url, { scripts, leaseMs: 1_500 });
  const id = await prepare(world);
  let renewals = 0;
  const registry = new Proxy(world.registry, {
    get(target, name) {
      if (name === "confirm") renewals += 1;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function"
        ? (value.bind(target) as unknown)
        : value;
    },
  });
  const client = await connect(t, world, id, { deps: { registry } });
  await world.log.append(push(id, "1"));
  await client.receives("1");
  await redis.cli("FLUSHALL");
  renewals = 0;
  const accepted = await until(
    async () => {
      const answer = await world.log.append(push(id, "2")).then(
        () => "accepted",
        ({ code }: { code: string }) => code,
      );
      return (answer === "accepted" || renewals >= 2) && answer;
    },
    { ...patience, every: 50 },
  );
  if (guarded) await client.receives("1", "2");
  const { items } = await world.registry.list({ limit: 10 });
  return { accepted, listed: items.length };
}

t.test("a Redis that forgot everything (rules 2 and 4)", async (t) => {
  const without = await forget(t, false);
  t.same(without, { accepted: "connection_not_found", listed: 0 });
  const renewed = await forget(t, true);
  t.same(renewed, { accepted: "accepted", listed: 1 }, "it is there again");
});

t.test("an epoch that went back is raised by its owner", async (t) => {
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  const client = await connect(t, world, id);
  await world.log.append(push(id, "1"));
  await client.receives("1");
  await redis.cli("HSET", `bridge:{${id}}:conn`, "epoch", "7");
  client.ack();
  await until(
    async () => (await world.registry.inspect(id)).pending === 0,
    patience,
  );
  t.equal(client.socket.closedWith, undefined, "nobody took it over");
  await world.log.append(push(id, "2"));
  await client.receives("1", "2");
});
