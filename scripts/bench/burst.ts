// The row `burst`: many messages over few connections, flat out; and on the same connections one message at a time.
import { setTimeout as sleep } from "node:timers/promises";
import type { PhaseResult } from "./book.js";
import {
  cpuColumn,
  cpuFigures,
  latencies,
  plain,
  type Measured,
  type Pauses,
  type Row,
} from "./row.js";
import type { Stage } from "./stage.js";
import { systemNames } from "./systems.js";
import { phaseFigures } from "./wide.js";

export interface BurstWorkload extends Pauses {
  connections: number;
  publishers: number;
  /** Flat out; as many go before, which are not counted: with a quarter, an eighth of the CPU was still the JIT compiler. */
  messages: number;
  /** One at a time. */
  samples: number;
}

const OPENING_AT_ONCE = 20;

export function burstRow(workload: BurstWorkload): Row {
  const { connections, publishers, messages, samples } = workload;
  return {
    name: "burst",
    isAimed: true,
    title:
      `burst: ${messages} messages of 200 bytes, ${publishers} publishers, ${connections} connections; ` +
      `one by one: ${samples} messages; first: after a moment of silence`,
    systems: systemNames,
    wsProcesses: 1,
    sockets: connections,
    columns: [
      plain("burst", "delivered/s", "burstRate"),
      latencies("burst", "burst"),
      cpuColumn("CPU", "µs/delivered", "burstCpu"),
      latencies("one by one", "single"),
      cpuColumn("CPU", "µs/delivered", "singleCpu"),
      latencies("first", "first"),
    ],
    measure: (stage) => measureBurst(stage, workload),
  };
}

async function measureBurst(
  stage: Stage,
  workload: BurstWorkload,
): Promise<Measured> {
  const { connections, publishers, messages, samples } = workload;
  const targets = await stage.targets(connections);
  await stage.load("open", { targets, atOnce: OPENING_AT_ONCE });
  const faults: string[] = [];
  const run = (name: string, messages: number, publishers: number) =>
    stage.during<PhaseResult>(async () => {
      const result = await stage.load("post", { messages, publishers });
      await sleep(workload.trailingMs);
      faults.push(...result.faults.map((fault) => `${name}: ${fault}`));
      return result;
    });
  await run("warm-up", messages, publishers);
  await sleep(workload.quietMs);
  const first = await run("first", connections, 1);
  const single = await run("one by one", samples, 1);
  const burst = await run("burst", messages, publishers);
  return {
    figures: {
      ...phaseFigures("first", first.result),
      ...phaseFigures("single", single.result),
      ...cpuFigures("singleCpu", single.cpu, single.result.delivered),
      ...phaseFigures("burst", burst.result),
      ...cpuFigures("burstCpu", burst.cpu, burst.result.delivered),
    },
    faults,
  };
}
