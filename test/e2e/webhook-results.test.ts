/** What the backend's webhook answers to a client's event is the result the client gets, whichever instance delivered it. */
import { Webhook } from "standardwebhooks";
import t from "tap";
import type { BridgeError, Result } from "../../client/client.js";
import { startApplication } from "../../scripts/lab/application.js";
import { backendOf } from "../../scripts/lab/backend.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";
import {
  startReceiver,
  type Heard,
} from "../../scripts/lab/webhook-receiver.js";
import { secrets, webhookEnv } from "../fixtures/webhook-appender.js";

const redis = await singleRedis(t);
const receiver = await startReceiver(t);
const env = {
  ...webhookEnv(redis.url, receiver.url),
  WEBHOOK_EVENTS: "event",
  WEBHOOK_TIMEOUT_SECONDS: "1",
};
const [httpFn, ...wsFns] = await Promise.all([
  startHttpFn(t, env),
  startWsFn(t, env),
  startWsFn(t, env),
]);
const backend = backendOf(t, httpFn.url);

const echo = ({ body, headers }: Heard) => ({
  status: 200,
  headers: { "content-type": headers["content-type"] ?? "" },
  body,
});

const client = async (to: (dial: number) => 0 | 1 = () => 0) => {
  const { connectionId, token } = await backend.prepare({ userId: "ann" });
  const app = startApplication(t, {
    token,
    to: (dial) => wsFns[to(dial)]?.url ?? "",
  });
  await app.bridge.ready;
  return { app, connectionId };
};

t.test("the reply's body is the result", async (t) => {
  receiver.onPost = echo;
  // Either instance may deliver, whoever holds the socket.
  const clients = await Promise.all([client(), client(() => 1)]);
  for (const { app, connectionId } of clients) {
    for (let i = 0; i < 10; i++)
      t.match(await app.bridge.send("ask", `?${i}`), {
        ok: true,
        contentType: "text/plain",
        data: `?${i}`,
      });
    t.match(await app.bridge.send("ask", "[1]", "application/json"), {
      contentType: "application/json",
      data: "[1]",
    });
    t.match(await app.bridge.send("ask", Uint8Array.of(0, 255)), {
      contentType: "application/octet-stream",
      dataBase64: "AP8=",
    });
    const post = receiver.posts.find(({ subject }) => subject === connectionId);
    t.match(post?.headers, {
      "ce-type": "event",
      "ce-eventname": "ask",
      "ce-userid": "ann",
      "content-type": "text/plain",
    });
    t.equal(post?.body.toString(), "?0");
    const [secret = ""] = secrets;
    // It verifies, then finds that this is no JSON.
    t.throws(
      () => new Webhook(secret).verify(post?.body ?? "", post?.headers ?? {}),
      SyntaxError,
    );
  }
  const { app } = clients[0] ?? (await client());
  receiver.onPost = () => ({ status: 204 });
  const empty = await app.bridge.send("ask", "x");
  t.notOk("data" in empty || "contentType" in empty);
  receiver.onPost = () => ({
    status: 200,
    headers: { "content-type": "text/plain" },
    body: "\u0001".repeat(100_000),
  });
  t.match(await app.bridge.send("ask", "x"), { ok: true, omitted: true });
  receiver.onPost = () => ({ status: 200, body: Buffer.alloc(300_000) });
  t.match(await app.bridge.send("ask", "x"), { ok: true, omitted: true });
});

t.test("a refusal is one, with what was said beside it", async (t) => {
  const { app } = await client();
  receiver.onPost = () => ({
    status: 409,
    headers: { "content-type": "application/json" },
    body: '{"why":"taken"}',
  });
  const refused = await app.bridge.send("book", "7").then(
    () => undefined,
    (error: BridgeError & { cause?: Result }) => error,
  );
  t.match(refused, {
    code: "rejected",
    problem: { code: "event_refused", status: 422, detail: /409/ },
    cause: { ok: false, data: '{"why":"taken"}' },
  });
});

t.test("a backend that is late is no loss", async (t) => {
  const { app, connectionId } = await client();
  const taken = () =>
    receiver.taken.filter(({ subject }) => subject === connectionId).length;
  let fails = 1;
  receiver.onPost = (heard) => (fails-- > 0 ? { status: 500 } : echo(heard));
  t.match(
    await app.bridge.send("soon", "x"),
    { data: "x" },
    "at the second try",
  );
  receiver.onPost = () => "hang";
  await t.rejects(app.bridge.send("late", "y"), {
    code: "rejected",
    message: /event_pending/,
  });
  receiver.onPost = echo;
  await until(() => taken() === 2, { ms: 20_000 });
});

t.test("it finds a client that has moved meanwhile", async (t) => {
  const { app } = await client((dial) => (dial === 0 ? 0 : 1));
  let open: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => {
    open = resolve;
  });
  const before = receiver.posts.length;
  receiver.onPost = async (heard) => {
    await gate;
    return echo(heard);
  };
  const result = app.bridge.send("where", "am I?");
  await until(() => receiver.posts.length > before);
  app.socket.terminate();
  // Answered while nobody is there.
  open();
  t.match(await result, { data: "am I?" });
  t.ok(app.dials >= 2);
  t.equal(receiver.posts.length, before + 1, "posted once");
});

t.test("without a ref there is no result", async (t) => {
  const { connectionId, token } = await backend.prepare();
  const { WebSocket } = await import("ws");
  const socket = new WebSocket(`${wsFns[1]?.url ?? ""}/ws?token=${token}`);
  t.teardown(() => socket.terminate());
  const frames: string[] = [];
  socket.on("message", (data: Buffer) => frames.push(data.toString()));
  await new Promise((resolve) => {
    socket.on("open", resolve);
  });
  receiver.onPost = echo;
  socket.send("just so you know");
  await until(() =>
    receiver.taken.some(({ subject }) => subject === connectionId),
  );
  t.equal(frames.length, 1, "the welcome");
});
