/** Asking the browser, with the built processes: two ws-fn, two http-fn, the client library and raw sockets. */
import t, { type Test } from "tap";
import { WebSocket } from "ws";
import type { Problem, Receipt } from "../../shared/api.js";
import type { BridgeError } from "../../client/client.js";
import { startApplication } from "../../scripts/lab/application.js";
import { startPair } from "../../scripts/lab/pair.js";
import { startHttpFn } from "../../scripts/lab/processes.js";
import { until } from "../../scripts/lab/until.js";
import { keys } from "../../shared/keys.js";
import { replyPlace } from "../../shared/replies.js";

const pair = await startPair(t, { RESUME_SECONDS: "20" });
const { backend, wsFns, httpUrl, redis } = pair;

interface Asked {
  status: number;
  headers: Headers;
  body: Buffer;
  problem: Problem;
}

let asked = 0;

/** Asks on a connection of its own, so that a cut is seen. */
async function ask(
  path: string,
  {
    body = "how are you?",
    query = "expect=reply&wait=20",
    headers = {},
    origin = httpUrl,
    signal,
  }: {
    body?: string;
    query?: string;
    headers?: Record<string, string>;
    origin?: string;
    signal?: AbortSignal;
  } = {},
): Promise<Asked> {
  const response = await fetch(`${origin}/v1/${path}/messages?${query}`, {
    method: "POST",
    body,
    headers: { "content-type": "text/plain", ...headers },
    ...(signal && { signal }),
  });
  const bytes = Buffer.from(await response.arrayBuffer());
  return {
    status: response.status,
    headers: response.headers,
    body: bytes,
    get problem() {
      return JSON.parse(bytes.toString()) as Problem;
    },
  };
}

const toConnection = (id: string) => `connections/${id}`;
const someone = () => `somebody-${++asked}`;

const application = (
  t: Test,
  token: string,
  to: (dial: number) => 0 | 1 = () => 0,
) => startApplication(t, { token, to: (dial) => wsFns[to(dial)].url });

const codeOf = (work: Promise<unknown>) =>
  work.then(
    () => "ok",
    (error: BridgeError) => error.problem?.code ?? error.code,
  );

t.test("the client's reply is the answer, byte for byte", async (t) => {
  const { connectionId, token } = await backend.prepare();
  const bytes = Uint8Array.from({ length: 150_000 }, (_, i) => i % 256);
  const cases: [
    say: string | Uint8Array,
    type: string | undefined,
    as: string,
  ][] = [
    ["fine", undefined, "text/plain"],
    ['{ "a":  1 }', "application/json", "application/json"],
    ["grüß 🎈", "text/x-note; charset=utf-8", "text/x-note; charset=utf-8"],
    [bytes, undefined, "application/octet-stream"],
    [bytes, "image/png", "image/png"],
    ["", undefined, "text/plain"],
  ];
  const app = application(t, token);
  await app.bridge.ready;
  for (const [index, [say, type, as]] of cases.entries()) {
    const answer = ask(toConnection(connectionId), {
      headers: { prefer: "wait=20" },
    });
    await app.has(index + 1);
    const { replyTo, id, text } = app.messages[index] ?? {};
    t.equal(text, "how are you?");
    t.equal(replyTo, id);
    await app.bridge.reply(String(replyTo), say, type);
    const { status, headers, body } = await answer;
    t.equal(status, 200);
    t.equal(headers.get("content-type"), as);
    t.equal(headers.get("location"), `/v1/messages/${id}`);
    t.equal(headers.get("reply-connection"), connectionId);
    t.equal(headers.get("preference-applied"), "wait=20");
    t.ok(body.equals(Buffer.from(say)), `as it was said (${as})`);
  }
  await backend.accepted(connectionId, "no question");
  await app.has(cases.length + 1);
  t.equal(app.messages.at(-1)?.replyTo, undefined);
});

t.test("of a user the first who replies counts, wherever it is", async (t) => {
  const userId = someone();
  const [one, two] = await Promise.all([
    backend.prepare({ userId }),
    backend.prepare({ userId }),
  ]);
  const here = application(t, one.token);
  const there = application(t, two.token, () => 1);
  await Promise.all([here.bridge.ready, there.bridge.ready]);
  const answer = ask(`users/${userId}`);
  await Promise.all([here.has(1), there.has(1)]);
  const replyTo = String(there.messages[0]?.replyTo);
  t.equal(here.messages[0]?.replyTo, replyTo);
  await there.bridge.reply(replyTo, "me first");
  t.equal(
    await codeOf(here.bridge.reply(replyTo, "me too")),
    "already_answered",
  );
  t.equal(
    await codeOf(there.bridge.reply(replyTo, "me first")),
    "ok",
    "the same reply again is the same reply",
  );
  t.equal(await codeOf(there.bridge.reply(replyTo, "no")), "already_answered");
  const { status, headers, body } = await answer;
  t.equal(status, 200);
  t.equal(body.toString(), "me first");
  t.equal(headers.get("reply-connection"), two.connectionId);
});

