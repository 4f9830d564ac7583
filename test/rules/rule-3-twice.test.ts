/** Delivery rule 3: an append that is executed twice is in the log once, and a fresh one is never taken for a repeat. */
import t, { type Test } from "tap";
import { Log } from "../../shared/log.js";
import { Gathering } from "../../shared/gathering.js";
import { appendManyScript, appendScript } from "../../shared/log-scripts.js";
import type { Argument, RedisLink, Script } from "../../shared/redis.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { startProxy } from "../../scripts/lab/proxy.js";
import { until } from "../../scripts/lab/until.js";
import {
  changed,
  connect,
  patience,
  prepare,
  push,
  pushAll,
  startWorld,
  type World,
} from "../fixtures/world.js";

const redis = await singleRedis(t);

const unfiltered = changed(appendScript, "if not fresh then", "if false then");
/** What one would write first: whatever is not higher than the highest is a repeat. */
const naive = changed(
  appendScript,
  "if d >= 64 then return {'unknown'} end",
  "fresh = false",
);

async function texts(world: World, id: string): Promise<string[]> {
  const { epoch } = await world.registry.claim(id, {
    owner: "test",
    protocol: "raw",
  });
  const page = await world.log.read(id, epoch, 0);
  return page.kind === "rows" ? page.rows.map(({ body }) => String(body)) : [];
}

/** A push whose answer is lost on the way, so that the command is sent again. */
async function loseAnswer(t: Test, guarded: boolean) {
  const proxy = await startProxy(t, redis.port);
  const world = await startWorld(t, `redis://127.0.0.1:${proxy.port}`, {
    scripts: guarded ? [] : [unfiltered],
  });
  const id = await prepare(world);
  // Redis knows the script by now, so that the lost answer is that of the append and not of a missing script.
  await world.log.append(push(id, "first"));
  const lost = proxy.cutAfterReply("precious");
  const { messageId } = await world.log.append(push(id, "precious"));
  await lost;
  return { messageId, texts: await texts(world, id) };
}

t.test("a push whose answer was lost", async (t) => {
  const without = await loseAnswer(t, false);
  t.same(without.texts, ["first", "precious", "precious"], "twice in the log");
  t.same((await loseAnswer(t, true)).texts, ["first", "precious"]);
});

/** The same of many pushes in one call, to two connections in turn. */
async function loseAnswerOfMany(t: Test, guarded: boolean) {
  const proxy = await startProxy(t, redis.port);
  const world = await startWorld(t, `redis://127.0.0.1:${proxy.port}`, {
    scripts: guarded
      ? []
      : [changed(appendManyScript, "if not fresh then", "if false then")],
  });
  const gathering = new Gathering(world.log, world.redis);
  const ids = [await prepare(world), await prepare(world)];
  const together = (word: string) =>
    Promise.all(
      [0, 1, 2, 3].map((n) =>
        gathering.append(push(ids[n % 2] ?? "", `${word} ${n}`)),
      ),
    );
  await together("first");
  const lost = proxy.cutAfterReply("precious");
  const answers = await together("precious");
  await lost;
  return {
    places: answers.map(({ place }) => "seq" in place && place.seq),
    texts: await Promise.all(ids.map((id) => texts(world, id))),
    seqs: await Promise.all(
      ids.map(async (id) => {
        const { items } = await pendingOf(world, id);
        return items;
      }),
    ),
  };
}

/** The seqs of what is in a log. */
async function pendingOf(world: World, id: string) {
  const page = await world.log.pending(id, {
    limit: 100,
    after: 0,
    previewBytes: 0,
  });
  return { items: page.rows.map(({ entry }) => entry.seq) };
}

t.test("many pushes in one call whose answer was lost", async (t) => {
  const once = [
    ["first 0", "first 2", "precious 0", "precious 2"],
    ["first 1", "first 3", "precious 1", "precious 3"],
  ];
  const without = await loseAnswerOfMany(t, false);
  t.same(
    without.texts,
    once.map((all) => [...all, ...all.slice(2)]),
    "twice in the log",
  );
  const { texts: all, places, seqs } = await loseAnswerOfMany(t, true);
  t.same(all, once);
  const [first, second] = seqs.map((some) => some.slice(2));
  t.same(
    places,
    [first?.[0], second?.[0], first?.[1], second?.[1]],
    "each has the answer of its first time",
  );
});

/** Appends as the nth push of one producer; the message's ID, or the error's code. */
function appendAs(world: World, id: string, n: number): Promise<string> {
  const { redis: link } = world;
  const counted = {
    publishCommand: link.publishCommand,
    run: (
      script: Script,
      names: readonly string[],
      [, , ...rest]: readonly Argument[],
    ) => link.run(script, names, ["producer", n, ...rest]),
  } as unknown as RedisLink;
  const options = world.windows;
  const log = new Log(counted, options, () => Promise.reject(new Error()));
  return log.append(push(id, `${n}`)).then(
    ({ messageId }) => messageId,
    ({ code }: { code: string }) => code,
  );
}

