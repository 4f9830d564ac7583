/**
 * http-fn stands still (SIGSTOP, as the platform freezes an instance; a starved one looks the same) while Redis, 20 ms
 * away, answers. When it goes on the answer lies in its socket: that is no silence of Redis.
 */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import t, { type Test } from "tap";
import { backendOf, type Answer } from "../../scripts/lab/backend.js";
import { startHttpFn } from "../../scripts/lab/processes.js";
import { startProxy } from "../../scripts/lab/proxy.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { ROOT } from "../../scripts/lab/root.js";
import { until } from "../../scripts/lab/until.js";

/** Nearly twice as long as Redis may be silent. */
const STANDSTILL_MS = 1_500;
/** Redis is so far away, each way. */
const AWAY_MS = 10;

const plainTimer = {
  NODE_OPTIONS: `--import=${pathToFileURL(`${ROOT}test/fixtures/plain-timer.mjs`).href}`,
};

/** The kernel's letter: T is stopped. */
const stateOf = (pid: number) =>
  /^.*\) (\S)/s.exec(readFileSync(`/proc/${pid}/stat`, "latin1"))?.[1];

async function lab(t: Test, env: Record<string, string> = {}) {
  const redis = await singleRedis(t);
  const proxy = await startProxy(t, redis.port);
  const http = await startHttpFn(t, {
    REDIS_URL: `redis://127.0.0.1:${proxy.port}`,
    LOG_LEVEL: "silent",
    ...env,
  });
  const backend = backendOf(t, http.url);
  const { connectionId } = await backend.prepare();
  proxy.delay(AWAY_MS);

  let isHeld = false;
  /** The next command with this text goes through to Redis; its answer, and all that comes after it, waits. */
  const holdAnswerTo = (text: string) =>
    new Promise<void>((resolve) => {
      isHeld = false;
      proxy.hold((chunk) => {
        if (!isHeld && chunk.includes(text)) {
          isHeld = true;
          proxy.pause();
          resolve();
        }
        return 0;
      });
    });
  /** http-fn stands still, and what waits reaches its socket meanwhile. */
  const standStill = async () => {
    http.kill("SIGSTOP");
    // Data that comes while a process falls asleep is the first that it sees when it wakes, before any timer.
    await until(() => stateOf(http.pid) === "T", {
      message: "http-fn stands still",
    });
    const heard = proxy.seen.toClient;
    proxy.resume();
    await until(() => proxy.seen.toClient > heard, {
      message: "Redis has answered",
    });
    await sleep(STANDSTILL_MS);
    http.kill("SIGCONT");
  };

  return {
    /** A push whose own command is in flight when http-fn stands still. */
    async inFlight(): Promise<Answer> {
      const sent = holdAnswerTo(connectionId);
      const answer = backend.push(connectionId, "anybody there?");
      // What is answered without Redis is answered at once.
      await Promise.race([sent, answer]);
      if (isHeld) await standStill();
      return answer;
    },
    /**
     * Frozen after an answer, with a command in flight that nobody waits for: a chore goes with the request and the
     * answer does not wait until Redis has answered it. Resolves with the next request's answer.
     */
    async behindAnAnswer(): Promise<Answer> {
      void holdAnswerTo("bridge:");
      await until(
        async () => {
          // Needs no Redis itself; a chore goes with one request of a second.
          if (!isHeld) await backend.ask("DELETE", "/v1/connections/none");
          return isHeld;
        },
        { every: 50, message: "a chore is under way" },
      );
      const asleep = standStill();
      await until(() => stateOf(http.pid) === "T");
      const next = backend.push(connectionId, "anybody there?");
      await asleep;
      return next;
    },
  };
}

t.test("with a request in flight", async (t) => {
  const { inFlight } = await lab(t);
  for (let round = 0; round < 3; round += 1)
    t.equal((await inFlight()).status, 202);
});

t.test("with a chore's command in flight", async (t) => {
  const { behindAnAnswer } = await lab(t);
  for (let round = 0; round < 3; round += 1)
    t.equal((await behindAnAnswer()).status, 202);
});

t.test("a plain timer takes it for a silence of Redis", async (t) => {
  const first = await lab(t, plainTimer);
  const own = await first.inFlight();
  t.equal(own.status, 503);
  t.match(own.json(), { code: "outcome_unknown" });
  const second = await lab(t, plainTimer);
  const next = await second.behindAnAnswer();
  t.equal(next.status, 503);
  t.match(next.json(), { code: "redis_unavailable" });
});
