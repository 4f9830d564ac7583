// The row `connect`: a storm of new connections, so many handshakes at a time.
import { setTimeout as sleep } from "node:timers/promises";
import { plain, type Measured, type Pauses, type Row } from "./row.js";
import type { Stage } from "./stage.js";
import { systemNames } from "./systems.js";

export interface ConnectWorkload extends Pauses {
  sockets: number;
  /** Handshakes under way at a time. */
  atOnce: number;
}

export function connectRow(workload: ConnectWorkload): Row {
  const { sockets, atOnce } = workload;
  return {
    name: "connect",
    isAimed: true,
    title:
      `connect: ${sockets} new connections, at most ${atOnce} handshakes at a time, until messages flow to each; ` +
      "those of the bridge are prepared over HTTP before, which is not counted",
    systems: systemNames,
    wsProcesses: 1,
    sockets: sockets + Math.ceil(sockets / 10),
    columns: [
      plain("connects", "/s", "rate"),
      {
        title: "CPU = ws + Redis",
        unit: "ms each",
        cell: (median) =>
          `${median("cpu").toFixed(2)} = ${median("cpuWs").toFixed(2)} + ${median("cpuRedis").toFixed(2)}`,
      },
    ],
    measure: (stage) => measureConnect(stage, workload),
  };
}

async function measureConnect(
  stage: Stage,
  { sockets, atOnce, quietMs, trailingMs }: ConnectWorkload,
): Promise<Measured> {
  // Code gets hot on a tenth that is not counted.
  const warmUp = await stage.targets(Math.ceil(sockets / 10));
  await stage.load("open", { targets: warmUp, atOnce });
  const targets = await stage.targets(sockets);
  await sleep(quietMs);
  const { result: seconds, cpu } = await stage.during(async () => {
    const seconds = await stage.load("open", { targets, atOnce });
    await sleep(trailingMs);
    return seconds;
  });
  const each = (microseconds: number): number => microseconds / 1_000 / sockets;
  return {
    figures: {
      rate: sockets / seconds,
      cpu: each(cpu.ws + cpu.redis),
      cpuWs: each(cpu.ws),
      cpuRedis: each(cpu.redis),
    },
    faults: [],
  };
}
