/** Quotas of many subjects: shared by the processes of a cluster through Redis, and decided without it. */
import t from "tap";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";
import { BridgeError } from "../../shared/errors.js";
import { quotaTag } from "../../shared/ids.js";
import { keys } from "../../shared/keys.js";
import { createLogger } from "../../shared/logging.js";
import { quotaScript, Subjects } from "../../shared/quotas.js";
import { RedisLink } from "../../shared/redis.js";
import { patience } from "../fixtures/world.js";

const redis = await singleRedis(t);
const quotas = {
  connects: { limit: 160, windowSeconds: 3_600 },
  names: { limit: 160, windowSeconds: 3_600 },
};

let links = 0;
/** A process of its own, as far as quotas go; `calls` counts what it asks Redis. */
async function start() {
  const logger = createLogger(`link-${++links}`, "silent");
  const link = new RedisLink(redis.url, [quotaScript], logger);
  t.teardown(() => link.close());
  await until(() => link.ready().then(() => true), patience);
  const calls = { count: 0, pending: 0 };
  const run: RedisLink["run"] = async (...call) => {
    calls.count += 1;
    calls.pending += 1;
    return link.run(...call).finally(() => {
      calls.pending -= 1;
    });
  };
  return {
    calls,
    subjects: new Subjects({ kind: "user", quotas, redis: { run } }),
  };
}

/** How often it was taken until it was refused; each answer of Redis is waited for. */
async function takeAll(
  { calls, subjects }: Awaited<ReturnType<typeof start>>,
  id: string,
): Promise<number> {
  for (let taken = 0; ; taken++) {
    try {
      subjects.take(id, { connects: 1 });
    } catch {
      return taken;
    }
    await until(() => calls.pending === 0, patience);
  }
}

t.test(
  "processes share what a subject may use, without a call for each use",
  async (t) => {
    const [one, two] = [await start(), await start()];
    t.equal(await takeAll(one, "ann"), 160);
    t.equal(one.calls.count, 16, "a sixteenth at a time");
    const more = await takeAll(two, "ann");
    t.equal(more, 10, "another process learns it with its first sixteenth");
    t.equal(await takeAll(two, "ben"), 160, "each subject has its own");
  },
);

t.test("without the sharing every process gives all of it", async (t) => {
  const alone = () => new Subjects({ kind: "user", quotas });
  const give = (subjects: Subjects<keyof typeof quotas>) => {
    for (let taken = 0; ; taken++)
      try {
        subjects.take("cat", { connects: 1 });
      } catch {
        return taken;
      }
  };
  t.same([give(alone()), give(alone())], [160, 160]);
});

t.test(
  "where Redis is asked anyway, a new process knows at once",
  async (t) => {
    const [one] = [await start()];
    for (let i = 0; i < 160; i++)
      await one.subjects.takeOfAll("dan", { connects: 1 });
    for (let i = 0; i < 3; i++) {
      const next = await start();
      await t.rejects(next.subjects.takeOfAll("dan", { connects: 1 }), {
        code: "quota_exceeded",
        data: { quota: { name: "connects" }, limit: 160 },
      });
    }
    const [used = "0"] = String(
      await redis.cli("HGET", keys.quota(quotaTag("user", "dan")), "connects"),
    ).split(" ");
    t.ok(Number(used) <= 160, `refusals are not counted for ever: ${used}`);
  },
);

for (const [words, error] of [
  ["Redis away", new BridgeError("redis_unavailable")],
  ["a sum that cannot be asked for", new Error("WRONGTYPE")],
] as const)
  t.test(`${words}: what the process has seen stands`, async (t) => {
    let asked = 0;
    const subjects = new Subjects({
      kind: "user",
      quotas,
      redis: {
        run: () => {
          asked += 1;
          return Promise.reject(error);
        },
      },
    });
    for (let i = 0; i < 160; i++)
      await subjects.takeOfAll("eve", { connects: 1 });
    t.ok(asked > 0);
    await t.rejects(subjects.takeOfAll("eve", { connects: 1 }), {
      code: "quota_exceeded",
    });
    t.throws(() => subjects.take("eve", { connects: 1 }), {
      code: "quota_exceeded",
    });
  });

t.test("Redis forgets a subject, and a process knows so many", async (t) => {
  const { subjects } = await start();
  await subjects.takeOfAll("fay", { names: 1 });
  const rest = Number(
    await redis.cli("PTTL", keys.quota(quotaTag("user", "fay"))),
  );
  t.ok(rest > 0 && rest <= 23_500, "a 160th of an hour, and a second");
  const few = new Subjects({ kind: "user", quotas, subjectsMax: 10 });
  for (let i = 0; i < 100; i++) few.take(`user-${i}`, { names: 1 });
  t.equal(few.size, 10);
});

t.test("what was counted runs down in Redis as well", async (t) => {
  const logger = createLogger("clock", "silent");
  const link = new RedisLink(redis.url, [quotaScript], logger);
  t.teardown(() => link.close());
  const key = keys.quota(quotaTag("user", "gil"));
  const add = async (used: number) =>
    Number(
      (
        (await link.run(
          quotaScript,
          [key],
          ["names", used, 100, 10_000],
        )) as unknown[]
      )[0],
    );
  t.equal(await add(50), 50);
  t.equal(await add(1_000), 200, "twice the limit at most");
  t.equal(await add(-1_000), 0, "and never less than nothing");
  const now = Date.now();
  await redis.cli("HSET", key, "names", `100 ${now - 5_000}`);
  const left = await add(0);
  t.ok(left > 40 && left <= 50, `half of the window is half of it: ${left}`);
});
