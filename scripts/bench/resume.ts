// The row `resume`: all sockets are cut at once and come back, each in a slot of its own, while messages go on. Only for systems that
// promise to lose nothing.
import { setTimeout as sleep } from "node:timers/promises";
import type { Comeback } from "./comeback-load.js";
import {
  cpuColumn,
  cpuFigures,
  plain,
  type Measured,
  type Pauses,
  type Row,
} from "./row.js";
import type { Stage } from "./stage.js";

export interface ResumeWorkload extends Pauses {
  sockets: number;
  comeback: Comeback;
}

const OPENING_AT_ONCE = 50;

export function resumeRow(workload: ResumeWorkload): Row {
  const { perSecond, slotMs } = workload.comeback;
  return {
    name: "resume",
    isAimed: true,
    title:
      `resume: ${workload.sockets} sockets cut at once, each back after ${slotMs[0]} to ${slotMs[1]} ms, ` +
      `while ${perSecond} messages a second go on, each to the next`,
    systems: ["bridge", "socketio-streams"],
    wsProcesses: 1,
    sockets: workload.sockets,
    columns: [
      plain("last is back", "ms after the cut", "last"),
      plain("beyond its slots", "ms", "beyond"),
      plain("not back", "in 30 s", "missing"),
      plain("lost", "messages", "lost"),
      plain("duplicates", "to the application", "duplicates"),
      plain("again", "on the wire", "repeats"),
      plain("attempts", "failed", "failures"),
      plain("messages", "delivered", "delivered"),
      cpuColumn("CPU of all", "µs/socket", "cpu"),
    ],
    measure: (stage) => measureResume(stage, workload),
  };
}

async function measureResume(
  stage: Stage,
  { sockets, comeback, quietMs, trailingMs }: ResumeWorkload,
): Promise<Measured> {
  const { publishers } = comeback;
  const targets = await stage.targets(sockets);
  await stage.load("open", { targets, atOnce: OPENING_AT_ONCE });
  // One message to each, so that each has a place to come back to.
  const before = await stage.load("post", { messages: sockets, publishers });
  await sleep(quietMs);
  const { result, cpu } = await stage.during(async () => {
    const result = await stage.load("comeBack", comeback);
    await sleep(trailingMs);
    return result;
  });
  const last = result.missing > 0 ? NaN : result.lastMs;
  return {
    figures: {
      last,
      beyond: last - result.lastSlotMs,
      missing: result.missing,
      lost: result.lost,
      duplicates: result.twice,
      repeats: result.repeats,
      failures: result.failures,
      delivered: result.delivered,
      ...cpuFigures("cpu", cpu, sockets),
    },
    faults: [...before.faults, ...result.faults],
  };
}
