// One round of one system: fresh processes for the idle sockets, fresh ones again for the messages, all figures out.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { ask } from "../resp.js";
import type { PhaseResult } from "./book.js";
import type { Order } from "./load-main.js";
import { carryOut } from "./orders.js";
import {
  cpuMicroseconds,
  residentBytes,
  type Processes,
  type RoundRedis,
} from "./processes.js";
import { startSystem, type Pair, type SystemName } from "./systems.js";

export interface Workload {
  /** Connections that messages go to. */
  connections: number;
  publishers: number;
  /** Messages of the loaded phase. */
  messages: number;
  /** Messages of the idle phase, one at a time. */
  idleSamples: number;
  /** Open sockets without traffic, for memory and Redis connections. */
  sockets: number;
  appendOnly: boolean;
  /** Directory for a CPU profile of each server process and Redis' command statistics, if wanted. */
  profiles: string | undefined;
}

/** Milliseconds, microseconds of CPU per message, kilobytes; NaN where nothing could be measured. */
export interface Figures {
  idleP50: number;
  idleP99: number;
  idleCpu: number;
  /** The first message after a second of silence. */
  firstP50: number;
  firstP99: number;
  messagesPerSecond: number;
  loadedP50: number;
  loadedP99: number;
  /** Sum of the three below. */
  cpu: number;
  cpuHttp: number;
  cpuWs: number;
  cpuRedis: number;
  kilobytesPerSocket: number;
  redisConnections: number;
}

export interface Measured {
  figures: Figures;
  faults: string[];
}

/** Quiet time before the first-message phase, and before memory is read: what was going on has ended by then. */
const QUIET_MS = 1_000;
/** CPU is read this long after the last arrival: acks and clean-up belong to the messages that caused them. */
const TRAILING_MS = 500;
/** As many messages are sent before the loaded phase as in it: with a quarter, an eighth of the CPU was still the JIT compiler. */
const WARM_UP = 1;

/** Measures one system once. The caller stops `processes` when this rejects. */
export async function measure(
  system: SystemName,
  workload: Workload,
  processes: Processes,
): Promise<Measured> {
  const sockets = await idleSockets(system, workload, processes);
  await processes.stop();
  const traffic = await messages(system, workload, processes);
  await processes.stop();
  return {
    figures: { ...sockets, ...traffic.figures },
    faults: traffic.faults,
  };
}

interface Setting extends Pair {
  redis: RoundRedis;
  order: (order: Order) => Promise<PhaseResult | null>;
}

async function setUp(
  system: SystemName,
  { appendOnly, profiles }: Workload,
  processes: Processes,
): Promise<Setting> {
  if (profiles !== undefined) await mkdir(profiles, { recursive: true });
  const redis = await processes.startRedis(appendOnly);
  const pair = await startSystem(system, processes, {
    redisUrl: redis.url,
    profiles,
  });
  const load = await processes.startNode({
    name: "load generator",
    args: [fileURLToPath(new URL("./load-main.js", import.meta.url))],
    ready: /^ready$/m,
    ipc: true,
  });
  const order = (order: Order): Promise<PhaseResult | null> =>
    carryOut(load.child, order);
  await order({ do: "aim", pushing: pair.pushing });
  return { ...pair, redis, order };
}

async function idleSockets(
  system: SystemName,
  workload: Workload,
  processes: Processes,
): Promise<Pick<Figures, "kilobytesPerSocket" | "redisConnections">> {
  const { ws, redis, order, targets } = await setUp(
    system,
    workload,
    processes,
  );
  // The first tenth loads code and grows pools: its memory is not counted.
  const first = Math.ceil(workload.sockets / 10);
  const all = await targets(workload.sockets);
  await order({ do: "open", targets: all.slice(0, first) });
  await sleep(QUIET_MS);
  const before = await residentBytes(ws.pid);
  await order({ do: "open", targets: all.slice(first) });
  await sleep(QUIET_MS);
  const growth = (await residentBytes(ws.pid)) - before;
  return {
    kilobytesPerSocket: growth / 1_024 / (workload.sockets - first),
    redisConnections: await countRedisConnections(redis.port),
  };
}

async function messages(
  system: SystemName,
  workload: Workload,
  processes: Processes,
): Promise<{
  figures: Omit<Figures, "kilobytesPerSocket" | "redisConnections">;
  faults: string[];
}> {
  const { http, ws, redis, order, targets } = await setUp(
    system,
    workload,
    processes,
  );
  const { connections, publishers, idleSamples } = workload;
  const faults: string[] = [];
  const run = async (
    phase: string,
    messages: number,
    publishers: number,
  ): Promise<PhaseResult> => {
    const result = await order({ do: "run", messages, publishers });
    if (result === null) throw new Error("the load generator has no result");
    faults.push(...result.faults.map((fault) => `${phase}: ${fault}`));
    return result;
  };
  const cpu = (): Promise<number[]> =>
    Promise.all([http, ws, redis].map(({ pid }) => cpuMicroseconds(pid)));
  /** CPU per message of a phase, trailing work included: http, ws, Redis. */
  const withCpu = async (
    phase: Promise<PhaseResult>,
    before: number[],
  ): Promise<[PhaseResult, number, number, number]> => {
    const result = await phase;
    await sleep(TRAILING_MS);
    const after = await cpu();
    const [http = NaN, ws = NaN, redis = NaN] = after.map(
      (time, index) => (time - (before[index] ?? NaN)) / result.accepted,
    );
    return [result, http, ws, redis];
  };

  await order({ do: "open", targets: await targets(connections) });
  await run("warm-up", Math.ceil(workload.messages * WARM_UP), publishers);
  await sleep(QUIET_MS);
  const first = await run("first message", connections, 1);
  await sleep(TRAILING_MS);
  const beforeIdle = await cpu();
  const [idle, ...idleCpu] = await withCpu(
    run("idle", idleSamples, 1),
    beforeIdle,
  );
  const beforeLoad = await cpu();
  const [loaded, cpuHttp, cpuWs, cpuRedis] = await withCpu(
    run("loaded", workload.messages, publishers),
    beforeLoad,
  );
  if (workload.profiles !== undefined) {
    const stats = String(await ask(redis.port, "INFO", "commandstats"));
    await writeFile(join(workload.profiles, `${system}-redis.txt`), stats);
  }
  return {
    figures: {
      idleP50: idle.p50,
      idleP99: idle.p99,
      idleCpu: idleCpu.reduce((sum, part) => sum + part, 0),
      firstP50: first.p50,
      firstP99: first.p99,
      messagesPerSecond: loaded.accepted / loaded.seconds,
      loadedP50: loaded.p50,
      loadedP99: loaded.p99,
      cpu: cpuHttp + cpuWs + cpuRedis,
      cpuHttp,
      cpuWs,
      cpuRedis,
    },
    faults,
  };
}

async function countRedisConnections(port: number): Promise<number> {
  const list = String(await ask(port, "CLIENT", "LIST"));
  return list.trim().split("\n").length - 1; // without the one that asks
}
