/** The keeper: one lease for all, and who is compared with Redis when: some at a time, and all of them after a break. */
import { EventEmitter } from "node:events";
import t from "tap";
import { createLogger } from "../../shared/logging.js";
import type { Subscriptions } from "../../shared/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { until } from "../../scripts/lab/until.js";
import type { Connection } from "../../ws-fn/connection.js";
import { Keeper } from "../../ws-fn/keeper.js";
import { Lease, Pulse } from "../../ws-fn/lease.js";

class Stopping extends Pulse {
  stops = 0;
  override get generation(): number {
    return this.stops;
  }
}

/** What the keeper sees of a connection. */
class Held {
  readonly id: string;
  readonly epoch: number;
  compared = 0;
  looks = 0;
  looksNow = 0;
  close: () => void = () => undefined;
  readonly closed = new Promise<void>((resolve) => {
    this.close = resolve;
  });
  comparing: () => Promise<void> = () => Promise.resolve();

  constructor(id: string, epoch: number) {
    this.id = id;
    this.epoch = epoch;
  }

  compare(): Promise<void> {
    this.compared += 1;
    return this.comparing();
  }
  look(): Promise<void> {
    this.looks += 1;
    return Promise.resolve();
  }
  lookNow(): void {
    this.looksNow += 1;
  }
}

/** A keeper; with a long lease nothing happens by itself. */
function keeping(t: Scope, leaseMs = 3_600_000) {
  const pulse = new Stopping();
  const subscriptions = new EventEmitter();
  const state = {
    renewals: 0,
    unsure: 0,
    answer: (): Promise<boolean> => Promise.resolve(true),
  };
  const lease = new Lease(pulse, leaseMs, () => {
    state.renewals += 1;
    return state.answer();
  });
  const keeper = new Keeper({
    lease,
    leaseMs,
    redis: { subscriptions: subscriptions as unknown as Subscriptions },
    registry: { unsure: () => void (state.unsure += 1) },
    logger: createLogger("keeper", "silent"),
  });
  t.teardown(() => {
    keeper.close();
    pulse.close();
  });
  const keep = (id: string, epoch = 1): Held => {
    const held = new Held(id, epoch);
    keeper.keep(held as unknown as Connection);
    return held;
  };
  return { keeper, lease, pulse, subscriptions, state, keep };
}

/** Started, and past its first renewal. */
async function started(t: Scope, leaseMs?: number) {
  const all = keeping(t, leaseMs);
  all.keeper.start();
  await until(() => all.lease.holds);
  return all;
}

t.test("a connection is held until it is closed", async (t) => {
  const { keeper, keep } = keeping(t);
  const a = keep("a");
  const b = keep("b");
  t.same([...keeper.connections], [a, b]);
  a.close();
  await until(() => keeper.size === 1);
  t.same([...keeper.connections], [b]);
});

t.test("a job wakes the connection of its epoch, and no other", async (t) => {
  const { keeper, keep } = keeping(t);
  const before = keep("a", 1);
  await keeper.wake({ connectionId: "a", epoch: 2 });
  await keeper.wake({ connectionId: "unknown", epoch: 1 });
  t.equal(before.looks, 0);
  await keeper.wake({ connectionId: "a", epoch: 1 });
  t.equal(before.looks, 1);
  // Its client came back to the same process before the old socket was gone.
  const now = keep("a", 5);
  before.close();
  await until(() => keeper.size === 1);
  await keeper.wake({ connectionId: "a", epoch: 5 });
  await keeper.wake({ connectionId: "a", epoch: 1 });
  t.equal(now.looks, 1);
  t.equal(before.looks, 1);
  now.close();
  await until(() => keeper.size === 0);
  await keeper.wake({ connectionId: "a", epoch: 5 });
  t.equal(now.looks, 1);
});

t.test("the lease is renewed again and again, by itself", async (t) => {
  const { state, lease } = await started(t, 300);
  await until(() => state.renewals >= 5);
  t.equal(lease.holds, true);
});

t.test("a renewal that failed is tried again", async (t) => {
  const { keeper, state, lease } = keeping(t);
  state.answer = () => Promise.reject(new Error("away"));
  keeper.start();
  await until(() => state.renewals >= 2);
  t.equal(lease.holds, false);
  state.answer = () => Promise.resolve(true);
  await until(() => lease.holds);
});

t.test("Redis is back: the lease at once, and looks that failed", async (t) => {
  const { keep, subscriptions, state } = await started(t);
  const a = keep("a");
  const { renewals } = state;
  subscriptions.emit("back");
  t.equal(a.looksNow, 1);
  await until(() => state.renewals > renewals);
});

