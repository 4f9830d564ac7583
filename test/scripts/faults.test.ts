// The fault runner: its checker finds what is wrong in a history, and a runner that is stopped leaves nothing. What it
// finds in the bridge is in test/e2e/faults.test.ts.

import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";

import t from "tap";

import { faultsOf, Ledger, type Sent } from "../../scripts/faults/ledger.js";
import { parseOptions } from "../../scripts/faults/options.js";
import { percentile } from "../../scripts/faults/report.js";
import { rows } from "../../scripts/faults/rows.js";
import { startProcess } from "../../scripts/lab/processes.js";
import { until } from "../../scripts/lab/until.js";

/** A history of accepted messages of one publisher to one connection; `received` in the order of their numbers. */
function history(count: number, received: readonly number[]) {
  const ledger = new Ledger();
  const sent = Array.from({ length: count }, () => ledger.invoke("c", "p"));
  for (const one of sent) one.outcome = "ok";
  for (const index of received) ledger.receive("c", sent[index]?.text);
  return { ledger, sent };
}

t.test("the checker", (t) => {
  const clean = { lost: 0, duplicates: 0, inversions: 0, corrupt: 0 };

  t.match(history(4, [0, 1, 2, 3]).ledger.verdict(), { ...clean, received: 4 });
  t.same(faultsOf(history(2, [0, 1]).ledger.verdict()), []);

  const lossy = history(4, [0, 1, 3]);
  t.match(lossy.ledger.verdict(), { ...clean, lost: 1 }, "a loss");
  t.same(lossy.ledger.missing(), [lossy.sent[2]], "and which");
  t.same(faultsOf(lossy.ledger.verdict()), ["1 lost"]);

  const twice = history(3, [0, 1, 1, 2]).ledger.verdict();
  t.match(twice, { ...clean, duplicates: 1 }, "a duplicate, and no inversion");
  t.same(faultsOf(twice), ["1 handed over twice"]);

  const turned = history(4, [0, 2, 1, 3]).ledger.verdict();
  t.match(turned, { ...clean, inversions: 1 }, "an inversion, and no loss");
  t.same(faultsOf(turned), ["1 inversions"]);

  const late = history(3, [0, 1, 2, 0]).ledger.verdict();
  t.match(late, { ...clean, duplicates: 1 }, "a late repeat is no inversion");

  const { ledger, sent } = history(2, [0]);
  ledger.receive("another", sent[1]?.text);
  ledger.receive("c", sent[1]?.text.replace("p 1", "p 7"));
  t.match(
    ledger.verdict(),
    { ...clean, lost: 1, corrupt: 2 },
    "on another connection, and with another's hash",
  );
  t.end();
});

t.test("the checker knows what was promised", (t) => {
  const ledger = new Ledger();
  const invoke = (outcome: Sent["outcome"]) =>
    Object.assign(ledger.invoke("c", "p"), { outcome });
  invoke("invoked");
  invoke("unknown");
  const arrived = invoke("unknown");
  const refused = invoke("refused");
  const excused = Object.assign(invoke("ok"), { excuse: "closed_by_backend" });
  ledger.receive("c", arrived.text);
  t.match(ledger.verdict(), {
    lost: 0,
    unknown: 3,
    excused: { closed_by_backend: 1 },
  });
  t.same(faultsOf(ledger.verdict()), [], "nothing unknown can be lost");
  ledger.receive("c", excused.text);
  t.same(ledger.verdict().excused, {}, "it came after all");
  ledger.receive("c", refused.text);
  t.same(faultsOf(ledger.verdict()), [
    "1 inversions",
    "1 refused and yet received",
  ]);

  ledger.frame("c", 1, false);
  ledger.frame("d", 1, false);
  ledger.frame("c", 1, true);
  ledger.frame("c", 1, false);
  t.match(ledger.verdict(), {
    wire: { flagged: 1, unflagged: 1 },
    mostFrames: 3,
  });
  t.end();
});

t.test("the checker knows what Redis itself may forget", (t) => {
  const { ledger, sent } = history(5, [0, 3, 3, 4, 4]);
  const told = (index: number, at: number, attempts = 1) =>
    Object.assign(sent[index] ?? {}, { answeredAt: at, attempts });
  const killedAt = performance.now();
  const to = killedAt + 100;
  for (const mayLose of [false, true]) {
    ledger.redisForgets({ from: killedAt - 2_000, to, mayLose });
    const [, early, within] = [
      told(0, 1),
      told(1, killedAt - 2_001),
      told(2, killedAt - 1_999),
    ];
    t.notOk(ledger.mayBeForgotten(early as Sent), "too long ago");
    t.equal(ledger.mayBeForgotten(within as Sent), mayLose);
  }
  for (const one of ledger.missing()) {
    one.isForgotten = ledger.mayBeForgotten(one);
  }
  // Sent again because its answer was lost; and, the last one, without any reason.
  told(3, to + 500, 2);
  told(4, killedAt - 10, 1);
  const verdict = ledger.verdict();
  t.match(verdict, { lost: 1, forgotten: 1, duplicates: 1, forgottenTwice: 1 });
  t.same(faultsOf(verdict), ["1 lost", "1 handed over twice"]);
  t.end();
});

t.test("options and figures", (t) => {
  t.match(parseOptions([], rows), { rows, forms: ["short"], lanes: 3 });
  t.match(parseOptions(["--only", "A1", "--long"], rows), {
    rows: [{ id: "A1" }],
    forms: ["short", "long"],
  });
  t.throws(() => parseOptions(["--only", "Z9"], rows), /Z9: unknown; choose/);
  t.match(parseOptions(["--soak", "5"], rows), {
    rows: [{ id: "A29", title: "5 minutes of mixed faults" }],
    forms: ["long"],
    soakMinutes: 5,
  });
  t.throws(() => parseOptions(["--soak", "long"], rows), /--soak long/);
  t.throws(() => parseOptions(["--lanes", "0"], rows), /--lanes 0/);
  t.throws(
    () => parseOptions(["--only", "A1", "--break"], rows),
    /no row here has a guard/,
  );
  t.equal(new Set(rows.map(({ id }) => id)).size, rows.length);
  t.equal(percentile([3, 1, 2], 50), 2);
  t.equal(percentile([3, 1, 2], 99), 3);
  t.end();
});

t.test("a runner that is told to stop leaves nothing behind", async (t) => {
  const dir = await mkdtemp(path.join(tmpdir(), "faults-test-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const runner = await startProcess(t, {
    args: ["dist/scripts/faults.js", "--only", "A25"],
    env: { TMPDIR: dir },
  });
  const redisDir = await until(async () => (await readdir(dir))[0], {
    ms: 120_000,
    message: "its Redis is started",
  });
  runner.kill("SIGTERM");
  t.same(await runner.exited, { code: 1, signal: null });
  t.same(await readdir(dir), [], `${redisDir} is gone`);
});
