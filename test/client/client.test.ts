/** The client's rules, one by one, with a scripted socket and a clock that stands still. */

import assert from "node:assert/strict";
import t, { type Test } from "tap";
import {
  type Bridge,
  type BridgeError,
  connect,
  type Frame,
  type Loss,
  type Message,
  type Options,
  type State,
} from "../../client/client.js";
import type { ServerFrame } from "../../shared/api.js";
import { mayRetry } from "../../shared/close-codes.js";
import {
  FakeClock,
  FakeSocket,
  fakeWebSocket,
} from "../fixtures/fake-socket.js";

const URL_WITH_TOKEN = "ws://bridge.test/ws?token=t0&keep=1";

/** A client whose every word is written down; `random` is 1, so each back-off is at its ceiling. */
function start(t: Test, options: Partial<Options> & { url?: string } = {}) {
  const { WebSocket, sockets } = fakeWebSocket();
  const clock = new FakeClock();
  const messages: Message[] = [];
  const states: State[] = [];
  const errors: BridgeError[] = [];
  const losses: Loss[] = [];
  const bridge: Bridge = connect(options.url ?? "ws://bridge.test/ws", {
    WebSocket,
    clock,
    random: () => 1,
    onMessage: (message) => void messages.push(message),
    onState: (state) => void states.push(state),
    onError: (error) => void errors.push(error),
    onLost: (loss) => void losses.push(loss),
    ...options,
  });
  const last = (): FakeSocket => sockets.at(-1)!;
  t.teardown(async () => {
    const closed = bridge.close();
    for (const socket of sockets) if (socket.readyState < 3) socket.end(1000);
    await closed;
    // Too late for one of tap's own assertions, but not for failing.
    assert.equal(clock.pending, 0, "a timer is left behind");
  });
  const seqs = (): unknown[] => messages.map(({ seq }) => seq);
  return {
    bridge,
    clock,
    sockets,
    messages,
    states,
    errors,
    losses,
    last,
    seqs,
  };
}

function welcome(fields: object = {}): object {
  return {
    type: "welcome",
    connectionId: "c_1",
    userId: null,
    groups: {},
    resumeToken: "r1",
    resumed: false,
    lost: false,
    seq: 100,
    heartbeatMs: 0,
    limits: { ackIntervalMs: 250 },
    ...fields,
  };
}

const resumed = (fields: object = {}): object =>
  welcome({ resumed: true, ...fields });

function message(seq: number, fields: object = {}): object {
  return {
    type: "message",
    id: `m_${seq}`,
    seq,
    contentType: "text/plain",
    data: `text ${seq}`,
    publishedAt: "2026-01-01T00:00:00.000Z",
    expiresAt: "2026-01-01T01:00:00.000Z",
    redelivered: false,
    ...fields,
  };
}

t.test("the first socket", async (t) => {
  t.test("offers the protocol first and the token second", async (t) => {
    const { last } = start(t, { token: "a.b.c" });
    t.same(last().protocols, ["bridge.v1.json", "bearer.a.b.c"]);
    t.equal(last().url.search, "");
  });

  t.test("without a token leaves the URL as it came", async (t) => {
    const { last } = start(t, { url: URL_WITH_TOKEN });
    t.same(last().protocols, ["bridge.v1.json"]);
    t.equal(last().url.href, URL_WITH_TOKEN);
  });

  t.test("is ready with welcome", async (t) => {
    const { bridge, last, states } = start(t);
    t.equal(bridge.state, "connecting");
    t.equal(bridge.connectionId, undefined);
    last().open().say(welcome());
    t.match(await bridge.ready, { connectionId: "c_1", seq: 100 });
    t.equal(bridge.connectionId, "c_1");
    t.same(states, ["open"]);
  });

  t.test("is dialled again unchanged when no welcome came", async (t) => {
    const { last, sockets, clock, states } = start(t, {
      url: URL_WITH_TOKEN,
      token: "a.b.c",
    });
    last().open().end(1006);
    clock.advance(200);
    t.equal(sockets.length, 2);
    t.equal(last().url.href, URL_WITH_TOKEN);
    t.same(last().protocols, ["bridge.v1.json", "bearer.a.b.c"]);
    t.same(states, [], "still connecting");
    const attempts = sockets.map(({ attempt }) => attempt.split("."));
    t.same(
      attempts.map(([, number]) => number),
      ["1", "2"],
      "but says that it is a later attempt",
    );
    t.equal(attempts[0]?.[0], attempts[1]?.[0], "of the same client");
  });

  t.test("is given up when no welcome comes for 30 s", async (t) => {
    const { last, sockets, clock } = start(t);
    const [first] = sockets;
    last().open();
    clock.advance(29_999);
    t.same(first?.closes, []);
    clock.advance(1);
    t.equal(first?.closes[0]?.[0], 4000);
    clock.advance(200);
    t.equal(sockets.length, 2);
  });

  t.test("needs a WebSocket, and says so where there is none", async (t) => {
    const real = Object.getOwnPropertyDescriptor(globalThis, "WebSocket");
    Object.defineProperty(globalThis, "WebSocket", {
      value: undefined,
      configurable: true,
    });
    t.teardown(() => {
      if (real) Object.defineProperty(globalThis, "WebSocket", real);
      else Reflect.deleteProperty(globalThis, "WebSocket");
    });
    t.throws(() => connect("ws://x/ws", { onMessage: () => undefined }), {
      code: "no_websocket",
      message: /pass one/,
    });
  });
});

