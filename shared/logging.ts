/** Logging: pino, one JSON object a line on standard output, with everything that could be a secret masked. */
import { pino, type Logger } from "pino";

export type { Logger };

/** Fields whose value never reaches a log line. */
const secretPaths = [
  "authorization",
  "token",
  "resumeToken",
  "apiKey",
  "password",
  "*.authorization",
  "*.token",
  "*.resumeToken",
  "headers.authorization",
  "headers.cookie",
  'headers["sec-websocket-protocol"]',
];

/** An error without the command that an ioredis error carries: its arguments are the messages of users. */
function describeError(error: Error): object {
  return { ...pino.stdSerializers.err(error), command: undefined };
}

/** A logger for one function. Level: `LOG_LEVEL`, default info. */
export function createLogger(name: string, level: string): Logger {
  return pino({
    name,
    level,
    base: { name, pid: process.pid },
    serializers: { err: describeError },
    redact: { paths: secretPaths, censor: "***" },
    timestamp: pino.stdTimeFunctions.isoTime,
  });
}

/** A URL as it may stand in a log: without the values of its query. */
export function loggableUrl(url: string): string {
  return url.replace(/=[^&#]*/g, "=***");
}

/** For a line that would else come with every request: says yes at most once in `ms`. */
export function sparing(ms: number): () => boolean {
  let next = -Infinity;
  return () => {
    const now = performance.now();
    if (now < next) return false;
    next = now + ms;
    return true;
  };
}
