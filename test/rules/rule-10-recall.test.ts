/** Delivery rule 10: whether a message may still go is decided by who knows; expiry is looked at when it is written. */
import t from "tap";
import { openBridge } from "../../http-fn/redis-bridge.js";
import { parseConfig } from "../../shared/config.js";
import { parseMessageId } from "../../shared/ids.js";
import { recallScript } from "../../shared/log-scripts.js";
import { createLogger } from "../../shared/logging.js";
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
const raw = { owner: "test", protocol: "raw" } as const;

/** http-fn's half, on the same Redis. */
function bridge(t: Scope) {
  const opened = openBridge(
    parseConfig({ REDIS_URL: redis.url }),
    createLogger("http-fn", "silent"),
  );
  t.teardown(() => opened.close());
  return opened.bridge;
}

const seqOf = (messageId: string): number => {
  const route = parseMessageId(messageId);
  return route?.kind === "sequence" ? route.seq : 0;
};

const append = async (world: World, id: string, text: string) =>
  (await world.log.append(push(id, text))).messageId;

/** A client has the message by its bell, which nobody has reported yet. What a recall says. */
async function recallSent(t: Scope, guarded: boolean) {
  const unasked = changed(
    changed(
      recallScript,
      "elseif c[1] == 'open' and ms < tonumber(c[3]) then return 'ask:' .. c[2]",
    ),
    "elseif seq <= tonumber(c[6] or 0) then return 'maybe'",
  );
  const world = await startWorld(t, redis.url, {
    scripts: guarded ? [] : [unasked],
  });
  const id = await prepare(world);
  const client = await connect(t, world, id);
  const messageId = await append(world, id, "1");
  await client.receives("1");
  if (!guarded) return world.log.recall(id, seqOf(messageId));
  return bridge(t)
    .recall(messageId)
    .then(
      ({ status }) => status,
      ({ code }: { code: string }) => code,
    );
}

t.test("a message the client has", async (t) => {
  t.equal(await recallSent(t, false), "recalled", "but the client has it");
  t.equal(await recallSent(t, true), "already_sent", "its owner knows better");
});

t.test("a message the owner has not written goes", async (t) => {
  const world = await startWorld(t, redis.url);
  const http = bridge(t);
  const id = await prepare(world);
  const client = await connect(t, world, id);
  client.socket.bufferedBytes = 10_000_000;
  await append(world, id, "1");
  const recalled = await append(world, id, "2");
  await client.receives("1");
  t.match(await http.recall(recalled), { status: "recalled" });
  await t.rejects(http.recall(recalled), { code: "already_final" });
  client.socket.bufferedBytes = 0;
  await append(world, id, "3");
  await client.receives("1", "3");
});

t.test("an owner that does not answer within a second", async (t) => {
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  await world.registry.claim(id, raw);
  const messageId = await append(world, id, "1");
  await t.rejects(bridge(t).recall(messageId), {
    code: "may_have_been_delivered",
    status: 409,
  });
});

/** An owner was given a message and is gone before it said a word. What a recall says. */
async function recallGiven(t: Scope, guarded: boolean) {
  const scripts = guarded
    ? []
    : [
        changed(
          recallScript,
          "elseif seq <= tonumber(c[6] or 0) then return 'maybe'",
        ),
      ];
  const world = await startWorld(t, redis.url, { scripts });
  const id = await prepare(world);
  const messageId = await append(world, id, "1");
  const { epoch } = await world.registry.claim(id, raw);
  const page = await world.log.read(id, epoch, 0);
  await world.registry.release(id, { epoch, owner: "test" });
  return {
    given: page.kind === "rows" && page.rows.length === 1,
    word: await world.log.recall(id, seqOf(messageId)),
  };
}

t.test("a message that a dead owner was given", async (t) => {
  const without = await recallGiven(t, false);
  t.same(without, { given: true, word: "recalled" }, "may be with the client");
  t.equal((await recallGiven(t, true)).word, "maybe");
});

t.test("above what the last owner was given it goes", async (t) => {
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  const { epoch } = await world.registry.claim(id, raw);
  await world.registry.release(id, { epoch, owner: "test" });
  const messageId = await append(world, id, "1");
  t.match(await bridge(t).recall(messageId), { status: "recalled" });
  const next = await world.registry.claim(id, raw);
  t.match(await world.log.read(id, next.epoch, 0), { rows: [] });
});

/** A message runs out while the socket takes nothing. What the client gets when it does again. */
async function expire(t: Scope, guarded: boolean) {
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  // Without the look at the write, an expiry is one that was found when the message was read.
  const log = new Proxy(world.log, {
    get(target, name) {
      if (name === "read")
        return async (...call: Parameters<typeof target.read>) => {
          const page = await target.read(...call);
          if (page.kind !== "rows" || guarded) return page;
          const rows = page.rows.map((row) => ({
            ...row,
            expiresAtMs: page.seq,
          }));
          return { ...page, rows };
        };
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function"
        ? (value.bind(target) as unknown)
        : value;
    },
  });
  const client = await connect(t, world, id, { deps: { log } });
  client.socket.bufferedBytes = 10_000_000;
  await append(world, id, "1");
  await client.receives("1");
  const { messageId, expiresAtMs } = await world.log.append(
    push(id, "short", { ttlSeconds: 1 }),
  );
  await append(world, id, "3");
  await until(() => Date.now() > expiresAtMs, patience);
  client.socket.bufferedBytes = 0;
  await until(() => client.socket.messages.includes("3"), patience);
  if (guarded)
    await until(
      async () => (await bridge(t).receipt(messageId)).status === "expired",
      { ...patience, every: 200 },
    );
  return client.socket.messages;
}

t.test("a message that ran out while it waited for the socket", async (t) => {
  t.same(await expire(t, false), ["1", "short", "3"], "comes too late");
  t.same(await expire(t, true), ["1", "3"], "does not come");
});

t.test("with a live owner the owner decides what was replaced", async (t) => {
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  const client = await connect(t, world, id);
  client.socket.bufferedBytes = 10_000_000;
  const topic = { topic: "score" };
  await world.log.append(push(id, "1:0", topic));
  await client.receives("1:0");
  for (const text of ["2:0", "3:0"])
    await world.log.append(push(id, text, topic));
  client.socket.bufferedBytes = 0;
  await client.receives("1:0", "3:0");
});
