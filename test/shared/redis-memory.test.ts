/** How full Redis is, without a Redis: when it is asked, when a request waits for that, and what follows. */
import t, { type Test } from "tap";
import { BridgeError } from "../../shared/errors.js";
import type { Logger } from "../../shared/logging.js";
import { RedisMemory } from "../../shared/redis-memory.js";

/** Masters `a` and `b` with room for a million bytes each, a mark at 800,000; the first letter of a tag names its master. */
function setup(t: Test, high = 0.8) {
  const used: Record<string, number> = { a: 0, b: 0 };
  const asked: string[] = [];
  const lines: string[] = [];
  const state = { nowMs: 1_000_000, policy: "noeviction" };
  let failure: Error | undefined;
  const { now } = Date;
  Date.now = () => state.nowMs;
  t.teardown(() => {
    Date.now = now;
  });
  const note = (_: object, line: string) => void lines.push(line);
  const memory = new RedisMemory(
    {
      masters: () => Promise.resolve(["a", "b"]),
      masterOf: (tag) => tag.slice(0, 1),
      memoryOf(master) {
        asked.push(master);
        if (failure) return Promise.reject(failure);
        return Promise.resolve(
          `# Memory\r\nused_memory:${(used[master] ?? 0) + 100}\r\nmaxmemory:1000000\r\n` +
            `maxmemory_policy:${state.policy}\r\nmem_not_counted_for_evict:100\r\n`,
        );
      },
    },
    high,
    { warn: note, info: note } as unknown as Logger,
  );
  return {
    memory,
    used,
    asked,
    lines,
    state,
    fail: (error?: Error) => (failure = error),
    /** "at once" or "waited", and what came of it. */
    admit: async (tag: string, bytes = 0): Promise<string> => {
      let how = "at once";
      try {
        const known = memory.admit(tag, bytes);
        if (known) how = "waited";
        await known;
        return `${how}: taken`;
      } catch (error) {
        return `${how}: ${(error as BridgeError).code}`;
      }
    },
  };
}

t.test("a process that stood still asks before it takes", async (t) => {
  const { admit, used, state, asked } = setup(t);
  t.equal(await admit("a"), "waited: taken", "nothing is known yet");
  t.equal(await admit("a"), "at once: taken");
  used["a"] = 800_000;
  state.nowMs += 200;
  t.equal(await admit("a"), "at once: taken", "known well enough");
  t.equal(asked.length, 1);
  state.nowMs += 100;
  t.equal(await admit("a"), "at once: taken", "asked beside this one");
  t.equal(asked.length, 2);
  t.equal(await admit("a"), "at once: redis_full");
  used["a"] = 0;
  state.nowMs += 60_000;
  t.equal(await admit("a"), "waited: taken", "frozen for a minute");
  used["a"] = 900_000;
  state.nowMs -= 3_600_000;
  t.equal(await admit("a"), "waited: redis_full", "the clock went back");
});

t.test("what is taken meanwhile counts before Redis says so", async (t) => {
  const { admit, used, asked } = setup(t);
  used["a"] = 795_000;
  await admit("a");
  t.equal(await admit("a", 4_000), "at once: taken");
  used["a"] = 799_900;
  t.equal(await admit("a", 1), "waited: taken", "near the mark: asked");
  used["a"] = 800_100;
  t.equal(await admit("a", 1), "waited: redis_full");
  t.equal(asked.length, 3);
});

t.test("who adds much looks sooner, for others add as well", async (t) => {
  const { admit, used, asked } = setup(t);
  await admit("a", 9_000);
  t.equal(await admit("a", 5_000), "at once: taken");
  t.equal(asked.length, 1, "not a hundredth of the limit yet");
  t.equal(await admit("a"), "at once: taken");
  t.equal(asked.length, 2, "asked beside it");
  await admit("a", 40_000);
  used["a"] = 900_000;
  t.equal(await admit("a"), "waited: redis_full", "more than three hundredths");
});

t.test("it does not flap: 5 % lower before it goes on", async (t) => {
  const { admit, used, state, lines } = setup(t);
  for (const [bytes, outcome] of [
    [799_999, "taken"],
    [800_000, "redis_full"],
    [799_999, "redis_full"],
    [760_000, "redis_full"],
    [759_999, "taken"],
    [799_999, "taken"],
  ] as const) {
    used["a"] = bytes;
    state.nowMs += 2_000;
    t.equal(await admit("a"), `waited: ${outcome}`, `${bytes} bytes`);
  }
  t.match(lines, [/nearly full/, /room again/]);
  t.equal(lines.length, 2, "two lines, however many were refused");
});

t.test("each master of a Cluster is full by itself", async (t) => {
  const { admit, used } = setup(t);
  used["b"] = 900_000;
  t.equal(await admit("a1"), "waited: taken");
  t.equal(await admit("b1"), "waited: redis_full");
});

t.test("without an answer the push finds out by itself", async (t) => {
  const { admit, fail, lines, state } = setup(t);
  fail(new BridgeError("outcome_unknown"));
  t.equal(await admit("a"), "waited: taken", "never outcome_unknown");
  fail(new Error("NOPERM this user has no permissions to run INFO"));
  t.equal(await admit("a"), "waited: taken");
  t.equal(await admit("a"), "at once: taken", "and is not asked all the time");
  state.nowMs += 100_000;
  await admit("a");
  t.match(lines, [/does not say how full/]);
  t.equal(lines.length, 1);
});

t.test("an evicting policy is told once, at the start", async (t) => {
  const { memory, state, lines, asked } = setup(t);
  state.policy = "allkeys-lru";
  await memory.look();
  t.same(asked, ["a", "b"]);
  t.match(lines, [/noeviction/]);
  t.equal(lines.length, 1);
});

t.test("0 is off", async (t) => {
  const { admit, used, asked } = setup(t, 0);
  used["a"] = 1_000_000;
  t.equal(await admit("a"), "at once: taken");
  t.same(asked, []);
});

t.test("how near the mark is, for who shares memory out", async (t) => {
  const { memory, admit, used } = setup(t);
  t.equal(memory.fullness, undefined, "nothing is known yet");
  Object.assign(used, { a: 200_000, b: 400_000 });
  await memory.look();
  t.same(
    memory.fullness,
    { markBytes: 1_600_000, share: 0.5 },
    "the marks of both masters; the fuller one counts",
  );
  await admit("b", 399_488);
  t.equal(memory.fullness?.share, 1, "with what was let in since");
  const off = setup(t, 0);
  await off.memory.look();
  t.equal(off.memory.fullness, undefined, "nothing is refused");
});
