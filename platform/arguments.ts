// The platform's command line: a folder of functions, and what the environment would say otherwise.

import { parseArgs } from "node:util";

export interface Arguments {
  /** Undefined: our own two functions. */
  readonly folder: string | undefined;
  readonly protocol: "HTTP" | "WS";
  readonly prewarm: number;
  readonly cert: string | undefined;
  readonly key: string | undefined;
  /** Environment variables that the options stand for. */
  readonly env: Readonly<Record<string, string>>;
}

const MAX_PREWARM = 100;

const options = {
  port: { type: "string" },
  preset: { type: "string" },
  set: { type: "string", multiple: true },
  ws: { type: "boolean" },
  http: { type: "boolean" },
  prewarm: { type: "string" },
  cert: { type: "string" },
  key: { type: "string" },
} as const;

/** The arguments, or one line per mistake. */
export function parseArguments(args: readonly string[]): Arguments | string[] {
  let parsed;
  try {
    parsed = parseArgs({ args: [...args], options, allowPositionals: true });
  } catch (error) {
    return [(error as Error).message];
  }
  const { values, positionals } = parsed;
  const mistakes: string[] = [];
  if (positionals.length > 1)
    mistakes.push(`one folder at a time, not ${positionals.join(", ")}`);
  if (values.ws && values.http)
    mistakes.push("--ws and --http exclude each other [WS-CONN-6]");
  if ((values.cert === undefined) !== (values.key === undefined))
    mistakes.push("--cert and --key belong together");
  const prewarm = Number(values.prewarm ?? "0");
  if (!Number.isInteger(prewarm) || prewarm < 0 || prewarm > MAX_PREWARM)
    mistakes.push(
      `--prewarm must be a whole number from 0 to ${MAX_PREWARM}, not "${values.prewarm}"`,
    );
  if (mistakes.length > 0) return mistakes;
  const env: Record<string, string> = {};
  if (values.port !== undefined) env["GATEWAY_PORT"] = values.port;
  if (values.preset !== undefined) env["PLATFORM_PRESET"] = values.preset;
  if (values.set !== undefined) env["PLATFORM_SET"] = values.set.join(",");
  return {
    folder: positionals[0],
    protocol: values.ws ? "WS" : "HTTP",
    prewarm,
    cert: values.cert,
    key: values.key,
    env,
  };
}
