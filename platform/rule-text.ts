// The rules as a person writes them: a preset by its name, and `afterClose=kill,graceAfterCloseMs=50` on top of it.

import { presets, type PresetName, type Rules } from "./rules.js";

/** One way to read a value: it throws a sentence about what is allowed. */
type Reader<T> = (text: string) => T;

function number(min: number, max: number, whole = true): Reader<number> {
  return (text) => {
    const value = Number(text);
    const good =
      /^\d+(\.\d+)?$/.test(text) &&
      value >= min &&
      value <= max &&
      (!whole || Number.isInteger(value));
    if (good) return value;
    throw new Error(
      `must be a ${whole ? "whole " : ""}number from ${min} to ${max}`,
    );
  };
}

function oneOf<T extends string>(...words: T[]): Reader<T> {
  return (text) => {
    const word = words.find((one) => one === text);
    if (word !== undefined) return word;
    throw new Error(`must be one of ${words.join(", ")}`);
  };
}

const flag: Reader<boolean> = (text) => {
  if (text === "true" || text === "1") return true;
  if (text === "false" || text === "0") return false;
  throw new Error("must be true or false");
};

const limitPolicy = oneOf("close", "throttle", "drop", "warn");

const readers: { readonly [Name in keyof Rules]: Reader<Rules[Name]> } = {
  profile: oneOf("2022+", "2021", "api"),
  maxExecutionSeconds: number(1, 604_800),
  executionFrom: oneOf("ready", "request"),
  strictCloseDirection: flag,
  lenientNoCode: flag,
  countControlFrames: flag,
  platformClose: (text) => {
    if (text === "abort") return text;
    try {
      return number(1_000, 4_999)(text);
    } catch {
      throw new Error("must be abort or a close code from 1000 to 4999");
    }
  },
  afterClose: oneOf("freeze", "kill", "random"),
  graceAfterCloseMs: number(0, 86_400_000),
  reuseAfterFailure: flag,
  sigtermGraceMs: number(0, 600_000),
  warmTtlSeconds: number(0, 604_800),
  maxMessageBytes: number(1, 1_073_741_824),
  messageSizePolicy: limitPolicy,
  bytesPerSecond: number(1, 1_073_741_824),
  bytesPolicy: limitPolicy,
  messagesPerSecond: number(1, 1_000_000),
  messagesPolicy: limitPolicy,
  countDownstream: flag,
  rateWindow: oneOf("sliding", "fixed"),
  memoryQuotaMb: number(0, 100_000_000),
  startsPerMinute: number(0, 1_000_000),
  startFailureAnswer: oneOf("problem", "status"),
  strictBootstrap: flag,
  network: oneOf("shared", "own"),
  entry: oneOf("apigw", "function-url"),
  timeScale: number(0.000_1, 1_000, false),
  seed: number(0, 4_294_967_295),
};

function isRule(name: string): name is keyof Rules {
  return Object.hasOwn(readers, name);
}

function isPreset(name: string): name is PresetName {
  return Object.hasOwn(presets, name);
}

function set<Name extends keyof Rules>(
  rules: Partial<Record<keyof Rules, unknown>>,
  name: Name,
  text: string,
): void {
  rules[name] = readers[name](text);
}

export interface RuleText {
  /** Default: `documented`. */
  readonly preset?: string | undefined;
  /** `name=value`, separated by commas. */
  readonly set?: string | undefined;
}

/** What the two are called where they were written, for the lines about mistakes. */
export interface RuleTextNames {
  readonly preset: string;
  readonly set: string;
}

/** The rules, or one line per mistake. */
export function parseRules(
  text: RuleText,
  names: RuleTextNames = { preset: "PLATFORM_PRESET", set: "PLATFORM_SET" },
): Rules | string[] {
  const mistakes: string[] = [];
  const preset = text.preset || "documented";
  if (!isPreset(preset))
    mistakes.push(
      `${names.preset} must be one of ${Object.keys(presets).join(", ")}, not "${preset}"`,
    );
  const changed: Partial<Record<keyof Rules, unknown>> = {};
  for (const part of (text.set ?? "").split(",")) {
    const written = part.trim();
    if (written === "") continue;
    const at = written.indexOf("=");
    const name = at < 0 ? written : written.slice(0, at).trim();
    if (!isRule(name)) {
      mistakes.push(
        `${names.set}: there is no rule "${name}"; there are ${Object.keys(readers).join(", ")}`,
      );
      continue;
    }
    const value = at < 0 ? "" : written.slice(at + 1).trim();
    try {
      set(changed, name, value);
    } catch (error) {
      mistakes.push(
        `${names.set}: ${name} ${(error as Error).message}, not "${value}"`,
      );
    }
  }
  if (mistakes.length > 0 || !isPreset(preset)) return mistakes;
  return Object.freeze({ ...presets[preset], ...(changed as Partial<Rules>) });
}
