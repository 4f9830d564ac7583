// The numbers of our machine, not of the platform we show (rules.ts): name with unit, default, reason; and how the
// environment changes some of them.

import type { FunctionDescription } from "./function-description.js";
import { parseRules } from "./rule-text.js";
import type { Rules } from "./rules.js";

const DEFAULT_PORT = 8_080;
/** A week: what is allowed is the rules' business. */
const MAX_SECONDS = 604_800;

export interface Limits {
  /** ws-fn instances kept ready before anybody connects: a connect then costs no process start. */
  readonly wsPrewarm: number;
  /** ws-fn instances at most; each is a Node process of some 60 MB. Beyond it a connect is refused with 432. */
  readonly wsMaxInstances: number;
  /** Free ws-fn instances kept at most after their connection ended; the others are recycled at once. */
  readonly wsMaxIdle: number;
  /** Requests in flight in one http-fn instance before another one starts (the platform allows 1 to 100). */
  readonly httpConcurrency: number;
  /** http-fn instances at most; one serves until `httpConcurrency` is reached. */
  readonly httpMaxInstances: number;
  /** A function that runs on may learn of its connection's end a moment after the gateway: no new one before this. */
  readonly settleMs: number;
  /** How long a request waits for a slot when all instances are taken and no more may start. */
  readonly queueMs: number;
  /** From SIGTERM to SIGKILL when the platform stops: ws-fn's reconnect slots (5 s), 5 s of patience, and a bit. */
  readonly stopGraceMs: number;
  /** From the first half-closed line of a tunnel to the end of both. */
  readonly lingerMs: number;
  /** How long http-fn may take until `GET /readyz` answers 200. */
  readonly readySeconds: number;
  /** First pause before a dead instance is replaced; doubles up to `restartMaxMs`. */
  readonly restartMinMs: number;
  readonly restartMaxMs: number;
  /** An instance that lived this long was healthy: the pause before its replacement starts small again. */
  readonly healthyMs: number;
  /** Ended invocations remembered, per function. */
  readonly invocationsKept: number;
}

export const defaultLimits: Limits = Object.freeze({
  wsPrewarm: 2,
  wsMaxInstances: 200,
  wsMaxIdle: 4,
  httpConcurrency: 100,
  httpMaxInstances: 3,
  settleMs: 50,
  queueMs: 2_000,
  stopGraceMs: 12_000,
  lingerMs: 5_000,
  readySeconds: 60,
  restartMinMs: 100,
  restartMaxMs: 5_000,
  healthyMs: 10_000,
  invocationsKept: 1_000,
});

/** What `npm start` and `npm run platform` can be told. */
export interface Settings {
  /** 0 picks a free port. */
  readonly gatewayPort: number;
  readonly limits: Limits;
  readonly rules: Rules;
  /** What differs from ws-fn's own file. */
  readonly ws: Partial<
    Pick<FunctionDescription, "idleSeconds" | "timeoutSeconds">
  >;
  /** One of pino's levels; the functions go by the same variable. */
  readonly logLevel: string;
}

const logLevels = [
  "trace",
  "debug",
  "info",
  "warn",
  "error",
  "fatal",
  "silent",
];

/**
 * Reads `GATEWAY_PORT`, `PREWARM`, `PLATFORM_PRESET`, `PLATFORM_SET`, `WS_IDLE_SECONDS`, `EXECUTION_SECONDS` (also what
 * ws-fn goes by) and `LOG_LEVEL`. Returns the settings, or one line per mistake. The two timeouts are checked together
 * with ws-fn's file (pair.ts).
 */
export function parseSettings(
  env: Readonly<Record<string, string | undefined>>,
): Settings | string[] {
  const mistakes: string[] = [];
  function number(name: string, min: number, max: number): number | undefined {
    const text = env[name];
    if (text === undefined || text === "") return undefined;
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= min && value <= max) return value;
    mistakes.push(
      `${name} must be a whole number from ${min} to ${max}, not "${text}"`,
    );
    return undefined;
  }
  const logLevel = env["LOG_LEVEL"] || "info";
  if (!logLevels.includes(logLevel))
    mistakes.push(
      `LOG_LEVEL must be one of ${logLevels.join(", ")}, not "${logLevel}"`,
    );
  const rules = parseRules({
    preset: env["PLATFORM_PRESET"],
    set: env["PLATFORM_SET"],
  });
  if (Array.isArray(rules)) mistakes.push(...rules);
  const { wsPrewarm, wsMaxInstances } = defaultLimits;
  const gatewayPort = number("GATEWAY_PORT", 0, 65_535) ?? DEFAULT_PORT;
  const prewarm = number("PREWARM", 0, wsMaxInstances) ?? wsPrewarm;
  const timeoutSeconds = number("EXECUTION_SECONDS", 1, MAX_SECONDS);
  const idleSeconds = number("WS_IDLE_SECONDS", 1, MAX_SECONDS);
  if (mistakes.length > 0 || Array.isArray(rules)) return mistakes;
  return {
    gatewayPort,
    limits: { ...defaultLimits, wsPrewarm: prewarm },
    rules,
    ws: {
      ...(timeoutSeconds === undefined ? {} : { timeoutSeconds }),
      ...(idleSeconds === undefined ? {} : { idleSeconds }),
    },
    logLevel,
  };
}
