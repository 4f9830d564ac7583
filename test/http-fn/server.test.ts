/** What only a real socket shows: slow and broken requests, large bodies, HEAD on the wire. */
import { once } from "node:events";
import { connect, type AddressInfo, type Socket } from "node:net";
import t, { type Test } from "tap";
import type { Problem } from "../../shared/api.js";
import { ConnectionRoom } from "../../shared/connection-room.js";
import { setup, type FakeSetup } from "../fixtures/fake-bridge.js";
import { until } from "../../scripts/lab/until.js";

const HOST = "Host: 127.0.0.1\r\n";

/** Short limits, so that a test need not wait for the real ones. */
const timeouts = { headersMs: 300, requestMs: 300, checkMs: 50 };

interface Listening extends FakeSetup {
  port: number;
  dial(): Socket;
}

async function listening(
  t: Test,
  deps: Parameters<typeof setup>[1] = {},
): Promise<Listening> {
  const fake = setup(t, deps);
  await fake.app.listen({ host: "127.0.0.1", port: 0 });
  const { port } = fake.app.server.address() as AddressInfo;
  const dial = () => {
    const socket = connect(port, "127.0.0.1");
    socket.on("error", () => undefined);
    t.teardown(() => socket.destroy());
    return socket;
  };
  return { ...fake, port, dial };
}

/** Everything the server says until it hangs up. */
async function untilClosed(socket: Socket): Promise<string> {
  let text = "";
  socket.on("data", (chunk) => (text += chunk.toString("latin1")));
  await once(socket, "close");
  return text;
}

/** The first answer on a connection that stays open. */
async function firstAnswer(
  socket: Socket,
): Promise<{ head: string; body: string }> {
  let text = "";
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    text += chunk.toString("latin1");
    const [head = "", body = ""] = text.split("\r\n\r\n", 2);
    const length = Number(/content-length: (\d+)/i.exec(head)?.[1]);
    if (body.length >= length) return { head, body };
  }
  throw new Error(`closed after ${JSON.stringify(text)}`);
}

function problemIn(text: string): Problem {
  t.match(text, /content-type: application\/problem\+json/i);
  return JSON.parse(text.slice(text.indexOf("\r\n\r\n") + 4)) as Problem;
}

t.test("what is too slow or broken is cut with a problem", async (t) => {
  const cases: [name: string, bytes: string, status: number, code: string][] = [
    [
      "headers that never end",
      `GET /healthz HTTP/1.1\r\n${HOST}X-A: `,
      408,
      "request_timeout",
    ],
    ["a connection that says nothing", "", 408, "request_timeout"],
    [
      "a body that never ends",
      `POST /v1/connections HTTP/1.1\r\n${HOST}Content-Length: 9\r\n\r\n{`,
      408,
      "request_timeout",
    ],
    [
      "9 KB of headers",
      `GET /healthz HTTP/1.1\r\n${HOST}X-A: ${"a".repeat(9_000)}\r\n\r\n`,
      431,
      "headers_too_large",
    ],
    [
      "2,000 headers",
      `GET /healthz HTTP/1.1\r\n${HOST}${"abc: def\r\n".repeat(2_000)}\r\n`,
      431,
      "headers_too_large",
    ],
    ["no HTTP", "HELLO\r\n\r\n", 400, "bad_request"],
    [
      "length and chunks",
      `POST /v1/connections HTTP/1.1\r\n${HOST}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
      400,
      "bad_request",
    ],
    [
      "two lengths",
      `POST /v1/connections HTTP/1.1\r\n${HOST}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}`,
      400,
      "bad_request",
    ],
    [
      "two Hosts",
      `GET /healthz HTTP/1.1\r\n${HOST}hOsT: localhost\r\n\r\n`,
      400,
      "bad_request",
    ],
    ["no Host", "GET /healthz HTTP/1.1\r\n\r\n", 400, "bad_request"],
    [
      "chunks in HTTP/1.0",
      `POST /v1/connections HTTP/1.0\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
      400,
      "bad_request",
    ],
    [
      "a bare line feed in a header",
      `GET /healthz HTTP/1.1\r\n${HOST}A: b\nC\r\n\r\n`,
      400,
      "bad_request",
    ],
  ];
  const { dial, log } = await listening(t, { timeouts });
  for (const [name, bytes, status, code] of cases)
    await t.test(name, async (t) => {
      const socket = dial();
      socket.write(bytes);
      const text = await untilClosed(socket);
      t.match(text, new RegExp(`^HTTP/1\\.1 ${status} `));
      t.match(problemIn(text), { status, code });
      t.match(log.filter(({ level }) => level !== "debug").at(-1), {
        level: "info",
        fields: { status, code },
      });
    });
});

