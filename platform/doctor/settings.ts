// What a folder's serverless.yml says about time and environment, in documented units. The words are the Serverless
// component's; everything else in the file is its business.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { isMap, isScalar, LineCounter, parseDocument } from "yaml";
import {
  IDLE_SECONDS,
  INIT_SECONDS,
  MAX_ENVIRONMENT_BYTES,
  reservedPrefixes,
} from "../function-rules.js";
import { presets } from "../rules.js";
import { isFile } from "./files.js";
import { finding, type Finding, type RuleName } from "./finding.js";

const NAME = "serverless.yml";
const { profile, maxExecutionSeconds } = presets.documented;
const [MIN_IDLE_SECONDS, MAX_IDLE_SECONDS] = IDLE_SECONDS[profile];
const [MIN_INIT_SECONDS, MAX_INIT_SECONDS] = INIT_SECONDS;

export interface Settings {
  readonly findings: readonly Finding[];
  readonly isWebSocket: boolean;
  /** The environment it gives the function. */
  readonly variables: ReadonlyMap<string, string>;
}

/** Without a file the function is taken for a WebSocket function: it is what the other checks are about. */
export function readSettings(folder: string): Settings {
  const findings: Finding[] = [];
  const variables = new Map<string, string>();
  const add = (name: RuleName, line: number, seen: string) =>
    findings.push(finding(name, { file: NAME, line, seen }));
  const file = join(folder, NAME);
  if (!isFile(file)) {
    add("settings-missing", 1, "not there");
    return { findings, variables, isWebSocket: true };
  }

  const lines = new LineCounter();
  const document = parseDocument(readFileSync(file, "utf8"), {
    lineCounter: lines,
  });
  const [error] = document.errors;
  if (error) {
    const [message = ""] = error.message.split("\n");
    add("settings-unreadable", lines.linePos(error.pos[0]).line, message);
    return { findings, variables, isWebSocket: true };
  }
  const lineOf = (...path: string[]): number => {
    const parent = document.getIn(path.slice(0, -1), true);
    const pair = isMap(parent)
      ? parent.items.find(
          ({ key }) => isScalar(key) && key.value === path.at(-1),
        )
      : undefined;
    const start = isScalar(pair?.key) ? pair.key.range?.[0] : undefined;
    if (start !== undefined) return lines.linePos(start).line;
    return path.length > 1 ? lineOf(...path.slice(0, -1)) : 1;
  };
  const read = (...path: string[]): unknown => document.getIn(path);
  /** A number of seconds; what is left to a variable (`${env:X}`) is not judged. */
  const seconds = (...path: string[]): number | undefined => {
    const value = Number(read(...path) ?? NaN);
    return Number.isNaN(value) ? undefined : value;
  };

  if (read("component") !== "scf" || read("inputs", "type") !== "web")
    add(
      "settings-unreadable",
      lineOf("inputs", "type"),
      `component: ${String(read("component"))}, type: ${String(read("inputs", "type"))}`,
    );
  const init = seconds("inputs", "initTimeout");
  if (
    init !== undefined &&
    !(init >= MIN_INIT_SECONDS && init <= MAX_INIT_SECONDS)
  )
    add(
      "init-timeout-range",
      lineOf("inputs", "initTimeout"),
      `initTimeout: ${init}`,
    );

  const isWebSocket = read("inputs", "protocolType") === "WS";
  const timeout = seconds("inputs", "timeout");
  const timeoutLine = lineOf("inputs", "timeout");
  if (isWebSocket) {
    const idlePath = ["inputs", "protocolParams", "wsParams", "idleTimeOut"];
    const idle = seconds(...idlePath);
    if (
      idle !== undefined &&
      !(idle >= MIN_IDLE_SECONDS && idle <= MAX_IDLE_SECONDS)
    )
      add("idle-timeout-range", lineOf(...idlePath), `idleTimeOut: ${idle}`);
    if (read("inputs", "timeout") === undefined)
      add("timeout-default", timeoutLine, "no timeout");
    else if (timeout !== undefined && timeout < (idle ?? MIN_IDLE_SECONDS))
      add(
        "timeout-below-idle",
        timeoutLine,
        `timeout: ${timeout}, idleTimeOut: ${idle ?? `at least ${MIN_IDLE_SECONDS}`}`,
      );
  }
  if (timeout !== undefined && timeout > maxExecutionSeconds)
    add("timeout-above-quota", timeoutLine, `timeout: ${timeout}`);

  const variablesPath = ["inputs", "environment", "variables"];
  const listed = document.getIn(variablesPath, true);
  for (const { key, value } of isMap(listed) ? listed.items : []) {
    const name = String(isScalar(key) ? key.value : key);
    variables.set(name, String(isScalar(value) ? value.value : value));
    const isReserved = reservedPrefixes.some((prefix) =>
      name.toUpperCase().startsWith(prefix),
    );
    if (!/^[A-Za-z]/.test(name) || isReserved)
      add("environment-name", lineOf(...variablesPath, name), name);
  }
  const size = Buffer.byteLength([...variables].flat().join(""));
  if (size > MAX_ENVIRONMENT_BYTES)
    add("environment-size", lineOf(...variablesPath), `${size} bytes`);
  return { findings, variables, isWebSocket };
}
