// The row `broadcast`: one POST to all sockets, which two WebSocket processes hold by halves.
import { setTimeout as sleep } from "node:timers/promises";
import type { CastResult } from "./cast-load.js";
import { medianOf } from "./medians.js";
import { plain, type Measured, type Pauses, type Row } from "./row.js";
import type { Cpu, Stage } from "./stage.js";
import { systemNames } from "./systems.js";

export interface CastWorkload extends Pauses {
  sockets: number;
  /** Broadcasts that are measured, and as many before them that are not. */
  casts: number;
  /** How long the sockets are watched doing nothing: a few renewals of every lease. */
  idleMs: number;
  isAimed: boolean;
}

const OPENING_AT_ONCE = 50;

export function castRow(workload: CastWorkload): Row {
  const { sockets, casts, isAimed } = workload;
  return {
    name: "broadcast",
    isAimed,
    title: `broadcast: ${casts} broadcasts of 200 bytes to ${sockets} sockets on two WebSocket processes; CPU is that above what they take anyway`,
    systems: systemNames,
    wsProcesses: 2,
    sockets,
    columns: [
      plain("last has it", "ms", "last", 1),
      plain("quickest", "ms", "best", 1),
      plain("half have it", "ms", "p50", 1),
      {
        title: "CPU = http + ws + Redis",
        unit: "µs/socket",
        cell: (median) =>
          `${median("cpu").toFixed(1)} = ${["Http", "Ws", "Redis"].map((part) => median(`cpu${part}`).toFixed(1)).join(" + ")}`,
      },
      plain("acks", "a broadcast and socket", "acks", 2),
    ],
    measure: (stage) => measureCast(stage, workload),
  };
}

async function measureCast(
  stage: Stage,
  { sockets, casts, idleMs, trailingMs }: CastWorkload,
): Promise<Measured> {
  const targets = await stage.targets(sockets);
  await stage.load("open", { targets, atOnce: OPENING_AT_ONCE });
  const results: CastResult[] = [];
  const faults: string[] = [];
  const castAll = async (): Promise<void> => {
    results.length = 0;
    for (let count = 0; count < casts; count++) {
      const result = await stage.load("cast", null);
      faults.push(...result.faults);
      results.push(result);
      await sleep(trailingMs);
    }
  };
  await castAll();
  const idle = await stage.during(() => sleep(idleMs));
  const busy = await stage.during(castAll);
  const above = (part: keyof Cpu): number =>
    (busy.cpu[part] - (idle.cpu[part] * busy.ms) / idle.ms) / (casts * sockets);
  const [cpuHttp, cpuWs, cpuRedis] = [
    above("http"),
    above("ws"),
    above("redis"),
  ];
  const last = results.map(({ last }) => last);
  return {
    figures: {
      last: medianOf(last),
      best: Math.min(...last),
      p50: medianOf(results.map(({ p50 }) => p50)),
      cpu: cpuHttp + cpuWs + cpuRedis,
      cpuHttp,
      cpuWs,
      cpuRedis,
      acks:
        results.reduce((sum, { acks }) => sum + acks, 0) / (casts * sockets),
    },
    faults,
  };
}
