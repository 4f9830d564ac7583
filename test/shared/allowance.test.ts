/** What one subject may use: token buckets on a clock that the test moves. */
import t from "tap";
import { Allowance, layoutOf, type Cost } from "../../shared/allowance.js";
import { BridgeError } from "../../shared/errors.js";

const quotas = {
  messages: { limit: 10, windowSeconds: 10 },
  bytes: { limit: 1_000, windowSeconds: 100 },
  names: { limit: Infinity, windowSeconds: 10 },
  scheduled: { limit: 10, windowSeconds: 60, lives: true },
};
type Name = keyof typeof quotas;

function start() {
  const clock = { ms: 1_000_000 };
  const allowance = new Allowance(
    quotas,
    layoutOf(quotas),
    () => "somebody",
    () => clock.ms,
  );
  /** "taken", or the quota that is used up and the seconds until there is room. */
  const take = (cost: Cost<Name>): string => {
    try {
      allowance.take(cost);
      return "taken";
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
      const { quota, retryAfterSeconds } = error.data;
      return `${error.code} ${quota?.name} ${retryAfterSeconds}`;
    }
  };
  const takes = (count: number) =>
    Array.from({ length: count }, () => take({ messages: 1 })).filter(
      (word) => word === "taken",
    ).length;
  return { clock, allowance, take, takes };
}

t.test("a limit at once, and as much again in its window", (t) => {
  const { clock, take, takes } = start();
  t.equal(takes(20), 10);
  t.equal(take({ messages: 1 }), "quota_exceeded messages 1");
  t.equal(take({ messages: 4 }), "quota_exceeded messages 4");
  clock.ms += 999;
  t.equal(takes(1), 0);
  clock.ms += 3_001;
  t.equal(takes(20), 4);
  clock.ms += 3_600_000;
  t.equal(takes(20), 10, "no more than the limit is saved up");
  clock.ms -= 60_000;
  t.equal(takes(20), 0, "a clock that is set back gives nothing");
  clock.ms += 1_000;
  t.equal(takes(20), 1, "and takes nothing away");
  t.end();
});

t.test("all of a cost is taken, or nothing", (t) => {
  const { take, takes } = start();
  t.equal(take({ messages: 1, bytes: 950 }), "taken");
  t.equal(take({ messages: 1, bytes: 60 }), "quota_exceeded bytes 1");
  t.equal(takes(20), 9, "the refused message was not counted");
  t.equal(take({ names: 1e12 }), "taken", "no limit");
  t.end();
});

t.test("what is larger than a limit needs all of it, and then is owed", (t) => {
  const { clock, take } = start();
  t.equal(take({ bytes: 1 }), "taken");
  t.equal(take({ bytes: 1_500 }), "quota_exceeded bytes 1");
  clock.ms += 100;
  t.equal(take({ bytes: 1_500 }), "taken");
  t.equal(take({ bytes: 1 }), "quota_exceeded bytes 51");
  clock.ms += 50_100;
  t.equal(take({ bytes: 1 }), "taken");
  t.end();
});

t.test("what is counted afterwards is owed, up to twice the limit", (t) => {
  const { allowance, take, clock } = start();
  for (let i = 0; i < 100; i++) allowance.charge({ messages: 1 });
  t.equal(take({ messages: 1 }), "quota_exceeded messages 11");
  clock.ms += 11_000;
  t.equal(take({ messages: 1 }), "taken");
  t.end();
});

t.test("the tightest one is told of", (t) => {
  const { allowance, take } = start();
  take({ messages: 1, bytes: 900 });
  t.same(allowance.tightest(["messages", "bytes", "names"]), {
    name: "bytes",
    limit: 1_000,
    windowSeconds: 100,
    left: 100,
    resetSeconds: 90,
  });
  t.match(allowance.tightest(["messages"]), { name: "messages", left: 9 });
  t.equal(allowance.tightest(["names"]), undefined);
  t.end();
});

t.test("what lives counts for as long as it does, at most so many", (t) => {
  const { clock, take, allowance } = start();
  const scheduled = (seconds: number, amount = 1) =>
    take({ scheduled: { amount, seconds } });
  t.equal(scheduled(604_800, 4), "taken");
  t.equal(scheduled(30, 6), "taken");
  t.equal(
    scheduled(30),
    "quota_exceeded scheduled 6",
    "together they are the limit; the short ones make room first",
  );
  t.match(allowance.facts("scheduled"), { left: 0, resetSeconds: 241_920 });
  t.notOk("windowSeconds" in allowance.facts("scheduled"));
  clock.ms += 60_500;
  t.equal(scheduled(30, 7), "quota_exceeded scheduled 60420");
  t.equal(scheduled(30, 6), "taken", "the long ones still count");
  clock.ms += 241_860_000;
  t.equal(scheduled(30, 10), "taken");
  clock.ms += 60_000;
  t.equal(scheduled(1e9, 10), "taken", "longer than the longest");
  clock.ms += 60_500;
  t.equal(scheduled(30), "quota_exceeded scheduled 60420");
  t.end();
});

t.test("what lives shorter than that may be charged back", (t) => {
  const { take, allowance } = start();
  take({ scheduled: { amount: 8, seconds: 7_000 } });
  allowance.charge({ scheduled: { amount: -8, seconds: 7_000 } });
  t.match(allowance.facts("scheduled"), { left: 10, resetSeconds: 0 });
  t.end();
});