t.test("a message", async (t) => {
  t.test("of a text type is handed over as text", async (t) => {
    const { last, messages } = start(t);
    last().open().say(welcome()).say(message(101));
    t.strictSame(messages, [
      {
        id: "m_101",
        seq: 101,
        group: undefined,
        from: undefined,
        contentType: "text/plain",
        text: "text 101",
        bytes: undefined,
        publishedAt: "2026-01-01T00:00:00.000Z",
        expiresAt: "2026-01-01T01:00:00.000Z",
        redelivered: false,
        replyTo: undefined,
      },
    ]);
  });

  t.test("of another type is handed over as bytes", async (t) => {
    const { last, messages } = start(t);
    last()
      .open()
      .say(welcome())
      .say(message(101, { data: undefined, dataBase64: "AP+A" }));
    t.strictSame(messages[0]?.bytes, Uint8Array.of(0, 255, 128));
    t.equal(messages[0]?.text, undefined);
  });

  t.test("may be empty", async (t) => {
    const { last, messages } = start(t);
    last()
      .open()
      .say(welcome())
      .say(message(101, { data: "" }))
      .say(message(102, { data: undefined, dataBase64: "" }));
    t.equal(messages[0]?.text, "");
    t.strictSame(messages[1]?.bytes, new Uint8Array());
  });

  t.test("that was handed over before is dropped", async (t) => {
    const { last, seqs } = start(t);
    last().open().say(welcome()).say(message(100));
    for (const seq of [105, 105, 103, 900, 105, 901]) last().say(message(seq));
    t.same(seqs(), [105, 900, 901]);
  });

  t.test("counts as handed over even when the handler throws", async (t) => {
    const { last, errors } = start(t, {
      onMessage: () => {
        throw new Error("boom");
      },
    });
    last().open().say(welcome()).say(message(101));
    t.match(errors, [{ code: "handler_failed", cause: { message: "boom" } }]);
    t.same(last().acks, [101]);
    last().say(message(101));
    t.equal(errors.length, 1, "it is not handed over twice");
  });

  t.test("counts as handed over when the handler closes", async (t) => {
    const seen: number[] = [];
    const { bridge, last } = start(t, {
      onMessage: ({ seq }) => {
        seen.push(seq ?? 0);
        if (seq === 102) void bridge.close();
      },
    });
    last().open().say(welcome());
    last().say(message(101)).say(message(102)).say(message(103));
    await Promise.resolve();
    t.same(seen, [101, 102]);
    t.same(last().acks, [101, 102]);
    t.same(last().closes, [[1000]]);
  });
});

t.test("a split message", async (t) => {
  const part = (seq: number, n: number, of: number, fields: object): object =>
    message(seq, { data: undefined, part: n, parts: of, ...fields });

  t.test("is joined before it is handed over and acked", async (t) => {
    const { last, messages } = start(t);
    last().open().say(welcome());
    last().say(part(101, 1, 3, { data: "a\ud83d" }));
    last().say({ type: "ping" });
    last().say(part(101, 2, 3, { data: "\ude00b" }));
    t.same(messages, []);
    t.same(last().acks, []);
    last().say(part(101, 3, 3, { data: "c" }));
    t.same(
      messages.map(({ text }) => text),
      ["a😀bc"],
    );
    t.same(last().acks, [101]);
  });

  t.test("of bytes is joined slice by slice", async (t) => {
    const { last, messages } = start(t);
    last().open().say(welcome());
    last().say(part(101, 1, 2, { dataBase64: "AQ==" }));
    last().say(part(101, 2, 2, { dataBase64: "AgM=" }));
    t.strictSame(messages[0]?.bytes, Uint8Array.of(1, 2, 3));
  });

  t.test("whose socket ends in the middle comes whole again", async (t) => {
    const { last, clock, messages } = start(t);
    last()
      .open()
      .say(welcome())
      .say(part(101, 1, 2, { data: "a" }));
    last().end();
    clock.advance(200);
    t.equal(last().url.searchParams.get("seq"), "100");
    last().open().say(resumed());
    last().say(part(101, 1, 2, { data: "a" }));
    last().say(part(101, 2, 2, { data: "b" }));
    t.same(
      messages.map(({ text }) => text),
      ["ab"],
    );
  });

  t.test("that was handed over before is dropped in all parts", async (t) => {
    const { last, messages, errors } = start(t);
    last().open().say(welcome()).say(message(101));
    last().say(part(101, 1, 2, { data: "a" }));
    last().say(part(101, 2, 2, { data: "b" }));
    last().say(message(102));
    t.equal(messages.length, 2);
    t.same(errors, []);
  });

  t.test("with a part missing is fetched again by a resume", async (t) => {
    const { last, sockets, clock, errors, seqs } = start(t);
    last().open().say(welcome()).say(message(101));
    last().say(part(102, 1, 3, { data: "a" }));
    last().say(part(102, 3, 3, { data: "c" }));
    last().say(message(103));
    t.match(errors, [{ code: "bad_frame" }]);
    t.same(seqs(), [101], "nothing after the hole is taken");
    t.same(sockets[0]?.closes[0]?.[0], 4000);
    clock.advance(200);
    t.equal(last().url.searchParams.get("seq"), "101");
  });

  t.test("with a stranger in between is fetched again", async (t) => {
    const { last, errors, seqs } = start(t);
    last().open().say(welcome());
    last().say(part(102, 1, 2, { data: "a" }));
    last().say(message(103));
    t.match(errors, [{ code: "bad_frame" }]);
    t.same(seqs(), []);
  });
});

