/** One script for many connections in one call: each is answered for itself, and one that fails fails by itself. */
import t from "tap";
import { BridgeError } from "../../shared/errors.js";
import { forMany, ManyCalls } from "../../shared/many.js";
import { RedisLink, type Argument, type Script } from "../../shared/redis.js";
import { createLogger } from "../../shared/logging.js";
import { clusterRedis, singleRedis } from "../../scripts/lab/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { until } from "../../scripts/lab/until.js";
import { patience } from "../fixtures/world.js";

/** Counts for a connection, and says who it was. */
const countScript: Script = forMany(
  "testCount",
  { keys: 2, args: 2 },
  "local calls = 0\n",
  `calls = calls + 1
redis.call('SET', KEYS[2], ARGV[2])
return string.sub(tag, 2, -2) .. ' ' .. ARGV[1] .. ' ' .. redis.call('INCRBY', KEYS[1], ARGV[1]) .. ' ' .. calls
`,
);

const keysOf = (id: string) => [`bridge:{${id}}:conn`, `bridge:{${id}}:log`];

async function linked(t: Scope, url: string): Promise<RedisLink> {
  const link = new RedisLink(
    url,
    [countScript],
    createLogger("many", "silent"),
  );
  t.teardown(() => link.close());
  await until(() => link.ready().then(() => true), patience);
  return link;
}

/** Calls for these connections in one turn; what each was told, or its error's code. */
const ask = (calls: ManyCalls, ids: readonly string[]) =>
  Promise.all(
    ids.map((id, n) =>
      calls
        .call({ keys: keysOf(id), args: [n + 1, `of ${id}`] })
        .catch((error: unknown) =>
          error instanceof BridgeError ? error.code : String(error),
        ),
    ),
  );

const many = (from: number, count: number) =>
  Array.from({ length: count }, (_, n) => `c${from + n}`);

for (const [where, start] of [
  ["one Redis", async (t: Scope) => (await singleRedis(t)).url],
  ["a Cluster", async (t: Scope) => (await clusterRedis(t)).url],
] as const)
  t.test(`on ${where}`, async (t) => {
    const link = await linked(t, await start(t));
    const calls = new ManyCalls(link, countScript);
    const together = link.mode !== "cluster";

    await t.test("each is told of itself", async (t) => {
      const ids = many(0, 5);
      t.same(
        await ask(calls, ids),
        ids.map((id, n) => `${id} ${n + 1} ${n + 1} ${together ? n + 1 : 1}`),
        together ? "all in one call" : "each in a call of its own",
      );
      for (const id of ids)
        t.equal(await link.command("GET", keysOf(id)[1] ?? ""), `of ${id}`);
    });

    await t.test("the same one twice is counted twice", async (t) => {
      const [first, second] = await ask(calls, ["twice", "twice"]);
      t.match(first, /^twice 1 1 /);
      t.match(second, /^twice 2 3 /, "in the order of the calls");
    });

    await t.test("one that fails fails by itself", async (t) => {
      const ids = many(10, 5);
      await link.command("SADD", keysOf("c12")[0] ?? "", "not a number");
      const told = await ask(calls, ids);
      if (together) t.equal(told[2], "failed");
      else t.notMatch(told[2], /^c12 /, "its call is its own");
      t.match(
        told.filter((_, n) => n !== 2),
        [/^c10 1 1 /, /^c11 2 2 /, /^c13 4 4 /, /^c14 5 5 /],
      );
    });

    await t.test("more than one call takes go in several", async (t) => {
      const ids = many(100, 150);
      const told = (await ask(calls, ids)).map(String);
      t.same(
        told.map((text) => text.split(" ")[0]),
        ids,
      );
      const nths = told.map((text) => Number(text.split(" ")[3]));
      t.equal(Math.max(...nths), together ? 64 : 1);
      t.equal(nths.filter((nth) => nth === 1).length, together ? 3 : 150);
    });
  });

t.test("where nothing can be done it is an error for all", async (t) => {
  const redis = await singleRedis(t, { config: { maxmemory: "1024mb" } });
  const link = await linked(t, redis.url);
  const calls = new ManyCalls(link, countScript);
  await redis.cli("CONFIG", "SET", "maxmemory", "1");
  t.same(await ask(calls, many(0, 3)), Array(3).fill("redis_full"));
  await redis.cli("CONFIG", "SET", "maxmemory", "0");
  t.match(await ask(calls, ["c9"]), [/^c9 1 1 /]);
});

/** Calls over a Redis that answers when the test says so; `sent` is what went out. */
function held(mode: RedisLink["mode"], windowMs?: number) {
  const sent: {
    keys: readonly string[];
    args: readonly Argument[];
    answer: (reply: unknown) => void;
    fail: (error: Error) => void;
  }[] = [];
  const redis = {
    mode,
    atEndOfTurn: (then: () => void) => void setImmediate(then),
    run: (
      _script: Script,
      keys: readonly string[],
      args: readonly Argument[],
    ) =>
      new Promise<unknown>((answer, fail) => {
        sent.push({ keys, args, answer, fail });
      }),
  };
  return { sent, calls: new ManyCalls(redis, countScript, windowMs) };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));
const one = (id: string) => ({ keys: [id], args: [`of ${id}`] });

t.test("what comes in one turn goes together", async (t) => {
  const { sent, calls } = held("single");
  const first = [calls.call(one("a")), calls.call(one("b"))];
  t.equal(sent.length, 0);
  await turn();
  const later = calls.call(one("c"));
  await turn();
  t.same(
    sent.map(({ keys, args }) => [keys, args]),
    [
      [
        ["a", "b"],
        ["of a", "of b"],
      ],
      [["c"], ["of c"]],
    ],
  );
  sent[1]?.answer(["third"]);
  t.equal(await later, "third", "the second call waits for no first");
  sent[0]?.answer(["first"]);
  t.same(await Promise.all(first), ["first", "failed"], "an answer too few");
});

t.test("a call that fails fails for those who went with it", async (t) => {
  const { sent, calls } = held("single");
  const first = calls.call(one("a"));
  await turn();
  const second = calls.call(one("b"));
  await turn();
  sent[0]?.fail(new Error("away"));
  sent[1]?.answer(["b"]);
  await t.rejects(first, { message: "away" });
  t.equal(await second, "b");
});

t.test(
  "on a Cluster each has a call of its own, in the same turn",
  async (t) => {
    const { sent, calls } = held("cluster");
    const told = ["a", "b", "c"].map((id) => calls.call(one(id)));
    await turn();
    t.same(
      sent.map(({ keys }) => keys),
      [["a"], ["b"], ["c"]],
    );
    sent[1]?.fail(new Error("its master is away"));
    sent[0]?.answer(["a"]);
    sent[2]?.answer(["c"]);
    const outcomes = await Promise.allSettled(told);
    t.same(
      outcomes.map((one) =>
        one.status === "fulfilled" ? one.value : "failed",
      ),
      ["a", "failed", "c"],
    );
  },
);

t.test(
  "with a window the first goes at once, the next ones together",
  async (t) => {
    const { sent, calls } = held("single", 50);
    void calls.call(one("a"));
    await turn();
    t.equal(sent.length, 1);
    void calls.call(one("b"));
    await turn();
    void calls.call(one("c"));
    await until(() => sent.length === 2);
    t.same(sent[1]?.keys, ["b", "c"]);
  },
);
