/** A delivery run: flag up, linger while more comes, flag down, and back with the job when the connection is gone. */
import t from "tap";
import { deliveryRun } from "../../ws-fn/delivery-run.js";
import { until } from "../../scripts/lab/until.js";

function run(
  lingerMs: number,
  ports: { activeAtMs?: () => number; live?: () => boolean } = {},
) {
  const modes: string[] = [];
  const abort = new AbortController();
  const outcome = deliveryRun(
    {
      read: (mode) => Promise.resolve(modes.push(mode)),
      activeAtMs: ports.activeAtMs ?? (() => -Infinity),
      live: ports.live ?? (() => true),
    },
    lingerMs,
    abort.signal,
  );
  return { modes, abort, outcome };
}

t.test("a connection that is gone keeps its job", async (t) => {
  const { modes, outcome } = run(10, { live: () => false });
  t.equal(await outcome, "again");
  t.same(modes, []);
});

t.test("one that goes meanwhile, too", async (t) => {
  let asked = 0;
  const { modes, outcome } = run(10, { live: () => (asked += 1) < 2 });
  t.equal(await outcome, "again");
  t.same(modes, ["begin"], "its flag is left to the next owner's claim");
});

t.test("it lingers while there is traffic", async (t) => {
  let active = true;
  let looked = 0;
  const { modes, outcome } = run(20, {
    activeAtMs: () => {
      looked += 1;
      return active ? performance.now() : -Infinity;
    },
  });
  await until(() => looked >= 5);
  t.same(modes, ["begin"]);
  active = false;
  t.equal(await outcome, "done");
  t.same(modes, ["begin", "end"]);
});

t.test("it renews its flag before that runs out", async (t) => {
  let active = true;
  const { modes, outcome } = run(50, {
    activeAtMs: () => (active ? performance.now() : -Infinity),
  });
  await until(() => modes.length >= 2, { ms: 20_000 });
  active = false;
  await outcome;
  t.same(modes, ["begin", "begin", "end"]);
});

t.test("whoever closes does not wait for the linger", async (t) => {
  const { modes, abort, outcome } = run(3_600_000, {
    activeAtMs: () => performance.now(),
  });
  await until(() => modes.length === 1);
  abort.abort();
  t.equal(await outcome, "done");
  t.same(modes, ["begin", "end"]);
});
