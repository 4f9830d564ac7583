// The systems the bench compares: how each pair of processes is started, and how its connections are addressed.
import { createHash, randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Pushing, Target } from "./load.js";
import type { Processes, Program, Running } from "./processes.js";

export const systemNames = ["bridge", "literal", "publish", "durable"] as const;
export type SystemName = (typeof systemNames)[number];

export const descriptions: Record<SystemName, string> = {
  bridge:
    "this bridge, shipped defaults: log, delivery runs, acks, receipts, API key, tokens, logging",
  literal:
    "one BullMQ job per message, stock Worker per connection: concurrency 1, jobs removed when done, Queues and Workers on " +
    "shared Redis connections where BullMQ allows it",
  publish: "bare PUBLISH relay, nothing durable",
  durable:
    "bare durable relay: XADD and PUBLISH in one pipeline, nothing acked, no receipts",
};

/** A started system. */
export interface Pair {
  http: Running;
  ws: Running;
  pushing: Pushing;
  /** Makes that many connections addressable. */
  targets(count: number): Promise<Target[]>;
}

export interface Surroundings {
  redisUrl: string;
  /** Directory for a CPU profile of each Node process, if wanted. */
  profiles: string | undefined;
}

/** Starts both halves of a system on a Redis that nobody else uses. */
export function startSystem(
  name: SystemName,
  processes: Processes,
  surroundings: Surroundings,
): Promise<Pair> {
  return name === "bridge"
    ? startBridge(processes, surroundings)
    : startBaseline(name, processes, surroundings);
}

const LISTENING = /^listening \S+:(\d+)$/m;
/** Connections prepared at the same time. */
const PREPARING_AT_ONCE = 16;
/** A connection that Redis was too slow for is prepared again so often, and after so long. */
const AGAIN_MAX = 50;
const AGAIN_MS = 200;

async function startBaseline(
  name: SystemName,
  processes: Processes,
  surroundings: Surroundings,
): Promise<Pair> {
  const script = fileURLToPath(new URL(`./${name}.js`, import.meta.url));
  const env = { REDIS_URL: surroundings.redisUrl };
  const half = (role: string): Program =>
    node(`${name}-${role}`, [script, role], env, surroundings);
  const ws = await processes.startNode(half("ws"));
  const http = await processes.startNode(half("http"));
  return {
    http,
    ws,
    pushing: { port: portOf(http), headers: "" },
    targets: (count) =>
      Promise.resolve(
        Array.from({ length: count }, () => {
          const id = `c_${randomBytes(11).toString("hex")}`;
          return {
            path: `/v1/connections/${id}/messages`,
            url: `ws://127.0.0.1:${portOf(ws)}/?id=${id}`,
            protocols: [],
            speaks: "plain",
          };
        }),
      ),
  };
}

/** The bridge, with any number of ws-fn; `url` of its targets names the first one. */
export async function startBridge(
  processes: Processes,
  surroundings: Surroundings,
  wsFns = 1,
): Promise<Pair & { wsFns: Running[] }> {
  const key = randomBytes(24).toString("base64url");
  const keyHash = createHash("sha256").update(key).digest("hex");
  const env = {
    REDIS_URL: surroundings.redisUrl,
    HOST: "127.0.0.1",
    PORT: "0",
    API_KEYS: `bench:push+connections+read:${keyHash}`,
    TOKEN_KEYS: `bench:${randomBytes(32).toString("base64")}`,
  };
  const main = (role: string): string =>
    fileURLToPath(new URL(`../../${role}/main.js`, import.meta.url));
  const startWs = (name: string): Promise<Running> =>
    processes.startNode(node(name, [main("ws-fn")], env, surroundings));
  const ws = await startWs("bridge-ws");
  const others: Running[] = [];
  while (others.length < wsFns - 1)
    others.push(await startWs(`bridge-ws-${others.length + 2}`));
  const PUBLIC_WS_URL = `ws://127.0.0.1:${portOf(ws)}/ws`;
  const http = await processes.startNode(
    node(
      "bridge-http",
      [main("http-fn")],
      { ...env, PUBLIC_WS_URL },
      surroundings,
    ),
  );
  const authorization = `Bearer ${key}`;
  return {
    http,
    ws,
    wsFns: [ws, ...others],
    pushing: {
      port: portOf(http),
      headers: `Authorization: ${authorization}\r\n`,
    },
    async targets(count) {
      const targets: Target[] = [];
      const prepare = async (): Promise<void> => {
        while (targets.length < count) {
          const place = targets.push(NOT_PREPARED) - 1;
          targets[place] = await prepareConnection(portOf(http), authorization);
        }
      };
      await Promise.all(Array.from({ length: PREPARING_AT_ONCE }, prepare));
      return targets;
    },
  };
}

const NOT_PREPARED: Target = {
  path: "",
  url: "",
  protocols: [],
  speaks: "bridge.v1.json",
};

async function prepareConnection(
  port: number,
  authorization: string,
): Promise<Target> {
  const ask = (): Promise<Response> =>
    fetch(`http://127.0.0.1:${port}/v1/connections`, {
      method: "POST",
      headers: { authorization },
    });
  let response = await ask();
  // A machine that is busy with other work makes Redis slow; this is not what is measured.
  for (let again = 0; response.status === 503 && again < AGAIN_MAX; again++) {
    await sleep(AGAIN_MS);
    response = await ask();
  }
  if (response.status !== 201) {
    throw new Error(
      `POST /v1/connections answered ${response.status}: ${await response.text()}`,
    );
  }
  const { connectionId, token, url } = (await response.json()) as {
    connectionId: string;
    token: string;
    url: string;
  };
  return {
    path: `/v1/connections/${connectionId}/messages`,
    url,
    protocols: ["bridge.v1.json", `bearer.${token}`],
    speaks: "bridge.v1.json",
  };
}

export function node(
  name: string,
  args: string[],
  env: Record<string, string>,
  { profiles }: Surroundings,
): Program {
  return {
    name,
    args: [...profiling(name, profiles), ...args],
    env,
    ready: LISTENING,
  };
}

/** Options of `node` that write a CPU profile of a process when it ends. */
export const profiling = (
  name: string,
  dir: string | undefined,
): readonly string[] =>
  dir === undefined
    ? []
    : [
        "--cpu-prof",
        `--cpu-prof-dir=${dir}`,
        `--cpu-prof-name=${name}.cpuprofile`,
      ];

export function portOf(running: Running): number {
  return Number(running.ready[1]);
}
