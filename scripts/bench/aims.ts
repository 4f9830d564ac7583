// What the bridge aims at, and whether it got there: ratios to the peers of the same rounds, and a few absolute limits.
import { medianOf } from "./medians.js";
import { aligned, type Results } from "./report.js";
import type { SystemName } from "./systems.js";

/** Where a figure stands. */
interface Place {
  row: string;
  system: SystemName;
  figure: string;
  /** In the row of that name that is no aim by itself: another size. */
  isOther?: true;
}

interface Aim {
  title: string;
  of: Place;
  /** What it is divided by; without it the figure itself is the aim. */
  to?: Place;
  direction: "<" | "≤" | "≥";
  limit: number;
}

const at = (row: string, system: SystemName, figure: string): Place => ({
  row,
  system,
  figure,
});
const wideCpu = (system: SystemName): Place =>
  at("wide", system, "saturatedCpu");
const burstCpu = (system: SystemName): Place => at("burst", system, "burstCpu");
const castCpu = (system: SystemName): Place => at("broadcast", system, "cpu");

const aims: readonly Aim[] = [
  {
    title: "wide, CPU per delivered message / own burst",
    of: wideCpu("bridge"),
    to: burstCpu("bridge"),
    direction: "≤",
    limit: 1.2,
  },
  {
    title: "wide, CPU per delivered message / literal",
    of: wideCpu("bridge"),
    to: wideCpu("literal"),
    direction: "≤",
    limit: 0.33,
  },
  {
    title: "wide, CPU per delivered message / Socket.IO streams",
    of: wideCpu("bridge"),
    to: wideCpu("socketio-streams"),
    direction: "≤",
    limit: 1,
  },
  {
    title: "wide, lower rate, p50 / Socket.IO streams",
    of: at("wide", "bridge", "lowP50"),
    to: at("wide", "socketio-streams", "lowP50"),
    direction: "≤",
    limit: 1.5,
  },
  {
    title: "wide, lower rate, p99 / Socket.IO streams",
    of: at("wide", "bridge", "lowP99"),
    to: at("wide", "socketio-streams", "lowP99"),
    direction: "≤",
    limit: 2,
  },
  {
    title: "burst, CPU per message / literal",
    of: burstCpu("bridge"),
    to: burstCpu("literal"),
    direction: "≤",
    limit: 0.42,
  },
  {
    title: "burst, CPU per message / Socket.IO streams",
    of: burstCpu("bridge"),
    to: burstCpu("socketio-streams"),
    direction: "<",
    limit: 1,
  },
  {
    title: "burst, CPU per message, raw / bridge.v1.json",
    of: burstCpu("bridge-raw"),
    to: burstCpu("bridge"),
    direction: "<",
    limit: 1,
  },
  {
    title: "idle, % of a core in all, bridge.v1.json",
    of: at("idle", "bridge", "percent"),
    direction: "≤",
    limit: 1.5,
  },
  {
    title: "idle, % of a core in all, raw",
    of: at("idle", "bridge-raw", "percent"),
    direction: "≤",
    limit: 1.5,
  },
  {
    title: "idle, Redis commands a second, twice the sockets / these",
    of: { ...at("idle", "bridge", "commands"), isOther: true },
    to: at("idle", "bridge", "commands"),
    direction: "≤",
    limit: 1.2,
  },
  {
    title: "connects a second / Socket.IO",
    of: at("connect", "bridge", "rate"),
    to: at("connect", "socketio", "rate"),
    direction: "≥",
    limit: 1,
  },
  {
    title: "connect, CPU ms each, ws and Redis",
    of: at("connect", "bridge", "cpu"),
    direction: "≤",
    limit: 0.6,
  },
  {
    title: "idle socket, KB in ws-fn, raw",
    of: at("idle", "bridge-raw", "kilobytes"),
    direction: "≤",
    limit: 16,
  },
  {
    title: "idle socket, KB in ws-fn, bridge.v1.json",
    of: at("idle", "bridge", "kilobytes"),
    direction: "≤",
    limit: 18,
  },
  {
    title: "idle socket, KB in Redis",
    of: at("idle", "bridge", "redisKilobytes"),
    direction: "≤",
    limit: 2,
  },
  {
    title: "broadcast, CPU per socket, raw / Socket.IO",
    of: castCpu("bridge-raw"),
    to: castCpu("socketio"),
    direction: "<",
    limit: 1,
  },
  {
    title: "broadcast, CPU per socket, with acks / raw",
    of: castCpu("bridge"),
    to: castCpu("bridge-raw"),
    direction: "≤",
    limit: 1.15,
  },
  {
    title: "batch, CPU per message / Socket.IO streams",
    of: at("batch", "bridge", "batchCpu"),
    to: at("batch", "socketio-streams", "batchCpu"),
    direction: "≤",
    limit: 1,
  },
  {
    title: "resume, messages lost",
    of: at("resume", "bridge", "lost"),
    direction: "≤",
    limit: 0,
  },
  {
    title: "resume, ms until the last is back beyond the slots",
    of: at("resume", "bridge", "beyond"),
    direction: "≤",
    limit: 2_000,
  },
];

export interface Verdict {
  title: string;
  /** Median over the rounds of the ratio within each round: what slows a whole round down does not count. */
  value: number;
  rounds: number[];
  aim: string;
  reached: boolean;
}

/** One verdict for every aim whose figures were measured. */
export function verdicts(results: Results): Verdict[] {
  const find = ({ row, system, figure, isOther }: Place): number[] => {
    for (const [{ name, isAimed }, rounds] of results)
      if (name === row && isAimed !== (isOther ?? false))
        return (rounds.get(system) ?? []).map(
          ({ figures }) => figures[figure] ?? NaN,
        );
    return [];
  };
  return aims.flatMap(({ title, of, to, direction, limit }) => {
    const tops = find(of);
    const bottoms = to && find(to);
    const rounds = bottoms
      ? tops.slice(0, bottoms.length).map((top, i) => top / (bottoms[i] ?? NaN))
      : tops;
    if (rounds.length === 0) return [];
    const value = medianOf(rounds);
    const reached =
      direction === "≥"
        ? value >= limit
        : direction === "<"
          ? value < limit
          : value <= limit;
    return [{ title, value, rounds, aim: `${direction} ${limit}`, reached }];
  });
}

export function aimsPage(all: readonly Verdict[]): string {
  return aligned(
    all.map(({ title, value, rounds, aim, reached }) => [
      title,
      value.toFixed(2),
      `(${rounds.map((one) => one.toFixed(2)).join(", ")})`,
      `aim ${aim}`,
      reached ? "reached" : "NOT reached",
    ]),
  ).join("\n");
}
