/**
 * Logging: pino, one JSON object a line on standard output. Each line goes out by one door, which takes secrets out
 * (secrets.ts) and leaves nothing that a terminal would obey (visible.ts).
 */
import { pino, type Logger } from "pino";
import { withoutSecrets } from "./secrets.js";
import { visible } from "./visible.js";

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
  const out = pino.destination(1);
  return pino(
    {
      name,
      level,
      base: { name, pid: process.pid },
      serializers: { err: describeError },
      redact: { paths: secretPaths, censor: "***" },
      timestamp: pino.stdTimeFunctions.isoTime,
    },
    {
      write: (line: string) =>
        out.write(`${visible(withoutSecrets(line.trimEnd()))}\n`),
    },
  );
}

/** Parameters whose names may stand in a log. What a stranger calls his own may be a token. */
const knownParameters = [
  "token",
  "resume",
  "seq",
  "groups",
  "attempt",
  "welcome",
  "heartbeat",
];

/**
 * A URL that somebody asked for, as it may stand in a log: which of our paths, and which of our parameters. A token may
 * stand in any other place, and in any spelling, so nothing else of it is said.
 */
export function loggableUrl(url: string): string {
  const [path = "", query] = url.split("#", 1)[0]?.split(/\?(.*)/s, 2) ?? [];
  const shown =
    path === "/" || path === "/ws"
      ? path
      : /\/ws\/?$/.test(path)
        ? "…/ws"
        : "(another path)";
  if (query === undefined) return shown;
  const names = query.split("&").map((pair) => pair.split("=", 1)[0] ?? "");
  const known = knownParameters.filter((name) => names.includes(name));
  const others = names.filter((name) => !known.includes(name)).length;
  return `${shown}?${[
    ...known.map((name) => `${name}=***`),
    ...(others > 0 ? [`(and ${others} more)`] : []),
  ].join("&")}`;
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
