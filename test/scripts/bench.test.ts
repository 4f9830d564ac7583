// The bench as a smoke test: it runs, its figures are figures, and it leaves nothing behind. How fast anything is, is
// never asserted here.

import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";

import t from "tap";

import { verdicts, aimsPage } from "../../scripts/bench/aims.js";
import { Acks } from "../../scripts/bench/acks.js";
import { parseOptions } from "../../scripts/bench/options.js";
import { medianOf } from "../../scripts/bench/medians.js";
import {
  bodyOf,
  FIRST_NUMBER,
  readBridge,
  readSocketIo,
} from "../../scripts/bench/message.js";
import { rowPage, type Results } from "../../scripts/bench/report.js";
import { checkRoom } from "../../scripts/bench/room.js";
import { plain, type Figures, type Row } from "../../scripts/bench/row.js";
import { rowNames } from "../../scripts/bench/rows.js";
import type { GatewayRound } from "../../scripts/bench/gateway.js";
import {
  isExact,
  jitterPage,
  type JitterResult,
} from "../../scripts/bench/jitter.js";
import { systemNames, type SystemName } from "../../scripts/bench/systems.js";
import { startProcess } from "../../scripts/lab/processes.js";
import { until } from "../../scripts/lab/until.js";

/** More than a quick run needs on a busy machine, ms. */
const QUICK_RUN_MS = 240_000;

/** Where a run leaves its figures. What it leaves behind besides would be found in `dir`. */
const dir = await mkdtemp(path.join(tmpdir(), "bench-test-"));
t.teardown(() => rm(dir, { recursive: true, force: true }));
const json = path.join(dir, "result.json");
const profiles = path.join(dir, "profiles");
/** One run for all rows and parts; nobody looks at how fast it was. */
const bench = await startProcess(t, {
  args: [
    "dist/scripts/bench.js",
    ...["--quick", "--only", [...rowNames, "gateway", "jitter"].join(",")],
    ...["--json", json, "--profile", profiles],
  ],
  env: { TMPDIR: dir },
});

interface Told {
  machine: string;
  rows: {
    row: string;
    systems: Partial<
      Record<SystemName, { figures: Figures; faults: string[] }[]>
    >;
  }[];
  aims: { title: string }[];
  accept: Record<string, Figures>[];
  gateway: GatewayRound[];
  jitter: JitterResult;
}

t.test("a quick run measures all rows with all systems", async (t) => {
  await bench.waitForLine(/^resume: /, QUICK_RUN_MS);
  await bench.waitForLine(/^resume, messages lost /, QUICK_RUN_MS);
  t.same(await bench.exited, { code: 0, signal: null });
  const told = JSON.parse(await readFile(json, "utf8")) as Told;
  t.match(told.machine, /cores.*Node.*Redis/);
  t.strictSame(new Set(told.rows.map(({ row }) => row)), new Set(rowNames));
  for (const { row, systems } of told.rows) {
    const names = Object.keys(systems);
    if (row === "resume") t.strictSame(names, ["bridge", "socketio-streams"]);
    else if (row === "scale") t.strictSame(names, ["bridge", "bridge-raw"]);
    else t.strictSame(new Set(names), new Set(systemNames));
    for (const [name, rounds] of Object.entries(systems)) {
      t.equal(rounds.length, 1);
      for (const { figures, faults } of rounds) {
        // What the others lose or send twice is theirs.
        if (name.startsWith("bridge"))
          t.strictSame(faults, [], `${row} of ${name}: all is delivered once`);
        for (const [figure, value] of Object.entries(figures))
          t.ok(Number.isFinite(value), `${row}: ${figure} of ${name}`);
      }
    }
  }
  t.equal(told.aims.length, 21, "every aim finds its figures");
  for (const way of Object.values(told.accept[0] ?? { none: {} }))
    t.ok(Number.isFinite(way["messagesPerSecond"]));

  const [round] = told.gateway;
  t.ok(Number.isFinite(round?.cold));
  for (const way of [round?.direct, round?.gateway])
    for (const figure of Object.values(way ?? { none: NaN }))
      t.ok(Number.isFinite(figure));
  const { jitter } = told;
  t.match(jitter, { duplicates: 0, inversions: 0, faults: [] });
  t.ok(jitter.cuts > 0, `${jitter.cuts} cuts`);
  t.ok(Number.isFinite(jitter.reconnect.p99));

  t.strictSame(
    (await readdir(dir)).toSorted(),
    ["profiles", "result.json"],
    "what it needed meanwhile is gone",
  );
  const profiled = await readdir(profiles);
  for (const name of ["bridge-ws", "bridge-http", "socketio-streams-ws"])
    t.ok(profiled.includes(`quick-${name}.cpuprofile`), `${name} is profiled`);
  t.ok(profiled.includes("quick-bridge-redis.txt"));
});

t.test("a machine that is too small for so many sockets is told", async (t) => {
  await t.rejects(checkRoom(10_000_000), /10000000 sockets need /);
});

t.test("an option that means nothing is one clear line", async (t) => {
  const bench = await startProcess(t, {
    args: ["dist/scripts/bench.js", "--only", "pigeon"],
  });
  await bench.waitForLine(/^bench: --only pigeon: unknown; choose from wide/);
  t.same(await bench.exited, { code: 2, signal: null });
});

t.test("a bench that is told to stop leaves nothing behind", async (t) => {
  const dir = await mkdtemp(path.join(tmpdir(), "bench-test-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const bench = await startProcess(t, {
    args: [
      "dist/scripts/bench.js",
      ...["--only", "idle", "--systems", "publish"],
    ],
    env: { TMPDIR: dir },
  });
  const redisDir = await until(async () => (await readdir(dir))[0]);
  bench.kill("SIGTERM");
  t.same(await bench.exited, { code: 1, signal: null });
  t.same(await readdir(dir), [], `${redisDir} is gone`);
});

