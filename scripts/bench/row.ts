// What a row of the bench is: a kind of work that every system is measured with, and how its figures are shown.
import type { RedisMasters } from "./processes.js";
import type { Cpu, Stage } from "./stage.js";
import type { SystemName } from "./systems.js";

/** By name; NaN where nothing could be measured. */
export type Figures = Record<string, number>;

export interface Measured {
  figures: Figures;
  /** In words; empty when every message arrived as it should. */
  faults: string[];
}

export interface Column {
  title: string;
  unit: string;
  /** `median` of a figure over the rounds. */
  cell(median: (figure: string) => number): string;
}

/** How long is waited for things to come to rest. */
export interface Pauses {
  /** What was going on has ended by then. */
  quietMs: number;
  /** CPU is read this long after the last arrival: acks and clean-up belong to the messages that caused them. */
  trailingMs: number;
}

export interface Row {
  /** As in `--only`. */
  name: string;
  /** Of the rows of this name the one that the aims are about. */
  isAimed: boolean;
  /** What is done, in one line. */
  title: string;
  systems: readonly SystemName[];
  wsProcesses: number;
  /** 3: a Cluster. Default: 1, alone. */
  redisMasters?: RedisMasters;
  /** As many as are open at the same time. */
  sockets: number;
  columns: readonly Column[];
  measure(stage: Stage): Promise<Measured>;
}

/** One figure, with so many decimals. */
export function plain(
  title: string,
  unit: string,
  figure: string,
  digits = 0,
): Column {
  return { title, unit, cell: (median) => median(figure).toFixed(digits) };
}

/** p50 / p99 of the figures that begin so. */
export function latencies(title: string, figure: string): Column {
  return {
    title: `${title} p50 / p99`,
    unit: "ms",
    cell: (median) =>
      `${median(`${figure}P50`).toFixed(2)} / ${median(`${figure}P99`).toFixed(2)}`,
  };
}

/** CPU of the figures that begin so, split. */
export function cpuColumn(title: string, unit: string, figure: string): Column {
  return {
    title: `${title} = http + ws + Redis`,
    unit,
    cell: (median) =>
      `${median(figure).toFixed(0)} = ${["Http", "Ws", "Redis"].map((part) => median(`${figure}${part}`).toFixed(0)).join(" + ")}`,
  };
}

/** CPU for each of `count`, under names that begin with `figure`. */
export function cpuFigures(figure: string, cpu: Cpu, count: number): Figures {
  return {
    [figure]: (cpu.http + cpu.ws + cpu.redis) / count,
    [`${figure}Http`]: cpu.http / count,
    [`${figure}Ws`]: cpu.ws / count,
    [`${figure}Redis`]: cpu.redis / count,
  };
}