t.test("after a gap in what was heard all are compared", async (t) => {
  const { keep, subscriptions, state } = await started(t);
  const all = [keep("a"), keep("b"), keep("c")];
  subscriptions.emit("gap");
  await until(() => all.every(({ compared }) => compared === 1));
  t.equal(state.unsure, 1, "and so is what this process holds");
});

t.test("after a doubt all are compared", async (t) => {
  const { keep, subscriptions, pulse, state } = await started(t);
  const all = [keep("a"), keep("b")];
  const renewed = async () => {
    const { renewals } = state;
    subscriptions.emit("back");
    await until(() => state.renewals > renewals);
    await new Promise((resolve) => setImmediate(resolve));
  };
  await renewed();
  t.same(
    all.map(({ compared }) => compared),
    [0, 0],
    "not after a renewal in time",
  );
  pulse.stops += 1;
  await renewed();
  await until(() => all.every(({ compared }) => compared === 1));
  state.answer = () => Promise.resolve(false);
  await renewed();
  await until(() => all.every(({ compared }) => compared === 2));
  t.pass("Redis had forgotten this process");
});

t.test("a gap during a comparison makes one more, not many", async (t) => {
  const { keep, subscriptions } = await started(t);
  const a = keep("a");
  let finish: () => void = () => undefined;
  a.comparing = () =>
    new Promise((resolve) => {
      finish = resolve;
    });
  subscriptions.emit("gap");
  t.equal(a.compared, 1);
  for (let n = 0; n < 5; n += 1) subscriptions.emit("gap");
  t.equal(a.compared, 1, "one at a time");
  a.comparing = () => Promise.resolve();
  finish();
  await until(() => a.compared === 2);
  subscriptions.emit("gap");
  await until(() => a.compared === 3);
});

t.test("one that cannot be compared holds up nobody", async (t) => {
  const { keep, subscriptions } = await started(t);
  const all = ["a", "b", "c"].map((id) => keep(id));
  const [first] = all;
  if (first) first.comparing = () => Promise.reject(new Error("away"));
  subscriptions.emit("gap");
  await until(() => all.every(({ compared }) => compared === 1));
  subscriptions.emit("gap");
  await until(() => all.every(({ compared }) => compared === 2));
});

t.test("of many not all are asked at the same time", async (t) => {
  const { keep, subscriptions } = await started(t);
  let asked = 0;
  let most = 0;
  const all = Array.from({ length: 1_200 }, (_, n) => keep(`c${n}`));
  for (const one of all)
    one.comparing = async () => {
      most = Math.max(most, (asked += 1));
      await new Promise((resolve) => setImmediate(resolve));
      asked -= 1;
    };
  subscriptions.emit("gap");
  await until(() => all.every(({ compared }) => compared === 1));
  t.equal(most, 512);
});

t.test("each has its turn to be compared with no break at all", async (t) => {
  const { keep } = await started(t, 300);
  const all = Array.from({ length: 30 }, (_, n) => keep(`c${n}`));
  await until(() => all.every(({ compared }) => compared >= 2));
  const counts = all.map(({ compared }) => compared);
  t.ok(Math.max(...counts) - Math.min(...counts) <= 1, "in turn");
});

t.test("what is closed does nothing more", async (t) => {
  const { keeper, keep, subscriptions, state } = await started(t, 300);
  const a = keep("a");
  await until(() => state.renewals >= 2);
  keeper.close();
  await new Promise((resolve) => setImmediate(resolve));
  const then = { renewals: state.renewals, compared: a.compared };
  subscriptions.emit("gap");
  subscriptions.emit("back");
  // Another one goes on for longer than its rounds take.
  const other = await started(t, 300);
  await until(() => other.state.renewals >= 4);
  t.same({ renewals: state.renewals, compared: a.compared }, then);
  t.equal(a.looksNow, 0);
});

t.test("a renewal that was under way when it closed is the last", async (t) => {
  const { keeper, state } = keeping(t, 300);
  let answer: (known: boolean) => void = () => undefined;
  state.answer = () =>
    new Promise((resolve) => {
      answer = resolve;
    });
  keeper.start();
  await until(() => state.renewals === 1);
  keeper.close();
  answer(true);
  // Another one goes on for longer than the pause between two renewals.
  const other = await started(t, 300);
  await until(() => other.state.renewals >= 4);
  t.equal(state.renewals, 1);
});
