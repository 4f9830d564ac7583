/** What clients say to the backend, with the built processes: raw and by the library, over two ws-fn and cut lines. */
import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { WebSocket } from "ws";
import type { BridgeEvent } from "../../shared/api.js";
import { startApplication } from "../../scripts/lab/application.js";
import { startPair, startPairOnPlatform } from "../../scripts/lab/pair.js";
import { until } from "../../scripts/lab/until.js";

const pair = await startPair(t);
const { backend, wsFns } = pair;

interface Said {
  event: string;
  contentType: string;
  data?: string;
  dataBase64?: string;
  userId: string | null;
  ref?: string;
}

/** What the stream has of a connection. */
async function saidBy(
  connectionId: string,
  { query = "type=event", from = backend } = {},
): Promise<Said[]> {
  const { text } = await from.ask(
    "GET",
    `/v1/events?lastEventId=0&wait=0&connection=${connectionId}&${query}`,
    { headers: { accept: "application/x-ndjson" } },
  );
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => (JSON.parse(line) as BridgeEvent).data as Said);
}

const application = (
  t: Test,
  token: string,
  to: (dial: number) => 0 | 1 = () => 0,
) => startApplication(t, { token, to: (dial) => wsFns[to(dial)].url });

t.test("what a client says is in the stream before its result", async (t) => {
  const { connectionId, token } = await backend.prepare({ userId: "ann" });
  const { bridge } = application(t, token);
  await bridge.send("hello", "world");
  const bytes = Uint8Array.from({ length: 100_000 }, (_, i) => i % 256);
  await bridge.send("bytes", bytes);
  await bridge.send("json", '{ "a":  1 }', "application/json");
  const said = await saidBy(connectionId);
  t.match(said, [
    { userId: "ann", event: "hello", contentType: "text/plain", data: "world" },
    {
      event: "bytes",
      contentType: "application/octet-stream",
      dataBase64: Buffer.from(bytes).toString("base64"),
    },
    { event: "json", contentType: "application/json", data: '{ "a":  1 }' },
  ]);
  t.ok(said.every(({ ref }) => ref !== undefined));

  await t.rejects(bridge.send("json", "{", "application/json"), {
    code: "rejected",
    problem: { code: "invalid_json" },
  });
  await t.rejects(bridge.send("", "x"), { code: "rejected" });
  await bridge.close();
  await until(async () => {
    const types = await backend.ask(
      "GET",
      `/v1/events?lastEventId=0&wait=0&connection=${connectionId}`,
      { headers: { accept: "text/plain" } },
    );
    return /connected.*\n.*event .*hello {2}world\n.*event.*bytes {2}\(application\/octet-stream\)\n.*\n.*disconnected/.test(
      types.text,
    );
  });
});

t.test("backends hear it live, and go on where they were", async (t) => {
  const { connectionId, token } = await backend.prepare();
  const { bridge } = application(t, token, () => 1);
  await bridge.ready;
  const leave = new AbortController();
  t.teardown(() => leave.abort());
  const hear = async (query: string) => {
    const response = await fetch(
      `${pair.httpUrl}/v1/events?connection=${connectionId}${query}`,
      { signal: leave.signal, headers: { accept: "text/event-stream" } },
    );
    const seen = { text: "" };
    void (async () => {
      const decoder = new TextDecoder();
      for await (const chunk of response.body ?? [])
        seen.text += decoder.decode(chunk as Uint8Array, { stream: true });
    })().catch(() => undefined);
    return seen;
  };
  const seen = await hear("&type=event");
  await until(() => seen.text.includes("id: "));
  for (const text of ["1", "2", "3"]) await bridge.send("live", text);
  await until(() => seen.text.includes('"data":"3"'));
  const [first] = [...seen.text.matchAll(/^event: event\nid: (\d+)$/gm)];
  const later = await hear(`&type=event&lastEventId=${first?.[1] ?? ""}`);
  await until(() => later.text.includes('"data":"3"'));
  t.same(
    [...later.text.matchAll(/"data":"(\d)"/g)].map(([, digit]) => digit),
    ["2", "3"],
  );
});

t.test("a raw client's frames are the event message", async (t) => {
  const { connectionId, token } = await backend.prepare();
  const socket = new WebSocket(`${wsFns[1].url}/ws?token=${token}`);
  t.teardown(() => socket.terminate());
  await new Promise((resolve) => {
    socket.on("open", resolve);
  });
  socket.send("hello");
  socket.send(Uint8Array.of(0, 255));
  socket.send("");
  const said = await until(async () => {
    const all = await saidBy(connectionId);
    return all.length === 3 ? all : undefined;
  });
  t.match(said, [
    { event: "message", contentType: "text/plain", data: "hello" },
    { contentType: "application/octet-stream", dataBase64: "AP8=" },
    { data: "" },
  ]);
});