t.test("a wait is not cut by the request timeout", async (t) => {
  const { dial, bridge } = await listening(t, { timeouts });
  const to = bridge.connect();
  const socket = dial();
  socket.write(
    `POST /v1/connections/${to}/messages?wait=1 HTTP/1.1\r\n${HOST}Content-Length: 1\r\n\r\nx`,
  );
  const { head } = await firstAnswer(socket);
  t.match(head, /^HTTP\/1\.1 202 /);
  t.match(head, /preference-applied: wait=1/i);
});

t.test("a body declared too large is refused before it is sent", async (t) => {
  const { dial, bridge } = await listening(t);
  const socket = dial();
  socket.write(
    `POST /v1/connections/${bridge.connect()}/messages HTTP/1.1\r\n${HOST}Content-Length: 1000000\r\n\r\n`,
  );
  const { head, body } = await firstAnswer(socket);
  t.match(head, /^HTTP\/1\.1 413 /);
  t.match(JSON.parse(body), {
    code: "payload_too_large",
    limit: 262_144,
    actual: 1_000_000,
  });
});

t.test(
  "a body that grows too large is refused when the limit is passed, and the answer is readable",
  async (t) => {
    const { dial, bridge } = await listening(t);
    const socket = dial();
    socket.write(
      `POST /v1/connections/${bridge.connect()}/messages HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n`,
    );
    const chunk = `10000\r\n${"x".repeat(65_536)}\r\n`;
    for (let sent = 0; sent < 6; sent++) socket.write(chunk);
    const { head, body } = await firstAnswer(socket);
    t.match(head, /^HTTP\/1\.1 413 /);
    const { actual = 0, limit } = JSON.parse(body) as Problem;
    t.equal(limit, 262_144);
    t.ok(actual > 262_144 && actual <= 262_144 + 65_536, `counted ${actual}`);
    t.equal(bridge.pushes.length, 0);
  },
);

t.test("262,144 bytes in chunks arrive unchanged", async (t) => {
  const { dial, bridge } = await listening(t);
  const body = Buffer.alloc(262_144, "0123456789abcdef");
  const socket = dial();
  socket.write(
    `POST /v1/connections/${bridge.connect()}/messages HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n`,
  );
  for (let at = 0; at < body.length; at += 65_536) {
    socket.write("10000\r\n");
    socket.write(body.subarray(at, at + 65_536));
    socket.write("\r\n");
  }
  socket.write("0\r\n\r\n");
  t.match((await firstAnswer(socket)).head, /^HTTP\/1\.1 202 /);
  t.ok(bridge.pushes[0]?.body.equals(body));
});

t.test("without a valid key nobody's body is waited for", async (t) => {
  const { dial } = await listening(t, {
    apiKeys: [
      {
        name: "a",
        scopes: new Set(["push"] as const),
        sha256: Buffer.alloc(32),
      },
    ],
  });
  const socket = dial();
  socket.write(
    `POST /v1/connections/c_aaaaaaaaaaaaaaaaaaaaaa/messages HTTP/1.1\r\n${HOST}Content-Length: 200000\r\n\r\n`,
  );
  t.match((await firstAnswer(socket)).head, /^HTTP\/1\.1 401 /);
});

