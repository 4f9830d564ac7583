// `npm start`: Redis (REDIS_URL, or one of our own in .bridge/), then the local platform, which prints the addresses
// and `ready …`. Ends both in order on Ctrl-C, SIGTERM, or when the npm that started it is gone.

import { spawn, type ChildProcess } from "node:child_process";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { parseSettings } from "../platform/limits.js";
import { readPair } from "../platform/pair.js";
import { ConfigError, parseConfig } from "../shared/config.js";
import { createLogger } from "../shared/logging.js";
import { complain, say } from "../shared/output.js";
import { shownRedisUrl } from "../shared/redis-url.js";
import { RedisLink } from "../shared/redis.js";
import { endChild, exitOf, SetupError, tiedToUs } from "./programs.js";
import { startRedis } from "./redis.js";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const HTTP_FN = fileURLToPath(new URL("../http-fn", import.meta.url));
const WS_FN = fileURLToPath(new URL("../ws-fn", import.meta.url));
const PLATFORM = fileURLToPath(new URL("../platform/main.js", import.meta.url));

/** How long a Redis named by REDIS_URL may take to answer, in ms. */
const REDIS_ANSWER_MS = 5_000;
/** A Redis of ours that ends sooner than this, in ms, would end again: no further start. */
const REDIS_LIFE_MS = 5_000;
/** From asking the platform to end until it is killed, in ms: above its own patience with the functions. */
const PLATFORM_STOP_MS = 30_000;
/** One Ctrl-C may arrive twice (the terminal's and the one npm passes on); a later one means "at once". */
const SAME_SIGNAL_MS = 2_000;

/** What the functions are given to reach Redis, and how it ends. */
interface Redis {
  url: string;
  stop(): Promise<void>;
}

let stopAskedAt: number | undefined;
let platform: ChildProcess | undefined;
/** Set when something went wrong under way, after its line was printed. */
let hasFailed = false;

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, stop);
}
// The process that started us was killed outright.
process.on("disconnect", stop);
// Whoever read our output may be gone before us; that must not keep us from ending the others.
process.stdout.on("error", () => undefined);
process.stderr.on("error", () => undefined);

run().then(
  (code) => process.exit(code),
  (error: unknown) => {
    if (stopAskedAt !== undefined) process.exit(0);
    complain(error instanceof SetupError ? error.message : error);
    process.exit(1);
  },
);

async function run(): Promise<number> {
  const mistakes = await findMistakes();
  if (mistakes.length > 0) throw new SetupError(mistakes.join("\n"));
  const given = process.env["REDIS_URL"];
  const redis = given ? await useRedis(given) : await keepRedis();
  try {
    platform = await startPlatform(redis.url);
    if (stopAskedAt !== undefined) void endChild(platform);
    const { code } = await exitOf(platform);
    if (stopAskedAt !== undefined && !hasFailed) return 0;
    return code || 1;
  } finally {
    await redis.stop();
  }
}

/** One line per mistake that the functions or the platform would stop at. */
async function findMistakes(): Promise<string[]> {
  const settings = parseSettings(process.env);
  const mistakes = Array.isArray(settings) ? settings : [];
  if (!Array.isArray(settings)) {
    const pair = await readPair(HTTP_FN, WS_FN, settings, process.env);
    if (Array.isArray(pair)) mistakes.push(...pair);
  }
  // Both read LOG_LEVEL and EXECUTION_SECONDS: one line for each variable is enough.
  const nameOf = (line: string) => /^\w+/.exec(line)?.[0];
  const said = mistakes.map(nameOf);
  try {
    // The platform sets these three itself.
    parseConfig({ ...process.env, PORT: "0", HOST: "", BRIDGE_LOCAL: "1" });
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const more = error.lines.filter((line) => !said.includes(nameOf(line)));
    mistakes.push(...more);
  }
  return mistakes;
}

/** The Redis of REDIS_URL, once it answers. It is not ours to end. */
async function useRedis(url: string): Promise<Redis> {
  const link = new RedisLink(url, [], createLogger("start", "silent"));
  const deadline = Date.now() + REDIS_ANSWER_MS;
  try {
    for (;;) {
      const isThere = await link.ready().then(
        () => true,
        () => false,
      );
      if (isThere || stopAskedAt !== undefined) break;
      if (Date.now() > deadline) {
        throw new SetupError(
          `Redis does not answer at ${shownRedisUrl(url)}: start it, or unset REDIS_URL to get one started here.`,
        );
      }
      await sleep(50);
    }
  } finally {
    link.close();
  }
  return { url, stop: () => Promise.resolve() };
}

/** A Redis of our own with its data in .bridge/ (BRIDGE_DIR). If it ends by itself it is started again, same port. */
async function keepRedis(): Promise<Redis> {
  const dir = process.env["BRIDGE_DIR"] || path.join(ROOT, ".bridge");
  let current = await startRedis({ dir });
  const { url, port, password } = current;
  say(
    `Redis       ${shownRedisUrl(url)} (data, and the password in redis.conf, in ${dir})`,
  );

  let isWanted = true;
  const keep = async () => {
    for (;;) {
      const startedAt = Date.now();
      await current.exited;
      await current.stop();
      if (!isWanted) return;
      if (Date.now() - startedAt < REDIS_LIFE_MS) {
        throw new SetupError("Redis ended again; stopping.");
      }
      complain("Redis has ended; starting it again with its data.");
      current = await startRedis({ dir, port, password });
      if (!isWanted) await current.stop();
    }
  };
  const kept = keep().catch((error: unknown) => {
    complain(error instanceof SetupError ? error.message : error);
    hasFailed = true;
    stop();
  });
  return {
    url,
    stop: async () => {
      isWanted = false;
      await current.stop();
      await kept;
    },
  };
}

async function startPlatform(redisUrl: string): Promise<ChildProcess> {
  const [command, args] = await tiedToUs(process.execPath, [
    "--enable-source-maps",
    PLATFORM,
  ]);
  return spawn(command, args, {
    env: { ...process.env, REDIS_URL: redisUrl },
    // Ctrl-C reaches it only through us, and Redis ends after it.
    detached: true,
    stdio: ["ignore", "inherit", "inherit"],
  });
}

/** Any number of times; the platform takes a second request to end as one to end at once. */
function stop(): void {
  const now = Date.now();
  if (stopAskedAt === undefined) {
    stopAskedAt = now;
    if (platform) void endChild(platform, "SIGTERM", PLATFORM_STOP_MS);
  } else if (now - stopAskedAt > SAME_SIGNAL_MS) {
    platform?.kill("SIGTERM");
  }
}
