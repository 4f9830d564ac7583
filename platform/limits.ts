// The numbers of our machine, not of the platform we show (rules.ts): name with unit, default, reason; and how the
// environment changes some of them.

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
}

export const defaultLimits: Limits = Object.freeze({
  wsPrewarm: 2,
  wsMaxInstances: 200,
  wsMaxIdle: 4,
  httpConcurrency: 100,
  httpMaxInstances: 3,
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
});

/** Of ws-fn, where nobody says otherwise. */
const WS_IDLE_SECONDS = 600;
const WS_TIMEOUT_SECONDS = 7_200;

/** What `npm start` can change. */
export interface Settings {
  /** 0 picks a free port. */
  readonly gatewayPort: number;
  readonly limits: Limits;
  /** What differs from ws-fn's own description. */
  readonly ws: {
    readonly idleSeconds: number;
    readonly timeoutSeconds: number;
  };
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
  const { wsPrewarm, wsMaxInstances } = defaultLimits;
  const execution = number("EXECUTION_SECONDS", WS_TIMEOUT_SECONDS, 1, 86_400);
  // A default never contradicts what was asked for; two contradicting wishes are a mistake.
  const idleDefault = Math.min(WS_IDLE_SECONDS, execution);
  const idle = number("WS_IDLE_SECONDS", idleDefault, 10, 7_200);
  if (execution < idle)
    mistakes.push(
      `EXECUTION_SECONDS (${execution}) must not be below WS_IDLE_SECONDS (${idle}) [WS-TIME-2]`,
    );
  const limits: Limits = {
    ...defaultLimits,
    wsPrewarm: number("PREWARM", wsPrewarm, 0, wsMaxInstances),
  };
  const ws = { idleSeconds: idle, timeoutSeconds: execution };
  return mistakes.length > 0 ? mistakes : { gatewayPort, limits, ws, logLevel };
}