t.test("a frame that cannot be read resumes instead of skipping", async (t) => {
  for (const raw of [
    "nonsense",
    "null",
    "{}",
    new ArrayBuffer(2),
    JSON.stringify(message(102, { seq: undefined })),
    JSON.stringify(message(102, { data: undefined, dataBase64: "%" })),
  ]) {
    const { last, errors, clock, seqs } = start(t);
    last().open().say(welcome()).say(message(101)).sayRaw(raw);
    t.match(errors, [{ code: "bad_frame" }], String(raw));
    clock.advance(200);
    t.equal(last().url.searchParams.get("seq"), "101");
    t.same(seqs(), [101]);
  }
  const { last, errors } = start(t);
  last().open().say(welcome()).say({ type: "from the future" });
  t.same(errors, [], "an unknown type is left alone");
});

t.test("acks", async (t) => {
  t.test("go out at once, then once per interval", async (t) => {
    const { last, clock } = start(t);
    last().open().say(welcome());
    for (let seq = 101; seq <= 105; seq++) last().say(message(seq));
    t.same(last().acks, [101], "the first at once");
    clock.advance(249);
    t.same(last().acks, [101]);
    clock.advance(1);
    t.same(last().acks, [101, 105], "the others in one, the last included");
    clock.advance(10_000);
    t.same(last().acks, [101, 105], "nothing new, no ack");
    last().say(message(106));
    t.same(last().acks, [101, 105, 106], "at once after a quiet time");
  });

  t.test("stay at four a second however much arrives", async (t) => {
    const { last, clock } = start(t);
    last().open().say(welcome());
    for (let seq = 101; seq < 1100; seq++) {
      last().say(message(seq));
      clock.advance(1);
    }
    t.equal(last().acks.length, 4);
    clock.advance(250);
    t.equal(last().acks.at(-1), 1099);
  });

  t.test("follow the interval that welcome names", async (t) => {
    const { last, clock } = start(t);
    last()
      .open()
      .say(welcome({ limits: { ackIntervalMs: 1000 } }));
    last().say(message(101)).say(message(102));
    clock.advance(999);
    t.same(last().acks, [101]);
    clock.advance(1);
    t.same(last().acks, [101, 102]);
  });

  t.test("name nothing that was not handed over", async (t) => {
    const acked: unknown[] = [];
    const { last } = start(t, {
      onMessage: () => acked.push(last().acks.at(-1)),
    });
    last().open().say(welcome()).say(message(101));
    t.same(acked, [undefined], "none while the handler runs");
    t.same(last().acks, [101]);
  });

  t.test("that died with their socket are sent again", async (t) => {
    const { last, clock } = start(t);
    last().open().say(welcome()).say(message(101)).end();
    clock.advance(200);
    last().open().say(resumed());
    t.same(last().acks, []);
    clock.advance(50);
    t.same(last().acks, [101]);
  });

  t.test("waiting for their interval go out before close()", async (t) => {
    const { bridge, last } = start(t);
    last().open().say(welcome()).say(message(101)).say(message(102));
    void bridge.close();
    await Promise.resolve();
    t.same(last().acks, [101, 102]);
  });
});

