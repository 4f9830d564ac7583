/** The pair on a real Cluster and through real Sentinels: push, receive, resume, schedule, recall, fail over. */
import t, { type Test } from "tap";
import { startApplication } from "../../scripts/lab/application.js";
import { backendOf } from "../../scripts/lab/backend.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { startProxy } from "../../scripts/lab/proxy.js";
import { publish, tally } from "../fixtures/publishers.js";
import { clusterRedis, sentinelRedis } from "../../scripts/lab/redis.js";
import { slotOf } from "../../shared/slots.js";
import { until } from "../../scripts/lab/until.js";
import { usersAndBatches } from "./scenarios/users.js";

async function start(t: Test, url: string) {
  const env = { REDIS_URL: url, LOG_LEVEL: "warn" };
  const [httpFn, ...wsFns] = await Promise.all([
    startHttpFn(t, env),
    startWsFn(t, env),
    startWsFn(t, env),
  ]);
  const proxies = await Promise.all(
    wsFns.map(({ port }) => startProxy(t, port)),
  );
  const backend = backendOf(t, httpFn.url);
  await until(
    async () => (await backend.ask("GET", "/readyz")).status === 200,
    {
      ms: 20_000,
      message: "http-fn is ready",
    },
  );
  return { backend, proxies };
}

/** Several connections, so that a Cluster holds them on several masters. */
async function serves(
  t: Test,
  { backend, proxies }: Awaited<ReturnType<typeof start>>,
) {
  const total = 300;
  await Promise.all(
    Array.from({ length: 6 }, async () => {
      const { connectionId, token } = await backend.prepare();
      await backend.accepted(connectionId, "0 0");
      const application = startApplication(t, {
        token,
        to: (dial) => `ws://127.0.0.1:${proxies[dial % 2]?.port ?? 0}`,
      });
      await application.has(1);
      const load = publish(backend, connectionId, {
        total,
        publishers: 4,
        keyed: true,
      });
      load.upTo(total);
      await load.reached(total / 2);
      application.socket.terminate();
      await load.done;
      // One more than was published: "0 0" is there twice.
      await application.has(total + 1);
      t.same(tally(application.texts.slice(1), total), {
        lost: 0,
        disordered: 0,
        repeated: 0,
      });
      // The cut, and perhaps one more where Redis had just changed its master: a dial can be refused then.
      t.ok(application.dials >= 2, "it came back");
      t.same(application.losses, []);

      const recalled = await backend.accepted(connectionId, "recalled", {
        query: "?delay=60",
      });
      await until(
        async () => {
          await backend.ask("DELETE", `/v1/messages/${recalled.id}`);
          return (await backend.receipt(recalled.id)).status === "recalled";
        },
        { message: "it is recalled" },
      );
      await backend.accepted(connectionId, "due", {
        query: "?delay=1",
        headers: { "idempotency-key": "due" },
      });
      await application.has(total + 2);
      t.equal(application.texts.at(-1), "due");
      const waited = await backend.push(connectionId, "waited for", {
        query: "?wait=20",
      });
      t.equal(waited.status, 200, waited.text);
      await application.bridge.close();
      await until(
        async () => (await backend.push(connectionId, "gone")).status === 410,
      );
    }),
  );
}

/** Clients that are asked, and that say something: connections, users and the stream lie in several slots. */
async function speaks(
  t: Test,
  { backend, proxies }: Awaited<ReturnType<typeof start>>,
) {
  await Promise.all(
    ["ann", "bob", "cleo", "dan"].map(async (userId, index) => {
      const { connectionId, token } = await backend.prepare({ userId });
      const application = startApplication(t, {
        token,
        to: (dial) =>
          `ws://127.0.0.1:${proxies[(index + dial) % 2]?.port ?? 0}`,
        onMessage: ({ replyTo, text }) =>
          void application.bridge.reply(replyTo ?? "", `${text}!`),
      });
      await application.bridge.ready;
      for (const path of [`connections/${connectionId}`, `users/${userId}`]) {
        const answer = await backend.ask(
          "POST",
          `/v1/${path}/messages?expect=reply&wait=20`,
          { body: "well", headers: { "content-type": "text/plain" } },
        );
        t.equal(answer.text, "well!");
      }
      const texts = ["1", "2", "3"];
      for (const text of texts) await application.bridge.send("e", text);
      const events = await backend.ask(
        "GET",
        `/v1/events?lastEventId=0&wait=0&type=event&connection=${connectionId}`,
        { headers: { accept: "application/x-ndjson" } },
      );
      t.same(
        [...events.text.matchAll(/"data":"(\d)"/g)].map(([, text]) => text),
        texts,
      );
    }),
  );
}

