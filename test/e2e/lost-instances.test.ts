/**
 * Instances that die or freeze lose their connections by lease, and a backend hears of it: one `disconnected` for each,
 * with the time at which it really ended, whoever notices. With the built processes; everybody sweeps at once.
 */
import http from "node:http";
import t from "tap";
import { WebSocket } from "ws";
import type { BridgeEvent, DisconnectedData } from "../../shared/api.js";
import { backendOf } from "../../scripts/lab/backend.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";

const EACH = 15;
const RESUME_MS = 1_000;
const patience = { ms: 30_000, every: 100 };

t.test("every connection of a lost instance ends once", async (t) => {
  const redis = await singleRedis(t);
  const env = {
    REDIS_URL: redis.url,
    LOG_LEVEL: "warn",
    LEASE_SECONDS: "2",
    RESUME_SECONDS: String(RESUME_MS / 1_000),
  };
  const [killed, stopped, third, fourth, first, second] = await Promise.all([
    startWsFn(t, env),
    startWsFn(t, env),
    startWsFn(t, env),
    startWsFn(t, env),
    startHttpFn(t, env),
    startHttpFn(t, env),
  ]);
  const backends = [backendOf(t, first.url), backendOf(t, second.url)] as const;
  const [backend] = backends;
  const dial = async (at: { url: string }) => {
    const { connectionId, url } = await backend.prepare();
    const socket = new WebSocket(`${at.url}/ws${new URL(url).search}`);
    t.teardown(() => socket.terminate());
    socket.on("error", () => undefined);
    await new Promise((resolve) => socket.once("message", resolve));
    return connectionId;
  };
  const several = (at: { url: string }, count: number) =>
    Promise.all(Array.from({ length: count }, () => dial(at)));

  /** What a reader has got so far; it stays. */
  const live: string[] = [];
  const reader = http.get(
    `${first.url}/v1/events?type=disconnected`,
    { agent: false, headers: { accept: "application/x-ndjson" } },
    (response) => {
      let rest = "";
      response.on("error", () => undefined);
      response.on("data", (chunk: Buffer) => {
        const parts = (rest + chunk.toString()).split("\n");
        rest = parts.pop() ?? "";
        live.push(...parts.filter((line) => line !== ""));
      });
    },
  );
  reader.on("error", () => undefined);
  t.teardown(() => reader.destroy());

  const there = async (query: string, from = backends[1]) =>
    (
      await from.ask("GET", `/v1/events?wait=0${query}`, {
        headers: { accept: "application/x-ndjson" },
      })
    ).text
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as BridgeEvent);
  const ends = async () =>
    (await there("&lastEventId=0&type=disconnected")).map(
      ({ subject, data }) => ({ subject, ...(data as DisconnectedData) }),
    );
  /** When these end, by the leases of their processes. */
  const lostAt = async (ids: string[]) =>
    new Map(
      await Promise.all(
        ids.map(async (id) => {
          const owner = await redis.cli("HGET", `bridge:{${id}}:conn`, "owner");
          const lease = await redis.cli(
            "ZSCORE",
            "bridge:{g:$all}:instances",
            String(owner),
          );
          return [id, Number(lease) + RESUME_MS] as const;
        }),
      ),
    );

  const ids = (
    await Promise.all([several(killed, EACH), several(stopped, EACH)])
  ).flat();
  killed.kill("SIGKILL");
  stopped.kill("SIGSTOP");
  await killed.exited;
  const expected = await lostAt(ids);
  // Requests and two awake ws-fn look for what is due, all at the same time.
  await until(async () => {
    await Promise.all(
      backends.map((each) => each.ask("GET", "/v1/connections")),
    );
    return (await ends()).length >= ids.length;
  }, patience);
  stopped.kill("SIGCONT");
  const kept = await several(third, 3);
  third.kill("SIGKILL");
  fourth.kill("SIGKILL");
  stopped.kill("SIGKILL");
  await Promise.all([third.exited, fourth.exited, stopped.exited]);
  reader.destroy();
  const later = await lostAt(kept);
  t.same(
    [
      ...new Set(live.map((line) => (JSON.parse(line) as BridgeEvent).subject)),
    ].sort(),
    [...ids].sort(),
    "who followed has heard of all",
  );
  t.equal(live.length, ids.length, "once");

  // No ws-fn is awake: a request finds what is due before it is answered.
  await until(() => Date.now() > Math.max(...later.values()) + 50, patience);
  await until(async () => (await ends()).length > ids.length, patience);
  const all = await until(async () => {
    const found = await ends();
    return found.length >= ids.length + kept.length ? found : undefined;
  }, patience);
  t.equal(all.length, ids.length + kept.length);
  t.equal(new Set(all.map(({ subject }) => subject)).size, all.length);
  for (const { subject, by, reason, code, occurredAt } of all) {
    const atMs = expected.get(subject) ?? later.get(subject) ?? NaN;
    const [got, wanted] = [
      { by, reason, code, occurredAt },
      {
        by: "bridge",
        reason: "resume_expired",
        code: null,
        occurredAt: new Date(atMs).toISOString(),
      },
    ];
    t.same(got, wanted, "when its lease and its window were over");
  }
  const [opened] = await there("&lastEventId=0");
  t.equal(opened?.type, "connected");
  const rest = await there(`&lastEventId=${opened?.position}`);
  t.equal(rest.length, 2 * all.length - 1, "the rest after any position");
});
