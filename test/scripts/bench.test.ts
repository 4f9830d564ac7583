// The bench as a smoke test: it runs, its figures are figures, and it leaves nothing behind. How fast anything is, is
// never asserted here.

import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";

import t from "tap";

import {
  casters,
  castPage,
  castRatio,
  checkRoom,
  type CastRound,
} from "../../scripts/bench/cast.js";
import { parseOptions } from "../../scripts/bench/options.js";
import { medianOf, page, ratios } from "../../scripts/bench/report.js";
import type { GatewayRound } from "../../scripts/bench/gateway.js";
import {
  isExact,
  jitterPage,
  type JitterResult,
} from "../../scripts/bench/jitter.js";
import type { Figures, Measured } from "../../scripts/bench/measure.js";
import { startProcess } from "../../scripts/lab/processes.js";
import { until } from "../../scripts/lab/until.js";

/** More than a quick run needs on a busy machine, ms. */
const QUICK_RUN_MS = 120_000;

/** A quick run of these parts, and where it leaves its figures. What it leaves behind besides would be found in `dir`. */
async function quick(only: string) {
  const dir = await mkdtemp(path.join(tmpdir(), "bench-test-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const json = path.join(dir, "result.json");
  const bench = await startProcess(t, {
    args: [
      "dist/scripts/bench.js",
      ...["--quick", "--only", only],
      ...["--json", json],
    ],
    env: { TMPDIR: dir },
  });
  return { dir, json, bench };
}

/** Side by side, since most of a quick run is waiting and nobody looks at how fast it was. */
const runs = {
  systems: await quick("bridge,publish"),
  parts: await quick("gateway,jitter"),
  broadcast: await quick("broadcast"),
};

t.test("a quick run delivers everything and fills the table", async (t) => {
  const { dir, json, bench } = runs.systems;
  await bench.waitForLine(/^publish .* exact$/, QUICK_RUN_MS);
  t.same(await bench.exited, { code: 0, signal: null });

  const result = JSON.parse(await readFile(json, "utf8")) as {
    machine: string[];
    rounds: Record<"bridge" | "publish", Measured[]>;
    ratios: unknown[];
  };
  t.match(result.machine[0], /cores.*Node.*Redis/);
  t.same(result.ratios, [], "no ratio without the systems it compares");
  for (const system of ["bridge", "publish"] as const) {
    t.equal(result.rounds[system].length, 1);
    const [measured] = result.rounds[system];
    t.same(measured?.faults, [], `${system} delivers everything, in order`);
    for (const [name, figure] of Object.entries(measured?.figures ?? {})) {
      t.ok(Number.isFinite(figure), `${name} of ${system} is a number`);
    }
  }
  t.equal(result.rounds.publish[0]?.figures.redisConnections, 2);
  t.same(await readdir(dir), ["result.json"], "Redis' directories are gone");
});

t.test("the gateway and bad lines are measured", async (t) => {
  const { dir, json, bench } = runs.parts;
  await bench.waitForLine(/^one by one p50, gateway/, QUICK_RUN_MS);
  await bench.waitForLine(/^delivered +100 % \(400 of 400\)$/, QUICK_RUN_MS);
  t.same(await bench.exited, { code: 0, signal: null });
  const result = JSON.parse(await readFile(json, "utf8")) as {
    gateway: GatewayRound[];
    jitter: JitterResult;
  };
  const [round] = result.gateway;
  t.ok(Number.isFinite(round?.cold));
  for (const way of [round?.direct, round?.gateway])
    for (const figure of Object.values(way ?? { none: NaN }))
      t.ok(Number.isFinite(figure));
  const { jitter } = result;
  t.match(jitter, { duplicates: 0, inversions: 0, faults: [] });
  t.ok(jitter.cuts > 0, `${jitter.cuts} cuts`);
  t.ok(Number.isFinite(jitter.reconnect.p99));
  t.same(await readdir(dir), ["result.json"], "its folder is gone");
});

t.test("one message is cast to many sockets, by both systems", async (t) => {
  const { dir, json, bench } = runs.broadcast;
  await bench.waitForLine(/^CPU per socket, acks /, QUICK_RUN_MS);
  t.same(await bench.exited, { code: 0, signal: null });
  const { cast } = JSON.parse(await readFile(json, "utf8")) as {
    cast: Record<string, CastRound[]>;
  };
  const [round] = cast["40"] ?? [];
  for (const caster of casters) {
    const { faults, ...figures } = round?.[caster] ?? { faults: ["none"] };
    t.same(faults, [], `${caster}: every socket has every message once`);
    for (const [name, figure] of Object.entries(figures))
      t.ok(Number.isFinite(figure), `${name} of ${caster} is a number`);
  }
  t.same(await readdir(dir), ["result.json"], "its folder is gone");
});

t.test("a machine that is too small for so many sockets is told", async (t) => {
  await t.rejects(checkRoom(10_000_000), /10000000 sockets need /);
});

t.test("a broadcast that a socket did not get is a fault", (t) => {
  const figures = {
    ...{
      last: 2,
      best: 2,
      p50: 1,
      cpu: 1,
      cpuServers: 1,
      cpuRedis: 0,
      idle: 0,
    },
    faults: [] as string[],
  };
  const round = (last: number, faults: string[] = []): CastRound => ({
    raw: { ...figures, last, faults },
    acks: figures,
    "socket.io": { ...figures, last: 4 },
  });
  const rounds = [round(2), round(8), round(4, ["1 lost"])];
  t.same(castRatio(rounds, "raw", "last"), { ratio: 1, each: [0.5, 2, 1] });
  const page = castPage(new Map([[9, rounds]]));
  t.match(page, /^FAULTY .*raw sockets, 9 sockets, round 3: 1 lost$/m);
  t.match(page, /^until the last has it, raw .* 9 sockets +1\.00 .*reached$/m);
  t.end();
});

t.test("an option that means nothing is one clear line", async (t) => {
  const bench = await startProcess(t, {
    args: ["dist/scripts/bench.js", "--only", "pigeon"],
  });
  await bench.waitForLine(/^bench: --only pigeon: unknown; choose from bridge/);
  t.same(await bench.exited, { code: 2, signal: null });
});

t.test("a bench that is told to stop leaves nothing behind", async (t) => {
  const dir = await mkdtemp(path.join(tmpdir(), "bench-test-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const bench = await startProcess(t, {
    args: ["dist/scripts/bench.js", "--quick", "--only", "publish"],
    env: { TMPDIR: dir },
  });
  const redisDir = await until(async () => (await readdir(dir))[0]);
  bench.kill("SIGTERM");
  t.same(await bench.exited, { code: 1, signal: null });
  t.same(await readdir(dir), [], `${redisDir} is gone`);
});

t.test("options have defaults, and --quick smaller ones", (t) => {
  t.match(parseOptions([]), {
    only: ["bridge", "literal", "publish", "durable"],
    rounds: 3,
    messages: 20_000,
    sockets: 1_000,
    appendOnly: false,
  });
  t.match(parseOptions(["--quick", "--messages", "7"]), {
    rounds: 1,
    messages: 7,
    sockets: 100,
  });
  t.equal(parseOptions([])?.jitter, undefined, "it takes a minute");
  t.match(parseOptions(["--only", "jitter", "--clients", "9"]), {
    only: [],
    jitter: { clients: 9, messages: 120, perSecond: 2, awayMs: 2_000 },
  });
  t.match(parseOptions(["--only", "broadcast"]), {
    only: [],
    cast: { rounds: 3, sockets: [1_000, 5_000] },
  });
  t.equal(parseOptions(["--help"]), undefined);
  t.throws(() => parseOptions(["--rounds", "0"]), /--rounds 0: a whole number/);
  t.throws(() => parseOptions(["--fast"]), /--fast/);
  t.end();
});

t.test("a ratio is the median of the rounds' own ratios", (t) => {
  const rounds = new Map([
    ["bridge" as const, [9, 20, 30].map(atRate)],
    ["literal" as const, [10, 10, 10].map(atRate)],
  ]);
  t.match(ratios(rounds), [
    { ratio: 2, rounds: [0.9, 2, 3], aim: "≥ 2", reached: true },
    { ratio: 1, aim: "≤ 0.45", reached: false },
  ]);
  t.match(page(rounds), /aim ≥ 2 +reached\n.*aim ≤ 0.45 +NOT reached$/);
  t.equal(medianOf([4, 1, 3, 2]), 2.5);
  t.end();
});

t.test("a system that lost a message is marked", (t) => {
  const lossy: Measured = { ...atRate(1), faults: ["loaded: 1 lost"] };
  const text = page(new Map([["publish", [atRate(1), lossy]]]));
  t.match(text, /^publish .* FAULTY$/m);
  t.match(text, /^FAULTY publish: round 2, loaded: 1 lost$/m);
  t.end();
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

function atRate(messagesPerSecond: number): Measured {
  const figures: Figures = {
    idleP50: 1,
    idleP99: 1,
    idleCpu: 1,
    firstP50: 1,
    firstP99: 1,
    messagesPerSecond,
    loadedP50: 1,
    loadedP99: 1,
    cpu: 1,
    cpuHttp: 1,
    cpuWs: 1,
    cpuRedis: 1,
    kilobytesPerSocket: 1,
    redisConnections: 1,
  };
  return { figures, faults: [] };
}