/** Groups in several slots, their members on both instances; one of them is cut and comes back to the other. */
async function gathers(
  t: Test,
  { backend, proxies }: Awaited<ReturnType<typeof start>>,
) {
  await Promise.all(
    ["a", "b", "c", "d"].map(async (group) => {
      const members = await Promise.all(
        [0, 1].map(async (instance) => {
          const { token } = await backend.prepare({
            groups: [group],
            permissions: ["join:*"],
          });
          return startApplication(t, {
            token,
            to: (dial) =>
              `ws://127.0.0.1:${proxies[(instance + dial) % 2]?.port ?? 0}`,
          });
        }),
      );
      await Promise.all(members.map(({ bridge }) => bridge.ready));
      const say = async (text: string) => {
        const answer = await backend.ask(
          "POST",
          `/v1/groups/${group}/messages`,
          { body: text, headers: { "content-type": "text/plain" } },
        );
        t.match(answer.json(), { recipients: 2, to: { group } });
      };
      const texts = Array.from({ length: 30 }, (_, n) => `${group}${n}`);
      for (const [n, text] of texts.entries()) {
        if (n === 10) members[0]?.socket.terminate();
        await say(text);
      }
      for (const member of members) {
        await member.has(texts.length);
        t.same(member.texts, texts);
        t.same(member.losses, []);
        await member.bridge.leave(group);
      }
      const left = await backend.ask("GET", `/v1/groups/${group}`);
      t.match(left.json(), { recipients: 0, online: 0, items: [] });
    }),
  );
}

t.test("on a Cluster", async (t) => {
  const cluster = await clusterRedis(t);
  const pair = await start(t, cluster.url);
  await serves(t, pair);
  const [a, b] = pair.proxies.map(({ port }) => `ws://127.0.0.1:${port}`);
  await gathers(t, pair);
  await speaks(t, pair);
  await usersAndBatches(t, pair.backend, [a ?? "", b ?? ""]);

  const { backend } = pair;
  const master = (id: string) =>
    Math.floor(slotOf(id) / Math.ceil(16_384 / cluster.masters.length));
  const { connectionId: here } = await backend.prepare();
  const { connectionId: there } = await until(async () => {
    const prepared = await backend.prepare();
    return master(prepared.connectionId) === master(here)
      ? undefined
      : prepared;
  });
  await cluster.masters[master(here)]?.cli("CONFIG", "SET", "maxmemory", "1mb");
  // The problem of the mark names it; that of Redis itself could not.
  const refused = await until(async () => {
    const answer = await backend.push(here, "no room");
    return "limit" in answer.json() ? answer : undefined;
  });
  t.match(refused.json(), { code: "redis_full", limit: 891_289 });
  const taken = await backend.push(there, "room");
  t.equal(taken.status, 202, "each master is full by itself");
});

t.test("through Sentinels, before and after a failover", async (t) => {
  const redis = await sentinelRedis(t);
  const pair = await start(t, redis.url);
  await serves(t, pair);

  const { backend, proxies } = pair;
  const { connectionId, token } = await backend.prepare();
  const application = startApplication(t, {
    token,
    to: () => `ws://127.0.0.1:${proxies[0]?.port ?? 0}`,
  });
  await application.bridge.ready;
  await backend.accepted(connectionId, "before");
  await application.has(1);
  await redis.failover();
  await until(
    async () =>
      (
        await backend.push(connectionId, "after", {
          headers: { "idempotency-key": "after" },
        })
      ).status === 202,
    { ms: 30_000, every: 100, message: "http-fn found the new master" },
  );
  await application.has(2, 30_000);
  t.same(application.texts, ["before", "after"]);
  t.equal(application.dials, 1, "the socket stayed open");
  await serves(t, pair);
});
