/**
 * Events on the backend's webhook: two ws-fn, one http-fn, a real Redis and a receiver that is down, slow, answers 500,
 * redirects or gives no permission. Nothing is lost, no connection's events change places, and the log says what happens.
 */
import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { Webhook } from "standardwebhooks";
import t, { type Test } from "tap";
import { WebSocket } from "ws";
import { parse } from "yaml";
import { backendOf } from "../../scripts/lab/backend.js";
import {
  startHttpFn,
  startProcess,
  startWsFn,
  type TestFunction,
} from "../../scripts/lab/processes.js";
import { freePort } from "../../scripts/redis.js";
import { clusterRedis, singleRedis } from "../../scripts/lab/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { until } from "../../scripts/lab/until.js";
import {
  startReceiver,
  type Answer,
  type Heard,
  type Receiver,
} from "../../scripts/lab/webhook-receiver.js";
import type { BridgeEvent } from "../../shared/api.js";
import { newConnectionId } from "../../shared/ids.js";
import {
  allTaken,
  secrets,
  startAppender,
  watchOrder,
  webhookEnv,
} from "../fixtures/webhook-appender.js";
import { patience } from "../fixtures/world.js";

/** A client's whole life: connected, a message that expires, disconnected. */
async function live(
  t: Scope,
  httpFn: TestFunction,
  wsFn: TestFunction,
): Promise<string> {
  const backend = backendOf(t, httpFn.url);
  const { connectionId, url } = await backend.prepare({ userId: "Zoë" });
  const socket = new WebSocket(`${wsFn.url}/ws${new URL(url).search}`, [
    "bridge.v1.json",
  ]);
  t.teardown(() => socket.terminate());
  await new Promise((resolve, reject) => {
    socket.once("message", resolve);
    socket.once("error", reject);
  });
  await backend.accepted(connectionId, "too late", { query: "?delay=600" });
  socket.close(1000);
  return connectionId;
}

/** Three signed events of each life, in order, and the stream has the same. */
async function hearsOf(
  t: Test,
  receiver: Receiver,
  httpFn: TestFunction,
  connectionId: string,
): Promise<void> {
  const taken = () =>
    receiver.taken.filter(({ subject }) => subject === connectionId);
  await until(() => taken().length >= 3, patience);
  const { text } = await backendOf(t, httpFn.url).ask(
    "GET",
    `/v1/events?lastEventId=0&wait=0&connection=${connectionId}`,
    { headers: { accept: "application/x-ndjson" } },
  );
  const stream = text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as BridgeEvent);
  t.same(
    stream.map(({ type }) => type),
    ["connected", "message.undelivered", "disconnected"],
  );
  for (const [at, event] of stream.entries()) {
    const post = taken()[at];
    if (!post) throw new Error("three were taken");
    t.match(post.headers, {
      "ce-specversion": event.specversion,
      "ce-id": event.id,
      "ce-type": event.type,
      "ce-source": event.source,
      "ce-subject": connectionId,
      "ce-time": event.time,
      "ce-position": event.position,
      "ce-connectionid": connectionId,
      "ce-userid": "Zo%C3%AB",
      "content-type": "application/json",
      "webhook-id": event.id.replaceAll(".", "_"),
    });
    for (const secret of secrets)
      t.same(new Webhook(secret).verify(post.body, post.headers), event.data);
  }
}

/** Its headers are those that openapi.yaml has for this webhook. */
async function isDeclared(
  t: Test,
  heard: Heard | undefined,
  name: string,
  method: string,
): Promise<void> {
  const { webhooks, components } = parse(
    await readFile("openapi.yaml", "utf8"),
  ) as {
    webhooks: Record<
      string,
      Record<string, { parameters: { $ref: string }[] }>
    >;
    components: {
      parameters: Record<string, { name: string; required?: boolean }>;
    };
  };
  const declared = (webhooks[name]?.[method]?.parameters ?? []).map(
    ({ $ref }) => components.parameters[$ref.split("/").at(-1) ?? ""],
  );
  const known = declared.map((each) => each?.name.toLowerCase() ?? "");
  const needed = known.filter((_, at) => declared[at]?.required);
  const sent = Object.keys(heard?.headers ?? {}).filter((header) =>
    /^(ce|webhook)-/.test(header),
  );
  t.same(
    sent.filter((header) => !known.includes(header)),
    [],
    `${name}: nothing that is not declared`,
  );
  t.same(
    needed.filter((header) => !sent.includes(header)),
    [],
    `${name}: everything that is`,
  );
}