t.test("a user who comes later can still reply", async (t) => {
  const userId = someone();
  const answer = ask(`users/${userId}`);
  const { token } = await backend.prepare({ userId });
  const app = application(t, token, () => 1);
  await app.has(1);
  await app.bridge.reply(String(app.messages[0]?.replyTo), "here now");
  t.equal((await answer).body.toString(), "here now");
});

t.test("it may have heard on one socket and reply on another", async (t) => {
  const { connectionId, token } = await backend.prepare();
  const app = application(t, token, (dial) => (dial === 0 ? 0 : 1));
  await app.bridge.ready;
  const answer = ask(toConnection(connectionId));
  await app.has(1);
  app.socket.terminate();
  await until(() => app.states.at(-1) === "open" && app.dials === 2);
  await app.bridge.reply(String(app.messages[0]?.replyTo), "after all");
  t.equal((await answer).body.toString(), "after all");
  t.equal(app.messages.length, 1);
});

t.test("without a reply it is 504, and names what was asked", async (t) => {
  const { connectionId, token } = await backend.prepare();
  const app = application(t, token);
  await app.bridge.ready;
  const { status, headers, problem } = await ask(toConnection(connectionId), {
    query: "expect=reply&wait=1",
  });
  t.equal(status, 504);
  await app.has(1);
  const id = String(app.messages[0]?.id);
  t.match(problem, { code: "reply_timeout", message: id });
  t.equal(headers.get("location"), `/v1/messages/${id}`);
  const receipt = await until(async () => {
    const now = await backend.receipt(id);
    return now.status === "delivered" ? now : undefined;
  });
  t.match(receipt, { status: "delivered" });
  t.equal(await codeOf(app.bridge.reply(id, "too late")), "message_not_found");
});

t.test("a retry with the same key waits on and asks once", async (t) => {
  const { connectionId, token } = await backend.prepare();
  const app = application(t, token);
  await app.bridge.ready;
  const headers = { "idempotency-key": "once" };
  const path = toConnection(connectionId);
  const query = "expect=reply&wait=1";
  t.equal((await ask(path, { headers, query })).status, 504);
  const again = ask(path, { headers });
  await app.bridge.reply(String(app.messages[0]?.id), "at last");
  const first = await again;
  t.equal(first.status, 200);
  t.equal(first.headers.get("idempotency-replayed"), "true");
  const second = await ask(path, { headers });
  t.equal(second.body.toString(), "at last");
  t.equal(app.messages.length, 1, "asked once");
  t.match((await ask(path, { headers, body: "other" })).problem, {
    code: "idempotency_mismatch",
  });
});

t.test("an http-fn dies: the retry elsewhere gets the reply", async (t) => {
  for (const user of [false, true]) {
    const userId = someone();
    const { connectionId, token } = await backend.prepare({ userId });
    const app = application(t, token, () => 1);
    await app.bridge.ready;
    const dying = await startHttpFn(t, {
      REDIS_URL: redis.url,
      LOG_LEVEL: "warn",
    });
    await until(async () => (await fetch(`${dying.url}/readyz`)).ok);
    const path = user ? `users/${userId}` : toConnection(connectionId);
    const headers = { "idempotency-key": "survives" };
    const askDying = () => ask(path, { headers, origin: dying.url });
    // A process that has just started may refuse its first request once; the key makes it safe to repeat.
    const broken = askDying()
      .then((first) => (first.status === 503 ? askDying() : first))
      .then(
        ({ status, body }) => `answered ${status}: ${body.toString()}`,
        () => "broken",
      );
    const early = await Promise.race([app.has(1), broken]);
    if (typeof early === "string") throw new Error(`the first one ${early}`);
    // A push that is nearly done is as good as done; one that is not would be under way for some seconds more.
    const id = String(app.messages[0]?.id);
    await until(async () =>
      /delivered/.test((await backend.receipt(id)).status),
    );
    dying.kill("SIGKILL");
    t.equal(await broken, "broken");
    const bytes = Uint8Array.of(0, 255, 1, 254);
    await app.bridge.reply(String(app.messages[0]?.replyTo), bytes, "a/b");
    const {
      status,
      headers: told,
      body,
    } = await until(async () => {
      const again = await ask(path, { headers });
      return again.status === 409 ? undefined : again;
    });
    t.equal(status, 200);
    t.equal(told.get("content-type"), "a/b");
    if (!user) t.equal(told.get("idempotency-replayed"), "true");
    t.ok(body.equals(Buffer.from(bytes)));
    t.equal(app.messages.length, 1);
  }
});

