// From the rounds to the page: medians in an aligned table for each row.
import { medianOf } from "./medians.js";
import type { Measured, Row } from "./row.js";
import { systems, type SystemName } from "./systems.js";

/** What was measured: per system one entry per round, in the order of the rounds. */
export type Rounds = Map<SystemName, Measured[]>;
export type Results = Map<Row, Rounds>;

/** Faults of a system over all rounds; empty when every message of every round arrived as it should. */
export function faultsOf(measured: readonly Measured[]): string[] {
  return measured.flatMap(({ faults }, round) =>
    faults.map((fault) => `round ${round + 1}, ${fault}`),
  );
}

/** One row's part of the page. */
export function rowPage(
  { title, columns }: Pick<Row, "title" | "columns">,
  rounds: Rounds,
): string {
  const header = ["system", ...columns.map(({ title }) => title), "delivery"];
  const units = ["", ...columns.map(({ unit }) => unit), ""];
  const body = [...rounds].map(([system, measured]) => [
    system,
    ...columns.map(({ cell }) =>
      cell((figure) =>
        medianOf(measured.map(({ figures }) => figures[figure] ?? NaN)),
      ),
    ),
    faultsOf(measured).length === 0 ? "exact" : "FAULTY",
  ]);
  const faults = [...rounds].flatMap(([system, measured]) =>
    faultsOf(measured).map((fault) => `FAULTY ${system}: ${fault}`),
  );
  return [title, ...aligned([header, units, ...body]), ...faults].join("\n");
}

/** What the names of the systems mean. */
export function legend(names: readonly SystemName[]): string {
  return names
    .map((name) => `${name}: ${systems[name].description}`)
    .join("\n");
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
