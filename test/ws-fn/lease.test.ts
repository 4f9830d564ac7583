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

t.test("nothing is held before a renewal was answered", (t) => {
  const pulse = new Stopping();
  t.teardown(() => pulse.close());
  const lease = new Lease(pulse, 1_000);
  t.equal(lease.holds, false);
  const confirmed = lease.renewal();
  t.equal(lease.holds, false);
  confirmed();
  t.equal(lease.holds, true);
  t.end();
});

t.test("it ends a tenth early, by either clock", (t) => {
  const pulse = new Stopping();
  const at = clocks(t);
  t.teardown(() => pulse.close());
  const lease = new Lease(pulse, 1_000);
  const start = { ...at };
  lease.renewal()();
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
  t.end();
});

t.test("it counts from before the renewal was sent", (t) => {
  const pulse = new Stopping();
  const at = clocks(t);
  t.teardown(() => pulse.close());
  const lease = new Lease(pulse, 1_000);
  const confirmed = lease.renewal();
  at.wall += 800;
  at.monotonic += 800;
  confirmed();
  t.equal(lease.holds, true);
  at.wall += 100;
  at.monotonic += 100;
  t.equal(lease.holds, false);
  t.end();
});

t.test("a pause ends it, also one while the renewal was under way", (t) => {
  const pulse = new Stopping();
  t.teardown(() => pulse.close());
  const lease = new Lease(pulse, 60_000);
  lease.renewal()();
  pulse.stops += 1;
  t.equal(lease.holds, false);
  const confirmed = lease.renewal();
  pulse.stops += 1;
  confirmed();
  t.equal(lease.holds, false);
  lease.renewal()();
  t.equal(lease.holds, true);
  t.end();
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
  const beats = new Beats();
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
