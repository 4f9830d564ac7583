// From the rounds to the page: medians, an aligned table, and the ratios beside their aims.
import { descriptions, type SystemName } from "./systems.js";
import type { Figures, Measured } from "./measure.js";

/** What was measured: per system one entry per round, in the order of the rounds. */
export type Rounds = Map<SystemName, Measured[]>;

interface Column {
  title: string;
  unit: string;
  cell(median: (figure: keyof Figures) => number): string;
}

const columns: Column[] = [
  {
    title: "idle p50 / p99",
    unit: "ms",
    cell: (median) => pair(median("idleP50"), median("idleP99")),
  },
  {
    title: "first p50 / p99",
    unit: "ms",
    cell: (median) => pair(median("firstP50"), median("firstP99")),
  },
  {
    title: "messages",
    unit: "/s",
    cell: (median) => median("messagesPerSecond").toFixed(0),
  },
  {
    title: "loaded p50 / p99",
    unit: "ms",
    cell: (median) => pair(median("loadedP50"), median("loadedP99")),
  },
  {
    title: "CPU = http + ws + Redis",
    unit: "µs/message",
    cell: (median) =>
      `${median("cpu").toFixed(0)} = ${median("cpuHttp").toFixed(0)} + ${median("cpuWs").toFixed(0)} + ${median("cpuRedis").toFixed(0)}`,
  },
  {
    title: "idle CPU",
    unit: "µs/message",
    cell: (median) => median("idleCpu").toFixed(0),
  },
  {
    title: "idle socket",
    unit: "KB",
    cell: (median) => median("kilobytesPerSocket").toFixed(1),
  },
  {
    title: "Redis",
    unit: "connections",
    cell: (median) => median("redisConnections").toFixed(0),
  },
];

interface Aim {
  title: string;
  of: SystemName;
  to: SystemName;
  figure: keyof Figures;
  limit: number;
  /** Whether the ratio has to be at least or at most the limit. */
  direction: "≥" | "≤";
}

const aims: Aim[] = [
  {
    title: "messages/s, bridge / literal",
    of: "bridge",
    to: "literal",
    figure: "messagesPerSecond",
    limit: 2,
    direction: "≥",
  },
  {
    title: "CPU per message, bridge / literal",
    of: "bridge",
    to: "literal",
    figure: "cpu",
    limit: 0.45,
    direction: "≤",
  },
  {
    title: "idle p50, bridge / durable",
    of: "bridge",
    to: "durable",
    figure: "idleP50",
    limit: 1.5,
    direction: "≤",
  },
];

export interface Ratio {
  title: string;
  /** Median over the rounds of the ratio within each round: what slows a whole round down does not count. */
  ratio: number;
  rounds: number[];
  aim: string;
  reached: boolean;
}

/** One ratio for every aim whose two systems were both measured. */
export function ratios(rounds: Rounds): Ratio[] {
  return aims.flatMap(({ title, of, to, figure, limit, direction }) => {
    const tops = rounds.get(of) ?? [];
    const bottoms = rounds.get(to) ?? [];
    const each = tops.flatMap((top, round) => {
      const bottom = bottoms[round];
      return bottom === undefined
        ? []
        : [top.figures[figure] / bottom.figures[figure]];
    });
    if (each.length === 0) return [];
    const ratio = medianOf(each);
    const reached = direction === "≥" ? ratio >= limit : ratio <= limit;
    return [
      { title, ratio, rounds: each, aim: `${direction} ${limit}`, reached },
    ];
  });
}

/** Faults of a system over all rounds; empty when every message of every round arrived once and in order. */
export function faultsOf(measured: Measured[]): string[] {
  return measured.flatMap(({ faults }, round) =>
    faults.map((fault) => `round ${round + 1}, ${fault}`),
  );
}

/** The whole page. */
export function page(rounds: Rounds): string {
  const header = ["system", ...columns.map(({ title }) => title), "delivery"];
  const units = ["", ...columns.map(({ unit }) => unit), ""];
  const body = [...rounds].map(([system, measured]) => [
    system,
    ...columns.map(({ cell }) =>
      cell((figure) => medianOf(measured.map((one) => one.figures[figure]))),
    ),
    faultsOf(measured).length === 0 ? "exact" : "FAULTY",
  ]);
  const table = aligned([header, units, ...body]);
  const legend = [...rounds.keys()].map(
    (system) => `${system}: ${descriptions[system]}`,
  );
  const faults = [...rounds].flatMap(([system, measured]) =>
    faultsOf(measured).map((fault) => `FAULTY ${system}: ${fault}`),
  );
  const verdicts = ratios(rounds).map(
    ({ title, ratio, rounds, aim, reached }) => [
      title,
      ratio.toFixed(2),
      `(${rounds.map((one) => one.toFixed(2)).join(", ")})`,
      `aim ${aim}`,
      reached ? "reached" : "NOT reached",
    ],
  );
  return [table, legend, faults, aligned(verdicts)]
    .filter((block) => block.length > 0)
    .map((block) => block.join("\n"))
    .join("\n\n");
}

/** Median; the mean of the middle two of an even count. */
export function medianOf(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  const low = sorted[Math.floor(middle)] ?? NaN;
  const high = sorted[Math.ceil(middle)] ?? NaN;
  return (low + high) / 2;
}

function pair(p50: number, p99: number): string {
  return `${p50.toFixed(2)} / ${p99.toFixed(2)}`;
}

/** First column left, the others right. */
export function aligned(rows: string[][]): string[] {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  );
  return rows.map((row) =>
    row
      .map((cell, column) =>
        column === 0
          ? cell.padEnd(widths[column] ?? 0)
          : cell.padStart(widths[column] ?? 0),
      )
      .join("  ")
      .trimEnd(),
  );
}
