// What the platform accepts of a function's description, in the documents' units, and which changes it accepts later.
// Pure: every mistake is one sentence that says the rule and, where there is one, the switch.

import type { FunctionDescription } from "./function-description.js";
import type { Profile, Rules } from "./rules.js";

/** What a Web function gets that says nothing of its execution timeout, s. Too little for any WebSocket [WS-TIME-4]. */
export const DEFAULT_TIMEOUT_SECONDS = 3;
/** `initTimeout` where nothing is said, s; of an image [WS-BOOT-5]. */
export const DEFAULT_INIT_SECONDS = 60;
export const DEFAULT_IMAGE_INIT_SECONDS = 90;
/** Only the API's reference names a default; the lower bound of the present text is what keeps it legal. */
export const DEFAULT_IDLE_SECONDS = 15;
export const DEFAULT_MEMORY_MB = 128;

/** Bounds of `initTimeout`, s [WS-BOOT-5]. */
export const INIT_SECONDS = [3, 300] as const;
const CONCURRENCY = [1, 100] as const;
/** Bounds of `idleTimeOut`, s, by the text that is believed [WS-TIME-1]. */
export const IDLE_SECONDS: Readonly<
  Record<Profile, readonly [number, number]>
> = {
  "2022+": [10, 7_200],
  "2021": [1, 600],
  api: [1, 1_800],
};
const SMALLEST_MEMORY_MB = 64;
const MEMORY_STEP_MB = 128;
const LARGEST_MEMORY_MB = 3_072;
/** All environment variables of a function together, names and values. */
export const MAX_ENVIRONMENT_BYTES = 4_096;
/** What names of environment variables must not begin with. */
export const reservedPrefixes = ["SCF_", "QCLOUD_", "TENCENTCLOUD_"];

/** A function's name as the documents allow it: 2 to 60 characters, a letter first, no dash or underscore last. */
export const FUNCTION_NAME = /^[A-Za-z][A-Za-z0-9_-]{0,58}[A-Za-z0-9]$/;

type CheckedRules = Pick<Rules, "profile" | "maxExecutionSeconds">;

/** One line per mistake, none when the platform would accept it. */
export function findMistakes(
  description: FunctionDescription,
  rules: CheckedRules,
): string[] {
  const { name, protocol, timeoutSeconds, initTimeoutSeconds } = description;
  const { memoryMb, concurrency } = description;
  const mistakes: string[] = [];
  const say = (line: string) => mistakes.push(`${name}: ${line}`);

  if (!FUNCTION_NAME.test(name))
    say(
      "name must have 2 to 60 letters, digits, - and _, begin with a letter and end with a letter or digit.",
    );
  if (!isWhole(timeoutSeconds, 1, Number.MAX_SAFE_INTEGER))
    say(`timeout must be a whole number of seconds, not ${timeoutSeconds}.`);
  else if (timeoutSeconds > rules.maxExecutionSeconds)
    say(
      `timeout ${timeoutSeconds} s is above what the account allows, ${rules.maxExecutionSeconds} s [WS-TIME-4]: ` +
        `lower it, or raise the quota with PLATFORM_SET=maxExecutionSeconds=${timeoutSeconds}.`,
    );
  if (!isWhole(initTimeoutSeconds, ...INIT_SECONDS))
    say(
      `initTimeout must be a whole number of seconds from ${INIT_SECONDS.join(" to ")}, not ${initTimeoutSeconds} [WS-BOOT-5].`,
    );
  if (protocol === "WS") mistakes.push(...idleMistakes(description, rules));
  const isMemory =
    memoryMb === SMALLEST_MEMORY_MB ||
    (isWhole(memoryMb, MEMORY_STEP_MB, LARGEST_MEMORY_MB) &&
      memoryMb % MEMORY_STEP_MB === 0);
  if (!isMemory)
    say(
      `memorySize must be ${SMALLEST_MEMORY_MB} or a multiple of ${MEMORY_STEP_MB} up to ${LARGEST_MEMORY_MB} MB, not ${memoryMb}.`,
    );
  if (!isWhole(concurrency, ...CONCURRENCY))
    say(
      `maxConcurrency must be a whole number from ${CONCURRENCY.join(" to ")}, not ${concurrency}.`,
    );
  for (const line of environmentMistakes(description.environment)) say(line);
  return mistakes;
}

function idleMistakes(
  { name, idleSeconds: idle, timeoutSeconds }: FunctionDescription,
  { profile }: CheckedRules,
): string[] {
  const [min, max] = IDLE_SECONDS[profile];
  if (!isWhole(idle, min, max))
    return [
      `${name}: idleTimeOut must be a whole number of seconds from ${min} to ${max}, not ${idle} [WS-TIME-1].`,
    ];
  if (timeoutSeconds >= idle) return [];
  if (timeoutSeconds === DEFAULT_TIMEOUT_SECONDS)
    return [
      `${name}: timeout is ${DEFAULT_TIMEOUT_SECONDS} s, the default, which no WebSocket function can have [WS-TIME-4]: ` +
        `set timeout to the longest connection you want, at least idleTimeOut (${idle} s).`,
    ];
  return [
    `${name}: timeout (${timeoutSeconds} s) must not be below idleTimeOut (${idle} s) [WS-TIME-2].`,
  ];
}

function environmentMistakes(
  environment: Readonly<Record<string, string>>,
): string[] {
  const mistakes: string[] = [];
  let bytes = 0;
  for (const [key, value] of Object.entries(environment)) {
    bytes += Buffer.byteLength(key) + Buffer.byteLength(value);
    const reserved = reservedPrefixes.find((prefix) => key.startsWith(prefix));
    if (reserved !== undefined)
      mistakes.push(
        `environment variable ${key}: names that begin with ${reserved} belong to the platform.`,
      );
    else if (!/^[A-Za-z][A-Za-z0-9_]+$/.test(key))
      mistakes.push(
        `environment variable ${JSON.stringify(key)}: a name begins with a letter and has letters, digits and _, two characters or more.`,
      );
  }
  if (bytes > MAX_ENVIRONMENT_BYTES)
    mistakes.push(
      `the environment variables have ${bytes} bytes; ${MAX_ENVIRONMENT_BYTES} are allowed.`,
    );
  return mistakes;
}

function isWhole(value: number, min: number, max: number): boolean {
  return Number.isInteger(value) && value >= min && value <= max;
}

/** The description after an update of a function, or why the platform refuses it. The old one stays what it was. */
export function update(
  old: FunctionDescription,
  next: FunctionDescription,
  rules: CheckedRules,
): FunctionDescription | string[] {
  if (old.protocol === "WS" && next.protocol !== "WS")
    return [
      `${old.name}: WebSocket support cannot be switched off once a function has it [WS-TIME-5]: create a new function.`,
    ];
  if (old.protocol === "HTTP" && next.protocol !== "HTTP")
    return [
      `${old.name}: an HTTP function cannot become a WebSocket function [WS-TIME-6]: create a new function.`,
    ];
  const mistakes = findMistakes(next, rules);
  return mistakes.length > 0 ? mistakes : next;
}

/** `init 60 s + execution 900 s, idle 600 s`: the timeouts that end a request, in the order in which they begin. */
export function timeoutChain(description: FunctionDescription): string {
  const { protocol, initTimeoutSeconds, timeoutSeconds, idleSeconds } =
    description;
  const wait = initTimeoutSeconds + timeoutSeconds;
  const idle = protocol === "WS" ? `, idle ${idleSeconds} s` : "";
  return `the gateway waits ${wait} s = init ${initTimeoutSeconds} s + execution ${timeoutSeconds} s${idle}`;
}
