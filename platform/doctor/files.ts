// Which file a path means, as Node finds it.

import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";

const ENDINGS = ["", ".js", ".mjs", ".cjs", ".json", ".node"];

export function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
}

/** The file itself, with an ending, or a folder's main file; undefined when there is none. */
export function findModule(path: string): string | undefined {
  const file = ENDINGS.map((ending) => path + ending).find(isFile);
  if (file !== undefined) return file;
  const main = readJson(join(path, "package.json"))?.["main"];
  const inFolder = [
    ...(typeof main === "string" ? [main, `${main}.js`] : []),
    "index.js",
    "index.json",
  ];
  return inFolder.map((name) => join(path, name)).find(isFile);
}

/** A file that holds a JSON object; undefined when it is not there or holds something else. */
export function readJson(file: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(readFileSync(file, "utf8"));
    return typeof value === "object" && value !== null
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}
