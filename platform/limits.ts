// Every number the platform goes by: name with unit, default, reason; and how the environment changes some of them.

export interface Limits {
  /** No data frame in either direction for this long ends a connection with 455 [WS-CLOSE-11, WS-TIME-1]. */
  readonly wsIdleSeconds: number;
  /** From the hand-over to a ready instance to the forced end with 433 [WS-CLOSE-14, WS-TIME-3]. */
  readonly wsExecutionSeconds: number;
  /** From the start of a process to its listening port, else 446 [WS-BOOT-5]. */
  readonly initSeconds: number;
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
  /** How long an instance beyond the prewarmed ones may stay unused (the documents say 3 to 5 minutes). */
  readonly warmTtlSeconds: number;
  /** A function may learn of its connection's end a moment after the gateway: no new one before this. */
  readonly settleMs: number;
  /** How long a request waits for a slot when all instances are taken and no more may start. */
  readonly queueMs: number;
  /** From SIGTERM to SIGKILL when an instance is recycled. */
  readonly recycleGraceMs: number;
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
  /** One WebSocket message, either direction [WS-LIM-1]. Counted and reported, not enforced yet. */
  readonly maxMessageBytes: number;
}

export const defaultLimits: Limits = Object.freeze({
  wsIdleSeconds: 600,
  wsExecutionSeconds: 7_200,
  initSeconds: 60,
  wsPrewarm: 2,
  wsMaxInstances: 200,
  wsMaxIdle: 4,
  httpConcurrency: 100,
  httpMaxInstances: 3,
  warmTtlSeconds: 240,
  settleMs: 50,
  queueMs: 2_000,
  recycleGraceMs: 2_000,
  stopGraceMs: 12_000,
  lingerMs: 5_000,
  readySeconds: 60,
  restartMinMs: 100,
  restartMaxMs: 5_000,
  healthyMs: 10_000,
  invocationsKept: 1_000,
  maxMessageBytes: 262_144,
});

/** What `npm start` can change. */
export interface Settings {
  /** 0 picks a free port. */
  readonly gatewayPort: number;
  readonly limits: Limits;
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
 * Reads `GATEWAY_PORT`, `PREWARM`, `WS_IDLE_SECONDS`, `EXECUTION_SECONDS` (also what ws-fn goes by) and `LOG_LEVEL`.
 * Returns the settings, or one line per mistake.
 */
export function parseSettings(
  env: Readonly<Record<string, string | undefined>>,
): Settings | string[] {
  const mistakes: string[] = [];
  function number(name: string, fallback: number, min: number, max: number) {
    const text = env[name];
    if (text === undefined || text === "") return fallback;
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= min && value <= max) return value;
    mistakes.push(
      `${name} must be a whole number from ${min} to ${max}, not "${text}"`,
    );
    return fallback;
  }
  const logLevel = env["LOG_LEVEL"] || "info";
  if (!logLevels.includes(logLevel))
    mistakes.push(
      `LOG_LEVEL must be one of ${logLevels.join(", ")}, not "${logLevel}"`,
    );
  const gatewayPort = number("GATEWAY_PORT", 8_080, 0, 65_535);
  const { wsPrewarm, wsMaxInstances, wsIdleSeconds, wsExecutionSeconds } =
    defaultLimits;
  const execution = number("EXECUTION_SECONDS", wsExecutionSeconds, 1, 86_400);
  // A default never contradicts what was asked for; two contradicting wishes are a mistake.
  const idleDefault = Math.min(wsIdleSeconds, execution);
  const idle = number("WS_IDLE_SECONDS", idleDefault, 10, 7_200);
  if (execution < idle)
    mistakes.push(
      `EXECUTION_SECONDS (${execution}) must not be below WS_IDLE_SECONDS (${idle}) [WS-TIME-2]`,
    );
  const limits: Limits = {
    ...defaultLimits,
    wsPrewarm: number("PREWARM", wsPrewarm, 0, wsMaxInstances),
    wsIdleSeconds: idle,
    wsExecutionSeconds: execution,
  };
  return mistakes.length > 0 ? mistakes : { gatewayPort, limits, logLevel };
}
