/**
 * `npm run doctor -- <folder>`: looks for what would go wrong with a function once it is deployed, without starting it:
 * bootstrap, settings, and what the code shows. Exit code 1 when there is an error, 0 with warnings only.
 *
 *   --json   the findings as one JSON array
 */

import { statSync } from "node:fs";
import { resolve } from "node:path";
import { parseArgs } from "node:util";

import type { Finding } from "../platform/doctor/finding.js";
import { complain, say } from "../shared/output.js";
import { examine } from "./doctor/examine.js";

function shown(found: Finding): string {
  const { severity, file, line, seen, rule, requirement, advice } = found;
  const by = requirement === null ? "" : ` [${requirement}]`;
  return `${severity.padEnd(8)} ${file}:${line}  ${seen}\n         ${rule}${by}\n         ${advice}\n`;
}

function count(findings: readonly Finding[], severity: string): string {
  const { length } = findings.filter((one) => one.severity === severity);
  return `${length} ${severity}${length === 1 ? "" : "s"}`;
}

function main(): void {
  const { values, positionals } = parseArgs({
    options: { json: { type: "boolean", default: false } },
    allowPositionals: true,
  });
  const [named] = positionals;
  if (named === undefined || positionals.length > 1)
    throw new Error("usage: npm run doctor -- <folder> [--json]");
  // npm goes to the project's folder first; the person who typed the path may be elsewhere.
  const isByNpm = process.env["npm_lifecycle_event"] === "doctor";
  const from = (isByNpm && process.env["INIT_CWD"]) || process.cwd();
  const folder = resolve(from, named);
  if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory())
    throw new Error(`${named} is not a folder`);

  const findings = examine(folder);
  if (values.json) say(JSON.stringify(findings, undefined, 2));
  else {
    for (const found of findings) say(shown(found));
    say(`${count(findings, "error")}, ${count(findings, "warning")}`);
  }
  if (findings.some(({ severity }) => severity === "error"))
    process.exitCode = 1;
}

try {
  main();
} catch (error) {
  complain(error instanceof Error ? error.message : error);
  process.exitCode = 2;
}