t.test("after an end that may be retried", async (t) => {
  t.test("it resumes after the last message it saw", async (t) => {
    for (const code of [1001, 1005, 1006, 1011, 1012, 1013, 4000, 4008, 4499]) {
      const { last, clock, states, seqs, sockets } = start(t, {
        url: URL_WITH_TOKEN,
        token: "a.b.c",
      });
      last().open().say(welcome()).say(message(101)).say(message(107));
      last().end(code);
      t.same(states, ["open", "resuming"], `${code}`);
      clock.advance(200);
      t.equal(sockets.length, 2);
      t.equal(last().url.search, "?keep=1&resume=r1&seq=107");
      t.same(last().protocols, ["bridge.v1.json"]);
      last()
        .open()
        .say(resumed({ resumeToken: "r2", seq: 107 }));
      last()
        .say(message(107, { redelivered: true }))
        .say(message(108));
      t.same(seqs(), [101, 107, 108]);
      t.same(states, ["open", "resuming", "open"]);
      last().end(code);
      clock.advance(400);
      t.equal(last().url.searchParams.get("resume"), "r2");
    }
  });

  t.test("with the token of the last ping that brought one", async (t) => {
    const { last, clock } = start(t);
    last().open().say(welcome());
    last().say({ type: "ping", resumeToken: "r1b" }).say({ type: "ping" });
    last().end();
    clock.advance(200);
    t.equal(last().url.searchParams.get("resume"), "r1b");
  });

  t.test("it says so when the connection could not go on", async (t) => {
    const { bridge, last, clock, losses, seqs } = start(t);
    last().open().say(welcome()).say(message(500)).end();
    clock.advance(200);
    last()
      .open()
      .say(welcome({ connectionId: "c_2", seq: 7 }));
    t.same(losses, [{ what: "connection", connectionId: "c_2" }]);
    t.equal(bridge.connectionId, "c_2");
    last().say(message(7)).say(message(8));
    t.same(seqs(), [500, 8], "the new numbers count");
    clock.advance(250);
    t.same(last().acks, [8]);
  });

  t.test("it says so when messages were lost on the way", async (t) => {
    const { last, clock, losses, seqs } = start(t);
    last().open().say(welcome()).say(message(500)).end();
    clock.advance(200);
    last()
      .open()
      .say(resumed({ lost: true, seq: 300 }));
    t.same(losses, [{ what: "messages", connectionId: "c_1" }]);
    last().say(message(301));
    t.same(seqs(), [500, 301]);
  });

  t.test("a loss without onLost is an error", async (t) => {
    const { last, clock, errors } = start(t, { onLost: undefined as never });
    last().open().say(welcome()).end();
    clock.advance(200);
    last().open().say(welcome());
    t.match(errors, [{ code: "lost" }]);
  });

  t.test("it waits longer each time, 10 s at most", async (t) => {
    const { last, clock, sockets } = start(t);
    last().open().say(welcome());
    for (const wait of [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]) {
      const before = sockets.length;
      last().end();
      clock.advance(wait - 1);
      t.equal(sockets.length, before, `${wait} ms are not over`);
      clock.advance(1);
      t.equal(sockets.length, before + 1);
    }
  });

  t.test("the wait is spread over the whole range", async (t) => {
    const { last, clock, sockets } = start(t, { random: () => 0.25 });
    last().open().say(welcome()).end();
    clock.advance(50);
    last().end();
    clock.advance(99);
    t.equal(sockets.length, 2);
    clock.advance(1);
    t.equal(sockets.length, 3);
  });

  t.test("a socket that lived for a while makes it quick again", async (t) => {
    const { last, clock, sockets } = start(t);
    last().open().say(welcome()).end();
    clock.advance(200);
    last().open().say(resumed()).end();
    clock.advance(200);
    t.equal(sockets.length, 2, "a socket that dies at once does not");
    clock.advance(200);
    t.equal(sockets.length, 3);
    last().open().say(resumed());
    clock.advance(5_000);
    last().end();
    clock.advance(200);
    t.equal(sockets.length, 4);
  });

  t.test("it gives up after 120 s without a welcome", async (t) => {
    const { bridge, last, clock, errors, sockets, states } = start(t);
    last().open().say(welcome());
    clock.advance(1_000_000);
    last().end();
    for (let waited = 0; bridge.state !== "closed"; waited += 1_000) {
      t.ok(waited <= 140_000, "it must end");
      clock.advance(1_000);
      if (last().readyState === 0) last().end(1006);
      if (waited < 110_000) t.equal(bridge.state, "resuming");
    }
    t.match(errors, [{ code: "gave_up", message: /120 s: close code 1006/ }]);
    t.same(states, ["open", "resuming", "closed"]);
    const dialled = sockets.length;
    clock.advance(1_000_000);
    t.equal(sockets.length, dialled);
  });

  t.test("a night asleep does not count as failing", async (t) => {
    const { bridge, last, clock } = start(t, { giveUpMs: 60_000 });
    last().open().say(welcome()).end();
    clock.advance(200);
    clock.sleep(8 * 3_600_000);
    clock.advance(0);
    t.equal(last().closes[0]?.[0], 4000, "the attempt under way has failed");
    t.equal(bridge.state, "resuming");
  });
});

t.test("an end for good", async (t) => {
  t.test("is not followed by another socket", async (t) => {
    for (const code of [1000, 1008, 1009, 4500, 4501, 4503, 4509, 4510]) {
      const { bridge, last, clock, sockets, errors, states } = start(t);
      last().open().say(welcome()).end(code, "because");
      clock.advance(1_000_000);
      t.equal(sockets.length, 1, `${code}`);
      t.match(errors, [
        { code: "closed", closeCode: code, message: /because/ },
      ]);
      t.same(states, ["open", "closed"]);
      t.equal(bridge.state, "closed");
    }
  });

  t.test("is the same to the client as to the server", async (t) => {
    for (let code = 1000; code < 5000; code += 1) {
      const { bridge, last } = start(t, { onError: () => undefined });
      last().open().say(welcome()).end(code);
      if ((bridge.state === "resuming") !== mayRetry(code)) t.fail(`${code}`);
    }
  });

  t.test("before welcome rejects ready", async (t) => {
    const { bridge, last } = start(t);
    last().open().end(4503);
    await t.rejects(bridge.ready, { code: "closed", closeCode: 4503 });
  });
});

t.test("a heartbeat", async (t) => {
  t.test("is answered", async (t) => {
    const { last } = start(t);
    last().open().say(welcome()).say({ type: "ping" });
    t.same(last().sent, [{ type: "pong" }]);
  });

  t.test("missing 2.5 times means a dead socket", async (t) => {
    const { last, sockets, clock, states } = start(t);
    last()
      .open()
      .say(welcome({ heartbeatMs: 1000 }));
    for (let n = 0; n < 10; n++) {
      clock.advance(2_400);
      t.equal(sockets.length, 1);
      last().say(n % 2 ? { type: "ping" } : message(101 + n));
    }
    const dead = last();
    clock.advance(2_499);
    t.same(dead.closes, []);
    clock.advance(1);
    t.equal(dead.closes[0]?.[0], 4000, "1000 would end the connection");
    t.same(states, ["open", "resuming"]);
    clock.advance(200);
    t.equal(sockets.length, 2);
    t.equal(last().url.searchParams.get("seq"), "109");
    last().open().say(resumed());
    dead.say(message(110)).end(4510);
    t.equal(sockets.length, 2, "the dead one's late words change nothing");
    t.equal(states.at(-1), "open");
  });

  t.test("of 0 ms is none", async (t) => {
    const { last, sockets, clock } = start(t);
    last().open().say(welcome());
    clock.advance(1_000_000);
    t.equal(sockets.length, 1);
    t.same(last().closes, []);
  });
});