t.test("it is told at once when nobody can reply any more", async (t) => {
  const userId = someone();
  const gone = await backend.prepare();
  const wait = "expect=reply&wait=60";
  const told = (path: string, more = "") =>
    ask(path, { query: `${wait}${more}` });
  const refusal = (answer: Asked) => ({
    ...answer.problem,
    status: answer.status,
  });

  t.match(refusal(await told(toConnection(gone.connectionId), "&ttl=0")), {
    status: 409,
    code: "reply_impossible",
    reason: "not_connected",
    message: /^m_/,
  });
  t.match(refusal(await told(`users/${userId}`, "&ttl=0")), {
    code: "reply_impossible",
  });

  const expired = told(toConnection(gone.connectionId), "&ttl=1");
  t.match(refusal(await expired), {
    code: "reply_impossible",
    detail: /expired/,
  });

  const recalled = told(toConnection(gone.connectionId));
  const [waiting] = await until(async () => {
    const { items } = (
      await backend.ask("GET", `/v1/connections/${gone.connectionId}/messages`)
    ).json<{ items: Receipt[] }>();
    const queued = items.filter(({ status }) => status === "queued");
    return queued.length > 0 ? queued : undefined;
  });
  await backend.ask("DELETE", `/v1/messages/${waiting?.id}`);
  t.match(refusal(await recalled), {
    code: "reply_impossible",
    detail: /recalled/,
  });

  const ends = await backend.prepare();
  const app = application(t, ends.token);
  await app.bridge.ready;
  const silent = told(toConnection(ends.connectionId));
  await app.has(1);
  await app.bridge.close();
  t.match(refusal(await silent), {
    code: "reply_impossible",
    reason: "client_closed",
  });
  t.match(refusal(await told(toConnection(ends.connectionId))), {
    status: 410,
  });
});

t.test("a raw socket cannot reply, and that is said at once", async (t) => {
  const userId = someone();
  const { connectionId, token } = await backend.prepare({ userId });
  const early = ask(toConnection(connectionId), {
    query: "expect=reply&wait=60",
  });
  await until(async () => {
    const answer = await backend.ask(
      "GET",
      `/v1/connections/${connectionId}/messages`,
    );
    return answer.json<{ items: object[] }>().items.length === 1;
  });
  const socket = new WebSocket(`${wsFns[0].url}/ws?welcome=0&token=${token}`);
  t.teardown(() => socket.terminate());
  const texts: string[] = [];
  socket.on("message", (data: Buffer) => texts.push(data.toString()));
  t.match((await early).problem, {
    code: "reply_impossible",
    detail: /raw/,
    message: /^m_/,
  });
  for (const path of [toConnection(connectionId), `users/${userId}`]) {
    const { status, problem } = await ask(path);
    t.equal(status, 409);
    t.match(problem, { code: "reply_impossible", hint: /bridge.v1.json/ });
    t.notOk("message" in problem, "nothing was sent");
  }
  t.same(texts, ["how are you?"]);
  const { text } = await backend.ask(
    "POST",
    `/v1/connections/${connectionId}/messages?expect=reply&explain=1`,
  );
  t.match(JSON.parse(text), {
    status: 409,
    problem: { code: "reply_impossible" },
    recipients: [{ protocol: "raw", canReply: false }],
  });
});

t.test("the wait ends when its caller goes", async (t) => {
  const { connectionId, token } = await backend.prepare();
  const app = application(t, token);
  await app.bridge.ready;
  const leave = new AbortController();
  const left = ask(toConnection(connectionId), { signal: leave.signal });
  await app.has(1);
  leave.abort();
  await t.rejects(left);
  const id = String(app.messages[0]?.id);
  const at = replyPlace(id);
  const place = keys.reply(at?.tag ?? "", at?.place ?? "");
  await until(async () => (await redis.cli("EXISTS", place)) === 0, {
    message: "the place for the reply is gone",
  });
  t.equal(await codeOf(app.bridge.reply(id, "hello?")), "message_not_found");
});

t.test("a reply to what was asked of others is none", async (t) => {
  const [asked, other] = await Promise.all([
    backend.prepare({ userId: someone() }),
    backend.prepare({ userId: someone() }),
  ]);
  const app = application(t, other.token, () => 1);
  const right = application(t, asked.token);
  await Promise.all([app.bridge.ready, right.bridge.ready]);
  const answer = ask(toConnection(asked.connectionId));
  await right.has(1);
  const replyTo = String(right.messages[0]?.replyTo);
  t.equal(
    await codeOf(app.bridge.reply(replyTo, "let me")),
    "message_not_found",
  );
  t.equal(await codeOf(app.bridge.reply("m_x", "")), "message_not_found");
  await right.bridge.reply(replyTo, "mine");
  t.equal((await answer).body.toString(), "mine");
});
