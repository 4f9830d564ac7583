/** The runner's lines: one for each row as it ends, then a table of all of them, or JSON. */
import { show, type Result } from "./run.js";

/** `C1a   ok      <title>, short | honest p99 … | … | 4.2 s`, then what is wrong, one line each. */
export function lineOf(result: Result): string {
  const { row, form, wrong, seconds } = result;
  const state = wrong.length > 0 ? "FAILED" : "ok";
  const head = `${row.id.padEnd(5)} ${state.padEnd(6)} ${row.title}, ${form}`;
  const parts = [
    ...common(result),
    ...result.figures.map(
      ([name, value]) =>
        `${name} ${typeof value === "number" ? show(value) : value}`,
    ),
    `${seconds.toFixed(1)} s`,
  ];
  return [
    [head, ...parts].join(" | "),
    ...wrong.map((text) => `${row.id}: ${text}`),
  ].join("\n");
}

function common({ honest, strikes, quietSeconds }: Result): string[] {
  if (!honest) return [];
  const times = (name: "p50" | "p99") =>
    ["before", "while", "after"]
      .map((phase) => (honest.phases[phase]?.[name] ?? NaN).toFixed(1))
      .join(" / ");
  const sum = (of: (one: (typeof strikes)[number]) => number) =>
    show(strikes.reduce((total, one) => total + of(one), 0));
  return [
    `honest p50 ${times("p50")} ms`,
    `p99 ${times("p99")} ms`,
    `lost ${honest.lost}`,
    `given up ${honest.givenUp}`,
    `out of Redis ${sum(({ redisOut }) => redisOut)}`,
    `Redis grew ${sum(({ redisGrowth }) => redisGrowth)}`,
    `functions grew ${sum(({ rssGrowth }) => rssGrowth)}`,
    `quiet after ${quietSeconds === undefined ? "never" : `${quietSeconds.toFixed(1)} s`}`,
  ];
}

/** The last line, in the words of the scoreboard. */
export function summaryOf(results: readonly Result[]): string {
  const sum = (of: (result: Result) => number) =>
    results.reduce((total, result) => total + of(result), 0);
  const goesOn = results.filter(
    ({ strikes, quietSeconds }) =>
      strikes.length > 0 && quietSeconds === undefined,
  );
  return [
    `attacks ${results.length}`,
    `failed ${results.filter(({ wrong }) => wrong.length > 0).length}`,
    `lost ${sum(({ honest }) => honest?.lost ?? 0)}`,
    `go on after their attacker ${goesOn.length}`,
  ].join(" | ");
}

/** One aligned line for each row. */
export function tableOf(results: readonly Result[]): string {
  const cells = [
    [
      "row",
      "state",
      "form",
      "p99 before",
      "while",
      "after",
      "lost",
      "Redis out",
      "Redis grew",
      "rss grew",
      "quiet s",
      "what",
    ],
    ...results.map((result) => {
      const { row, honest, strikes, quietSeconds, wrong, form } = result;
      const p99 = (name: string) => {
        const phase = honest?.phases[name];
        return phase ? phase.p99.toFixed(1) : "-";
      };
      const sum = (of: (one: (typeof strikes)[number]) => number) =>
        strikes.length === 0
          ? "-"
          : show(strikes.reduce((total, one) => total + of(one), 0));
      return [
        row.id,
        wrong.length > 0 ? "FAILED" : "ok",
        form,
        p99("before"),
        p99("while"),
        p99("after"),
        honest ? String(honest.lost) : "-",
        sum(({ redisOut }) => redisOut),
        sum(({ redisGrowth }) => redisGrowth),
        sum(({ rssGrowth }) => rssGrowth),
        quietSeconds?.toFixed(1) ?? "-",
        row.title,
      ];
    }),
  ];
  const widths = (cells[0] ?? []).map((_, column) =>
    Math.max(...cells.map((line) => (line[column] ?? "").length)),
  );
  return cells
    .map((line) =>
      line
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** The same for programs. */
export function jsonOf(results: readonly Result[]): string {
  return JSON.stringify(
    results.map(({ row, figures, ...rest }) => ({
      id: row.id,
      title: row.title,
      ...rest,
      figures: Object.fromEntries(figures),
    })),
  );
}
