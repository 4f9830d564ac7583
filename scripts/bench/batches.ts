// The row `batch`: many messages in one POST, delivered to open sockets.
import { setTimeout as sleep } from "node:timers/promises";
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

export interface BatchesWorkload extends Pauses {
  connections: number;
  /** Counted; as many go before. */
  messages: number;
  items: number;
  publishers: number;
}

const OPENING_AT_ONCE = 20;

export function batchesRow(workload: BatchesWorkload): Row {
  const { connections, messages, items, publishers } = workload;
  return {
    name: "batch",
    isAimed: true,
    title: `batch: ${messages} messages of 200 bytes in batches of ${items}, ${publishers} at a time, over ${connections} connections`,
    systems: systemNames,
    wsProcesses: 1,
    sockets: connections,
    columns: [
      plain("batches", "delivered/s", "batchRate"),
      latencies("batches", "batch"),
      cpuColumn("CPU", "µs/delivered", "batchCpu"),
    ],
    measure: (stage) => measureBatches(stage, workload),
  };
}

async function measureBatches(
  stage: Stage,
  { connections, trailingMs, ...batches }: BatchesWorkload,
): Promise<Measured> {
  const targets = await stage.targets(connections);
  await stage.load("open", { targets, atOnce: OPENING_AT_ONCE });
  const run = () =>
    stage.during(async () => {
      const result = await stage.load("batches", batches);
      await sleep(trailingMs);
      return result;
    });
  const warmUp = await run();
  const { result, cpu } = await run();
  return {
    figures: {
      ...phaseFigures("batch", result),
      ...cpuFigures("batchCpu", cpu, result.delivered),
    },
    faults: [...warmUp.result.faults, ...result.faults],
  };
}
