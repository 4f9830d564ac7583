/** What is left of connections that got mail and ended: nothing, once their windows are over. */
import t from "tap";
import { WebSocket } from "ws";
import type { Prepared } from "../../shared/api.js";
import { startApplication } from "../../scripts/lab/application.js";
import { backendOf } from "../../scripts/lab/backend.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";

const CONNECTIONS = 500;
const AT_ONCE = 20;
/** Every window of a connection's life, short: the situation is that all of them are over. */
const WINDOWS = {
  LEASE_SECONDS: "2",
  RESUME_SECONDS: "1",
  PREPARED_SECONDS: "20",
  ENDED_SECONDS: "1",
  RECEIPT_SECONDS: "1",
  IDEMPOTENCY_SECONDS: "2",
  GROUP_HISTORY_SECONDS: "1",
};

interface Raw {
  socket: WebSocket;
  frames: number;
}

/** A raw socket that counts its frames; a refusal for the moment (503) is tried again. */
function dial(url: string): Promise<Raw> {
  return until(
    () =>
      new Promise<Raw | undefined>((resolve) => {
        const raw = { socket: new WebSocket(url), frames: 0 };
        raw.socket.on("message", () => (raw.frames += 1));
        raw.socket.once("error", () => resolve(undefined));
        raw.socket.once("open", () => resolve(raw));
      }),
    { ms: 20_000, message: "a socket is open" },
  );
}

t.test("500 connections that got mail and ended leave no key", async (t) => {
  const redis = await singleRedis(t);
  const env = { REDIS_URL: redis.url, LOG_LEVEL: "warn", ...WINDOWS };
  const [httpFn, wsFn] = await Promise.all([
    startHttpFn(t, env),
    startWsFn(t, env),
  ]);
  const backend = backendOf(t, httpFn.url);

  const one = async (number: number) => {
    // Every connection has a user of its own; mail to some of them waits for them, mail to others for nobody.
    const userId = `user ${number}`;
    const toUser = (body: string) =>
      backend.ask(
        "POST",
        `/v1/users/${encodeURIComponent(userId)}/messages?ttl=5`,
        {
          body,
          headers: { "content-type": "text/plain" },
        },
      );
    const prepared = await backend.ask("POST", "/v1/connections", {
      body: JSON.stringify({ userId, groups: ["mail"] }),
      headers: { "content-type": "application/json" },
    });
    const { connectionId, token, url } = prepared.json<Prepared>();
    const key = { headers: { "idempotency-key": "once", topic: "news" } };
    await backend.accepted(connectionId, "before", key);
    if (number % 3 === 0) {
      // Ended by its client.
      const application = startApplication(t, { token, to: () => wsFn.url });
      await application.has(1);
      await backend.accepted(connectionId, "while open", {
        headers: { "idempotency-key": "twice" },
      });
      await application.has(2);
      await toUser("to the user");
      await application.has(3);
      await application.bridge.close();
    } else {
      // Ended by the backend, or a raw one that was cut and never came back.
      const raw = await dial(`${wsFn.url}/ws${new URL(url).search}&welcome=0`);
      t.teardown(() => raw.socket.terminate());
      await until(() => raw.frames === 1, { ms: 20_000 });
      await backend.accepted(connectionId, "while open", {
        headers: { "idempotency-key": "twice" },
      });
      await until(() => raw.frames === 2, { ms: 20_000 });
      if (number % 3 === 1) {
        await backend.ask("DELETE", `/v1/connections/${connectionId}`);
        await toUser("for nobody");
      } else {
        raw.socket.terminate();
        await backend.push(connectionId, "never read", { query: "?delay=8" });
      }
    }
    return connectionId;
  };
  const ids: string[] = [];
  await Promise.all(
    Array.from({ length: AT_ONCE }, async (_, lane) => {
      for (let number = lane; number < CONNECTIONS; number += AT_ONCE) {
        ids.push(await one(number));
      }
    }),
  );
  t.equal(ids.length, CONNECTIONS);

  const keys = async () => {
    const all = await redis.cli("KEYS", "*");
    return Array.isArray(all) ? all.map(String) : [];
  };
  // The stream of events is nobody's own, nor where `$all` stands, and a process that is alive has its lease and its queue. Of
  // the schedule queue BullMQ's own few keys stay; a job's ID has capitals or digits among its twelve letters.
  const base =
    /^bridge:(token-secret|\{events\}:[a-z]+|\{g:\$all\}:(meta|instances))$|^bull:\{(schedule|i-\w+)\}:[a-z-]+$/;
  const residue = async () => (await keys()).filter((key) => !base.test(key));
  await until(async () => (await residue()).length === 0, {
    ms: 45_000,
    every: 200,
    message: "only the base keys are left",
  }).catch(() => undefined);
  t.same((await residue()).slice(0, 20), [], "only the base keys are left");
  const [first = ""] = ids;
  t.equal((await backend.push(first, "anybody?")).status, 404);
  await until(
    async () => {
      const busy = String(await redis.cli("PUBSUB", "CHANNELS", "bell:*"));
      return busy === "";
    },
    { ms: 20_000, message: "no doorbell is subscribed any more" },
  );
});
