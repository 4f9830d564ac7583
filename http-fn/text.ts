/**
 * Any answer as aligned text for people with a terminal: names to the left, values in one column, a newline at the end.
 * Names and values may be anybody's, so each goes through `visible`: it stays in its cell, and the terminal obeys none.
 */
import { visible } from "../shared/visible.js";

type Row = [name: string, value: string];

export function toText(value: unknown): string {
  const rows: Row[] = [];
  const tables: string[] = [];
  flatten("", value, rows, tables);
  const width = Math.max(0, ...rows.map(([name]) => name.length));
  const lines = rows.map(([name, text]) =>
    `${name.padEnd(width)}  ${text}`.trimEnd(),
  );
  return `${[...(lines.length > 0 ? [lines.join("\n")] : []), ...tables].join("\n\n")}\n`;
}

function flatten(
  name: string,
  value: unknown,
  rows: Row[],
  tables: string[],
): void {
  if (Array.isArray(value) && value.some(isRecord)) {
    tables.push(table(name, value.filter(isRecord)));
    return;
  }
  if (isRecord(value)) {
    for (const [key, part] of Object.entries(value))
      flatten(
        name === "" ? word(key) : `${name}.${word(key)}`,
        part,
        rows,
        tables,
      );
    return;
  }
  rows.push([name, cell(value)]);
}

/** One line per object under a line of names. */
function table(name: string, items: Record<string, unknown>[]): string {
  const columns = [...new Set(items.flatMap((item) => Object.keys(item)))];
  const lines = [
    columns.map(word),
    ...items.map((item) => columns.map((column) => cell(item[column]))),
  ];
  const widths = columns.map((_, index) =>
    Math.max(...lines.map((line) => (line[index] ?? "").length)),
  );
  const text = lines.map((line) =>
    line
      .map((entry, index) => entry.padEnd(widths[index] ?? 0))
      .join("  ")
      .trimEnd(),
  );
  return [`${name}:`, ...text].join("\n");
}

function cell(value: unknown): string {
  if (value === null || value === undefined) return "-";
  if (Array.isArray(value))
    return value.length === 0 ? "-" : value.map(cell).join(", ");
  if (isRecord(value))
    return (
      Object.entries(value)
        .map(([key, part]) => `${word(key)}=${cell(part)}`)
        .join(" ") || "-"
    );
  return word(String(value));
}

/** One value stays on one line and in its column, whatever is in it. */
const word = (text: string): string => visible(text).replaceAll("\t", "\\t");

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
