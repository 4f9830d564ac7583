// The row `wide`: messages spread evenly over thousands of connections, each one to the next; flat out, and in two steady rhythms.
import { setTimeout as sleep } from "node:timers/promises";
import type { PhaseResult } from "./book.js";
import type { Posting } from "./load.js";
import {
  cpuColumn,
  cpuFigures,
  latencies,
  plain,
  type Column,
  type Figures,
  type Measured,
  type Pauses,
  type Row,
} from "./row.js";
import type { Stage } from "./stage.js";
import { systemNames } from "./systems.js";

export interface WideWorkload extends Pauses {
  connections: number;
  publishers: number;
  /** Flat out: at most so many, and no longer than this. */
  messages: number;
  forMs: number;
  /** In a steady rhythm: so many a second. */
  rates: readonly [low: number, high: number];
  /** How long a rhythm is kept. */
  pacedMs: number;
}

/** Sockets that are opened at the same time. */
const OPENING_AT_ONCE = 50;

export function wideRow(workload: WideWorkload): Row {
  return spread(workload, {
    name: "wide",
    isAimed: true,
    systems: systemNames,
    wsProcesses: 1,
  });
}

/** The row `scale`: the same of the bridge, whose connections are spread over so many WebSocket processes. */
export function scaleRow(
  workload: WideWorkload,
  { wsProcesses, redisMasters }: Pick<Row, "wsProcesses" | "redisMasters">,
): Row {
  return spread(workload, {
    name: "scale",
    isAimed: false,
    systems: ["bridge", "bridge-raw"],
    wsProcesses,
    ...(redisMasters && { redisMasters }),
  });
}

function spread(
  workload: WideWorkload,
  form: Pick<
    Row,
    "name" | "isAimed" | "systems" | "wsProcesses" | "redisMasters"
  >,
): Row {
  const { connections, publishers, messages, rates } = workload;
  const { name, wsProcesses, redisMasters = 1 } = form;
  return {
    ...form,
    title:
      `${name}: 200 bytes each to the next of ${connections} connections on ${wsProcesses} WebSocket process(es) and ${redisMasters === 1 ? "one Redis" : "a Cluster of three masters"}, ${publishers} publishers; ` +
      `saturated (at most ${messages}), and paced at ${rates[0]}/s and ${rates[1]}/s`,
    sockets: connections,
    columns: [
      ...phase("saturated", "saturated"),
      ...phase(`paced ${rates[0]}/s`, "low"),
      ...phase(`paced ${rates[1]}/s`, "high"),
    ],
    measure: (stage) => measureWide(stage, workload),
  };
}

function phase(title: string, figure: string): Column[] {
  return [
    plain(title, "delivered/s", `${figure}Rate`),
    latencies(title, figure),
    cpuColumn("CPU", "µs/delivered", `${figure}Cpu`),
  ];
}

async function measureWide(
  stage: Stage,
  workload: WideWorkload,
): Promise<Measured> {
  const { connections, publishers, messages, forMs, rates, pacedMs } = workload;
  const targets = await stage.targets(connections);
  await stage.load("open", { targets, atOnce: OPENING_AT_ONCE });
  const faults: string[] = [];
  const figures: Figures = {};
  const run = async (name: string, posting: Posting): Promise<void> => {
    const { result, cpu } = await stage.during(async () => {
      const result = await stage.load("post", posting);
      await sleep(workload.trailingMs);
      return result;
    });
    faults.push(...result.faults.map((fault) => `${name}: ${fault}`));
    Object.assign(figures, phaseFigures(name, result));
    Object.assign(figures, cpuFigures(`${name}Cpu`, cpu, result.delivered));
  };
  const paced = (perSecond: number): Posting => ({
    messages: Math.ceil((perSecond * pacedMs) / 1_000),
    publishers,
    perSecond,
    forMs: pacedMs + forMs,
  });
  // One message to each: code gets hot, and what belongs to a connection's first message is there.
  await run("warmUp", { messages: connections, publishers, forMs });
  await run("low", paced(rates[0]));
  await run("high", paced(rates[1]));
  await run("saturated", { messages, publishers, forMs });
  return { figures, faults };
}

/** What a phase of posting gives. */
export function phaseFigures(name: string, result: PhaseResult): Figures {
  return {
    [`${name}Rate`]: result.delivered / result.seconds,
    [`${name}P50`]: result.p50,
    [`${name}P99`]: result.p99,
  };
}
