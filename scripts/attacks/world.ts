/**
 * What is attacked: one Redis with a `maxmemory`, http-fn and ws-fn as they are deployed with the shipped defaults and
 * keys, and the honest in a process of their own.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";

import { carryOut } from "../bench/orders.js";
import { startHttpFn, startWsFn, type TestFunction } from "../lab/processes.js";
import { singleRedis, type TestRedis } from "../lab/redis.js";
import type { Scope } from "../lab/scope.js";
import { ROOT } from "../lab/root.js";
import { endChild, tiedToUs } from "../programs.js";
import type { HonestFigures, HonestOrder } from "./honest-load.js";
import { APPLICATION_KID, type Target } from "./target.js";

export interface WorldSpec {
  /** Of both functions, over the shipped defaults. */
  readonly env?: Readonly<Record<string, string>>;
  /** Redis' memory. Default 256mb. */
  readonly maxmemory?: string;
}

export interface World {
  readonly spec: WorldSpec;
  readonly redis: TestRedis;
  readonly httpFn: TestFunction;
  readonly wsFn: TestFunction;
  /** The attacker's. */
  readonly target: Target;
  /** The honest backend's: another key, with every scope. */
  readonly owner: Target;
  readonly honest: {
    begin(phase: string): Promise<void>;
    settle(): Promise<HonestFigures>;
  };
  /** Both functions' environment, for a row that starts one of its own. */
  readonly env: Readonly<Record<string, string>>;
}

const CLIENTS = 20;
const PUSHES_PER_SECOND = 60;
const sha256 = (text: string): string =>
  createHash("sha256").update(text).digest("hex");

export async function startWorld(
  scope: Scope,
  spec: WorldSpec,
): Promise<World> {
  const redis = await singleRedis(scope, {
    config: {
      appendonly: "no",
      maxmemory: spec.maxmemory ?? "256mb",
      "maxmemory-policy": "noeviction",
    },
  });
  const [key, ownerKey] = [randomBytes(24), randomBytes(24)].map((bytes) =>
    bytes.toString("base64url"),
  ) as [string, string];
  const secret = randomBytes(32).toString("base64");
  const scopes = "push+connections+groups+read";
  const env = {
    REDIS_URL: redis.url,
    API_KEYS: `mallory:${scopes}:${sha256(key)},owner:admin:${sha256(ownerKey)}`,
    TOKEN_KEYS: `${APPLICATION_KID}:${secret}`,
    ...spec.env,
  };
  const [httpFn, wsFn] = await Promise.all([
    startHttpFn(scope, env),
    startWsFn(scope, env),
  ]);
  const target = { httpPort: httpFn.port, wsPort: wsFn.port, key, secret };
  const owner = { ...target, key: ownerKey };
  const worker = await startWorker(scope, "honest");
  const order = (given: HonestOrder) => carryOut<unknown>(worker, given);
  await order({
    do: "open",
    target: owner,
    clients: CLIENTS,
    perSecond: PUSHES_PER_SECOND,
  });
  return {
    spec,
    redis,
    httpFn,
    wsFn,
    target,
    owner,
    env,
    honest: {
      begin: (phase) => order({ do: "begin", phase }).then(() => undefined),
      settle: () => order({ do: "settle" }) as Promise<HonestFigures>,
    },
  };
}

/** One of the two processes that take orders, ready for them; it ends with the scope. */
export async function startWorker(
  scope: Scope,
  name: "honest" | "attacker",
  nice = 0,
): Promise<ChildProcess> {
  const [command, args] = await tiedToUs(process.execPath, [
    `dist/scripts/attacks/${name}-main.js`,
  ]);
  const child = spawn(command, args, {
    cwd: ROOT,
    env: { PATH: process.env["PATH"] ?? "", NICE: String(nice) },
    stdio: ["ignore", "pipe", "inherit", "ipc"],
  });
  scope.teardown(() => endChild(child, "SIGKILL"));
  if (!child.stdout) throw new Error("no output");
  await Promise.race([
    once(child.stdout, "data"),
    once(child, "exit").then(() => {
      throw new Error(`${name} ended before it was ready`);
    }),
  ]);
  child.stdout.resume();
  return child;
}
