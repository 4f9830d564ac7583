/** The backend decides who may connect: refused, let in as somebody, slow, broken; two ws-fn, real sockets. */
import { Webhook } from "standardwebhooks";
import t, { type Test } from "tap";
import { WebSocket } from "ws";
import type { Connection, Presence, Problem } from "../../shared/api.js";
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
  LOG_LEVEL: "warn",
  WEBHOOK_EVENTS: "connect,connected",
  WEBHOOK_CONNECT_SECONDS: "1",
  WEBHOOK_CONNECT_HEADERS: "User-Agent,x-plan,x-forwarded-for,x-forwarded-host",
};
const [httpFn, ...wsFns] = await Promise.all([
  startHttpFn(t, env),
  startWsFn(t, env),
  startWsFn(t, env),
]);
const backend = backendOf(t, httpFn.url);
await until(async () => (await backend.ask("GET", "/readyz")).status === 200);
await until(async () =>
  (
    await Promise.all(
      wsFns.map(({ url }) => fetch(`${url.replace("ws", "http")}/readyz`)),
    )
  ).every(({ ok }) => ok),
);

const asked = (connectionId?: string): Heard[] =>
  receiver.posts.filter(
    ({ type, subject }) =>
      type === "connect" &&
      (connectionId === undefined || subject === connectionId),
  );

const json = (value: unknown, status = 200) => ({
  status,
  headers: { "content-type": "application/json" },
  body: JSON.stringify(value),
});

/** An upgrade: the first frame, or how it was refused. */
function dial(
  t: Test,
  instance: 0 | 1,
  query: string,
  headers: Record<string, string> = {},
): Promise<{
  status: number;
  problem?: Problem;
  retryAfter?: string | undefined;
  welcome?: { connectionId: string };
  socket: WebSocket;
}> {
  const socket = new WebSocket(`${wsFns[instance]?.url ?? ""}/ws?${query}`, {
    headers,
  });
  t.teardown(() => socket.terminate());
  return new Promise((resolve, reject) => {
    socket.once("message", (data: Buffer) =>
      resolve({
        status: 101,
        welcome: JSON.parse(data.toString()) as { connectionId: string },
        socket,
      }),
    );
    socket.on("unexpected-response", (_request, response) => {
      let text = "";
      response.on("data", (chunk: Buffer) => (text += chunk.toString()));
      response.on("end", () =>
        resolve({
          status: response.statusCode ?? 0,
          problem: JSON.parse(text) as Problem,
          retryAfter: response.headers["retry-after"],
          socket,
        }),
      );
    });
    socket.on("error", (error) => {
      if (!/Unexpected server response/.test(error.message)) reject(error);
    });
  });
}

const inspect = async (id: string) =>
  (await backend.ask("GET", `/v1/connections/${id}`)).json<Connection>();

t.test("the backend hears who comes, signed, and lets in", async (t) => {
  receiver.onPost = () => ({ status: 204 });
  const { connectionId, token } = await backend.prepare({
    userId: "ann",
    groups: ["a"],
    labels: { plan: "pro" },
    permissions: ["join:b"],
  });
  const { status, welcome } = await dial(
    t,
    0,
    `token=${token}&room=1&room=2&attempt=x.1`,
    {
      "x-plan": "gold",
      "x-other": "kept",
      cookie: "session=secret",
      authorization: `Bearer ${token}`,
      "user-agent": "test",
      "x-forwarded-for": "192.0.2.1",
      "x-forwarded-host": "elsewhere.example",
      origin: "http://localhost",
    },
  );
  t.equal(status, 101);
  t.equal(welcome?.connectionId, connectionId);
  const [post] = asked(connectionId);
  if (!post) throw new Error("it was asked");
  const said = new Webhook(secrets[0] ?? "").verify(post.body, post.headers);
  t.same(said, {
    connectionId,
    protocol: "raw",
    userId: "ann",
    groups: ["a"],
    permissions: ["join:b"],
    labels: { plan: "pro" },
    origin: "http://localhost",
    subprotocols: [],
    query: { room: ["1", "2"], attempt: ["x.1"] },
    // What a stranger says of itself in a proxy's name is not passed on; its address is.
    headers: {
      "x-plan": "gold",
      "user-agent": "test",
      "x-forwarded-for": "127.0.0.1",
    },
  });
  t.notOk(JSON.stringify(post).includes(token), "no token in any place");
  t.notOk(JSON.stringify(post).includes("secret"));
  t.match(post.headers, { "ce-type": "connect", "ce-userid": "ann" });
  t.equal(receiver.asked.length > 0, true, "permission was asked for");
  t.match(await inspect(connectionId), { userId: "ann", groups: ["a"] });
  // Delivered events go on beside it.
  await until(() =>
    receiver.taken.some(
      ({ type, subject }) => type === "connected" && subject === connectionId,
    ),
  );
});

