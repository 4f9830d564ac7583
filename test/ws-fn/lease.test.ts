/** The lease: held from before the renewal was sent, less a margin, and never across a pause of the process. */
import t from "tap";
import { until } from "../../scripts/lab/until.js";
import { Beats } from "../../ws-fn/beats.js";
import { Lease, Pulse } from "../../ws-fn/lease.js";

class Stopping extends Pulse {
  stops = 0;
  override get generation(): number {
    return this.stops;
  }
}

/** Clocks that the test moves. */
function clocks(t: { teardown(undo: () => void): void }) {
  const { now: wall } = Date;
  const monotonic = performance.now.bind(performance);
  const at = { wall: 1_000_000, monotonic: 5_000 };
  Date.now = () => at.wall;
  performance.now = () => at.monotonic;
  t.teardown(() => {
    Date.now = wall;
    performance.now = monotonic;
  });
  return at;
}

/** A lease whose renewals are answered when the test says so. */
function asked(pulse: Pulse, leaseMs: number) {
  const answers: ((known: boolean) => void)[] = [];
  const lease = new Lease(
    pulse,
    leaseMs,
    () => new Promise((resolve) => answers.push(resolve)),
  );
  const answer = async (known = true) => {
    answers.shift()?.(known);
    await new Promise((resolve) => setImmediate(resolve));
  };
  return { lease, answer, answers };
}

t.test("nothing is held before a renewal was answered", async (t) => {
  const pulse = new Stopping();
  t.teardown(() => pulse.close());
  const { lease, answer, answers } = asked(pulse, 1_000);
  t.equal(lease.holds, false);
  const renewing = lease.renew();
  t.equal(lease.renew(), renewing, "who asks meanwhile gets the same answer");
  t.equal(answers.length, 1);
  t.equal(lease.holds, false);
  await answer();
  await renewing;
  t.equal(lease.holds, true);
  await lease.ensure();
  t.equal(answers.length, 0, "one that runs is not asked for");
});

t.test("it ends a tenth early, by either clock", async (t) => {
  const pulse = new Stopping();
  const at = clocks(t);
  t.teardown(() => pulse.close());
  const { lease, answer } = asked(pulse, 1_000);
  const start = { ...at };
  void lease.renew();
  await answer();
  for (const [wall, monotonic, holds] of [
    [899, 899, true],
    [900, 0, false],
    [0, 900, false],
    [-5_000, 899, true],
  ] as const) {
    at.wall = start.wall + wall;
    at.monotonic = start.monotonic + monotonic;
    t.equal(
      lease.holds,
      holds,
      `${wall} ms by wall, ${monotonic} ms by the other`,
    );
  }
});

t.test("it counts from before the renewal was sent", async (t) => {
  const pulse = new Stopping();
  const at = clocks(t);
  t.teardown(() => pulse.close());
  const { lease, answer } = asked(pulse, 1_000);
  void lease.renew();
  at.wall += 800;
  at.monotonic += 800;
  await answer();
  t.equal(lease.holds, true);
  at.wall += 100;
  at.monotonic += 100;
  t.equal(lease.holds, false);
});

t.test(
  "a pause ends it, also one while the renewal was under way",
  async (t) => {
    const pulse = new Stopping();
    t.teardown(() => pulse.close());
    const { lease, answer } = asked(pulse, 60_000);
    const renew = async (known?: boolean) => {
      const renewing = lease.renew();
      await answer(known);
      await renewing;
    };
    await renew();
    const before = lease.doubt;
    pulse.stops += 1;
    t.equal(lease.holds, false);
    t.ok(lease.doubt > before, "what was confirmed before counts no more");
    const renewing = lease.renew();
    pulse.stops += 1;
    await answer();
    await renewing;
    t.equal(lease.holds, false);
    await renew();
    t.equal(lease.holds, true);
  },
);

t.test("a doubt is one until everything is confirmed anew", async (t) => {
  const pulse = new Stopping();
  const at = clocks(t);
  t.teardown(() => pulse.close());
  const { lease, answer } = asked(pulse, 1_000);
  const renew = async (known?: boolean) => {
    const renewing = lease.renew();
    await answer(known);
    await renewing;
    return lease.doubt;
  };
  const first = await renew();
  t.equal(await renew(), first, "renewed in time: nothing has changed");
  const forgotten = await renew(false);
  t.ok(forgotten > first, "Redis knew of no lease");
  t.equal(lease.holds, true, "but it has one now");
  at.wall += 2_000;
  at.monotonic += 2_000;
  t.ok((await renew()) > forgotten, "it had run out");
});

t.test("the pulse notices that nothing ran for a while", (t) => {
  const at = clocks(t);
  const pulse = new Pulse();
  t.teardown(() => pulse.close());
  const first = pulse.generation;
  for (let n = 0; n < 10; n += 1) {
    at.monotonic += 700;
    t.equal(pulse.generation, first);
  }
  at.monotonic += 701;
  t.equal(pulse.generation, first + 1);
  t.equal(pulse.generation, first + 1, "once per pause");
  pulse.close();
  t.end();
});

t.test("what is due in the same beat runs in one turn", async (t) => {
  const beats = new Beats(50);
  const ran: { name: string; turn: number }[] = [];
  let turn = 0;
  const counting = setInterval(() => (turn += 1), 1);
  t.teardown(() => clearInterval(counting));
  const note = (name: string, ms: number) =>
    beats.after(ms, () => {
      ran.push({ name, turn });
    });
  // Fifty at most lie between a beat and the next: of three, two share one.
  for (const [name, ms] of Object.entries({ a: 120, b: 140, c: 160 }))
    note(name, ms);
  note("never", 130)();
  await until(() => ran.length === 3);
  t.same(ran.map(({ name }) => name).sort(), ["a", "b", "c"]);
  t.ok(new Set(ran.map(({ turn }) => turn)).size < 3, "two share a turn");
});
