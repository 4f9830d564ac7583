// Reads a folder's scf_bootstrap without starting it: what is wrong with the file, and which file it starts with what.

import { readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import { findModule, isFile } from "./files.js";
import { finding, type Finding, type RuleName } from "./finding.js";
import { readStart } from "./shell.js";

const NAME = "scf_bootstrap";
const RUNTIMES = ["10", "12", "14", "16", "18", "20", "22", "24", "26"];

export interface Bootstrap {
  readonly findings: readonly Finding[];
  /** The script it starts, absolute; undefined where that cannot be told. */
  readonly entry: string | undefined;
  /** What its lines assign, as far as it can be told. */
  readonly variables: ReadonlyMap<string, string>;
}

export function readBootstrap(folder: string): Bootstrap {
  const findings: Finding[] = [];
  const variables = new Map<string, string>();
  const add = (name: RuleName, line: number, seen: string) =>
    findings.push(finding(name, { file: NAME, line, seen }));
  const withoutEntry = { findings, variables, entry: undefined };

  const file = join(folder, NAME);
  if (!isFile(file)) {
    const like = readdirSync(folder).find((name) => /bootstrap/i.test(name));
    const seen =
      like === undefined
        ? "not there"
        : like === NAME
          ? "not a file"
          : `only ${like} is there`;
    add("bootstrap-missing", 1, seen);
    return withoutEntry;
  }
  const { mode } = statSync(file);
  if ((mode & 0o111) !== 0o111)
    add("bootstrap-mode", 1, `mode ${(mode & 0o777).toString(8)}`);

  const bytes = readFileSync(file);
  if (bytes.includes(0)) return withoutEntry; // a program, not a script
  const text = bytes.toString("utf8");
  const bare = text.replace(/^\uFEFF/, "");
  const lines = bare.split("\n");
  if (bare !== text) add("bootstrap-bom", 1, "a byte order mark");
  if (!bare.startsWith("#!"))
    add("bootstrap-shebang", 1, `the first line is "${lines[0]?.trim()}"`);
  const withCr = lines.findIndex((line) => line.endsWith("\r"));
  if (withCr >= 0) add("bootstrap-crlf", withCr + 1, "the line ends in CR LF");
  if (bare !== "" && !bare.endsWith("\n"))
    add("bootstrap-final-newline", lines.length, "no newline at the end");

  const start = readStart(lines, folder, variables);
  if (start === undefined) {
    add("bootstrap-starts-nothing", 1, "no command that starts a program");
    return withoutEntry;
  }
  const { line, program, script } = start;
  // A program in the folder is the server itself.
  const isOwn = /^\.{0,2}\/(?!bin\/|usr\/|opt\/|var\/lang\/)/.test(program);
  const [, runtime] = /^\/var\/lang\/node(\d+)\//.exec(program) ?? [];
  if (runtime !== undefined && !RUNTIMES.includes(runtime))
    add("bootstrap-runtime", line, program);
  else if (!isOwn && !program.startsWith("/var/lang/"))
    add("bootstrap-interpreter", line, `the command is "${program}"`);
  if (script === undefined || script === program) return withoutEntry;
  const entry = findModule(script);
  if (entry === undefined)
    add(
      "started-file-missing",
      line,
      `${relative(folder, script)} is not there`,
    );
  return { findings, variables, entry };
}