t.test("on one Redis", async (t) => {
  const { url } = await singleRedis(t);
  const receiver = await startReceiver(t);
  const elsewhere = await startReceiver(t);
  const env = {
    ...webhookEnv(url, receiver.url),
    WEBHOOK_TIMEOUT_SECONDS: "0.4",
  };
  const [httpFn, ...wsFns] = await Promise.all([
    startHttpFn(t, env),
    startWsFn(t, env),
    startWsFn(t, env),
  ]);
  const appender = await startAppender(t, env);
  /** Lines of both with these words. */
  const told = (words: string) =>
    wsFns
      .flatMap(({ logs }) => logs)
      .filter((line) => line.includes(words))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  const down = () => told("the webhook is down");
  const back = () => told("takes events again");

  await t.test("what becomes of connections", async (t) => {
    for (const wsFn of wsFns)
      await hearsOf(t, receiver, httpFn, await live(t, httpFn, wsFn));
    t.equal(receiver.asked.length, 1, "permission was asked for once");
    t.equal(receiver.posts.length, 6, "each came once");
    await isDeclared(t, receiver.asked[0], "permission", "options");
    for (const [at, name] of [
      "connected",
      "message.undelivered",
      "disconnected",
    ].entries())
      await isDeclared(t, receiver.posts[at], name, "post");
  });

  await t.test("500, slow, cut off and redirected, at random", async (t) => {
    const faults: Answer[] = [
      { status: 500 },
      "hang",
      "cut",
      { status: 307, headers: { location: elsewhere.url } },
      { status: 404 },
    ];
    let posts = 0;
    // Every fifth POST, each fault in turn.
    receiver.onPost = () =>
      ++posts % 5 === 0 ? (faults[(posts / 5) % faults.length] ?? {}) : {};
    const early = watchOrder(receiver);
    const ids = await appender.appendLanes(6, 8);
    await allTaken(receiver, ids);
    t.same(early, [], "none before the one before it was taken");
    t.equal(elsewhere.sockets, 0, "the redirect's target heard nothing");
    const names = new Set(
      receiver.posts.map(({ id, headers }) => `${id} ${headers["webhook-id"]}`),
    );
    const events = new Set(receiver.posts.map(({ id }) => id));
    t.equal(names.size, events.size, "webhook-id is the same at each attempt");
    const refused = told("did not take an event");
    t.match(
      refused.find(({ attempts }) => attempts === 1),
      {
        type: "connected",
        why: /answered 500|timeout|network|redirect|404/,
      },
    );
  });

  await t.test("down for a while", async (t) => {
    receiver.onPost = () => ({});
    const early = watchOrder(receiver);
    const [downs, backs] = [down().length, back().length];
    await receiver.down();
    const ids = await appender.appendLanes(20, 2);
    await until(() => down().length > downs, patience);
    t.match(down().at(-1), {
      mode: "down",
      why: /network: .*ECONNREFUSED/,
      nextSeconds: Number,
    });
    await receiver.up();
    await allTaken(receiver, ids);
    t.same(early, []);
    await until(() => back().length > backs, patience);
    t.equal(down().length, downs + 1, "one line when it began, of both");
    t.equal(back().length, backs + 1, "and one when it was over");
    t.match(back().at(-1), { was: "down", failures: Number, seconds: Number });
  });

  await t.test("while it fails, one at a time tries", async (t) => {
    const downs = down().length;
    receiver.onPost = () => ({ status: 503 });
    const before = receiver.posts.length;
    const ids = await appender.appendLanes(100, 1);
    await until(() => down().length > downs, patience);
    // Two instances with 16 lanes each were under way; then single tries, ever rarer.
    const tries = () => receiver.posts.length - before;
    await until(() => told("still not").length > 0, patience);
    t.ok(tries() < 50, `${tries()} POSTs for 100 lanes`);
    receiver.onPost = () => ({});
    await allTaken(receiver, ids);
  });

  await t.test("it says when to come again", async (t) => {
    receiver.onPost = () => ({ status: 429, headers: { "retry-after": "1" } });
    const [id = ""] = await appender.appendLanes(1, 1);
    await until(() => told("asked for a pause").length > 0, patience);
    const posts = receiver.posts.length;
    receiver.onPost = () => ({});
    const [other = ""] = await appender.appendLanes(1, 1);
    await allTaken(receiver, [id, other]);
    t.equal(receiver.posts.length, posts + 2, "no try in between");
  });

  await t.test("gone", async (t) => {
    receiver.onPost = () => ({ status: 410 });
    const [id = ""] = await appender.appendLanes(1, 1);
    const line = await until(() => told("gone (410)")[0], patience);
    t.match(line, { level: 50, why: "answered 410" });
    receiver.onPost = () => ({});
    const posts = receiver.posts.length;
    const [other = ""] = await appender.appendLanes(1, 1);
    // The operator has put it right, and does not want to wait for an hour.
    await until(
      async () =>
        (await appender.stores.redis.command(
          "ZCARD",
          "bull:{webhooks}:delayed",
        )) === 2,
      patience,
    );
    t.equal(receiver.posts.length, posts);
    const asked = receiver.asked.length;
    await appender.stores.redis.command(
      "HDEL",
      "bridge:{events}:webhook",
      "until",
      "mode",
    );
    await appender.stores.webhooks.promote();
    await allTaken(receiver, [id, other]);
    t.equal(receiver.asked.length, asked + 1, "permission is asked for anew");
  });
});

