// The fault runner's short form, every row once, finds nothing wrong in the bridge; what it finds without a guard, it says.
// The longest file of all, most of it waiting: it stands here so that it begins early (tap takes files by their names).

import t, { type Test } from "tap";

import { rows } from "../../scripts/faults/rows.js";
import { startProcess } from "../../scripts/lab/processes.js";

/** Only what hangs: the runner ends by itself, and on a busy machine everything takes its time. */
const PATIENCE_MS = 1_500_000;
t.setTimeout(PATIENCE_MS);

/** One run of the runner to its end: its lines by row, and what it printed last. */
async function runFaults(t: Test, ...args: string[]) {
  const runner = await startProcess(t, {
    args: ["dist/scripts/faults.js", ...args],
  });
  const exit = await runner.exited;
  const { logs } = runner;
  const of = (id: string) => ({
    state: logs
      .map((line) => new RegExp(`^${id} +(ok|FAILED|skipped) `).exec(line)?.[1])
      .find((state) => state !== undefined),
    all: logs.filter((line) => new RegExp(`^${id}[: ]`).test(line)).join("\n"),
  });
  return { exit, of, logs };
}

t.test("the short form", async (t) => {
  const { exit, of, logs } = await runFaults(t);
  for (const { id, title } of rows) {
    const { state, all } = of(id);
    t.match(state, /^(ok|skipped)$/, all || `${id}: ${title}: never ended`);
    if (state === "skipped") t.comment(all);
  }
  const last = logs.find((line) => line.startsWith("faults "));
  t.match(
    last,
    /^faults \d+ \| messages \d+ \| lost 0 \| unflagged dup 0 \| inversions 0 \| p99 recovery [\d.]+ s$/,
  );
  t.comment(last);
  t.same(exit, { code: 0, signal: null });
});

t.test("a guard that is turned off is seen", async (t) => {
  const { exit, of } = await runFaults(t, "--only", "A5", "--break");
  const { state, all } = of("A5");
  t.equal(state, "FAILED", all);
  t.match(all, /A5: \d+ handed over twice/);
  t.same(exit, { code: 0, signal: null }, "as it should");
});