t.test("drain", async (t) => {
  const drained = (t: Test) => {
    const world = start(t);
    const old = world.last().open().say(welcome()).say(message(101));
    old.say(message(102)).say({ type: "drain", reconnectAfterMs: 3_000 });
    world.clock.advance(2_999);
    old.say(message(103));
    t.equal(world.sockets.length, 1, "not before its slot");
    world.clock.advance(1);
    return { ...world, old };
  };

  t.test("moves to a new socket in the slot given", async (t) => {
    const { old, last, seqs, states, losses } = drained(t);
    t.equal(last().url.searchParams.get("seq"), "103");
    t.equal(old.acks.at(-1), 103, "acked before it leaves");
    t.same(old.closes, [], "open until the new one is welcome");
    old.say(message(104));
    t.same(seqs(), [101, 102, 103], "the old one's input is dropped");
    last().open();
    t.same(old.closes, []);
    last().say(resumed({ seq: 103 }));
    t.same(old.closes, [[1000]]);
    last().say(message(104)).say(message(105));
    old.say(message(106)).end(1000);
    t.same(seqs(), [101, 102, 103, 104, 105]);
    t.same(states, ["open", "resuming", "open"]);
    t.same(losses, []);
  });

  t.test("falls back to a resume when the new socket fails", async (t) => {
    const { old, last, clock, seqs, sockets } = drained(t);
    last().end();
    old.say(message(104));
    t.same(old.closes, [], "1000 on it would end the connection");
    clock.advance(200);
    t.equal(sockets.length, 3);
    t.equal(last().url.searchParams.get("seq"), "103");
    last().open().say(resumed()).say(message(104));
    t.same(seqs(), [101, 102, 103, 104]);
    t.same(old.closes, [[1000]]);
  });

  t.test("is forgotten when the socket ends before its slot", async (t) => {
    const { last, clock, sockets } = start(t);
    last()
      .open()
      .say(welcome())
      .say({ type: "drain", reconnectAfterMs: 3_000 });
    last().end(1012);
    clock.advance(200);
    last().open().say(resumed());
    clock.advance(10_000);
    t.equal(sockets.length, 2);
  });

  t.test("does not mind the old socket being closed meanwhile", async (t) => {
    const { old, last, sockets, states } = drained(t);
    old.end(1012);
    last().open().say(resumed());
    t.equal(sockets.length, 2);
    t.same(states, ["open", "resuming", "open"]);
    t.same(old.closes, []);
  });

  t.test("the old socket's silence does not harm the new one", async (t) => {
    const { last, clock, sockets, states } = start(t);
    const beats = { heartbeatMs: 1_000 };
    last().open().say(welcome(beats));
    last().say({ type: "drain", reconnectAfterMs: 2_000 });
    clock.advance(2_000);
    last().open().say(resumed(beats));
    clock.advance(2_400);
    t.equal(sockets.length, 2);
    t.same(sockets[0]?.closes, [[1000]]);
    t.equal(states.at(-1), "open");
  });

  t.test("close() in the middle ends both sockets with 1000", async (t) => {
    const { bridge, old, last } = drained(t);
    const closed = bridge.close();
    await Promise.resolve();
    t.same(old.closes, [[1000]]);
    t.same(last().closes, []);
    last().open();
    t.same(last().closes, [[1000]]);
    old.end(1000);
    last().end(1000);
    await closed;
  });
});

t.test("close()", async (t) => {
  t.test("says 1000 and resolves when the socket is gone", async (t) => {
    const { bridge, last, clock, sockets, states, errors } = start(t);
    last().open().say(welcome());
    let gone = false;
    const closed = bridge.close().then(() => (gone = true));
    t.equal(bridge.state, "closed");
    t.same(bridge.close(), bridge.close());
    await Promise.resolve();
    t.same(last().closes, [[1000]]);
    t.equal(gone, false);
    last().end(1000);
    await closed;
    clock.advance(1_000_000);
    t.equal(sockets.length, 1);
    t.same(states, ["open", "closed"]);
    t.same(errors, [], "what was asked for is no error");
  });

  t.test("does not wait for ever", async (t) => {
    const { bridge, last, clock } = start(t);
    last().open().say(welcome());
    const closed = bridge.close();
    await Promise.resolve();
    clock.advance(2_000);
    await closed;
  });

  t.test("while waiting for a retry means no retry", async (t) => {
    const { bridge, last, clock, sockets } = start(t);
    last().open().say(welcome()).end();
    await bridge.close();
    clock.advance(1_000_000);
    t.equal(sockets.length, 1);
  });

  t.test("while connecting lets the upgrade come to an end", async (t) => {
    const { bridge, last } = start(t);
    const closed = bridge.close();
    await t.rejects(bridge.ready, { code: "closed" });
    t.same(last().closes, []);
    last().open();
    t.same(last().closes, [[1000]]);
    last().end(1000);
    await closed;
  });

  t.test("breaks off an upgrade that hangs", async (t) => {
    const { bridge, last, clock } = start(t);
    const closed = bridge.close();
    await Promise.resolve();
    clock.advance(2_000);
    t.same(last().closes, [[]]);
    await closed;
  });

  t.test("from a state callback is heeded", async (t) => {
    for (const when of ["open", "resuming"] as const) {
      const { bridge, last, clock, sockets, states } = start(t, {
        onState: (state) => {
          states.push(state);
          if (state === when) void bridge.close();
        },
      });
      last().open().say(welcome()).say({ type: "drain", reconnectAfterMs: 10 });
      clock.advance(1_000_000);
      t.equal(states.at(-1), "closed", when);
      t.equal(sockets.length, 1);
    }
  });

  t.test("from a state callback after a cut is heeded", async (t) => {
    const { bridge, last, clock, sockets } = start(t, {
      onState: (state) => void (state === "resuming" && bridge.close()),
    });
    last().open().say(welcome()).end();
    clock.advance(1_000_000);
    t.equal(sockets.length, 1);
  });
});

