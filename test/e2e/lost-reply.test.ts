/**
 * A lost reply, with the built processes: between http-fn and Redis a proxy cuts the connection after the server
 * executed the append and before its answer. Whatever the backend is told, the message is in the log once.
 */
import t from "tap";
import { startApplication } from "../../scripts/lab/application.js";
import { backendOf } from "../../scripts/lab/backend.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { startProxy } from "../../scripts/lab/proxy.js";
import { singleRedis, type TestRedis } from "../../scripts/lab/redis.js";

const CUTS = 20;
/** Pushes under way around every cut. */
const BURST = 8;

t.test("a lost reply", async (t) => {
  const redis = await singleRedis(t);
  const proxy = await startProxy(t, redis.port);
  const http = await startHttpFn(t, {
    REDIS_URL: `redis://127.0.0.1:${proxy.port}`,
    LOG_LEVEL: "warn",
  });
  const ws = await startWsFn(t, { REDIS_URL: redis.url, LOG_LEVEL: "warn" });
  const backend = backendOf(t, http.url);

  t.test("at twenty random pushes stores and delivers once", async (t) => {
    const { connectionId, token } = await backend.prepare();
    const absent = await backend.prepare();
    const application = startApplication(t, { token, to: () => ws.url });
    await application.bridge.ready;
    // Redis gets to know the scripts, so that what is cut is the append itself.
    await backend.accepted(connectionId, "first");

    const certain = ["first"];
    const uncertain: string[] = [];
    for (let cut = 0; cut < CUTS; cut += 1) {
      // Not the same length twice, so that no body is part of another.
      const texts = Array.from(
        { length: BURST },
        (_, index) => `push-${cut}-${index}.`,
      );
      const chosen = texts[Math.floor(Math.random() * BURST)] ?? "";
      const isCut = proxy.cutAfterReply(chosen);
      await Promise.all(
        texts.map(async (text) => {
          const answer = await backend.push(connectionId, text);
          if (answer.status === 202) certain.push(text);
          else {
            t.match(answer.json(), { status: 503 });
            t.ok(answer.headers["retry-after"], "says when to come back");
            const { code } = answer.json<{ code: string }>();
            if (code === "outcome_unknown") uncertain.push(text);
            else t.equal(code, "redis_unavailable");
            if (text === chosen) t.equal(code, "outcome_unknown");
          }
        }),
      );
      await isCut;
      await backend.push(absent.connectionId, `absent-${cut}.`);
    }
    t.equal(proxy.seen.cuts >= CUTS, true, `${proxy.seen.cuts} cuts`);
    t.comment(`${certain.length} answered 202, ${uncertain.length} unknown`);

    // The last one is the newest: when it is here, so is all before it.
    await backend.accepted(connectionId, "last");
    await application.bridge.ready;
    await application.has(certain.length + 1);
    const counts = new Map<string | undefined, number>();
    for (const text of application.texts) {
      counts.set(text, (counts.get(text) ?? 0) + 1);
    }
    t.equal(application.texts.at(-1), "last");
    t.same(
      certain.filter((text) => counts.get(text) !== 1),
      [],
      "what was answered 202 arrived once",
    );
    t.same(
      [...counts].filter(([, count]) => count !== 1),
      [],
      "nothing arrived twice",
    );
    const known = new Set([...certain, ...uncertain, "last"]);
    t.same(
      application.texts.filter((text) => !known.has(text ?? "")),
      [],
      "nothing arrived that was refused",
    );
  });

  t.test("is in the log once", async (t) => {
    const { connectionId } = await backend.prepare();
    await backend.accepted(connectionId, "before");
    const isCut = proxy.cutAfterReply("the-one");
    const answer = await backend.push(connectionId, "the-one");
    await isCut;
    if (answer.status !== 202)
      t.match(answer.json(), { code: "outcome_unknown" });
    t.same(await bodies(redis, connectionId), ["before", "the-one"]);
    await backend.accepted(connectionId, "after");
    t.same(await bodies(redis, connectionId), ["before", "the-one", "after"]);
  });

  t.test(
    "with a silence after it is an outcome_unknown, and the retry with the same key is the same message",
    async (t) => {
      const { connectionId } = await backend.prepare();
      await backend.accepted(connectionId, "before");
      const retry = { headers: { "idempotency-key": "order-17" } };
      const isCut = proxy.cutAfterReply("once-only");
      const pushing = backend.push(connectionId, "once-only", retry);
      await isCut;
      proxy.pause();
      const first = await pushing;
      proxy.resume();
      t.equal(first.status, 503);
      t.match(first.json(), { code: "outcome_unknown" });

      let second = await backend.push(connectionId, "once-only", retry);
      while (second.status === 503) {
        second = await backend.push(connectionId, "once-only", retry);
      }
      t.equal(second.status, 202);
      t.equal(second.headers["idempotency-replayed"], "true");
      t.same(await bodies(redis, connectionId), ["before", "once-only"]);
    },
  );

  await Promise.resolve();
});

/** The bodies in the log of a connection, as they lie in Redis. */
async function bodies(
  redis: TestRedis,
  connectionId: string,
): Promise<string[]> {
  const rows = await redis.cli(
    "XRANGE",
    `bridge:{${connectionId}}:log`,
    "-",
    "+",
  );
  if (!Array.isArray(rows)) return [];
  return rows.map((row) => {
    const fields = Array.isArray(row) ? row[1] : null;
    return Array.isArray(fields) ? String(fields.at(-1)) : "";
  });
}