t.test("once and in order, however often the line is cut", async (t) => {
  const { connectionId, token } = await backend.prepare();
  const app = application(t, token, (dial) => (dial % 2 === 0 ? 0 : 1));
  await app.bridge.ready;
  const total = 24;
  const results: Promise<unknown>[] = [];
  for (let i = 0; i < total; i++) {
    results.push(app.bridge.send("count", String(i)));
    if (i % 5 === 4) app.socket.terminate();
    await sleep(60);
  }
  await Promise.all(results);
  t.same(
    (await saidBy(connectionId)).map(({ data }) => data),
    Array.from({ length: total }, (_, i) => String(i)),
  );
  t.ok(app.dials > 3, `${app.dials} sockets`);
});

t.test("a frame that is said again is one event", async (t) => {
  const { connectionId, token } = await backend.prepare();
  const results: unknown[] = [];
  const dial = (instance: 0 | 1) =>
    new Promise<WebSocket>((resolve) => {
      const socket = new WebSocket(`${wsFns[instance].url}/ws`, [
        "bridge.v1.json",
        `bearer.${token}`,
      ]);
      t.teardown(() => socket.terminate());
      socket.on("message", (data: Buffer) => {
        const frame = JSON.parse(data.toString()) as { type: string };
        if (frame.type === "welcome") resolve(socket);
        else results.push(frame);
      });
    });
  const frame = (data: string, ref?: string) =>
    JSON.stringify({ type: "event", event: "e", data, ref });
  const one = await dial(0);
  one.send(frame("x", "1"));
  one.send(frame("no ref"));
  await until(() => results.length === 1);
  const two = await dial(1);
  two.send(frame("x", "1"));
  two.send(frame("no ref"));
  two.send(frame("other", "1"));
  await until(() => results.length === 3);
  two.send(JSON.stringify({ type: "event", event: "\n", data: "" }));
  await until(() => results.length === 4);
  t.match(results, [
    { type: "result", ref: "1", ok: true },
    { type: "result", ref: "1", ok: true },
    { type: "result", ref: "1", ok: true },
    { type: "error", error: { code: "invalid_parameter" } },
  ]);
  t.same(
    (await saidBy(connectionId)).map(({ data }) => data),
    ["x", "no ref", "no ref", "other"],
  );
});

t.test("Redis is away for a moment: nothing is lost", async (t) => {
  const [a, b] = [await backend.prepare(), await backend.prepare()];
  const app = application(t, a.token);
  await app.bridge.ready;
  const raw = new WebSocket(`${wsFns[1].url}/ws?token=${b.token}`);
  t.teardown(() => raw.terminate());
  await new Promise((resolve) => {
    raw.on("open", resolve);
  });
  await app.bridge.send("e", "before");
  await pair.redis.stop();
  const results = ["1", "2", "3"].map((text) => app.bridge.send("e", text));
  for (const text of ["1", "2", "3"]) raw.send(text);
  await pair.redis.start();
  await Promise.all(results);
  const texts = async (id: string) =>
    (await saidBy(id)).map(({ data }) => data).join();
  await until(async () => (await texts(a.connectionId)) === "before,1,2,3");
  await until(async () => (await texts(b.connectionId)) === "1,2,3");
  t.equal(app.dials, 1);
});

t.test("the last words of an instance that is frozen are heard", async (t) => {
  const { backend: from, wsFns: gateway } = await startPairOnPlatform(
    t,
    "hostile",
  );
  const [{ url }] = gateway;
  const [a, b] = [await from.prepare(), await from.prepare()];
  const app = startApplication(t, { token: a.token, to: () => url });
  await app.bridge.ready;
  void app.bridge.send("e", "1");
  void app.bridge.send("e", "2");
  await app.bridge.close();
  const raw = new WebSocket(`${url}/ws?token=${b.token}`);
  await new Promise((resolve) => {
    raw.on("open", resolve);
  });
  for (const text of ["1", "2"]) raw.send(text);
  raw.close(1000);
  for (const { connectionId } of [a, b]) {
    const said = await until(async () => {
      const all = await saidBy(connectionId, { query: "", from });
      return all.length === 4 ? all : undefined;
    });
    t.match(
      said,
      [{ protocol: /./ }, { data: "1" }, { data: "2" }, { by: "client" }],
      "before its end",
    );
  }

  // All at once, and acks beside it: the platform cuts off who sends more than ten frames in any second.
  const c = await from.prepare();
  const busy = startApplication(t, { token: c.token, to: () => url });
  await busy.bridge.ready;
  let over = false;
  const said = Promise.all(
    Array.from({ length: 16 }, (_, n) => busy.bridge.send("e", String(n))),
  ).finally(() => {
    over = true;
  });
  for (let n = 0; !over; n += 1) await from.accepted(c.connectionId, String(n));
  await said;
  t.same([busy.dials, busy.errors], [1, []]);
  await busy.bridge.close();
});
