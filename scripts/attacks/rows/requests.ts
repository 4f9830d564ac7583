/** H2, H5, M6, M7: what one socket, one key and one user may ask for has an end. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";

import type {
  Connects,
  Followers,
  Idle,
  Names,
  Nested,
  Pipeline,
} from "../weapons/requests.js";
import { MB, row } from "../row.js";

export const pipelined = row<Pipeline>({
  id: "H2",
  title: "20,000 requests without a key in one write",
  sizes: {
    // The short one ends as soon as it is decided.
    short: { requests: 20_000, enough: 2_000, ms: 20_000 },
    long: { requests: 20_000, enough: 1_000_000_000, ms: 10_000 },
  },
  attack: async (run, size) => {
    const { haul } = await run.strike("pipeline", size);
    // One refusal ends a socket; of what anybody may ask, no socket gets it without end.
    run.atMost("refusals on one socket", haul["refusals"] ?? 0, 10);
    run.atMost("answers of http-fn on one", haul["health"] ?? 0, 2_000);
    run.atMost("answers of ws-fn on one", haul["wsHealth"] ?? 0, 2_000);
  },
});

export const newNames = row<Names>({
  id: "H5a",
  title: "empty messages to new names of groups",
  sizes: {
    short: { requests: 3_000, atOnce: 20, ms: 10_000 },
    long: { requests: 100_000, atOnce: 50, ms: 20_000 },
  },
  attack: async (run, size) => {
    const { haul, redisGrowth } = await run.strike("names", size);
    const { taken = 0, limited = 0, others = 0 } = haul;
    run.figure("taken", taken);
    run.figure("429", limited);
    run.atMost("others", others, 0);
    run.atMost("Redis for each", taken === 0 ? 0 : redisGrowth / taken, 2_500);
    run.atMost("Redis in all", redisGrowth, 40 * MB);
  },
});

export const newConnections = row<Connects>({
  id: "H5b",
  title: "one user connects anew again and again, who may 200 times an hour",
  world: { env: { USER_QUOTAS: "connections=200/3600" } },
  guard: {
    name: "the quota of new connections",
    env: { USER_QUOTAS: "connections=off" },
  },
  sizes: {
    short: { connects: 600, ms: 10_000 },
    long: { connects: 20_000, ms: 30_000 },
  },
  attack: async (run, size) => {
    const { haul } = await run.strike("connects", size);
    const { opened = 0, refused = 0 } = haul;
    run.figure("refused", refused);
    run.check(refused > 0, "no connect was refused");
    run.atMost("opened", opened, 210);
  },
});

const FILES = 256;

export const idleSockets = row<Idle>({
  id: "M6",
  title: "idle sockets against 256 descriptors, and refusals that fill the log",
  // A world of its own: its descriptors are bounded.
  world: { env: { LOG_LEVEL: "info" } },
  sizes: {
    short: { sockets: 400, refusals: 2_000, holdMs: 500 },
    long: { sockets: 400, refusals: 20_000, holdMs: 10_000 },
  },
  attack: async (run, size) => {
    const { pid } = run.world.httpFn;
    const limit = (files: string) =>
      promisify(execFile)("prlimit", [`--pid=${pid}`, `--nofile=${files}`]);
    await limit(`${FILES}:`);
    const { haul, logLines } = await run.strike("idle", size);
    run.figure("idle sockets kept", haul["kept"] ?? 0);
    run.atMost("requests unanswered of 3", 3 - (haul["answered"] ?? 0), 0);
    run.figure("refusals", haul["refused"] ?? 0);
    run.atMost("lines in the log", logLines, 200);
  },
});

export const brackets = row<Nested>({
  id: "M7a",
  title: "batches that are nothing but brackets",
  sizes: { short: { bytes: 4_000_000 }, long: { bytes: 10_000_000 } },
  attack: async (run, size) => {
    const { haul, httpCpuMs } = await run.strike("nested", size);
    for (const [name, status] of Object.entries(haul))
      run.figure(`${name} answered`, status);
    const refused = Object.values(haul).every((status) => status < 500);
    run.check(refused, "a batch of brackets is our mistake (5xx)");
    run.atMost("CPU of http-fn, ms", httpCpuMs, size.bytes / 10_000);
  },
});

export const deafFollowers = row<Followers>({
  id: "M7b",
  title: "followers of all events that do not read",
  sizes: {
    short: { followers: 100, events: 60, bytes: 90_000, holdMs: 1_500 },
    long: { followers: 200, events: 500, bytes: 90_000, holdMs: 20_000 },
  },
  attack: async (run, size) => {
    const { haul, redisOut, rssGrowth } = await run.strike("followers", size);
    const said = (haul["said"] ?? 0) * size.bytes;
    run.check(said > 0, "no event was taken");
    run.figure("said", said);
    run.figure("cut", haul["cut"] ?? 0);
    run.atMost("out of Redis for them", redisOut, 5 * said + 10 * MB);
    run.atMost("functions grew by", rssGrowth, 300 * MB);
  },
});
