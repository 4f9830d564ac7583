// Limits that bite, through a real platform: what passes, what ends the connection, and what the record says of it.

import t from "tap";
import {
  closePayload,
  connectionsOf,
  frame,
  lastEnded,
  openClient,
  rawWebSocket,
  someMask,
  startTestPlatform,
  until,
} from "../fixtures/functions/platform.js";
import { realClock } from "../../platform/clock.js";

const SIZE = 262_144;
const RATE = 131_072;

/** A platform, the lines its functions print, and a time that stands still unless it is moved. */
async function start(
  t: Parameters<typeof startTestPlatform>[0],
  rules: NonNullable<Parameters<typeof startTestPlatform>[1]>["rules"] = {},
) {
  const printed: string[] = [];
  let now = Date.now();
  const { port } = await startTestPlatform(t, {
    // A function that is stopped at once has no time to say what it heard.
    rules: { graceAfterCloseMs: 3_600_000, ...rules },
    limits: { lingerMs: 15_000 },
    clock: { ...realClock, now: () => now },
    print: ({ line }) => printed.push(line),
  });
  return {
    port,
    pass: (ms: number) => (now += ms),
    /** A client whose connection is newer than all before it. */
    open: () => {
      now += 2_000;
      return openClient(port);
    },
    /** The function heard that its connection closed, with this code. */
    heard: (code: number) =>
      until(`the function to hear ${code}`, () => {
        const at = printed.indexOf(`closed ${code}`);
        return at >= 0 && printed.splice(0, at + 1).length > 0;
      }),
  };
}

t.test("WS-LIM-1: the size of a message, both directions", async (t) => {
  // A message as large as is allowed is more than a client may send in a second.
  const { port, heard, pass, open } = await start(t, { bytesPolicy: "warn" });

  t.test("262144 bytes pass, in one frame and in several", async (t) => {
    const client = await open();
    const message = Buffer.alloc(SIZE, 1);
    client.socket.send(message);
    t.ok((await client.next()).equals(message), "and come back");
    client.socket.send(message.subarray(1), { fin: false });
    client.socket.send(message.subarray(0, 1), { fin: true });
    t.ok((await client.next()).equals(message));
    client.socket.send(`!big-in-two ${SIZE}`);
    t.equal((await client.next()).length, SIZE);
    client.socket.close(1000);
    await client.closed;
    const { statusCode, warnings } = await lastEnded(port);
    t.equal(statusCode, 200);
    t.match(warnings, [/more than 131072 bytes in a second.*WS-LIM-2/]);
  });

  t.test("one byte more from the client is 406 and 1009", async (t) => {
    for (const parts of [1, 2]) {
      const client = await open();
      if (parts === 1) client.socket.send(Buffer.alloc(SIZE + 1));
      else {
        client.socket.send(Buffer.alloc(SIZE), { fin: false });
        client.socket.send(Buffer.alloc(1), { fin: true });
      }
      t.equal(await client.closed, 1009);
      await heard(1009);
      const record = await lastEnded(port);
      t.match(record, {
        statusCode: 406,
        statusMessage: "RequestTooLarge",
        closeInitiator: "platform",
        closeCode: 1009,
        why: "The client sent a message of more than 262144 bytes [WS-LIM-1]: cut it into smaller ones.",
        counters: { clientMessages: 0 },
      });
    }
  });

  t.test("one byte more from the function is 407 and 1009", async (t) => {
    for (const command of ["big", "big-in-two"]) {
      const client = await open();
      client.socket.send(`!${command} ${SIZE + 1}`);
      t.equal(await client.closed, 1009);
      await heard(1009);
      t.match(await lastEnded(port), {
        statusCode: 407,
        closeInitiator: "platform",
        closeCode: 1009,
        why: /^The function sent a message of more than 262144 bytes/,
      });
    }
  });

  t.test(
    "WS-LIM-3, WS-LIM-4: ten messages a second pass for five seconds, the eleventh in one is 429 and 1008",
    async (t) => {
      const client = await open();
      for (let second = 0; second < 5; second++) {
        for (let i = 0; i < 10; i++) client.socket.send("x");
        for (let i = 0; i < 10; i++) await client.next();
        pass(1_000);
      }
      for (let i = 0; i < 10; i++) client.socket.send("heartbeat");
      for (let i = 0; i < 10; i++) await client.next();
      const [running] = await connectionsOf(port);
      t.match(running?.meter, {
        client: { messagesPerSecond: 10, peakMessagesPerSecond: 10 },
        server: { messagesPerSecond: 10 },
      });
      client.socket.send("heartbeat");
      t.equal(await client.closed, 1008);
      await heard(1008);
      t.match(await lastEnded(port), {
        statusCode: 429,
        closeInitiator: "platform",
        closeCode: 1008,
        why: "The client sent more than 10 messages in a second [WS-LIM-3]: send less at once, or put several messages into one.",
        counters: { clientMessages: 60, serverMessages: 60 },
        meter: { client: { peakMessagesPerSecond: 10 } },
      });
    },
  );

  t.test("WS-LIM-3: pings are no messages", async (t) => {
    const client = await open();
    for (let i = 0; i < 20; i++) client.socket.ping();
    for (let i = 0; i < 10; i++) client.socket.send("x");
    for (let i = 0; i < 10; i++) await client.next();
    client.socket.close(1000);
    await client.closed;
    t.match(await lastEnded(port), { statusCode: 200, warnings: [] });
  });

  t.test("WS-LIM-5: each connection has its own limits", async (t) => {
    const clients = await Promise.all([open(), open()]);
    for (const client of clients) {
      for (let i = 0; i < 10; i++) client.socket.send("x");
      for (let i = 0; i < 10; i++) await client.next();
    }
    for (const client of clients) client.socket.close(1000);
    for (const client of clients) await client.closed;
    await until("both to end", async () =>
      (await connectionsOf(port))
        .slice(0, 2)
        .every((one) => one.state === "ended"),
    );
    for (const record of (await connectionsOf(port)).slice(0, 2))
      t.match(record, { statusCode: 200, warnings: [] });
  });
});

