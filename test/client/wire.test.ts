/** The client over real sockets: cuts, refusals and moves as `ws` shows them, and two hundred cuts at random moments. */

import t, { type Test } from "tap";
import { WebSocket } from "ws";
import {
  type Bridge,
  type BridgeError,
  connect,
  type Message,
  type Options,
} from "../../client/client.js";
import {
  type ScriptedBridge,
  startScriptedBridge,
} from "../fixtures/scripted-bridge.js";
import { FakeClock } from "../fixtures/fake-socket.js";
import { until } from "../../scripts/lab/until.js";

/** A client of `server`; retries at once. */
function listen(
  t: Test,
  server: ScriptedBridge,
  options: Partial<Options> = {},
): {
  bridge: Bridge;
  messages: Message[];
  errors: BridgeError[];
} {
  const messages: Message[] = [];
  const errors: BridgeError[] = [];
  const bridge = connect(server.url, {
    WebSocket,
    random: () => 0,
    onMessage: (message) => void messages.push(message),
    onError: (error) => void errors.push(error),
    ...options,
  });
  t.teardown(() => bridge.close());
  return { bridge, messages, errors };
}

t.test("a cut without a Close frame is resumed", async (t) => {
  const server = await startScriptedBridge(t);
  const { bridge, messages, errors } = listen(t, server, { token: "a.b.c" });
  await bridge.ready;
  t.equal(server.requests[0]?.protocols, "bridge.v1.json,bearer.a.b.c");
  server.push("one");
  await until(() => messages.length === 1);
  server.cut();
  server.push("two");
  await until(() => messages.length === 2);
  t.same(
    messages.map(({ text }) => text),
    ["one", "two"],
  );
  t.equal(server.requests[1]?.protocols, "bridge.v1.json");
  t.match(Object.fromEntries(server.requests[1]?.url.searchParams ?? []), {
    resume: "r1",
    seq: String(messages[0]?.seq),
  });
  t.same(errors, []);
});

t.test("a message of 262,144 bytes arrives as it was", async (t) => {
  const server = await startScriptedBridge(t);
  const { messages } = listen(t, server);
  const bytes = Uint8Array.from({ length: 262_144 }, (_, index) => index * 7);
  server.push(bytes);
  server.push("é€😀".repeat(20_000));
  await until(() => messages.length === 2);
  t.ok(Buffer.from(bytes).equals(messages[0]?.bytes ?? new Uint8Array()));
  t.equal(messages[1]?.text, "é€😀".repeat(20_000));
});

t.test("a refusal before the 101", async (t) => {
  for (const [status, code] of [
    [401, "unauthorized"],
    [403, "forbidden"],
    [410, "connection_ended"],
  ] as const) {
    t.test(`with ${status} is final and says why`, async (t) => {
      const server = await startScriptedBridge(t);
      server.refusal = { status, problem: { code, detail: "no" } };
      const { bridge, errors } = listen(t, server);
      await t.rejects(bridge.ready, { code: "refused", status });
      t.equal(bridge.state, "closed");
      t.match(errors, [
        { code: "refused", status, problem: { code }, message: `${code}, no` },
      ]);
      await bridge.close();
      t.equal(server.requests.length, 1);
    });
  }

  t.test("with 503 is tried again", async (t) => {
    const server = await startScriptedBridge(t);
    server.refusal = { status: 503, problem: { code: "overloaded" } };
    const { bridge, errors } = listen(t, server);
    await until(() => server.requests.length >= 3);
    server.refusal = undefined;
    await bridge.ready;
    t.same(errors, []);
  });

  t.test("while resuming ends the connection too", async (t) => {
    const server = await startScriptedBridge(t);
    const { bridge, errors } = listen(t, server);
    await bridge.ready;
    server.refusal = { status: 410, problem: { code: "connection_ended" } };
    server.cut();
    await until(() => bridge.state === "closed");
    t.match(errors, [{ code: "refused", status: 410 }]);
  });
});

t.test("nobody there is given up in time", async (t) => {
  const server = await startScriptedBridge(t);
  server.refusal = { status: 500, problem: {} };
  const { bridge } = listen(t, server, { giveUpMs: 50 });
  await t.rejects(bridge.ready, { code: "gave_up", message: /status 500/ });
});

t.test("close() acks the last message and says 1000", async (t) => {
  const server = await startScriptedBridge(t);
  const { bridge, messages } = listen(t, server);
  await bridge.ready;
  for (const text of ["one", "two", "three"]) server.push(text);
  await until(() => messages.length === 3);
  await bridge.close();
  await until(() => server.closes.length === 1);
  t.same(server.closes, [1000]);
  t.same(server.received.at(-1), { type: "ack", seq: messages[2]?.seq });
});

t.test("drain moves to a new socket, then leaves with 1000", async (t) => {
  const server = await startScriptedBridge(t);
  const { bridge, messages } = listen(t, server);
  await bridge.ready;
  server.push("one");
  await until(() => messages.length === 1);
  server.say({ type: "drain", reconnectAfterMs: 1 });
  await until(() => server.closes.length === 1);
  server.push("two");
  await until(() => messages.length === 2);
  t.same(server.closes, [1000]);
  t.equal(server.sockets.length, 2);
  t.equal(bridge.state, "open");
});