t.test("no permission, no address, no time", async (t) => {
  const { url } = await singleRedis(t);
  await t.test("until OPTIONS is answered rightly", async (t) => {
    const receiver = await startReceiver(t);
    receiver.onAsk = () => ({ status: 200, headers: { allow: "POST" } });
    const env = webhookEnv(`${url}/1`, receiver.url);
    const wsFn = await startWsFn(t, { ...env, WEBHOOK_ORIGIN: "me.example" });
    const appender = await startAppender(t, env);
    const ids = await appender.appendLanes(3, 2);
    const [line] = await wsFn.waitForLine(/.*gives no permission.*/);
    t.match(JSON.parse(line), {
      level: 50,
      msg: /OPTIONS is answered with WebHook-Allowed-Origin: me\.example/,
      why: "answered OPTIONS with 200 and no WebHook-Allowed-Origin",
    });
    t.equal(receiver.posts.length, 0);
    receiver.onAsk = () => ({
      headers: { "webhook-allowed-origin": "other.example" },
    });
    await until(() => receiver.asked.length > 1, patience);
    t.equal(receiver.posts.length, 0);
    receiver.onAsk = () => ({
      headers: { "webhook-allowed-origin": "me.example" },
    });
    await allTaken(receiver, ids);
    await wsFn.waitForLine(/gives permission to send/);
    await wsFn.waitForLine(/takes events again/);
  });

  await t.test("a name that is a private address", async (t) => {
    const receiver = await startReceiver(t);
    const env = {
      ...webhookEnv(`${url}/2`, `http://localhost:${receiver.port}/`),
      API_KEYS: `key:admin:${"0".repeat(64)}`,
      HOST: "127.0.0.1",
      WEBHOOK_ALLOW: "10.0.0.0/8",
    };
    const wsFn = await startWsFn(t, env);
    const appender = await startAppender(t, env);
    await appender.appendLanes(1, 1);
    const [line] = await wsFn.waitForLine(/.*the webhook is down.*/);
    t.match(JSON.parse(line), {
      why: /^address: localhost is (127\.0\.0\.1|::1), no public address; WEBHOOK_ALLOW/,
    });
    t.equal(receiver.sockets, 0);
  });

  await t.test("given up, and on with the next", async (t) => {
    const receiver = await startReceiver(t);
    const env = {
      ...webhookEnv(`${url}/3`, receiver.url),
      WEBHOOK_GIVE_UP_SECONDS: "1",
    };
    const wsFn = await startWsFn(t, env);
    const appender = await startAppender(t, env);
    const lane = newConnectionId();
    receiver.onPost = ({ id }) =>
      id === `${lane}.1` ? { status: 400, body: "no" } : {};
    await appender.append(lane, 1);
    const [line] = await wsFn.waitForLine(/.*given up.*/);
    t.match(JSON.parse(line), {
      level: 50,
      id: `${lane}.1`,
      type: "connected",
      subject: lane,
      why: "answered 400",
      attempts: Number,
    });
    await allTaken(receiver, await appender.append(lane, 1));
  });
});

t.test("the receiver of the README", async (t) => {
  const [, code = ""] =
    /```js\n(import \{ createHmac[^]*?)```/.exec(
      await readFile("README.md", "utf8"),
    ) ?? [];
  const file = path.join(t.testdir(), "receiver.mjs");
  await writeFile(file, code);
  const port = await freePort();
  const [, second = ""] = secrets;
  const receiver = await startProcess(t, {
    args: [file],
    env: { PORT: String(port), SECRET: second },
  });
  const { url } = await singleRedis(t);
  const address = `http://127.0.0.1:${port}/`;
  const env = webhookEnv(url, address);
  await startWsFn(t, env);
  const appender = await startAppender(t, env);
  const lane = newConnectionId();
  await appender.append(lane, 1);
  await receiver.waitForLine(
    new RegExp(`^connected ${lane} \\{"userId":null,"protocol":"raw"\\}$`),
  );
  for (const headers of [
    {},
    {
      "webhook-id": "a",
      "webhook-timestamp": String(Math.floor(Date.now() / 1_000)),
      "webhook-signature": `v1,${Buffer.alloc(32).toString("base64")}`,
    },
  ]) {
    const forged = await fetch(address, { method: "POST", headers, body: "x" });
    t.equal(forged.status, 401);
  }
  t.equal(receiver.logs.length, 1);
});

t.test("on a Redis Cluster", async (t) => {
  const { url } = await clusterRedis(t);
  const receiver = await startReceiver(t);
  const env = webhookEnv(url, receiver.url);
  const [httpFn, ...wsFns] = await Promise.all([
    startHttpFn(t, env),
    startWsFn(t, env),
    startWsFn(t, env),
  ]);
  for (const wsFn of wsFns)
    await hearsOf(t, receiver, httpFn, await live(t, httpFn, wsFn));
  let failing = 3;
  receiver.onPost = () => (failing-- > 0 ? { status: 500 } : {});
  const early = watchOrder(receiver);
  const appender = await startAppender(t, env);
  await allTaken(receiver, await appender.appendLanes(10, 3));
  t.same(early, []);
});
