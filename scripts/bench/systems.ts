// The systems the bench compares: what they are, and how their processes are started.
import { createHash, randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Processes, Program, Running } from "./processes.js";
import type { Pushing } from "./pushing.js";
import type { Speech, Target } from "./speech.js";

/** Programs; the bridge's serve both kinds of its clients. */
export type ServerName =
  | "bridge"
  | "literal"
  | "socketio"
  | "socketio-streams"
  | "publish"
  | "durable";

interface System {
  servers: ServerName;
  speech: Speech;
  description: string;
}

export const systems = {
  bridge: {
    servers: "bridge",
    speech: "bridge.v1.json",
    description:
      "this bridge, shipped defaults: log, acks, receipts, API key, tokens, logging; clients that speak bridge.v1.json and ack",
  },
  "bridge-raw": {
    servers: "bridge",
    speech: "raw",
    description: "the same with raw sockets",
  },
  literal: {
    servers: "literal",
    speech: "plain",
    description:
      "one BullMQ job per message, stock Worker per connection: concurrency 1, jobs removed when done, Queues and Workers on " +
      "shared Redis connections where BullMQ allows it",
  },
  socketio: {
    servers: "socketio",
    speech: "socket.io",
    description:
      "Socket.IO with its Redis adapter, the Redis emitter behind fastify; nothing durable",
  },
  "socketio-streams": {
    servers: "socketio-streams",
    speech: "socket.io",
    description:
      "Socket.IO with its Redis streams adapter and connection state recovery; a server without sockets behind fastify emits",
  },
  publish: {
    servers: "publish",
    speech: "plain",
    description: "bare PUBLISH relay, nothing durable",
  },
  durable: {
    servers: "durable",
    speech: "plain",
    description:
      "bare durable relay: XADD and PUBLISH in one pipeline, nothing acked, no receipts",
  },
} as const satisfies Record<string, System>;

export type SystemName = keyof typeof systems;
export const systemNames = Object.keys(systems) as SystemName[];

/** Started programs, ready for clients. */
export interface Servers {
  http: Running;
  wss: Running[];
  pushing: Pushing;
  /** Makes that many connections addressable, spread over all WebSocket processes. */
  targets(count: number, speech: Speech): Promise<Target[]>;
}

export interface Surroundings {
  redisUrl: string;
  /** Directory for a CPU profile of each Node process, if wanted. */
  profiles: string | undefined;
  /** Before the names of the processes. */
  prefix: string;
}

/** Starts a system's programs on a Redis that nobody else uses. */
export function startServers(
  name: ServerName,
  processes: Processes,
  surroundings: Surroundings,
  wsProcesses = 1,
): Promise<Servers> {
  return name === "bridge"
    ? startBridge(processes, surroundings, wsProcesses)
    : startBaseline(name, processes, surroundings, wsProcesses);
}

const LISTENING = /^listening \S+:(\d+)$/m;
/** Connections prepared at the same time. */
const PREPARING_AT_ONCE = 16;
/** A connection that Redis was too slow for is prepared again so often, and after so long. */
const AGAIN_MAX = 50;
const AGAIN_MS = 200;

async function startBaseline(
  name: Exclude<ServerName, "bridge">,
  processes: Processes,
  surroundings: Surroundings,
  wsProcesses: number,
): Promise<Servers> {
  const script = fileURLToPath(new URL(`./${name}.js`, import.meta.url));
  const env = { REDIS_URL: surroundings.redisUrl };
  const start = (role: string, as: string): Promise<Running> =>
    processes.startNode(
      node(`${name}-${as}`, [script, role], env, surroundings),
    );
  const [http, ...wss] = await Promise.all([
    start("http", "http"),
    ...wsNames(wsProcesses).map((as) => start("ws", as)),
  ]);
  return {
    http,
    wss,
    pushing: { port: portOf(http), headers: "" },
    targets: (count, speech) =>
      Promise.resolve(
        Array.from({ length: count }, (_, index) => ({
          speech,
          port: portOf(ofTurn(wss, index)),
          // Socket.IO names its sockets itself.
          id:
            speech === "plain"
              ? `c_${randomBytes(11).toString("hex")}`
              : undefined,
          token: undefined,
        })),
      ),
  };
}

/** A connection that was made over HTTP, for its client to come. */
export interface Prepared {
  connectionId: string;
  token: string;
  url: string;
}

/** The bridge from its built files, with its defaults and any number of ws-fn; `url` of what it prepares names the first one. */
export async function startBridge(
  processes: Processes,
  surroundings: Surroundings,
  wsProcesses = 1,
): Promise<Servers & { prepare(count: number): Promise<Prepared[]> }> {
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
  const wss = await Promise.all(
    wsNames(wsProcesses).map((as) =>
      processes.startNode(
        node(`bridge-${as}`, [main("ws-fn")], env, surroundings),
      ),
    ),
  );
  const PUBLIC_WS_URL = `ws://127.0.0.1:${portOf(ofTurn(wss, 0))}/ws`;
  const http = await processes.startNode(
    node(
      "bridge-http",
      [main("http-fn")],
      { ...env, PUBLIC_WS_URL },
      surroundings,
    ),
  );
  const authorization = `Bearer ${key}`;
  const prepare = async (count: number): Promise<Prepared[]> => {
    const prepared: Prepared[] = [];
    let left = count;
    const preparing = async (): Promise<void> => {
      while (left-- > 0)
        prepared.push(await prepareConnection(portOf(http), authorization));
    };
    await Promise.all(Array.from({ length: PREPARING_AT_ONCE }, preparing));
    return prepared;
  };
  return {
    http,
    wss,
    pushing: {
      port: portOf(http),
      headers: `Authorization: ${authorization}\r\n`,
    },
    prepare,
    async targets(count, speech) {
      const prepared = await prepare(count);
      return prepared.map(({ connectionId, token }, index) => ({
        speech,
        port: portOf(ofTurn(wss, index)),
        id: connectionId,
        token,
      }));
    },
  };
}

async function prepareConnection(
  port: number,
  authorization: string,
): Promise<Prepared> {
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
  return (await response.json()) as Prepared;
}

function wsNames(count: number): string[] {
  return Array.from({ length: count }, (_, index) =>
    index === 0 ? "ws" : `ws-${index + 1}`,
  );
}

function node(
  name: string,
  args: string[],
  env: Record<string, string>,
  { profiles, prefix }: Surroundings,
): Program {
  return {
    name,
    args: [...profiling(`${prefix}${name}`, profiles), ...args],
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

function ofTurn<T>(all: readonly T[], index: number): T {
  return all[index % all.length] as T;
}