const toGroup = (group: string, offset: number, epoch = "e1"): object =>
  message(0, {
    seq: undefined,
    group,
    offset,
    epoch,
    id: `m_${group}${offset}`,
  });

t.test("groups", async (t) => {
  const groups = { a: { epoch: "e1", offset: 10 } };

  t.test("have numbers of their own, acked apart from seq", async (t) => {
    const { last, clock, messages } = start(t);
    last().open().say(welcome({ groups }));
    last().say(toGroup("a", 10)).say(toGroup("a", 12)).say(toGroup("a", 12));
    t.same(last().sent, [], "not at once");
    clock.advance(5_000);
    t.same(last().sent, [{ type: "ack", seq: 100, groups: { a: 12 } }]);
    t.match(messages, [{ id: "m_a12", group: "a", seq: undefined }]);
  });

  t.test("are resumed from what was seen of each", async (t) => {
    const { last, clock, losses, messages } = start(t);
    last().open().say(welcome({ groups }));
    last().say(toGroup("a", 12)).say(toGroup("b", 5)).end();
    clock.advance(200);
    t.equal(last().url.searchParams.get("groups"), "a:12,b:5");
    last()
      .open()
      .say(
        resumed({
          groups: {
            a: { epoch: "e1", offset: 14, recovered: true },
            b: { epoch: "e2", offset: 90, recovered: false },
          },
        }),
      );
    t.same(losses, [{ what: "group", connectionId: "c_1", group: "b" }]);
    last().say(toGroup("a", 12)).say(toGroup("a", 13));
    last()
      .say(toGroup("b", 90, "e2"))
      .say(toGroup("b", 91, "e2"));
    t.same(
      messages.map(({ id }) => id),
      ["m_a12", "m_b5", "m_a13", "m_b91"],
    );
  });
});

