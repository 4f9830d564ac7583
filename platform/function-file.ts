// `serverless.yml` beside a function's `scf_bootstrap`, in the words of the Serverless component `scf`: read as far as
// this platform goes by it; keys it does not know are left alone, so that anybody's file can be used unchanged.

import { readFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { parse } from "yaml";
import type { FunctionDescription } from "./function-description.js";
import {
  DEFAULT_IDLE_SECONDS,
  DEFAULT_IMAGE_INIT_SECONDS,
  DEFAULT_INIT_SECONDS,
  DEFAULT_MEMORY_MB,
  DEFAULT_TIMEOUT_SECONDS,
  findMistakes,
  FUNCTION_NAME,
} from "./function-rules.js";
import type { Rules } from "./rules.js";

export const FUNCTION_FILE = "serverless.yml";

/** A function as its folder describes it. */
export interface FunctionFile {
  readonly description: FunctionDescription;
  /** What the reader should know that is no mistake, one line each. */
  readonly notes: readonly string[];
}

export interface FunctionFileOptions {
  readonly rules: Pick<Rules, "profile" | "maxExecutionSeconds">;
  /** What `${env:NAME}` stands for. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Of a folder without a file. Default HTTP. */
  readonly protocol?: "HTTP" | "WS";
  /** What wins over what the file says; checked with it. */
  readonly adapt?: (file: FunctionDescription) => Partial<FunctionDescription>;
}

/** Of a WebSocket function without a file: the largest execution timeout the documents allow everybody. */
const TIMEOUT_SECONDS_WITHOUT_FILE = 900;

type Tree = Readonly<Record<string, unknown>>;

/** The function of a folder, or one line per mistake. */
export async function readFunctionFile(
  directory: string,
  options: FunctionFileOptions,
): Promise<FunctionFile | string[]> {
  let text: string;
  try {
    text = await readFile(join(directory, FUNCTION_FILE), "utf8");
  } catch {
    return withoutFile(directory, options);
  }
  return parseFunctionFile(text, directory, options);
}

function withoutFile(
  directory: string,
  options: FunctionFileOptions,
): FunctionFile | string[] {
  const { protocol = "HTTP", adapt } = options;
  const documented: FunctionDescription = {
    name: nameOf(directory),
    directory,
    protocol,
    timeoutSeconds:
      protocol === "WS"
        ? Math.min(
            TIMEOUT_SECONDS_WITHOUT_FILE,
            options.rules.maxExecutionSeconds,
          )
        : DEFAULT_TIMEOUT_SECONDS,
    initTimeoutSeconds: DEFAULT_INIT_SECONDS,
    idleSeconds: DEFAULT_IDLE_SECONDS,
    memoryMb: DEFAULT_MEMORY_MB,
    concurrency: 1,
    environment: {},
  };
  const description = { ...documented, ...adapt?.(documented) };
  const note = `${description.name}: no ${FUNCTION_FILE}, so it is ${protocol === "WS" ? "a WebSocket" : "an HTTP"} function with the documented defaults.`;
  const mistakes = findMistakes(description, options.rules);
  return mistakes.length > 0 ? mistakes : { description, notes: [note] };
}

/** The same of a text that has been read already. */
export function parseFunctionFile(
  text: string,
  directory: string,
  options: FunctionFileOptions,
): FunctionFile | string[] {
  const fallbackName = nameOf(directory);
  let root: unknown;
  try {
    root = parse(text, { logLevel: "error" });
  } catch (error) {
    const [line] = String((error as Error).message).split("\n");
    return [`${fallbackName}: ${FUNCTION_FILE} is not YAML: ${line}`];
  }
  const reader = new Reader(options.env);
  const inputs = tree(tree(root)["inputs"]);
  if (Object.keys(inputs).length === 0)
    return [
      `${fallbackName}: ${FUNCTION_FILE} has no "inputs": it is not a file of the Serverless component scf.`,
    ];
  const given = reader.text(inputs["name"]) ?? reader.text(tree(root)["name"]);
  const name =
    given !== undefined && !given.includes("${") ? given : fallbackName;
  reader.about = name;

  const type = reader.text(inputs["type"]);
  if (type === undefined)
    reader.notes.push(
      `${name}: "type: web" is missing; the component would deploy an event function. It is run as a Web function.`,
    );
  else if (type !== "web")
    reader.mistakes.push(
      `${name}: type must be web, not ${type}: other kinds of functions are not run here.`,
    );
  const protocol = protocolOf(reader, inputs["protocolType"]);
  const isImage = inputs["image"] !== undefined;
  const written: FunctionDescription = {
    name,
    directory,
    protocol,
    timeoutSeconds:
      reader.number("timeout", inputs["timeout"]) ?? DEFAULT_TIMEOUT_SECONDS,
    initTimeoutSeconds:
      reader.number("initTimeout", inputs["initTimeout"]) ??
      (isImage ? DEFAULT_IMAGE_INIT_SECONDS : DEFAULT_INIT_SECONDS),
    idleSeconds:
      reader.number(
        "idleTimeOut",
        tree(tree(inputs["protocolParams"])["wsParams"])["idleTimeOut"],
      ) ?? DEFAULT_IDLE_SECONDS,
    memoryMb:
      reader.number("memorySize", inputs["memorySize"]) ?? DEFAULT_MEMORY_MB,
    concurrency: concurrencyOf(
      reader,
      tree(inputs["instanceConcurrencyConfig"]),
    ),
    environment: reader.environment(tree(inputs["environment"])["variables"]),
  };
  const description = { ...written, ...options.adapt?.(written) };
  const mistakes = [
    ...reader.mistakes,
    ...findMistakes(description, options.rules),
  ];
  return mistakes.length > 0 ? mistakes : { description, notes: reader.notes };
}

function protocolOf(reader: Reader, value: unknown): "HTTP" | "WS" {
  const text = reader.text(value);
  if (text === undefined || text === "HTTP") return "HTTP";
  if (text !== "WS")
    reader.mistakes.push(
      `${reader.about}: protocolType must be HTTP or WS, not ${text}.`,
    );
  return "WS";
}

function concurrencyOf(reader: Reader, config: Tree): number {
  const isOn = reader.text(config["enable"]) === "true";
  const max = reader.number("maxConcurrency", config["maxConcurrency"]);
  if (reader.text(config["dynamicEnabled"]) === "true")
    reader.notes.push(
      `${reader.about}: dynamicEnabled has no documented rule; maxConcurrency counts.`,
    );
  return isOn ? (max ?? 1) : 1;
}

/** Reads single values; collects what is wrong with them. */
class Reader {
  readonly mistakes: string[] = [];
  readonly notes: string[] = [];
  about = "";
  readonly #env: Readonly<Record<string, string | undefined>>;

  constructor(env: Readonly<Record<string, string | undefined>>) {
    this.#env = env;
  }

  /** A scalar as text, `${env:NAME}` filled in; undefined when there is none, or none can be known here. */
  text(value: unknown): string | undefined {
    if (typeof value === "number" || typeof value === "boolean")
      return String(value);
    if (typeof value !== "string") return undefined;
    return value.replace(
      /\$\{env:([A-Za-z_]\w*)\}/g,
      (whole, name: string) => this.#env[name] ?? whole,
    );
  }

  number(key: string, value: unknown): number | undefined {
    if (value === undefined || value === null) return undefined;
    const text = this.text(value);
    if (text?.includes("${")) {
      this.notes.push(
        `${this.about}: ${key} is ${text}, which is not known here; the default counts.`,
      );
      return undefined;
    }
    if (text !== undefined && /^-?\d+(\.\d+)?$/.test(text)) return Number(text);
    this.mistakes.push(
      `${this.about}: ${key} must be a number, not ${JSON.stringify(value)}.`,
    );
    return undefined;
  }

  environment(value: unknown): Record<string, string> {
    const variables: Record<string, string> = {};
    for (const [key, one] of Object.entries(tree(value))) {
      const text = this.text(one);
      if (text === undefined || text.includes("${"))
        this.notes.push(
          `${this.about}: the environment variable ${key} is not known here and is not set.`,
        );
      else variables[key] = text;
    }
    return variables;
  }
}

function tree(value: unknown): Tree {
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? (value as Tree)
    : {};
}

/** The folder's name as a function's name. */
function nameOf(directory: string): string {
  const name = basename(resolve(directory)).replace(/[^A-Za-z0-9_-]+/g, "-");
  return FUNCTION_NAME.test(name) ? name : `fn-${name}`.replace(/[-_]+$/, "");
}
