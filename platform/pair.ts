// Our two functions as the platform serves them: http-fn at `/`, ws-fn at `/ws`.

import type { FunctionDescription } from "./function-description.js";
import { readFunctionFile } from "./function-file.js";
import { defaultLimits, type Limits, type Settings } from "./limits.js";
import type { FunctionSetup } from "./platform.js";
import type { Project } from "./project.js";

export interface PairOptions {
  readonly http: FunctionDescription;
  readonly ws: FunctionDescription;
  readonly limits?: Partial<Limits>;
  /** Real seconds per platform second. Default 1. */
  readonly timeScale?: number;
}

/** What only the local platform tells our functions. */
const local = { BRIDGE_LOCAL: "1" };

export function pairOf(options: PairOptions): FunctionSetup[] {
  const { http, ws, timeScale = 1 } = options;
  const limits = { ...defaultLimits, ...options.limits };
  return [
    {
      description: http,
      route: "/",
      prewarm: 1,
      maxInstances: limits.httpMaxInstances,
      maxIdle: limits.httpMaxInstances,
      readyPath: "/readyz",
      env: local,
    },
    {
      description: ws,
      route: "/ws",
      prewarm: limits.wsPrewarm,
      maxInstances: limits.wsMaxInstances,
      maxIdle: limits.wsMaxIdle,
      env: {
        ...local,
        MAX_SOCKETS: "1",
        // The function moves its clients before the platform cuts them, and goes by real seconds.
        EXECUTION_SECONDS: String(ws.timeoutSeconds * timeScale),
      },
    },
  ];
}

/** The pair of two folders with their files, changed as the settings say; or one line per mistake. */
export async function readPair(
  httpDirectory: string,
  wsDirectory: string,
  settings: Settings,
  env: Readonly<Record<string, string | undefined>>,
): Promise<Project | string[]> {
  const { rules, limits } = settings;
  const [http, ws] = await Promise.all([
    readFunctionFile(httpDirectory, {
      env,
      rules,
      protocol: "HTTP",
      // The account's quota bounds a default; only what somebody asked for can be a mistake.
      adapt: (file) => ({
        timeoutSeconds: Math.min(
          file.timeoutSeconds,
          rules.maxExecutionSeconds,
        ),
      }),
    }),
    readFunctionFile(wsDirectory, {
      env,
      rules,
      protocol: "WS",
      adapt: (file) => {
        const timeoutSeconds =
          settings.ws.timeoutSeconds ??
          Math.min(file.timeoutSeconds, rules.maxExecutionSeconds);
        // A default never contradicts what was asked for; two contradicting wishes are a mistake.
        const idleSeconds =
          settings.ws.idleSeconds ?? Math.min(file.idleSeconds, timeoutSeconds);
        return { timeoutSeconds, idleSeconds };
      },
    }),
  ]);
  const mistakes = [http, ws].filter((one) => Array.isArray(one)).flat();
  if (Array.isArray(http) || Array.isArray(ws)) return mistakes;
  const functions = pairOf({
    http: http.description,
    ws: ws.description,
    limits,
    timeScale: rules.timeScale,
  });
  return { functions, notes: [...http.notes, ...ws.notes] };
}