t.test(
  "requests on one connection are answered one after the other, HEAD without a body",
  async (t) => {
    const { dial, bridge } = await listening(t);
    const id = bridge.connect();
    const socket = dial();
    socket.write(
      `HEAD /v1/connections/${id} HTTP/1.1\r\n${HOST}\r\n` +
        `HEAD /v1/connections/c_ HTTP/1.1\r\n${HOST}\r\n` +
        `GET /healthz HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n`,
    );
    const text = await untilClosed(socket);
    t.same(text.match(/^HTTP\/1\.1 \d+/gm), [
      "HTTP/1.1 200",
      "HTTP/1.1 404",
      "HTTP/1.1 200",
    ]);
    t.equal(text.match(/\{/g)?.length, 1, "only GET has a body");
  },
);

t.test("a caller that leaves ends its stream", async (t) => {
  const { dial, bridge, app } = await listening(t);
  const { messageId } = await bridge.push({
    connectionId: bridge.connect(),
    body: Buffer.alloc(0),
    contentType: "text/plain",
    binary: false,
    ttlSeconds: 9,
  });
  const socket = dial();
  socket.write(`GET /v1/messages/${messageId}/events HTTP/1.1\r\n${HOST}\r\n`);
  await once(socket, "data");
  t.equal(bridge.following, 1);
  socket.destroy();
  await until(() => bridge.following === 0);

  const second = dial();
  second.write(`GET /v1/messages/${messageId}/events HTTP/1.1\r\n${HOST}\r\n`);
  await once(second, "data");
  const closed = untilClosed(second);
  await app.close();
  t.notMatch(
    await closed,
    /\r\n0\r\n\r\n$/,
    "a stream that was cut does not look complete",
  );
});

t.test(
  "who waits when the function goes gets the 202 at once, and every caller is asked to go elsewhere",
  async (t) => {
    const { dial, bridge, app } = await listening(t, {
      timeouts: { farewellMs: 10_000 },
    });
    const id = bridge.connect();
    const waiting = dial();
    waiting.write(
      `POST /v1/connections/${id}/messages?wait=30 HTTP/1.1\r\n${HOST}Content-Length: 1\r\n\r\nx`,
    );
    const idle = dial();
    idle.write(`GET /healthz HTTP/1.1\r\n${HOST}\r\n`);
    await once(idle, "data");
    await until(() => bridge.following === 1);

    const closed = app.close();
    const answered = await untilClosed(waiting);
    t.match(answered, /^HTTP\/1\.1 202 /);
    t.match(answered, /\r\nconnection: close\r\n/i);
    t.match(answered, /\r\npreference-applied: wait=30\r\n/i);
    t.equal(app.server.listening, true, "a newcomer is not refused yet");
    idle.write(
      `POST /v1/connections/${id}/messages HTTP/1.1\r\n${HOST}Content-Length: 1\r\n\r\ny`,
    );
    const last = await untilClosed(idle);
    t.match(last, /^HTTP\/1\.1 202 /, "it was not cut as an idle one");
    t.match(last, /\r\nconnection: close\r\n/i);
    await closed;
    t.equal(bridge.pushes.length, 2);
  },
);

t.test("without its farewell an idle caller would be cut", async (t) => {
  const { dial, app } = await listening(t, { timeouts: { farewellMs: 0 } });
  const idle = dial();
  idle.write(`GET /healthz HTTP/1.1\r\n${HOST}\r\n`);
  await once(idle, "data");
  const said = untilClosed(idle);
  await app.close();
  idle.write(`GET /healthz HTTP/1.1\r\n${HOST}\r\n`);
  t.equal(await said, "");
});

const PIPELINED = 20_000;
const key = {
  name: "a",
  scopes: new Set(["push"] as const),
  sha256: Buffer.alloc(32),
};
/** How many answers, and of which status the last one. */
function answersIn(text: string): { count: number; last: string | undefined } {
  const all = text.match(/^HTTP\/1\.1 \d+/gm) ?? [];
  return { count: all.length, last: all.at(-1) };
}

t.test("of 20,000 requests in one write", async (t) => {
  const cases: [name: string, request: string, deps: object, count: number][] =
    [
      [
        "the first one without a key is answered, and ends the connection",
        `POST /v1/broadcast HTTP/1.1\r\n${HOST}Content-Length: 0\r\n\r\n`,
        { apiKeys: [key] },
        1,
      ],
      [
        "64 are answered while they wait, and the next one ends the connection",
        `GET /healthz HTTP/1.1\r\n${HOST}\r\n`,
        {},
        65,
      ],
    ];
  for (const [name, request, deps, count] of cases)
    await t.test(name, async (t) => {
      const { dial, log } = await listening(t, deps);
      const socket = dial();
      socket.write(request.repeat(PIPELINED));
      const text = await untilClosed(socket);
      t.equal(answersIn(text).count, count);
      t.match(text.slice(text.lastIndexOf("HTTP/1.1")), /connection: close/i);
      const refused = log.filter(
        ({ message }) => message === "request refused",
      );
      t.equal(refused.length, 1, "in one line of the log");
    });
  await t.test("all are answered without the limits", async (t) => {
    const { dial } = await listening(t, {
      requests: { atOnce: Infinity, inAll: Infinity },
    });
    const socket = dial();
    socket.write(`GET /healthz HTTP/1.1\r\n${HOST}\r\n`.repeat(PIPELINED));
    let answers = 0;
    socket.on("data", (chunk: Buffer) => {
      answers += answersIn(`\n${chunk.toString("latin1")}`).count;
    });
    await until(() => answers > PIPELINED * 0.9, { ms: 30_000 });
  });
});

t.test("a connection has so many requests", async (t) => {
  const { dial } = await listening(t, { requests: { inAll: 3 } });
  const socket = dial();
  socket.write(`GET /healthz HTTP/1.1\r\n${HOST}\r\n`.repeat(5));
  const text = await untilClosed(socket);
  t.equal(answersIn(text).count, 3);
  t.equal(text.match(/connection: close/gi)?.length, 1, "the last one says so");
});

t.test("a refusal takes no other request's answer", async (t) => {
  const { dial, bridge } = await listening(t);
  const id = bridge.connect();
  const socket = dial();
  socket.write(
    `POST /v1/connections/${id}/messages?wait=1 HTTP/1.1\r\n${HOST}Content-Length: 1\r\n\r\nxHELLO\r\n\r\n`,
  );
  const text = await untilClosed(socket);
  t.same(text.match(/^HTTP\/1\.1 \d+/gm), ["HTTP/1.1 202", "HTTP/1.1 400"]);
});

t.test(
  "a caller that leaves ends what waits behind its first request",
  async (t) => {
    const { dial, bridge } = await listening(t);
    const id = bridge.connect();
    const socket = dial();
    const wait = `POST /v1/connections/${id}/messages?wait=60 HTTP/1.1\r\n${HOST}Content-Length: 1\r\n\r\nx`;
    socket.write(wait.repeat(5));
    await until(() => bridge.following === 5);
    socket.destroy();
    await until(() => bridge.following === 0);
  },
);

t.test(
  "who has shown a key keeps the connection when it is refused",
  async (t) => {
    const { dial, bridge } = await listening(t);
    const gone = bridge.connect();
    const socket = dial();
    const ask = (path: string) =>
      socket.write(`GET ${path} HTTP/1.1\r\n${HOST}\r\n`);
    ask(`/v1/connections/${gone}`);
    ask("/v1/connections/c_");
    ask("/nothing");
    ask("/healthz");
    let text = "";
    socket.on("data", (chunk) => (text += chunk.toString("latin1")));
    await until(() => answersIn(text).count === 4);
    t.notMatch(text, /connection: close/i);

    const stranger = dial();
    stranger.write(`GET /nothing HTTP/1.1\r\n${HOST}\r\n`);
    t.match(
      await untilClosed(stranger),
      /^HTTP\/1\.1 404 [^]*connection: close/i,
    );
  },
);

t.test("who still sends when it is refused gets no reset", async (t) => {
  const { port } = await listening(t, { apiKeys: [key] });
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  const errors: Error[] = [];
  socket.on("error", (error) => errors.push(error));
  t.teardown(() => socket.destroy());
  const chunk = `10000\r\n${"x".repeat(65_536)}\r\n`;
  socket.write(
    `POST /v1/broadcast HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n`,
  );
  let text = "";
  socket.on("data", (data: Buffer) => (text += data.toString("latin1")));
  // In a reset the answer could be lost; it goes on after it.
  await once(socket, "end");
  for (let sent = 0; sent < 4; sent++) socket.write(chunk);
  socket.end();
  await once(socket, "close");
  t.match(text, /^HTTP\/1\.1 401 /);
  t.same(errors, []);
});

t.test("silent connections make room for who asks", async (t) => {
  const room = new ConnectionRoom({ max: 20, perAddress: 0 });
  const { dial, bridge } = await listening(t, { room });
  const kept = dial();
  kept.write(`GET /v1/connections/${bridge.connect()} HTTP/1.1\r\n${HOST}\r\n`);
  await once(kept, "data");
  const silent = Array.from({ length: 50 }, dial);
  await until(() => silent.filter(({ closed }) => closed).length >= 31);
  const newcomer = dial();
  newcomer.write(`GET /healthz HTTP/1.1\r\n${HOST}\r\n`);
  t.match((await firstAnswer(newcomer)).head, /^HTTP\/1\.1 200 /);
  t.equal(kept.closed, false, "who has shown a key keeps its place");
  t.equal(room.open, 20);
});

t.test("where nobody makes way the next one is refused", async (t) => {
  const room = new ConnectionRoom({ max: 2, perAddress: 0 });
  const { dial, bridge } = await listening(t, { room });
  for (let count = 0; count < 2; count++) {
    const socket = dial();
    socket.write(
      `GET /v1/connections/${bridge.connect()} HTTP/1.1\r\n${HOST}\r\n`,
    );
    await once(socket, "data");
  }
  const text = await untilClosed(dial());
  t.match(text, /^HTTP\/1\.1 503 /);
  t.match(problemIn(text), { code: "no_room", limit: 2 });
});

t.test("an address has its share", async (t) => {
  const room = new ConnectionRoom({ max: 0, perAddress: 2 });
  const { dial } = await listening(t, { room });
  const first = dial();
  await once(dial(), "connect");
  await until(() => room.open === 2);
  t.match(problemIn(await untilClosed(dial())), { code: "no_room", limit: 2 });
  first.destroy();
  await until(() => room.open === 1);
  const next = dial();
  next.write(`GET /healthz HTTP/1.1\r\n${HOST}\r\n`);
  t.match((await firstAnswer(next)).head, /^HTTP\/1\.1 200 /);
});

t.test("refusals are logged in samples", async (t) => {
  const { app, log } = setup(t, { apiKeys: [key] });
  const refused = () =>
    log.filter(({ message }) => message === "request refused").length;
  for (let count = 0; count < 200; count++)
    await app.inject({ url: "/v1/connections" });
  const leftOut = await until(() =>
    log.find(({ message }) => message === "lines left out"),
  );
  t.match(leftOut.fields, { kind: "unauthorized" });
  t.ok(refused() < 200);
  await app.close();
  const counted = log
    .filter(({ message }) => message === "lines left out")
    .reduce((sum, { fields }) => sum + Number(fields["lines"]), 0);
  t.equal(refused() + counted, 200, "each is told or counted");
});
