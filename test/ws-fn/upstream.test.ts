/** Upstream limits: what a second may hold, what throttles, and what ends it. */
import t from "tap";
import { until } from "../../scripts/lab/until.js";
import {
  bytesPerSecond,
  messagesPerSecond,
  UpstreamLimit,
} from "../../ws-fn/upstream.js";

function limit(t: { teardown(close: () => void): void }) {
  let now = 0;
  const calls: string[] = [];
  const limited = new UpstreamLimit(
    { pause: () => calls.push("pause"), resume: () => calls.push("resume") },
    () => now,
  );
  t.teardown(() => limited.close());
  return {
    calls,
    at: (ms: number) => {
      now = ms;
    },
    say: (times: number, bytes = 10) => {
      let ok = true;
      for (let n = 0; n < times; n += 1) ok = limited.accept(bytes) && ok;
      return ok;
    },
    /** Until the socket is read again. */
    resumed: (times: number) =>
      until(() => calls.filter((call) => call === "resume").length === times),
  };
}

t.test("ten a second, second after second, are fine", async (t) => {
  const { say, at, calls } = limit(t);
  for (let second = 0; second < 5; second += 1) {
    at(second * 1_000);
    t.equal(say(messagesPerSecond), true);
  }
  t.same(calls, []);
});

t.test("the eleventh makes the socket wait for the next second", async (t) => {
  const { say, at, calls, resumed } = limit(t);
  at(990);
  t.equal(say(messagesPerSecond), true);
  t.same(calls, []);
  t.equal(say(1), true, "throttled, not refused");
  t.same(calls, ["pause"]);
  t.equal(say(5), true, "what was under way is still taken");
  t.same(calls, ["pause"]);
  await resumed(1);
});

t.test("the third fast second in a row is too much", async (t) => {
  const { say, at, resumed } = limit(t);
  const fastSecond = (second: number) => {
    at(second * 1_000);
    const first = say(1);
    at(second * 1_000 + 999);
    return say(messagesPerSecond) && first;
  };
  t.equal(fastSecond(0), true);
  await resumed(1);
  t.equal(fastSecond(1), true);
  await resumed(2);
  t.equal(fastSecond(2), false);
});

t.test("a second within the limits forgives", async (t) => {
  for (const quietMs of [1_000, 5_000]) {
    const { say, at, resumed } = limit(t);
    let from = 0;
    for (let round = 1; round <= 5; round += 1) {
      at(from);
      say(1);
      at(from + 999);
      t.equal(say(messagesPerSecond), true);
      await resumed(round);
      at(from + 1_000);
      say(1);
      from += 1_000 + quietMs;
    }
  }
});

t.test("what one read holds counts, though no pause can help", async (t) => {
  const { say, at, calls, resumed } = limit(t);
  t.equal(say(3 * messagesPerSecond), true, "three seconds' worth");
  t.equal(say(1), false, "and not one more");
  t.same(calls, ["pause", "pause"]);
  const later = limit(t);
  t.equal(later.say(2 * messagesPerSecond), true);
  await later.resumed(1);
  later.at(1_000);
  t.equal(later.say(messagesPerSecond), true);
  t.equal(later.say(1), true, "the second fast second");
  at(5_000);
  await resumed(1);
  t.equal(say(2 * messagesPerSecond), true, "silence forgives");
});

t.test("two seconds' worth takes two seconds", async (t) => {
  const { say, at, resumed } = limit(t);
  t.equal(say(3 * messagesPerSecond), true);
  at(1_999);
  await resumed(1);
  t.equal(say(1), false, "it was over after one only if it had one's worth");
});

t.test(
  "bytes count, and one large frame has its second for itself",
  async (t) => {
    const { say, calls } = limit(t);
    t.equal(say(1, 2 * bytesPerSecond), true);
    t.same(calls, []);
    say(1);
    t.same(calls, ["pause"]);
  },
);
