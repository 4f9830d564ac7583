// The attacks' quick rows in their short form, and the runner itself: it judges, and leaves nothing.

import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";

import t from "tap";

import { parseOptions } from "../../scripts/attacks/options.js";
import { rows } from "../../scripts/attacks/rows.js";
import { faultsOf } from "../../scripts/attacks/run.js";
import { startProcess } from "../../scripts/lab/processes.js";
import { until } from "../../scripts/lab/until.js";

/** Only what hangs: the runner ends by itself, and on a busy machine everything takes its time. */
t.setTimeout(300_000);

t.test("how the honest fared", async (t) => {
  const phase = (p99: number) => ({ pushes: 60, p50: 1, p99, again: 0 });
  const fared = (p99: number, lost = 0, givenUp = 0) => ({
    phases: { before: phase(8), while: phase(p99), after: phase(8) },
    lost,
    givenUp,
  });
  t.same(faultsOf(fared(16), "long"), []);
  t.same(faultsOf(fared(17), "short"), [], "the short form judges no times");
  t.match(faultsOf(fared(17), "long"), [/^honest p99 while: 17 ms/]);
  t.same(faultsOf(fared(8, 1), "short"), ["1 honest messages lost"]);
  t.same(faultsOf(fared(8, 0, 2), "long"), ["2 honest pushes never taken"]);
});

t.test("options", async (t) => {
  t.match(parseOptions([], rows), { rows, form: "short", lanes: 2 });
  t.match(parseOptions(["--only", "H1a", "--long"], rows), {
    rows: [{ id: "H1a" }],
    form: "long",
    lanes: 1,
  });
  t.throws(() => parseOptions(["--only", "Z9"], rows), /Z9: unknown; choose/);
  t.throws(() => parseOptions(["--lanes", "0"], rows), /--lanes 0/);
  t.throws(
    () => parseOptions(["--only", "M1", "--break"], rows),
    /no row here has a guard/,
  );
  t.equal(new Set(rows.map(({ id }) => id)).size, rows.length);
});

/** The rows that are decided by what is counted, and within seconds; `npm run attacks` has them all. */
const QUICK = [
  ...["H1a", "H2", "H3a", "H3b", "H4", "H5c", "H6a"],
  ...["M2", "M3", "M4", "M5", "M8", "low"],
];

t.test("the short form", async (t) => {
  const runner = await startProcess(t, {
    args: ["dist/scripts/attacks.js", "--only", QUICK.join(",")],
  });
  const exit = await runner.exited;
  const { logs } = runner;
  for (const { id, title } of rows.filter((row) => QUICK.includes(row.id))) {
    const of = logs.filter((line) => new RegExp(`^${id}[: ]`).test(line));
    const state = new RegExp(`^${id} +(ok|FAILED) `).exec(of[0] ?? "")?.[1];
    t.ok(state, `${id} ends`);
    t.equal(state, "ok", of.slice(0, -1).join("\n") || title);
  }
  const last = logs.find((line) => line.startsWith("attacks "));
  t.match(last, /^attacks \d+ \| failed 0 \| lost 0 \| /);
  t.equal(exit.code, 0);
});

t.test("a runner that is told to stop leaves nothing behind", async (t) => {
  const dir = await mkdtemp(path.join(tmpdir(), "attacks-test-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const runner = await startProcess(t, {
    args: ["dist/scripts/attacks.js", "--only", "H1a"],
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