t.test("WS-LIM-2: the bytes of a second, upstream only", async (t) => {
  const { port, heard, pass, open } = await start(t, {
    messageSizePolicy: "warn",
    messagesPolicy: "warn",
  });

  t.test("128 KB in a second pass, and 1 MB of responses", async (t) => {
    const client = await open();
    for (let second = 0; second < 3; second++) {
      client.socket.send(Buffer.alloc(RATE / 2));
      client.socket.send(Buffer.alloc(RATE / 2));
      for (let i = 0; i < 2; i++) await client.next();
      pass(1_000);
    }
    client.socket.send("!big 1000000");
    t.equal((await client.next()).length, 1_000_000);
    client.socket.close(1000);
    await client.closed;
    t.match(await lastEnded(port), {
      statusCode: 200,
      meter: { client: { peakBytesPerSecond: RATE } },
    });
  });

  t.test("WS-LIM-4: one byte more is 429 and 1008", async (t) => {
    const client = await open();
    client.socket.send(Buffer.alloc(RATE));
    await client.next();
    client.socket.send(Buffer.alloc(1));
    t.equal(await client.closed, 1008);
    await heard(1008);
    t.match(await lastEnded(port), {
      statusCode: 429,
      closeInitiator: "platform",
      closeCode: 1008,
      why: /^The client sent more than 131072 bytes in a second \[WS-LIM-2\]/,
    });
  });

  t.test(
    "WS-LIM-4, WS-CLOSE-15: in the middle of a frame the function hears no Close before its end",
    async (t) => {
      pass(2_000);
      const client = await rawWebSocket(port, "/ws", { allowHalfOpen: true });
      const payload = Buffer.alloc(RATE + 1_000, 3);
      const bytes = frame({ opcode: 2, payload, mask: someMask });
      client.socket.write(bytes.subarray(0, RATE + 500));
      const close = frame({ opcode: 8, payload: closePayload(1008) });
      await client.hears(close.toString("latin1"));
      client.socket.write(bytes.subarray(RATE + 500));
      await heard(1008);
      client.socket.end();
      await client.ended;
      t.match(await lastEnded(port), { statusCode: 429 });
    },
  );
});

t.test(
  "WS-LIM-2, WS-LIM-3: with countDownstream the function has the same limits",
  async (t) => {
    const { heard, open, port } = await start(t, { countDownstream: true });
    const client = await open();
    client.socket.send(`!big ${RATE + 1}`);
    t.equal(await client.closed, 1008);
    await heard(1008);
    t.match(await lastEnded(port), {
      statusCode: 429,
      why: /^The function sent more than 131072 bytes in a second/,
    });
  },
);

t.test("WS-LIM-4: throttle delays and loses nothing", async (t) => {
  // On the real clock: this is about waiting.
  const { port } = await startTestPlatform(t, {
    rules: { messagesPolicy: "throttle", bytesPolicy: "throttle" },
  });
  const client = await openClient(port);
  const messages = Array.from({ length: 15 }, (_, i) =>
    Buffer.alloc(i === 14 ? 200_000 : 10, i),
  );
  for (const message of messages) client.socket.send(message);
  client.socket.close(1000);
  for (const message of messages) t.ok((await client.next()).equals(message));
  t.equal(await client.closed, 1000);
  const { statusCode, warnings, meter } = await lastEnded(port);
  t.equal(statusCode, 200);
  t.match(warnings, [/WS-LIM-3/]);
  t.ok((meter?.client.peakMessagesPerSecond ?? 99) <= 10);
  t.ok((meter?.client.peakBytesPerSecond ?? 1e9) <= RATE);
});

t.test("WS-LIM-4: drop takes what is too much, whole", async (t) => {
  const { port, open } = await start(t, {
    messageSizePolicy: "drop",
    bytesPolicy: "drop",
    messagesPolicy: "drop",
  });
  const client = await open();
  client.socket.send(Buffer.alloc(SIZE + 1));
  client.socket.send("first", { fin: false });
  client.socket.ping();
  client.socket.send(Buffer.alloc(RATE), { fin: true });
  for (let i = 0; i < 12; i++) client.socket.send(`${i}`);
  client.socket.close(1000);
  const heard: string[] = [];
  client.socket.on("message", (data: Buffer) => heard.push(data.toString()));
  await client.closed;
  t.strictSame(
    heard,
    Array.from({ length: heard.length }, (_, i) => `${i}`),
    "what arrives is whole and in order",
  );
  const { statusCode, warnings, counters } = await lastEnded(port);
  t.equal(statusCode, 200);
  // The fragmented one had used a place before it was known to be too large.
  t.equal(heard.length, 9);
  t.equal(counters.clientMessages, 14);
  t.equal(counters.serverMessages, heard.length);
  t.match(warnings.join("\n"), /The platform dropped \d of the client's/);
});
