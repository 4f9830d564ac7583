/**
 * Redis stopped, frozen, or never there, with the built processes: http-fn says so within a second instead of hanging,
 * and both functions go on by themselves when it is back.
 */
import t, { type Test } from "tap";
import { startApplication } from "../../scripts/lab/application.js";
import { backendOf, type Backend } from "../../scripts/lab/backend.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { startProxy } from "../../scripts/lab/proxy.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";

/**
 * The contract's bound is one second (section 3, Answers). A bound of the contract is the one thing here that is timed;
 * the half second on top is for a test machine with more to do than cores.
 */
const ANSWER_MS_MAX = 1_500;

const quiet = { LOG_LEVEL: "silent" };

/** Every POST of a handful, one after the other and at once, says what is the matter, and soon. */
async function saysAway(
  t: Test,
  backend: Backend,
  connectionId: string,
): Promise<void> {
  const ask = async () => {
    const began = performance.now();
    const answer = await backend.push(connectionId, "anybody there?");
    return { answer, ms: performance.now() - began };
  };
  const results = [await ask(), await ask()];
  results.push(...(await Promise.all([ask(), ask(), ask(), ask(), ask()])));
  for (const { answer, ms } of results) {
    t.equal(answer.status, 503);
    t.match(answer.headers["content-type"], /^application\/problem\+json/);
    t.match(answer.headers["retry-after"], /^[1-9]\d*$/);
    t.match(answer.json(), {
      status: 503,
      code: /^(redis_unavailable|outcome_unknown)$/,
    });
    t.ok(ms < ANSWER_MS_MAX, `answered after ${Math.round(ms)} ms`);
  }
  const prepared = await backend.ask("POST", "/v1/connections");
  t.equal(prepared.status, 503);
  t.equal((await backend.ask("GET", "/readyz")).status, 503);
  t.equal((await backend.ask("GET", "/healthz")).status, 200);
}

/** Pushes until it is taken: what a backend does that follows Retry-After, only sooner. */
async function pushUntilTaken(
  backend: Backend,
  connectionId: string,
  body: string,
): Promise<void> {
  await until(
    async () => (await backend.push(connectionId, body)).status === 202,
    { ms: 20_000, every: 50, message: "http-fn serves again" },
  );
}

t.test("SCN-MIX-3: Redis is killed, and comes back", async (t) => {
  const redis = await singleRedis(t);
  const env = { REDIS_URL: redis.url, ...quiet };
  const [http, ws] = await Promise.all([
    startHttpFn(t, env),
    startWsFn(t, env),
  ]);
  const backend = backendOf(t, http.url);
  const open = await backend.prepare();
  const absent = await backend.prepare();
  const application = startApplication(t, {
    token: open.token,
    to: () => ws.url,
  });
  await application.bridge.ready;
  await backend.accepted(open.connectionId, "before");
  await application.has(1);
  const kept = Array.from({ length: 50 }, (_, index) => `kept ${index}`);
  for (const text of kept) await backend.accepted(absent.connectionId, text);

  await redis.stop("SIGKILL");
  await saysAway(t, backend, open.connectionId);
  await redis.start();

  await pushUntilTaken(backend, open.connectionId, "after");
  await application.has(2);
  t.same(application.texts, ["before", "after"]);
  t.equal(application.dials, 1, "the socket stayed open");
  t.same(application.errors, []);

  const late = startApplication(t, { token: absent.token, to: () => ws.url });
  await late.has(kept.length);
  t.same(late.texts, kept, "nothing that was accepted is lost");
  t.equal((await backend.ask("GET", "/readyz")).status, 200);
});

t.test("Redis freezes, and thaws", async (t) => {
  const redis = await singleRedis(t);
  const env = { REDIS_URL: redis.url, ...quiet };
  const [http, ws] = await Promise.all([
    startHttpFn(t, env),
    startWsFn(t, env),
  ]);
  const backend = backendOf(t, http.url);
  const { connectionId, token } = await backend.prepare();
  const application = startApplication(t, { token, to: () => ws.url });
  await application.bridge.ready;
  await backend.accepted(connectionId, "before");
  await application.has(1);

  redis.freeze();
  try {
    await saysAway(t, backend, connectionId);
  } finally {
    redis.thaw();
  }
  await pushUntilTaken(backend, connectionId, "after");
  await until(() => application.texts.includes("after"), { ms: 20_000 });
  t.equal(application.dials, 1, "the socket stayed open");
  t.equal(application.texts.filter((text) => text === "after").length, 1);
});

t.test("Redis is not there when the functions start", async (t) => {
  const redis = await singleRedis(t);
  await redis.stop();
  const env = { REDIS_URL: redis.url, ...quiet };
  const [http, ws] = await Promise.all([
    startHttpFn(t, env),
    startWsFn(t, env),
  ]);
  const backend = backendOf(t, http.url);
  await saysAway(t, backend, `c_${"a".repeat(22)}`);
  const application = startApplication(t, { to: () => ws.url });
  await until(() => application.dials >= 2, {
    ms: 20_000,
    message: "it was refused and dialled again",
  });
  t.not(application.bridge.state, "closed");

  await redis.start();
  await application.bridge.ready;
  await pushUntilTaken(backend, application.bridge.connectionId ?? "", "hello");
  await application.has(1);
  t.same(application.texts, ["hello"]);
});

t.test("sockets to Redis are reset, not ended", async (t) => {
  const redis = await singleRedis(t);
  const proxy = await startProxy(t, redis.port);
  const http = await startHttpFn(t, { REDIS_URL: redis.url, ...quiet });
  const ws = await startWsFn(t, {
    REDIS_URL: `redis://127.0.0.1:${proxy.port}`,
    ...quiet,
  });
  const backend = backendOf(t, http.url);
  const { connectionId, token } = await backend.prepare();
  const application = startApplication(t, { token, to: () => ws.url });
  await application.bridge.ready;
  await backend.accepted(connectionId, "before");
  await application.has(1);
  await until(() => proxy.seen.connections >= 3, {
    message: "ws-fn has all its sockets: commands, bells, schedule",
  });
  // A reset is an error to a client, where an orderly end is none.
  const before = proxy.seen.cuts;
  proxy.cutAll();
  t.ok(proxy.seen.cuts - before >= 3, "each of its sockets");
  await backend.accepted(connectionId, "after");
  await application.has(2);
  t.same(application.texts, ["before", "after"]);
  t.equal(application.dials, 1, "ws-fn lives, and so does the socket");
});