t.test("the repeat has the answer of the first", async (t) => {
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  const first = await appendAs(world, id, 1);
  await appendAs(world, id, 2);
  t.same(await appendAs(world, id, 1), first);
  t.same(await texts(world, id), ["1", "2"]);
});

/** Pushes that overtake one another on their way to Redis. */
async function overtake(t: Test, guarded: boolean) {
  const world = await startWorld(t, redis.url, {
    scripts: guarded ? [] : [naive],
  });
  const id = await prepare(world);
  for (const n of [2, 1, 40, 5, 70, 39]) await appendAs(world, id, n);
  return texts(world, id);
}

t.test("a fresh push that was overtaken", async (t) => {
  t.same(await overtake(t, false), ["2", "40", "70"], "is dropped by order");
  t.same(await overtake(t, true), ["2", "1", "40", "5", "70", "39"]);
});

t.test("every position of the bitmap is remembered", async (t) => {
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  for (let n = 2; n <= 130; n += 2) await appendAs(world, id, n);
  const before = (await texts(world, id)).length;
  for (let n = 68; n <= 130; n += 2)
    t.match(await appendAs(world, id, n), /^m_/, `${n} again`);
  t.equal((await texts(world, id)).length, before, "nothing twice");
  for (let n = 67; n <= 129; n += 2)
    t.match(await appendAs(world, id, n), /^m_/, `${n} fresh`);
  t.equal((await texts(world, id)).length, before + 32, "nothing dropped");
});

t.test("what is older than the bitmap is unknown, not accepted", async (t) => {
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  await appendAs(world, id, 100);
  t.equal(await appendAs(world, id, 36), "outcome_unknown");
  t.match(await appendAs(world, id, 37), /^m_/);
  t.same(await texts(world, id), ["100", "37"]);
});

t.test("ttl 0 to nobody is undeliverable twice as once", async (t) => {
  const proxy = await startProxy(t, redis.port);
  const world = await startWorld(t, `redis://127.0.0.1:${proxy.port}`);
  const id = await prepare(world);
  await world.log.append(push(id, "first", { ttlSeconds: 0 }));
  const lost = proxy.cutAfterReply("precious");
  const answer = await world.log.append(
    push(id, "precious", { ttlSeconds: 0 }),
  );
  await lost;
  t.match(answer, { status: "undeliverable", online: false });
});

const firstWrite =
  "redis.call('XADD', KEYS[2], id .. '-0', 'h', header, 'b', ARGV[3])";
const indexWrite = "redis.call('XADD', KEYS[3]";
/** The bell before the first write. */
const hasty = [appendScript, appendManyScript].map((script) =>
  changed(
    changed(script, firstWrite),
    indexWrite,
    `${firstWrite}\n${indexWrite}`,
  ),
);

/** A push while Redis refuses writes, and its publisher's second attempt. What the client gets. */
async function refuseWrites(t: Test, guarded: boolean) {
  const world = await startWorld(t, redis.url, {
    scripts: guarded ? [] : hasty,
  });
  const id = await prepare(world);
  const client = await connect(t, world, id);
  await pushAll(world, id, "first");
  await client.receives("first");
  await redis.cli("CONFIG", "SET", "min-replicas-to-write", "1");
  try {
    const refused = world.log.append(push(id, "again"));
    await t.rejects(refused, { code: "redis_unavailable" });
  } finally {
    await redis.cli("CONFIG", "SET", "min-replicas-to-write", "0");
  }
  await pushAll(world, id, "again", "last");
  await until(() => client.socket.messages.at(-1) === "last", patience);
  return client.socket.messages;
}

t.test("a push that Redis refused was not rung", async (t) => {
  t.same(
    await refuseWrites(t, false),
    ["first", "again", "again", "last"],
    "the bell before the write: the client has it, the retry brings it again",
  );
  t.same(await refuseWrites(t, true), ["first", "again", "last"]);
});

/** The same with two pushes in one call. */
async function refuseMany(t: Test, guarded: boolean) {
  const world = await startWorld(t, redis.url, {
    scripts: guarded ? [] : hasty,
  });
  const gathering = new Gathering(world.log, world.redis);
  const id = await prepare(world);
  const other = await prepare(world);
  const client = await connect(t, world, id);
  const together = () =>
    Promise.allSettled(
      [other, id].map((one) => gathering.append(push(one, "again"))),
    );
  await redis.cli("CONFIG", "SET", "min-replicas-to-write", "1");
  try {
    t.match(await together(), [
      { reason: { code: "redis_unavailable" } },
      { reason: { code: "redis_unavailable" } },
    ]);
  } finally {
    await redis.cli("CONFIG", "SET", "min-replicas-to-write", "0");
  }
  t.match(await together(), [{ value: Object }, { value: Object }]);
  await pushAll(world, id, "last");
  await until(() => client.socket.messages.at(-1) === "last", patience);
  return client.socket.messages;
}

t.test("many pushes that Redis refused were not rung", async (t) => {
  t.same(await refuseMany(t, false), ["again", "again", "last"]);
  t.same(await refuseMany(t, true), ["again", "last"]);
});
