// The whole examination of one folder. Nothing of it is started.

import { relative } from "node:path";
import { readBootstrap } from "../../platform/doctor/bootstrap.js";
import {
  finding,
  type Finding,
  type RuleName,
} from "../../platform/doctor/finding.js";
import { readSettings } from "../../platform/doctor/settings.js";
import { checkDependencies } from "./dependencies.js";
import { checkListening } from "./listening.js";
import { checkClosing, checkMemory } from "./memory.js";
import type { Report } from "./report.js";
import { Sockets } from "./sockets.js";
import { lineOf, readSources } from "./sources.js";
import { Values } from "./values.js";
import { checkWrites } from "./writes.js";

/** What is shown of a long piece of code. */
const SEEN_CHARACTERS = 80;

/** Everything found in a function's folder (an absolute path), by file and line. */
export function examine(folder: string): Finding[] {
  const bootstrap = readBootstrap(folder);
  const settings = readSettings(folder);
  const findings = [...bootstrap.findings, ...settings.findings];
  if (bootstrap.entry !== undefined && /\.[mc]?[jt]s$/.test(bootstrap.entry))
    findings.push(...examineCode(folder, bootstrap.entry, settings, bootstrap));
  return findings.sort(
    (one, other) => one.file.localeCompare(other.file) || one.line - other.line,
  );
}

function examineCode(
  folder: string,
  entry: string,
  settings: ReturnType<typeof readSettings>,
  bootstrap: ReturnType<typeof readBootstrap>,
): Finding[] {
  const findings: Finding[] = [];
  const add = (name: RuleName, path: string, line: number, seen: string) => {
    const words = seen.replace(/\s+/g, " ");
    const short =
      words.length > SEEN_CHARACTERS
        ? `${words.slice(0, SEEN_CHARACTERS)}…`
        : words;
    const file = relative(folder, path);
    findings.push(finding(name, { file, line, seen: short }));
  };
  const report: Report = (name, node, seen) =>
    add(name, node.getSourceFile().fileName, lineOf(node), seen);

  const sources = readSources(entry);
  for (const { file, start, messageText } of sources.broken) {
    const { line } = file.getLineAndCharacterOfPosition(start);
    const text =
      typeof messageText === "string" ? messageText : messageText.messageText;
    add("source-unreadable", file.fileName, line + 1, text);
  }
  // The bootstrap's own lines come last, so they win.
  const values = new Values(
    sources,
    new Map([...settings.variables, ...bootstrap.variables]),
  );
  checkListening(sources, values, report);
  checkDependencies(folder, sources, report);
  checkWrites(sources, values, report);
  if (settings.isWebSocket) {
    const sockets = new Sockets(sources);
    checkClosing(sockets, values, report);
    checkMemory(sockets, report);
  }
  return findings;
}