t.test("options have defaults, and --quick smaller ones", (t) => {
  const rows = (...args: string[]) =>
    parseOptions(args)?.rows.map(({ name, sockets }) => [name, sockets]);
  t.match(parseOptions([]), { rounds: 3, appendOnly: false, isQuick: false });
  t.strictSame(rows("--only", "idle,wide"), [
    ["wide", 5_000],
    ["idle", 5_000],
    ["idle", 10_000],
  ]);
  t.strictSame(rows("--only", "resume"), [["resume", 2_000]]);
  t.strictSame(rows("--only", "wide", "--sockets", "9"), [["wide", 9]]);
  t.strictSame(rows("--only", "wide", "--quick"), [["wide", 40]]);
  t.equal(parseOptions([])?.jitter, undefined, "it takes a minute");
  t.match(parseOptions(["--only", "jitter", "--clients", "9"]), {
    rows: [],
    jitter: { clients: 9, messages: 120, perSecond: 2, awayMs: 2_000 },
  });
  t.match(parseOptions(["--systems", "bridge,literal"])?.systems, [
    "bridge",
    "literal",
  ]);
  t.equal(parseOptions(["--help"]), undefined);
  t.throws(() => parseOptions(["--rounds", "0"]), /--rounds 0: a whole number/);
  t.throws(() => parseOptions(["--systems", "pigeon"]), /pigeon: unknown/);
  t.throws(() => parseOptions(["--fast"]), /--fast/);
  t.end();
});

/** A row with one figure, and what was measured. */
function burst(
  of: Partial<Record<SystemName, number[]>>,
  faults: string[] = [],
): Results {
  const row: Row = {
    name: "burst",
    isAimed: true,
    title: "burst: a test",
    systems: systemNames,
    wsProcesses: 1,
    sockets: 1,
    columns: [plain("CPU", "µs", "burstCpu")],
    measure: () => Promise.reject(new Error("not measured here")),
  };
  const rounds = Object.entries(of).map(
    ([name, values]) =>
      [
        name as SystemName,
        values.map((burstCpu) => ({ figures: { burstCpu }, faults })),
      ] as const,
  );
  return new Map([[row, new Map(rounds)]]);
}

t.test("a ratio is the median of the rounds' own ratios", (t) => {
  const results = burst({
    bridge: [9, 20, 30],
    literal: [10, 100, 100],
    "bridge-raw": [9, 10, 60],
  });
  const all = verdicts(results);
  t.match(all, [
    { value: 0.3, rounds: [0.9, 0.2, 0.3], aim: "≤ 0.42", reached: true },
    { value: 1, rounds: [1, 0.5, 2], aim: "< 1", reached: false },
  ]);
  t.equal(all.length, 2, "no ratio without the systems it compares");
  t.match(aimsPage(all), /aim ≤ 0.42 +reached\n.*aim < 1 +NOT reached$/);
  t.equal(medianOf([4, 1, 3, 2]), 2.5);
  t.end();
});

t.test("a system that lost a message is marked", (t) => {
  for (const [row, rounds] of burst({ publish: [1, 2] }, ["1 lost"])) {
    const text = rowPage(row, rounds);
    t.match(text, /^publish +2 +FAULTY$/m);
    t.match(text, /^FAULTY publish: round 2, 1 lost$/m);
  }
  t.end();
});

t.test("frames are read without being parsed", (t) => {
  const body = JSON.stringify(bodyOf(FIRST_NUMBER + 7));
  const head = '{"type":"message","id":"m_1",';
  const rest = `"contentType":"application/json","data":${body},"publishedAt":"x"}`;
  const number = FIRST_NUMBER + 7;
  t.strictSame(readBridge(`${head}"seq":12,${rest}`), { seq: 12, number });
  t.strictSame(
    readBridge(`${head}"group":"$all","epoch":"e","offset":34,${rest}`),
    { group: "$all", offset: "34", number },
  );
  t.equal(readBridge('{"type":"ping"}'), undefined);
  t.match(readBridge(`${head}"seq":1,"data":"else"}`), { number: undefined });
  t.strictSame(readSocketIo(`42["message",${body}]`), { number });
  t.strictSame(readSocketIo(`42["message",${body},"1-2"]`), {
    offset: "1-2",
    number,
  });
  t.end();
});

t.test("the first ack goes at once, the next one later for all", async (t) => {
  let written = 0;
  const both = new Promise<void>((resolve) => {
    const acks = new Acks(10, () => {
      if (++written === 2) resolve();
    });
    acks.due();
    t.equal(written, 1);
    acks.due();
    acks.due();
    t.equal(written, 1);
  });
  await both;
  t.equal(written, 2);
});

t.test("a jitter test is exact or says what it was not", (t) => {
  const spread = { samples: 1, p50: 1, p99: 1 };
  const exact: JitterResult = {
    accepted: 10_000,
    delivered: 10_000,
    duplicates: 0,
    inversions: 0,
    cuts: 1,
    reconnect: spread,
    replay: spread,
    faults: [],
  };
  t.ok(isExact(exact));
  for (const flaw of [
    { delivered: 9_999 },
    { duplicates: 1 },
    { inversions: 1 },
    { faults: ["1 answered 503"] },
  ])
    t.notOk(isExact({ ...exact, ...flaw }));
  const line = {
    ...{ clients: 100, messages: 100, perSecond: 2 },
    ...{ cutEveryMs: 15_000, awayMs: 2_000 },
  };
  const text = jitterPage(line, { ...exact, delivered: 9_999 });
  t.match(text, /^delivered +99\.9900 % \(9999 of 10000\)$/m);
  t.end();
});