t.test("acks of groups", async (t) => {
  const groups = {
    a: { epoch: "e1", offset: 10 },
    b: { epoch: "e1", offset: 10 },
  };
  /** What the acks of this socket said of groups, in order. */
  const said = ({ sent }: FakeSocket): unknown[] =>
    sent.flatMap((frame) => frame["groups"] ?? []);

  t.test("wait for half an interval, and a random half", async (t) => {
    for (const [random, at] of [
      [0, 2_500],
      [0.5, 3_750],
      [1, 5_000],
    ] as const) {
      const { last, clock } = start(t, { random: () => random });
      // Of an older server: `limits` does not name the interval.
      last().open().say(welcome({ groups }));
      for (let n = 1; n <= 20; n++) last().say(toGroup("a", 10 + n));
      last().say(toGroup("b", 11));
      clock.advance(at - 1);
      t.same(last().sent, []);
      clock.advance(1);
      const ack = { type: "ack", seq: 100, groups: { a: 30, b: 11 } };
      t.same(last().sent, [ack], "one for all of them");
      clock.advance(100_000);
      t.same(last().sent, [ack], "nothing new, no ack");
    }
  });

  t.test("come once in the interval that welcome names", async (t) => {
    const { last, clock } = start(t);
    const limits = { ackIntervalMs: 250, groupAckIntervalMs: 1_000 };
    last().open().say(welcome({ groups, limits }));
    const times: number[] = [];
    const look = (): void => {
      if (said(last()).length > times.length) times.push(clock.now());
    };
    // Then the connection has messages of its own, too: their acks are as frequent as ever.
    for (let n = 1; n <= 1_000; n++) {
      last().say(toGroup("a", 10 + n));
      if (n > 500) last().say(message(100 + n));
      look();
      clock.advance(10);
      look();
    }
    const between = times.map((at, i) => at - (times[i - 1] ?? 0));
    t.ok(
      between.every((ms) => ms >= 1_000 && ms <= 1_500),
      `${between}`,
    );
    t.ok(last().acks.length <= times.length + 21, "21 in 5 s, as without");
  });

  /** A message to a group, and `ms` later one of its own. */
  const rideAlong = (t: Test, ms: number) => {
    const { last, clock } = start(t);
    last().open().say(welcome({ groups }));
    last().say(toGroup("a", 11));
    clock.advance(ms);
    last().say(message(101));
    const [first] = last().sent;
    clock.advance(100_000);
    return { first, frames: last().sent.length };
  };

  t.test("ride along when it is nearly time", async (t) => {
    t.same(rideAlong(t, 2_499), {
      first: { type: "ack", seq: 101 },
      frames: 2,
    });
    t.same(rideAlong(t, 2_500), {
      first: { type: "ack", seq: 101, groups: { a: 11 } },
      frames: 1,
    });
  });

  t.test("keep the pace of all acks", async (t) => {
    const { last, clock } = start(t, { random: () => 0 });
    last().open().say(welcome({ groups }));
    last().say(toGroup("a", 11));
    clock.advance(2_400);
    last().say(message(101));
    clock.advance(249);
    t.same(last().sent, [{ type: "ack", seq: 101 }]);
    clock.advance(1);
    t.same(said(last()), [{ a: 11 }]);
  });

  t.test("do not depend on timers alone", async (t) => {
    const { last, clock } = start(t);
    last().open().say(welcome({ groups }));
    last().say(toGroup("a", 11));
    clock.advance(2_499);
    last().say(message(101));
    // The page's timers were slowed down: what comes is looked at.
    clock.sleep(100);
    last().say(toGroup("a", 12));
    t.same(said(last()), []);
    clock.sleep(3_000);
    last().say(toGroup("a", 13));
    t.same(said(last()), [{ a: 13 }]);
  });

  t.test("are no reason to be late with others", async (t) => {
    const { last, clock } = start(t);
    last().open().say(welcome({ groups }));
    last().say(message(101)).say(toGroup("a", 11)).say(message(102));
    clock.advance(250);
    t.same(last().acks, [101, 102]);
  });

  t.test("are said before close() and before a move", async (t) => {
    const closing = start(t);
    closing.last().open().say(welcome({ groups }));
    closing.last().say(message(101)).say(message(102)).say(toGroup("a", 11));
    void closing.bridge.close();
    await Promise.resolve();
    t.same(closing.last().sent, [
      { type: "ack", seq: 101 },
      { type: "ack", seq: 102, groups: { a: 11 } },
    ]);

    const moving = start(t);
    const old = moving.last().open().say(welcome({ groups }));
    old.say(toGroup("a", 11)).say({ type: "drain", reconnectAfterMs: 100 });
    moving.clock.advance(100);
    t.same(old.sent, [{ type: "ack", seq: 100, groups: { a: 11 } }]);
    t.equal(moving.last().url.searchParams.get("groups"), "a:11,b:10");
  });

  t.test("that were not sent before a cut follow it", async (t) => {
    const { last, clock, messages } = start(t);
    last().open().say(welcome({ groups })).say(toGroup("a", 11)).end();
    clock.advance(200);
    t.equal(last().url.searchParams.get("groups"), "a:11,b:10");
    last().open().say(resumed({ groups }));
    last().say(toGroup("a", 11)).say(toGroup("a", 12));
    t.equal(messages.length, 2);
    clock.advance(4_799);
    t.same(last().sent, []);
    clock.advance(1);
    t.same(said(last()), [{ a: 12 }], "as if there had been no cut");
    last().end();
    clock.advance(400);
    last().open().say(resumed({ groups }));
    clock.advance(100_000);
    t.same(said(last()), [{ a: 12 }], "the last may have died with it");
  });

  /** The most acks in any 100 ms after one broadcast to 1,000 clients. */
  const busiest = (t: Test, random: () => number): number => {
    const clients = Array.from({ length: 1_000 }, () => start(t, { random }));
    const acked = (): number =>
      clients.filter(({ last }) => said(last()).length === 1).length;
    for (const { last } of clients) {
      last().open().say(welcome({ groups })).say(toGroup("a", 11));
    }
    let most = 0;
    for (let before = 0, n = 0; n < 50; n++) {
      for (const { clock } of clients) clock.advance(100);
      most = Math.max(most, acked() - before);
      before = acked();
    }
    t.equal(acked(), 1_000);
    return most;
  };

  t.test("do not come in one instant", async (t) => {
    // Low to high: spread evenly, whatever the order.
    let drawn = 0;
    t.ok(busiest(t, () => (drawn++ % 1_000) / 1_000) <= 41);
    t.equal(
      busiest(t, () => 0.5),
      1_000,
      "unless nothing spreads them",
    );
  });
});

t.test("requests", async (t) => {
  t.test("are answered by the result with their ref", async (t) => {
    const { bridge, last } = start(t);
    last().open().say(welcome());
    const one = bridge.request({ type: "event", event: "hi", data: "x" });
    const two = bridge.request({ type: "join", group: "g" });
    const refs = last().sent.map((frame) => frame["ref"]);
    last().say({ type: "result", ref: refs[1], ok: true });
    last().say({
      type: "result",
      ref: refs[0],
      ok: false,
      error: { code: "forbidden", detail: "not you" },
    });
    t.match(await two, { ok: true });
    await t.rejects(one, {
      code: "rejected",
      message: /forbidden, not you/,
      problem: { code: "forbidden" },
    });
  });

  t.test("whose socket ends are interrupted", async (t) => {
    const { bridge, last } = start(t);
    last().open().say(welcome());
    const request = bridge.request({ type: "leave", group: "g" });
    last().end();
    await t.rejects(request, { code: "interrupted" });
  });

  t.test("are refused while there is no open socket", async (t) => {
    const { bridge } = start(t);
    await t.rejects(bridge.request({ type: "join", group: "g" }), {
      code: "not_open",
    });
  });
});