t.test("it says who a client is", async (t) => {
  receiver.onPost = ({ type }) =>
    type === "connect"
      ? json({
          userId: "bob",
          groups: ["b", "c"],
          permissions: ["publish:c"],
          labels: { plan: "free" },
        })
      : {};
  const wanted = {
    userId: "bob",
    groups: ["b", "c"],
    permissions: ["publish:c"],
    labels: { plan: "free" },
    state: "open",
  };
  // One that was prepared as somebody else, one that brings nothing.
  const prepared = await backend.prepare({ userId: "eve", groups: ["a", "b"] });
  await backend.accepted(prepared.connectionId, "before");
  const app = startApplication(t, {
    token: prepared.token,
    to: () => wsFns[0]?.url ?? "",
  });
  const welcome = await app.bridge.ready;
  t.equal(welcome.userId, "bob");
  t.same(Object.keys(welcome.groups ?? {}).sort(), ["$all", "b", "c"]);
  await app.has(1);
  const anonymous = await dial(t, 1, "");
  const ids = [prepared.connectionId, anonymous.welcome?.connectionId ?? ""];
  for (const id of ids) t.match({ ...(await inspect(id)) }, { ...wanted });
  const presence = async (user: string) =>
    (await backend.ask("GET", `/v1/users/${user}`)).json<Presence>();
  t.match(await presence("bob"), { open: 2 });
  t.match(await presence("eve"), { connections: [] });
  await backend.ask("POST", "/v1/groups/c/messages", {
    body: "to the group",
    headers: { "content-type": "text/plain" },
  });
  await app.has(2);
  await backend.ask("POST", "/v1/users/bob/messages", {
    body: "to bob",
    headers: { "content-type": "text/plain" },
  });
  await app.has(3);
  t.same(app.texts, ["before", "to the group", "to bob"]);
  await app.bridge.publish("c", "allowed");
  await t.rejects(app.bridge.join("z"), { code: "rejected" });
});

t.test("it is asked once for a connection, not for each socket", async (t) => {
  receiver.onPost = () => ({ status: 204 });
  const { connectionId, token } = await backend.prepare();
  const app = startApplication(t, {
    token,
    to: (dial) => wsFns[dial % 2]?.url ?? "",
  });
  await app.bridge.ready;
  receiver.onPost = ({ type }) =>
    type === "connect" ? { status: 403 } : { status: 204 };
  app.socket.terminate();
  await until(() => app.dials === 2 && app.states.at(-1) === "open");
  const raw = await backend.prepare();
  receiver.onPost = () => ({ status: 204 });
  const first = await dial(t, 0, `token=${raw.token}`);
  receiver.onPost = () => ({ status: 403 });
  first.socket.terminate();
  t.equal((await dial(t, 1, `token=${raw.token}`)).status, 101);
  t.equal(asked(connectionId).length, 1);
  t.equal(asked(raw.connectionId).length, 1);
});

t.test("a refusal has the backend's status and words", async (t) => {
  const { connectionId, token } = await backend.prepare();
  const cases: [
    answer: ReturnType<typeof receiver.onPost>,
    status: number,
    detail: RegExp | undefined,
  ][] = [
    [json({ detail: "who are you?" }, 401), 401, /^who are you\?$/],
    [
      {
        status: 403,
        headers: { "content-type": "text/plain" },
        body: "not\nyou",
      },
      403,
      /^not you$/,
    ],
    [{ status: 404 }, 404, undefined],
    [
      { status: 429, headers: { "retry-after": "7" }, body: "<html>" },
      429,
      undefined,
    ],
  ];
  for (const [answer, status, detail] of cases) {
    receiver.onPost = () => answer;
    const refused = await dial(t, 1, `token=${token}`);
    t.equal(refused.status, status);
    t.match(refused.problem, { code: "connect_refused", status });
    if (detail) t.match(refused.problem?.detail, detail);
    if (status === 429) t.equal(refused.retryAfter, "7");
  }
  t.match(
    await inspect(connectionId),
    { state: "prepared" },
    "it may try again",
  );
  receiver.onPost = () => ({ status: 403 });
  const app = startApplication(t, {
    token,
    to: () => wsFns[0]?.url ?? "",
  });
  await t.rejects(app.bridge.ready, { code: "refused", status: 403 });
  const before = (await backend.ask("GET", "/v1/connections")).text;
  t.equal((await dial(t, 0, "")).status, 403);
  t.equal(
    (await backend.ask("GET", "/v1/connections")).text,
    before,
    "nothing was made for a client that is not let in",
  );
});

t.test("without a clear answer nobody comes in", async (t) => {
  const { token } = await backend.prepare();
  const answers: ReturnType<typeof receiver.onPost>[] = [
    { status: 500 },
    { status: 302, headers: { location: "http://127.0.0.1/" } },
    "cut",
    "hang",
    { status: 200, body: "yes" },
    json(["yes"]),
    json({ user: "ann" }),
    json({ userId: "" }),
    json({ groups: ["$all"] }),
    json({ permissions: ["all"] }),
    json({ labels: { plan: 7 } }),
  ];
  for (const answer of answers) {
    receiver.onPost = () => answer;
    const { status, problem, retryAfter } = await dial(t, 0, `token=${token}`);
    t.equal(status, 503, JSON.stringify(answer));
    t.match(problem, { code: "connect_unavailable" });
    t.ok(Number(retryAfter) > 0);
  }
  receiver.onPost = () => ({ status: 204 });
  await receiver.down();
  t.equal((await dial(t, 1, `token=${token}`)).status, 503);
  await receiver.up();
  t.equal((await dial(t, 1, `token=${token}`)).status, 101);
});
