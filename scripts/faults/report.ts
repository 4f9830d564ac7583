/** The runner's lines: one for each row as it ends, and the one that sums them up. */
import type { Result } from "./run.js";

/** `A1   ok      <title>, short | faults … | … | 4.2 s`, then what is wrong, one line each. */
export function lineOf(result: Result): string {
  const { row, form, verdict, figures, wrong, recoveries, seconds, skipped } =
    result;
  const excused = Object.entries(verdict.excused).map(
    ([reason, count]) => `${count} ${reason}`,
  );
  const parts = [
    `faults ${result.faults}`,
    `messages ${verdict.messages}`,
    `lost ${verdict.lost}`,
    `unflagged dup ${verdict.duplicates}`,
    `inversions ${verdict.inversions}`,
    `corrupt ${verdict.corrupt}`,
    `unknown ${verdict.unknown}`,
    ...(excused.length > 0 ? [`told why not: ${excused.join(", ")}`] : []),
    ...(verdict.forgotten + verdict.forgottenTwice > 0
      ? [
          `lost with Redis' own memory ${verdict.forgotten}, come twice ${verdict.forgottenTwice}`,
        ]
      : []),
    `wire repeats ${verdict.wire.flagged} flagged, ${verdict.wire.unflagged} not`,
    ...(recoveries.length > 0
      ? [
          `recovery p50 ${show(percentile(recoveries, 50))} s, p99 ${show(percentile(recoveries, 99))} s`,
        ]
      : []),
    ...figures.map(
      ([name, value]) =>
        `${name} ${typeof value === "number" ? show(value) : value}`,
    ),
    `${seconds.toFixed(1)} s`,
  ];
  const state =
    wrong.length > 0 ? "FAILED" : skipped === undefined ? "ok" : "skipped";
  const head = `${row.id.padEnd(4)} ${state.padEnd(6)} ${row.title}, ${form}`;
  const notes = [
    ...new Set(skipped === undefined ? wrong : [...wrong, skipped]),
  ].map((text) => `${row.id}: ${text}`);
  return [[head, ...parts].join(" | "), ...notes].join("\n");
}

/** The last line, in the scoreboard's words. */
export function summaryOf(results: readonly Result[]): string {
  const sum = (of: (result: Result) => number) =>
    results.reduce((total, result) => total + of(result), 0);
  const recoveries = results.flatMap((result) => result.recoveries);
  return [
    `faults ${sum(({ faults }) => faults)}`,
    `messages ${sum(({ verdict }) => verdict.messages)}`,
    `lost ${sum(({ verdict }) => verdict.lost)}`,
    `unflagged dup ${sum(({ verdict }) => verdict.duplicates)}`,
    `inversions ${sum(({ verdict }) => verdict.inversions)}`,
    `p99 recovery ${show(percentile(recoveries, 99))} s`,
  ].join(" | ");
}

/** Nearest rank; 0 of nothing. */
export function percentile(values: readonly number[], percent: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const rank = Math.ceil((percent / 100) * sorted.length);
  return sorted[Math.max(0, rank - 1)] ?? 0;
}

function show(value: number): string {
  return Number.isInteger(value) ? String(value) : value.toFixed(2);
}