/** Frames from each of ten clients: in the second after a broadcast, in 5 s with 20 of them, in 10 s with 40. */
async function broadcasts(t: Test, groupAckIntervalMs: number) {
  const server = await startScriptedBridge(t, {
    groups: ["$all"],
    limits: { ackIntervalMs: 250, groupAckIntervalMs },
  });
  const random = mulberry32(20_261_130);
  const clock = new FakeClock();
  const clients = Array.from({ length: 10 }, () =>
    listen(t, server, { clock, random }),
  );
  await Promise.all(clients.map(({ bridge }) => bridge.ready));
  /** Frames come in order: what was sent before a pong is here with it. */
  let pings = 0;
  const frames = async () => {
    pings += 1;
    for (const socket of server.sockets) socket.send('{"type":"ping"}');
    const isPong = ({ type }: Record<string, unknown>) => type === "pong";
    await until(() =>
      server.receivedOn.every((all) => all.filter(isPong).length === pings),
    );
    return server.receivedOn.map((all) => all.length - pings);
  };
  let sent = 0;
  const send = async (count: number) => {
    for (let n = 0; n < count; n++) {
      server.publish("$all", String(++sent));
      await until(() => clients.every((one) => one.messages.length === sent));
      clock.advance(250);
    }
    return frames();
  };
  const counts = [await send(4), await send(16), await send(20)];
  t.same(
    clients.map(({ errors }) => errors),
    clients.map(() => []),
  );
  return counts;
}

t.test("a broadcast is acked rarely", async (t) => {
  const each = (count: number) => Array<number>(10).fill(count);
  const [second, five, ten] = await broadcasts(t, 5_000);
  t.same(second, each(0), "nothing in the second after it");
  t.same(five, each(1), "one for 20 of them");
  t.ok(
    ten?.every((count) => count <= 2),
    "at most one in each interval",
  );
  t.same(
    await broadcasts(t, 0),
    [each(4), each(20), each(40)],
    "without the interval one for each",
  );
});

t.test("a cut before any ack of a group", async (t) => {
  const server = await startScriptedBridge(t, { groups: ["room"] });
  const clock = new FakeClock();
  const client = listen(t, server, { clock });
  await client.bridge.ready;
  for (const text of ["1", "2"]) server.publish("room", text);
  await until(() => client.messages.length === 2);
  server.cut();
  await until(() => client.bridge.state === "resuming");
  server.publish("room", "3");
  clock.advance(200);
  await until(() => client.messages.length === 3);
  t.equal(server.requests[1]?.url.searchParams.get("groups"), "room:6");
  t.same(server.received, [], "it has not said a word");
  t.same(
    client.messages.map(({ text, redelivered }) => [text, redelivered]),
    [
      ["1", false],
      ["2", false],
      ["3", false],
    ],
    "it told where it stands by coming back",
  );
  // A page that is loaded anew knows nothing; the server knows what was acked, which is nothing.
  const anew = listen(t, server);
  await until(() => anew.messages.length === 3);
  t.same(
    anew.messages.map(({ text, redelivered }) => [text, redelivered]),
    [
      ["1", true],
      ["2", true],
      ["3", true],
    ],
    "sent again, and marked",
  );
});

t.test("200 cuts at random moments: everything once, in order", async (t) => {
  const random = mulberry32(20_261_123);
  let cuts = 0;
  const server = await startScriptedBridge(t, {
    partLength: 8,
    // Before any frame: ahead of welcome, in the middle of a replay, between two parts.
    cutBefore: () => cuts < 200 && random() < 0.05 && ++cuts > 0,
  });
  const { bridge, messages, errors } = listen(t, server);
  let pushed = 0;
  while (cuts < 200) {
    await until(() => server.sockets.at(-1)?.readyState === WebSocket.OPEN);
    const text = String(++pushed);
    // Every third one in parts, every second one of those as bytes.
    const body = pushed % 3 === 0 ? text.padStart(20, "0") : text;
    server.push(pushed % 6 === 0 ? Buffer.from(body) : body);
    // A move now and then, while the old socket keeps talking.
    if (random() < 0.1 && bridge.state === "open") {
      server.say({ type: "drain", reconnectAfterMs: random() * 3 });
    }
    if (random() < 0.3) await new Promise((done) => setImmediate(done));
  }
  server.push(String(++pushed));
  await until(() => messages.length >= pushed, { ms: 20_000 });
  t.strictSame(
    messages.map(({ text, bytes }) =>
      Number(text ?? Buffer.from(bytes ?? []).toString()),
    ),
    Array.from({ length: pushed }, (_, index) => index + 1),
  );
  t.equal(cuts, 200);
  t.same(errors, []);
  t.comment(`${pushed} messages, ${server.sockets.length} sockets`);
});

/** A small generator with a seed, so that a failing run can be run again. */
function mulberry32(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