t.test("what is said to the backend", async (t) => {
  const ok = (frame: Record<string, unknown> | undefined) => ({
    type: "result",
    ref: frame?.["ref"],
    ok: true,
  });
  const said = (sent: Record<string, unknown>[]) =>
    sent.map((frame) => frame["data"]);

  t.test("is text or bytes", async (t) => {
    const { bridge, last } = start(t);
    last().open().say(welcome());
    void bridge.reply("r1", "yes", "text/plain");
    void bridge.reply("r2", Uint8Array.of(0, 255));
    void bridge.send("hi");
    void bridge.send("hi", Uint8Array.of(1), "image/png");
    t.match(last().sent, [
      { type: "reply", replyTo: "r1", contentType: "text/plain", data: "yes" },
      { type: "reply", replyTo: "r2", dataBase64: "AP8=" },
      { type: "event", event: "hi", data: "" },
      { type: "event", event: "hi", dataBase64: "AQ==" },
    ]);
    const refs = last().sent.map((frame) => String(frame["ref"]));
    t.equal(new Set(refs).size, 4);
    const other = start(t);
    other.last().open().say(welcome());
    void other.bridge.send("hi");
    t.notOk(
      refs.includes(String(other.last().sent[0]?.["ref"])),
      "another page of the same connection never uses the same ref",
    );
  });

  t.test("is said again on the next socket, until it is heard", async (t) => {
    const { bridge, last, clock } = start(t);
    const early = bridge.send("e", "0");
    last().open().say(welcome());
    const [one, two] = [bridge.send("e", "1"), bridge.send("e", "2")];
    t.same(said(last().sent), ["0", "1", "2"]);
    const first = last().sent;
    last().say(ok(first[0])).say(ok(first[1]));
    await Promise.all([early, one]);
    last().end();
    const three = bridge.send("e", "3");
    clock.advance(200);
    last().open().say(resumed());
    t.same(said(last().sent), ["2", "3"], "in order, before anything new");
    t.equal(last().sent[0]?.["ref"], first[2]?.["ref"], "under its own name");
    for (const frame of [...last().sent]) last().say(ok(frame));
    await Promise.all([two, three]);
  });

  t.test("is given up with its connection", async (t) => {
    const { bridge, last, clock } = start(t);
    last().open().say(welcome());
    const lost = bridge.send("e", "1");
    last().end();
    clock.advance(200);
    last()
      .open()
      .say(welcome({ connectionId: "c_2" }));
    await t.rejects(lost, { code: "interrupted" });
    t.same(last().sent, []);
    const cut = bridge.send("e", "2");
    void bridge.close();
    await t.rejects(cut, { code: "interrupted" });
    await t.rejects(bridge.send("e", "3"), { code: "not_open" });
  });

  t.test("is never faster than the server allows", async (t) => {
    const { bridge, last, clock } = start(t);
    last()
      .open()
      .say(
        welcome({
          limits: {
            messagesPerSecond: 8,
            bytesPerSecond: 1_000,
            maxBytes: 5_000,
          },
        }),
      );
    for (let i = 0; i < 5; i++) void bridge.send("e", String(i));
    t.same(said(last().sent), ["0", "1"]);
    clock.advance(1_500);
    t.same(said(last().sent), ["0", "1", "2", "3"]);
    clock.advance(1_500);
    t.equal(last().sent.length, 5);
    clock.advance(1_500);
    void bridge.send("e", "x".repeat(900));
    void bridge.send("e", "y");
    t.equal(last().sent.length, 6, "bytes count as well");
    clock.advance(1_500);
    t.equal(last().sent.length, 7);
    await t.rejects(bridge.send("e", "é".repeat(3_000)), { code: "too_big" });
    for (let i = 7; i < 100; i++) void bridge.send("e");
    await t.rejects(bridge.send("e"), { code: "busy" });
  });

  t.test("waits its turn with what is asked of the server", async (t) => {
    const { bridge, last, clock } = start(t);
    last().open().say(welcome());
    for (let i = 0; i < 3; i++) void bridge.send("e", String(i));
    const early = bridge.publish("g", "3");
    const late = bridge.publish("g", "4");
    t.same(said(last().sent), ["0", "1", "2", "3"]);
    last().end();
    await t.rejects(early, { code: "interrupted" });
    await t.rejects(late, { code: "interrupted" });
    clock.advance(200);
    last().open().say(resumed());
    t.same(said(last().sent), ["0", "1", "2"], "nothing is published twice");
  });
});

t.test("the frames are those of openapi.yaml", async (t) => {
  // Compiles only while what the contract lets the server say is what the client understands.
  const understood = (frame: ServerFrame): Frame => frame;
  t.ok(understood);
});

t.test("an error frame reaches the application", async (t) => {
  const { last, errors } = start(t);
  last().open().say(welcome());
  last().say({
    type: "error",
    error: { code: "too_fast", detail: "slow down" },
  });
  t.match(errors, [
    {
      code: "server_error",
      message: /too_fast, slow down/,
      problem: { code: "too_fast" },
    },
  ]);
});

t.test("a callback that throws does not stop the client", async (t) => {
  const { bridge, last, errors } = start(t, {
    onState: () => {
      throw new Error("boom");
    },
  });
  last().open().say(welcome());
  t.match(errors, [{ code: "handler_failed" }]);
  t.equal(bridge.state, "open");
});
