/**
 * What a row breaks: a Redis topology, two http-fn and two ws-fn as they are deployed, and what lies between them:
 * proxies and recorders where the row asks for them. Rows that leave it whole share it, one after the other.
 */
import { backendOf, type Backend } from "../lab/backend.js";
import { startHttpFn, startWsFn, type TestFunction } from "../lab/processes.js";
import { startProxy, type TestProxy } from "../lab/proxy.js";
import { startRecorder, type Recorder } from "../lab/recorder.js";
import {
  clusterRedis,
  sentinelRedis,
  singleRedis,
  type ClusterRedis,
  type RedisConfig,
  type SentinelRedis,
  type TestRedis,
} from "../lab/redis.js";
import type { Scope } from "../lab/scope.js";
import { until } from "../lab/until.js";

export interface WorldSpec {
  readonly redis: "single" | "sentinel" | "cluster";
  /** Settings of every Redis server, over AOF with fsync every second. */
  readonly redisConfig?: RedisConfig;
  /** Proxies between functions and Redis; for a single one only: the others tell clients their own addresses. */
  readonly between?: readonly ("http-redis" | "ws-redis")[];
  /** What clients go through to ws-fn: nothing (default), a proxy, or a recorder that hears what a socket still says. */
  readonly front?: "proxy" | "recorder";
  /** Environment of both functions, over the form's. */
  readonly env?: Readonly<Record<string, string>>;
  /** Over that, in the short form alone; the long one has the shipped defaults. */
  readonly shortEnv?: Readonly<Record<string, string>>;
}

/** One of the two places of a function. Whoever stands there can be killed and replaced; its front stays. */
export interface Place {
  readonly process: TestFunction;
  /** New sockets go to the other place. Rows set it when an instance dies, hangs or goes; `replace` ends it. */
  isAway: boolean;
  /** Kills (default) or asks what stands there to go, waits for its end, and says how long that took, ms. */
  end(signal?: NodeJS.Signals): Promise<number>;
  /** Starts a new one. */
  replace(): Promise<void>;
}

export interface WsPlace extends Place {
  /** Only where the specification asks for it. */
  readonly proxy: TestProxy | undefined;
  readonly recorder: Recorder | undefined;
}

export interface World {
  readonly spec: WorldSpec;
  readonly scope: Scope;
  /** Throws where the topology is another one. */
  readonly single: TestRedis;
  readonly sentinel: SentinelRedis;
  readonly cluster: ClusterRedis;
  readonly httpRedis: TestProxy;
  readonly wsRedis: TestProxy;
  readonly httpFns: readonly [Place, Place];
  readonly wsFns: readonly [WsPlace, WsPlace];
  /** One for each http-fn, wherever it stands now. */
  readonly backends: readonly [Backend, Backend];
  /** `ws://127.0.0.1:<port>` of the place for this dial: each in turn, without those that are away. */
  address(turn: number): string;
  /** Puts back what a row took away, and waits until http-fn serves: the next row finds it as it was. */
  restore(): Promise<void>;
}

const AOF: RedisConfig = { appendonly: "yes", appendfsync: "everysec" };
const READY_MS = 30_000;

export async function startWorld(
  scope: Scope,
  spec: WorldSpec,
  formEnv: Readonly<Record<string, string>>,
): Promise<World> {
  const config = { ...AOF, ...spec.redisConfig };
  const single =
    spec.redis === "single" ? await singleRedis(scope, { config }) : undefined;
  const sentinel =
    spec.redis === "sentinel"
      ? await sentinelRedis(scope, { config })
      : undefined;
  const cluster =
    spec.redis === "cluster"
      ? await clusterRedis(scope, { config, replicas: 1 })
      : undefined;
  const url = single?.url ?? sentinel?.url ?? cluster?.url ?? "";
  const between = async (which: "http-redis" | "ws-redis") => {
    if (!spec.between?.includes(which)) return undefined;
    return startProxy(scope, the(single, "a single Redis").port);
  };
  const httpRedis = await between("http-redis");
  const wsRedis = await between("ws-redis");
  const env = (proxy: TestProxy | undefined) => ({
    LOG_LEVEL: "error",
    ...formEnv,
    ...spec.env,
    REDIS_URL: proxy ? `redis://127.0.0.1:${proxy.port}` : url,
  });
  const http = () => place(() => startHttpFn(scope, env(httpRedis)));
  const ws = async (): Promise<WsPlace> => {
    const here = await place(() => startWsFn(scope, env(wsRedis)));
    const target = () => here.process.port;
    return Object.assign(here, {
      proxy:
        spec.front === "proxy" ? await startProxy(scope, target) : undefined,
      recorder:
        spec.front === "recorder"
          ? await startRecorder(scope, target)
          : undefined,
    });
  };
  const [http0, http1, ws0, ws1] = await Promise.all([
    http(),
    http(),
    ws(),
    ws(),
  ]);
  const backend = ({ process }: Place) => backendOf(scope, process.url);
  let backends: [Backend, Backend] = [backend(http0), backend(http1)];
  const world: World = {
    spec,
    scope,
    get single() {
      return the(single, "a single Redis");
    },
    get sentinel() {
      return the(sentinel, "Sentinels");
    },
    get cluster() {
      return the(cluster, "a Cluster");
    },
    get httpRedis() {
      return the(httpRedis, 'between: ["http-redis"]');
    },
    get wsRedis() {
      return the(wsRedis, 'between: ["ws-redis"]');
    },
    httpFns: [http0, http1],
    wsFns: [ws0, ws1],
    // The same two objects for the whole row, over whatever process stands there.
    backends: [following(() => backends[0]), following(() => backends[1])],
    address: (turn) => {
      const wanted = turn % 2 === 0 ? ws0 : ws1;
      const other = wanted === ws0 ? ws1 : ws0;
      const { proxy, recorder, process } =
        wanted.isAway && !other.isAway ? other : wanted;
      return `ws://127.0.0.1:${proxy?.port ?? recorder?.port ?? process.port}`;
    },
    restore: async () => {
      for (const here of [http0, http1, ws0, ws1]) {
        if (here.isAway) await here.replace();
      }
      for (const one of world.backends) await isReady(one);
    },
  };
  for (const [index, here] of [http0, http1].entries()) {
    const { replace } = here;
    here.replace = async () => {
      await replace();
      backends =
        index === 0
          ? [backend(here), backends[1]]
          : [backends[0], backend(here)];
    };
  }
  await world.restore();
  return world;
}

async function isReady(backend: Backend): Promise<void> {
  await until(
    async () => (await backend.ask("GET", "/readyz")).status === 200,
    { ms: READY_MS, every: 50, message: "http-fn is ready" },
  );
}

function following(current: () => Backend): Backend {
  return {
    ask: (...rest) => current().ask(...rest),
    push: (...rest) => current().push(...rest),
    accepted: (...rest) => current().accepted(...rest),
    prepare: () => current().prepare(),
    receipt: (id) => current().receipt(id),
  };
}

async function place(start: () => Promise<TestFunction>): Promise<Place> {
  let process = await start();
  const here: Place = {
    get process() {
      return process;
    },
    isAway: false,
    end: async (signal = "SIGKILL") => {
      here.isAway = true;
      const began = performance.now();
      process.kill(signal);
      await process.exited;
      return performance.now() - began;
    },
    replace: async () => {
      await process.stop();
      process = await start();
      here.isAway = false;
    },
  };
  return here;
}

function the<T>(thing: T | undefined, what: string): T {
  if (thing === undefined) throw new Error(`This world has not ${what}`);
  return thing;
}
