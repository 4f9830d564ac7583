// `npm test`: Redis and a browser made available, lint, form and types, the tests compiled, then every test file under
// tap. The last line is `N passed, N failed`, from tap's own totals, with the check step as one more test.
// `npm test -- test/x.test.ts` runs only the files named, without the check step.

import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { ensureChromium } from "./chromium.js";
import { exitOf, SetupError } from "./programs.js";
import { ensureRedisBinary } from "./redis.js";
import { TapOutput, type Totals } from "./tap-output.js";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

/** Everything fits into ten minutes of a machine of its own, and into twenty of a busy one; what runs this long hangs. */
const TOTAL_MS = 2_400_000;
const TAP = "node_modules/tap/dist/esm/run.mjs";
/** From asking the test run to stop until it is killed. */
const STOP_MS = 5_000;
/** How long the last output of a run that has ended may take to arrive. */
const OUTPUT_MS = 2_000;

let stoppedBy: NodeJS.Signals | undefined;
let stopChild: ((signal: NodeJS.Signals) => void) | undefined;

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => {
    stoppedBy ??= signal;
    stopChild?.(signal);
  });
}

const totals: Totals = { passed: 0, failed: 0, skipped: 0 };
try {
  await run(process.argv.slice(2));
} catch (error) {
  console.error(error instanceof SetupError ? error.message : error);
  totals.failed += 1;
}
if (stoppedBy) {
  console.error(`Stopped by ${stoppedBy}.`);
  process.exitCode = 128 + constants.signals[stoppedBy];
} else {
  process.exitCode = totals.failed > 0 ? 1 : 0;
}
const skipped = totals.skipped > 0 ? `, ${totals.skipped} skipped` : "";
console.log(`${totals.passed} passed, ${totals.failed} failed${skipped}`);

async function run(named: string[]): Promise<void> {
  await ensureRedisBinary();
  if (!(await ensureChromium())) {
    console.error("No Chromium: the tests in a browser are skipped.");
  }
  const deadline = Date.now() + TOTAL_MS;
  if (named.length === 0 && !stoppedBy) {
    const code = await runChild(
      ["scripts/bootstrap.mjs", "check"],
      deadline,
      console.log,
    );
    if (code === 0) totals.passed += 1;
    else totals.failed += 1;
  }
  if (stoppedBy) return;
  // Once for all: a test process that compiled its files itself took longer than most of the tests.
  const compile = [
    "node_modules/typescript/bin/tsc",
    "-p",
    "tsconfig.test.json",
  ];
  if ((await runChild(compile, deadline, console.log)) !== 0) {
    console.error("The tests cannot be compiled.");
    totals.failed += 1;
    return;
  }
  if (!(await buildTap(deadline))) {
    totals.failed += 1;
    return;
  }
  add(await runTap(named.length > 0 ? named : testFiles(), deadline));
}

/**
 * tap without the plugins that package.json leaves out. It would build itself anew at its first run, but that run still
 * had their loaders in each process.
 */
async function buildTap(deadline: number): Promise<boolean> {
  const { tap } = JSON.parse(
    readFileSync(path.join(ROOT, "package.json"), "utf8"),
  ) as { tap: { plugin: string[] } };
  const wanted = JSON.stringify(tap.plugin);
  // Beside what it speaks of, so that an installation takes it away as well.
  const stamp = path.join(ROOT, "node_modules/@tapjs/test/.built-with");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === wanted) return true;
  const code = await runChild([TAP, "build"], deadline, () => undefined);
  if (code === 0) writeFileSync(stamp, wanted);
  else console.error("tap cannot be built with the plugins of package.json.");
  return code === 0;
}

function testFiles(): string[] {
  const found = readdirSync(path.join(ROOT, "test"), { recursive: true });
  return found
    .map((name) => path.join("test", String(name)))
    .filter((name) => name.endsWith(".test.ts"))
    .sort();
}

async function runTap(files: string[], deadline: number): Promise<Totals> {
  const output = new TapOutput((line) => console.log(line));
  // Jobs, timeout and coverage are set in package.json, for runs without this script too.
  const tap = [TAP, "run", "--reporter=tap"];
  const code = await runChild([...tap, ...files], deadline, (line) => {
    output.line(line);
  });
  const result = output.totals;
  if (!result) {
    console.error(`tap ended with exit code ${code} and without totals.`);
    return { passed: 0, failed: 1, skipped: 0 };
  }
  if (result.passed + result.failed + result.skipped === 0) {
    console.error("No test ran.");
    result.failed = 1;
  } else if (code !== 0 && result.failed === 0) {
    console.error(`tap ended with exit code ${code}.`);
    result.failed = 1;
  }
  return result;
}

function add(more: Totals): void {
  totals.passed += more.passed;
  totals.failed += more.failed;
  totals.skipped += more.skipped;
}

/** Runs `node …args` in a process group of its own, so that the whole group can be ended at the deadline. */
async function runChild(
  args: string[],
  deadline: number,
  onLine: (line: string) => void,
): Promise<number> {
  const child = spawn(process.execPath, args, {
    cwd: ROOT,
    detached: true,
    stdio: ["ignore", "pipe", "inherit"],
  });
  createInterface({ input: child.stdout }).on("line", onLine);
  const closed = new Promise((resolve) => child.once("close", resolve));
  const { pid } = child;
  const signalGroup = (signal: NodeJS.Signals) => {
    try {
      if (pid !== undefined) process.kill(-pid, signal);
    } catch {
      // The whole group has ended.
    }
  };
  stopChild = (signal) => {
    signalGroup(signal);
    setTimeout(() => signalGroup("SIGKILL"), STOP_MS).unref();
  };
  const timer = setTimeout(() => {
    console.error("The tests take too long; ending them.");
    stopChild?.("SIGTERM");
  }, deadline - Date.now());
  try {
    const { code } = await exitOf(child);
    return code ?? 1;
  } finally {
    clearTimeout(timer);
    stopChild = undefined;
    signalGroup("SIGKILL"); // whoever is left of it
    const late = setTimeout(() => child.stdout.destroy(), OUTPUT_MS);
    await closed;
    clearTimeout(late);
  }
}
