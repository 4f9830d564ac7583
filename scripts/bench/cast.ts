// One broadcast to many sockets: this bridge beside Socket.IO with its Redis adapter, in turns. Both have two processes with
// half of the sockets each, one Redis between them, and one POST that reaches all. The audience is the same for both.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { ask } from "../resp.js";
import type { CastResult, Speech } from "./cast-load.js";
import type { CastOrder } from "./cast-load-main.js";
import type { Dial } from "./cast-socket.js";
import type { Pushing } from "./load.js";
import { carryOut } from "./orders.js";
import { cpuMicroseconds, type Processes, type Running } from "./processes.js";
import { aligned, medianOf } from "./report.js";
import { node, portOf, startBridge, type Surroundings } from "./systems.js";

export const casters = ["raw", "acks", "socket.io"] as const;
export type Caster = (typeof casters)[number];

const titles: Record<Caster, string> = {
  raw: "this bridge, raw sockets",
  acks: "this bridge, bridge.v1.json",
  "socket.io": "Socket.IO, Redis adapter",
};

export interface CastWorkload {
  rounds: number;
  /** Numbers of sockets, one after the other. */
  sockets: readonly number[];
  /** Broadcasts that are measured, and as many before them that are not. */
  casts: number;
  /** How long the sockets are watched doing nothing: a few renewals of every lease. */
  idleMs: number;
  profiles: string | undefined;
}

/** Of one system with one number of sockets in one round; medians over its broadcasts where nothing else is said. */
export interface CastFigures {
  /** From before the POST until the last socket has it, milliseconds. */
  last: number;
  /** The quickest of its broadcasts: what others do on the machine at the same time counts least here. */
  best: number;
  /** The same as `last`, until half of them have it. */
  p50: number;
  /** Microseconds of all server processes and Redis for each socket, above what they take anyway. */
  cpu: number;
  cpuServers: number;
  cpuRedis: number;
  /** What they take anyway with these sockets open: thousandths of a core. */
  idle: number;
  faults: string[];
}

export type CastRound = Record<Caster, CastFigures>;
/** By number of sockets, one entry for each round. */
export type CastRounds = Map<number, CastRound[]>;

const WS_PROCESSES = 2;
/** After a broadcast: acks, counts of receipts and what else belongs to it has ended by then. */
const TRAILING_MS = 300;
/** Files a process needs besides its sockets. */
const OTHER_FILES = 100;
/** What a socket takes in all processes together, rounded up. */
const SOCKET_BYTES = 200_000;

/** A started system, ready for sockets. */
interface Started {
  servers: Running[];
  pushing: Pushing;
  speech: Speech;
  dials: Dial[];
}

/** Measures every system once with each number of sockets. The caller stops `processes` when this rejects. */
export async function measureCast(
  workload: CastWorkload,
  sockets: number,
  processes: Processes,
): Promise<CastRound> {
  const round: Partial<CastRound> = {};
  for (const caster of casters) {
    round[caster] = await measureOne(caster, workload, sockets, processes);
    await processes.stop();
  }
  return round as CastRound;
}

/** Throws when the machine cannot hold so many sockets: figures of refused sockets would be none. */
export async function checkRoom(sockets: number): Promise<void> {
  const limits = await readFile("/proc/self/limits", "latin1");
  const files = Number(/^Max open files +(\d+)/m.exec(limits)?.[1] ?? Infinity);
  if (files < sockets + OTHER_FILES)
    throw new Error(
      `${sockets} sockets need "ulimit -n" of ${sockets + OTHER_FILES} or more; it is ${files}`,
    );
  const memory = await readFile("/proc/meminfo", "latin1");
  const free = Number(/^MemAvailable: +(\d+) kB/m.exec(memory)?.[1]) * 1_024;
  if (free < sockets * SOCKET_BYTES)
    throw new Error(
      `${sockets} sockets need about ${Math.ceil((sockets * SOCKET_BYTES) / 1e6)} MB; ${Math.floor(free / 1e6)} MB are free`,
    );
}

async function measureOne(
  caster: Caster,
  { casts, idleMs, profiles }: CastWorkload,
  sockets: number,
  processes: Processes,
): Promise<CastFigures> {
  if (profiles !== undefined) await mkdir(profiles, { recursive: true });
  const redis = await processes.startRedis(false);
  const surroundings = { redisUrl: redis.url, profiles };
  const { servers, ...rest } = await (caster === "socket.io"
    ? startSocketIo(processes, surroundings, sockets)
    : startOurs(caster, processes, surroundings, sockets));
  const load = await processes.startNode({
    name: "audience",
    args: [fileURLToPath(new URL("./cast-load-main.js", import.meta.url))],
    ready: /^ready$/m,
    ipc: true,
  });
  const order = (order: CastOrder): Promise<CastResult | null> =>
    carryOut(load.child, order);
  await order({ do: "open", path: "/v1/broadcast", ...rest });
  const faults: string[] = [];
  const cast = async (): Promise<CastResult> => {
    const result = await order({ do: "cast" });
    if (result === null) throw new Error("the audience has no result");
    faults.push(...result.faults);
    return result;
  };
  const cpu = async (): Promise<[servers: number, redis: number]> => {
    const times = await Promise.all(
      servers.map(({ pid }) => cpuMicroseconds(pid)),
    );
    return [
      times.reduce((sum, time) => sum + time, 0),
      await cpuMicroseconds(redis.pid),
    ];
  };
  /** CPU, servers and Redis, that `work` took, and how long it was; milliseconds. */
  const during = async (work: () => Promise<unknown>) => {
    const before = await cpu();
    const startedAt = performance.now();
    await work();
    const ms = performance.now() - startedAt;
    const after = await cpu();
    return {
      ms,
      servers: (after[0] - before[0]) / 1_000,
      redis: (after[1] - before[1]) / 1_000,
    };
  };

  for (let warmUp = 0; warmUp < casts; warmUp++) {
    await cast();
    await sleep(TRAILING_MS);
  }
  const idle = await during(() => sleep(idleMs));
  const results: CastResult[] = [];
  const busy = await during(async () => {
    for (let measured = 0; measured < casts; measured++) {
      results.push(await cast());
      await sleep(TRAILING_MS);
    }
  });
  if (profiles !== undefined) {
    const stats = String(await ask(redis.port, "INFO", "commandstats"));
    await writeFile(join(profiles, `cast-${caster}-redis.txt`), stats);
  }
  const above = (part: "servers" | "redis"): number =>
    ((busy[part] - (idle[part] * busy.ms) / idle.ms) * 1_000) /
    (casts * sockets);
  return {
    last: medianOf(results.map(({ last }) => last)),
    best: Math.min(...results.map(({ last }) => last)),
    p50: medianOf(results.map(({ p50 }) => p50)),
    cpu: above("servers") + above("redis"),
    cpuServers: above("servers"),
    cpuRedis: above("redis"),
    idle: ((idle.servers + idle.redis) / idle.ms) * 1_000,
    faults,
  };
}

