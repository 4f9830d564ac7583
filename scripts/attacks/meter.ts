/** What an attack costs, read from outside: Redis' own counters, and /proc for both functions. */
import { setTimeout as sleep } from "node:timers/promises";

import { cpuMicroseconds, residentBytes } from "../bench/processes.js";
import type { World } from "./world.js";

export interface Reading {
  readonly at: number;
  readonly redisOut: number;
  readonly redisMemory: number;
  readonly rss: number;
  readonly httpCpuMs: number;
  readonly wsCpuMs: number;
}

export async function read({ redis, httpFn, wsFn }: World): Promise<Reading> {
  const [info, httpCpu, wsCpu, httpRss, wsRss] = await Promise.all([
    redis.cli("INFO", "everything"),
    cpuMicroseconds(httpFn.pid),
    cpuMicroseconds(wsFn.pid),
    residentBytes(httpFn.pid),
    residentBytes(wsFn.pid),
  ]);
  const of = (name: string) =>
    Number(new RegExp(`^${name}:(\\d+)`, "m").exec(String(info))?.[1]);
  return {
    at: performance.now(),
    redisOut: of("total_net_output_bytes"),
    redisMemory: of("used_memory"),
    rss: httpRss + wsRss,
    httpCpuMs: httpCpu / 1_000,
    wsCpuMs: wsCpu / 1_000,
  };
}

/** How busy a world is: bytes out of Redis a second, and shares of a core. */
export interface Pace {
  readonly redisOut: number;
  readonly httpCpu: number;
  readonly wsCpu: number;
  /** Of both. */
  readonly cpu: number;
}

export function paceOf(from: Reading, to: Reading): Pace {
  const ms = Math.max(1, to.at - from.at);
  const httpCpu = (to.httpCpuMs - from.httpCpuMs) / ms;
  const wsCpu = (to.wsCpuMs - from.wsCpuMs) / ms;
  return {
    redisOut: ((to.redisOut - from.redisOut) / ms) * 1_000,
    httpCpu,
    wsCpu,
    cpu: httpCpu + wsCpu,
  };
}

/** Two such windows in a row are quiet. */
const WINDOW_MS = 250;
/** Above what was normal before: what keeps a world warm is no attack that goes on. */
const MORE = { redisOut: 1_000_000, cpu: 0.3 };

/** Seconds until the world is as busy as before; undefined when it never is within `ms`. */
export async function quietAfter(
  world: World,
  before: Pace,
  ms: number,
): Promise<{ seconds: number | undefined; pace: Pace }> {
  const began = performance.now();
  let last = await read(world);
  let quiet = 0;
  for (;;) {
    await sleep(WINDOW_MS);
    const now = await read(world);
    const pace = paceOf(last, now);
    last = now;
    const isQuiet =
      pace.redisOut <= 2 * before.redisOut + MORE.redisOut &&
      pace.cpu <= 2 * before.cpu + MORE.cpu;
    quiet = isQuiet ? quiet + 1 : 0;
    const passed = performance.now() - began;
    if (quiet === 2)
      return {
        seconds: Math.max(0, passed - 2 * WINDOW_MS) / 1_000,
        pace,
      };
    if (passed > ms) return { seconds: undefined, pace };
  }
}