/** As shipped: API key, receipts, logging; every connection is prepared, with a token of its own. */
async function startOurs(
  caster: "raw" | "acks",
  processes: Processes,
  surroundings: Surroundings,
  sockets: number,
): Promise<Started> {
  const bridge = await startBridge(processes, surroundings, WS_PROCESSES);
  const { http, wsFns, pushing } = bridge;
  const targets = await bridge.targets(sockets);
  const protocol =
    caster === "acks" ? "Sec-WebSocket-Protocol: bridge.v1.json\r\n" : "";
  return {
    servers: [http, ...wsFns],
    pushing,
    speech: caster === "acks" ? "bridge.v1.json" : "raw",
    dials: targets.map(({ protocols }, index) => ({
      port: portOf(ofTurn(wsFns, index)),
      path: "/ws",
      headers: `${protocol}Authorization: Bearer ${protocols[1]?.replace(/^bearer\./, "")}\r\n`,
    })),
  };
}

async function startSocketIo(
  processes: Processes,
  surroundings: Surroundings,
  sockets: number,
): Promise<Started> {
  const script = fileURLToPath(new URL("./socketio.js", import.meta.url));
  const servers: Running[] = [];
  while (servers.length < WS_PROCESSES)
    servers.push(
      await processes.startNode(
        node(
          `socketio-${servers.length + 1}`,
          [script],
          { REDIS_URL: surroundings.redisUrl },
          surroundings,
        ),
      ),
    );
  return {
    servers,
    pushing: { port: portOf(ofTurn(servers, 0)), headers: "" },
    speech: "socket.io",
    dials: Array.from({ length: sockets }, (_, index) => ({
      port: portOf(ofTurn(servers, index)),
      path: "/socket.io/?EIO=4&transport=websocket",
      headers: "",
    })),
  };
}

function ofTurn<T>(all: readonly T[], index: number): T {
  return all[index % all.length] as T;
}

/** Median over the rounds of this bridge's figure divided by Socket.IO's in the same round, and all of them. */
export function castRatio(
  rounds: readonly CastRound[],
  caster: Caster,
  figure: "last" | "best" | "cpu",
): { ratio: number; each: number[] } {
  const each = rounds.map(
    (round) => round[caster][figure] / round["socket.io"][figure],
  );
  return { ratio: medianOf(each), each };
}

export function castFaults(rounds: CastRounds): string[] {
  return [...rounds].flatMap(([sockets, all]) =>
    all.flatMap((round, index) =>
      casters.flatMap((caster) =>
        round[caster].faults.map(
          (fault) =>
            `${titles[caster]}, ${sockets} sockets, round ${index + 1}: ${fault}`,
        ),
      ),
    ),
  );
}

/** The page's part about broadcasts. */
export function castPage(rounds: CastRounds): string {
  const rows: string[][] = [
    [
      "one broadcast",
      "sockets",
      "last has it, ms (quickest)",
      "half have it, ms",
      "CPU = servers + Redis, µs/socket",
      "idle, ‰ of a core",
    ],
  ];
  const verdicts: string[][] = [];
  for (const [sockets, all] of rounds) {
    for (const caster of casters) {
      const median = (figure: Exclude<keyof CastFigures, "faults">): number =>
        medianOf(all.map((round) => round[caster][figure]));
      rows.push([
        titles[caster],
        String(sockets),
        `${median("last").toFixed(1)} (${median("best").toFixed(1)})`,
        median("p50").toFixed(1),
        `${median("cpu").toFixed(1)} = ${median("cpuServers").toFixed(1)} + ${median("cpuRedis").toFixed(1)}`,
        median("idle").toFixed(0),
      ]);
      if (caster === "socket.io") continue;
      for (const [figure, words] of [
        ["last", "until the last has it"],
        ["best", "the same, quickest"],
        ["cpu", "CPU per socket"],
      ] as const) {
        const { ratio, each } = castRatio(all, caster, figure);
        verdicts.push([
          `${words}, ${caster} / Socket.IO, ${sockets} sockets`,
          ratio.toFixed(2),
          `(${each.map((one) => one.toFixed(2)).join(", ")})`,
          "aim ≤ 1",
          ratio <= 1 ? "reached" : "NOT reached",
        ]);
      }
    }
  }
  return [
    ...aligned(rows),
    ...aligned(verdicts),
    ...castFaults(rounds).map((fault) => `FAULTY ${fault}`),
  ].join("\n");
}
