/** Who gets a socket and who does not, and how sockets end, with the built ws-fn. */
import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import { SignJWT } from "jose";
import t, { type Test } from "tap";
import { WebSocket } from "ws";
import type { Problem } from "../../shared/api.js";
import { startApplication } from "../../scripts/lab/application.js";
import { backendOf } from "../../scripts/lab/backend.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { startProxy } from "../../scripts/lab/proxy.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";
import { rawAnswer } from "../fixtures/raw-answer.js";

const BRIDGE = "bridge.v1.json";
/** The key both functions share here, so that the test can sign tokens of its own. */
const SECRET = Buffer.alloc(32, 7);

interface Frame {
  type: string;
  [field: string]: unknown;
}

interface Socket {
  socket: WebSocket;
  frames: Frame[];
  /** The code and reason it was closed with. */
  closed: Promise<{ code: number; reason: string }>;
}

function open(
  t: Test,
  url: string,
  protocols: string[] = [],
  headers: Record<string, string> = {},
): Socket {
  const socket = new WebSocket(url, protocols, { headers });
  const frames: Frame[] = [];
  socket.on("message", (data: Buffer) => {
    const frame = JSON.parse(data.toString()) as Frame;
    frames.push(frame);
    if (frame.type === "ping") socket.send('{"type":"pong"}');
  });
  socket.on("error", () => undefined);
  t.teardown(() => socket.terminate());
  // Not events.once, which takes a refusal for a failure of its own.
  const closed = new Promise<{ code: number; reason: string }>((resolve) => {
    socket.once("close", (code: number, reason: Buffer) =>
      resolve({ code, reason: reason.toString() }),
    );
  });
  return { socket, frames, closed };
}

/** The answer of a refused upgrade. */
async function refusal(
  t: Test,
  ...[url, protocols, headers]: [string, string[]?, Record<string, string>?]
): Promise<{
  status: number;
  problem: Problem;
  retryAfter: string | undefined;
}> {
  const { socket } = open(t, url, protocols, headers);
  const [, response] = (await once(socket, "unexpected-response")) as [
    unknown,
    IncomingMessage,
  ];
  let text = "";
  for await (const chunk of response) text += String(chunk);
  return {
    status: response.statusCode ?? 0,
    problem: JSON.parse(text) as Problem,
    retryAfter: response.headers["retry-after"],
  };
}

const welcomed = ({ frames }: Socket) =>
  until(() => frames.find(({ type }) => type === "welcome"), { ms: 20_000 });

const token = (connectionId: string, expiresInSeconds: number) =>
  new SignJWT({ cid: connectionId })
    .setProtectedHeader({
      alg: "HS256",
      kid: "test",
      typ: "bridge-connection+jwt",
    })
    .setExpirationTime(Math.floor(Date.now() / 1_000) + expiresInSeconds)
    .sign(SECRET);

t.test("sockets", async (t) => {
  const redis = await singleRedis(t);
  const env = {
    REDIS_URL: redis.url,
    LOG_LEVEL: "warn",
    TOKEN_KEYS: `test:${SECRET.toString("base64")}`,
    ALLOW_ANONYMOUS: "0",
  };
  const [httpFn, wsFn] = await Promise.all([
    startHttpFn(t, env),
    startWsFn(t, { ...env, HEARTBEAT_SECONDS: "0.5" }),
  ]);
  const backend = backendOf(t, httpFn.url);
  const ws = `${wsFn.url}/ws`;

  t.test("a token comes by query, header or subprotocol", async (t) => {
    for (const way of ["query", "header", "subprotocol"]) {
      const prepared = await backend.prepare();
      const socket = open(
        t,
        way === "query" ? `${ws}?token=${prepared.token}` : ws,
        way === "subprotocol" ? [BRIDGE, `bearer.${prepared.token}`] : [BRIDGE],
        way === "header" ? { authorization: `Bearer ${prepared.token}` } : {},
      );
      const welcome = await welcomed(socket);
      t.equal(welcome["connectionId"], prepared.connectionId, way);
      t.equal(socket.socket.protocol, BRIDGE);
    }
  });

  t.test("is refused before the 101", async (t) => {
    t.match(await refusal(t, ws), {
      status: 401,
      problem: { code: "token_invalid", status: 401 },
    });
    t.match(await refusal(t, `${ws}?token=a.b.c`), {
      status: 401,
      problem: { code: "token_invalid" },
    });
    const { connectionId, token: valid } = await backend.prepare();
    t.match(await refusal(t, `${ws}?token=${await token(connectionId, -60)}`), {
      status: 401,
      problem: { code: "token_expired" },
    });
    // A token signed elsewhere may say anything; who could not be addressed is not let in.
    for (const claims of [
      { sub: ".." },
      { sub: "a\u0000" },
      { groups: [".."] },
      { cid: "schedule" },
      { permissions: ["join:a b"] },
    ])
      t.match(
        await refusal(
          t,
          `${ws}?token=${await new SignJWT(claims)
            .setProtectedHeader({ alg: "HS256", kid: "test" })
            .setExpirationTime("1m")
            .sign(SECRET)}`,
        ),
        { status: 401, problem: { code: "token_invalid" } },
        JSON.stringify(claims),
      );
    const { connectionId: other, token: first } = await backend.prepare();
    t.match(
      await refusal(t, `${ws}?resume=${first}&seq=0`, [BRIDGE]),
      { status: 401, problem: { code: "token_invalid" } },
      "only a resume token resumes",
    );
    const open1 = open(t, `${ws}?token=${first}`, [BRIDGE]);
    const { resumeToken } = await welcomed(open1);
    t.match(
      await refusal(t, `${ws}?token=${String(resumeToken)}`, [BRIDGE]),
      { status: 401, problem: { code: "token_invalid" } },
      "and does nothing else",
    );
    const forged = await new SignJWT({ cid: other, use: "resume" })
      .setProtectedHeader({ alg: "HS256", kid: "test" })
      .setExpirationTime("1m")
      .sign(SECRET);
    t.match(
      await refusal(t, `${ws}?resume=${forged}&seq=0`, [BRIDGE]),
      { status: 401, problem: { code: "token_invalid" } },
      "whatever claims a token has",
    );
    const foreign = { origin: "https://elsewhere.example" };
    t.match(await refusal(t, `${ws}?token=${valid}`, [BRIDGE], foreign), {
      status: 403,
      problem: { code: "forbidden_origin" },
    });
    const gone = await backend.prepare();
    await backend.ask("DELETE", `/v1/connections/${gone.connectionId}`);
    t.match(await refusal(t, `${ws}?token=${gone.token}`), {
      status: 410,
      problem: { code: "connection_ended" },
    });
  });

  t.test("what opens no socket says nosniff, and HSTS by TLS", async (t) => {
    const secure = await startWsFn(t, {
      ...env,
      PUBLIC_WS_URL: "wss://push.example",
    });
    const rest = "Host: 127.0.0.1\r\nConnection: close\r\n\r\n";
    const upgrade = `Host: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${"A".repeat(22)}==\r\n\r\n`;
    for (const [request, status] of [
      [`GET /healthz HTTP/1.1\r\n${rest}`, 200],
      [`GET /nothing HTTP/1.1\r\n${rest}`, 426],
      [`GET /ws HTTP/1.1\r\n${upgrade}`, 401],
      ["NONSENSE\r\n\r\n", 400],
    ] as const)
      for (const { port } of [wsFn, secure]) {
        const answer = await rawAnswer(port, request);
        t.match(answer, new RegExp(`^HTTP/1.1 ${status} `), request);
        t.match(answer, /^x-content-type-options: nosniff\r$/im, request);
        const hsts = /^strict-transport-security: max-age=31536000\r$/im;
        t.equal(hsts.test(answer), port === secure.port, request);
      }
  });

  t.test("MAX_SOCKETS=1 has room for one", async (t) => {
    const small = await startWsFn(t, { ...env, MAX_SOCKETS: "1" });
    const [first, second] = [await backend.prepare(), await backend.prepare()];
    const one = open(t, `${small.url}/ws?token=${first.token}`, [BRIDGE]);
    await welcomed(one);
    const url = `${small.url}/ws?token=${second.token}`;
    const refused = await refusal(t, url, [BRIDGE]);
    t.match(refused, { status: 503, problem: { code: "no_room", limit: 1 } });
    one.socket.close(1000);
    await one.closed;
    await until(async () => {
      const next = open(t, url, [BRIDGE]);
      return Promise.race([welcomed(next), next.closed.then(() => undefined)]);
    });
  });

  t.test(
    "WS-LIFE-8: an instance that slept through the end of its socket takes the next one",
    async (t) => {
      const small = await startWsFn(t, { ...env, MAX_SOCKETS: "1" });
      for (let time = 0; time < 5; time += 1) {
        const [first, second] = [
          await backend.prepare(),
          await backend.prepare(),
        ];
        const one = open(t, `${small.url}/ws?token=${first.token}`, [BRIDGE]);
        await welcomed(one);
        small.kill("SIGSTOP");
        one.socket.terminate();
        // The system accepts for the sleeping process.
        const next = open(t, `${small.url}/ws?token=${second.token}`, [BRIDGE]);
        await one.closed;
        small.kill("SIGCONT");
        t.ok(await welcomed(next), "it is welcomed");
        next.socket.close(1000);
        await next.closed;
      }
    },
  );

  t.test("a newer socket takes over with 4509", async (t) => {
    const { connectionId, token } = await backend.prepare();
    const old = open(t, `${ws}?token=${token}`, [BRIDGE]);
    await welcomed(old);
    const fresh = open(t, `${ws}?token=${token}`, [BRIDGE]);
    await welcomed(fresh);
    t.match(await old.closed, { code: 4509 });
    await backend.accepted(connectionId, "to the newer one");
    await until(() => fresh.frames.some(({ type }) => type === "message"));
    t.notOk(old.frames.some(({ type }) => type === "message"));
  });

  t.test("the backend closes, with 4510 or what it says", async (t) => {
    for (const [query, code, reason] of [
      ["", 4510, undefined],
      ["?code=4600&reason=banned", 4600, "banned"],
    ] as const) {
      const { connectionId, token } = await backend.prepare();
      const socket = open(t, `${ws}?token=${token}`, [BRIDGE]);
      await welcomed(socket);
      const answer = await backend.ask(
        "DELETE",
        `/v1/connections/${connectionId}${query}`,
      );
      t.equal(answer.status, 200);
      const closed = await socket.closed;
      t.equal(closed.code, code);
      if (reason !== undefined) t.equal(closed.reason, reason);
      const push = await backend.push(connectionId, "too late");
      t.equal(push.status, 410);
    }
  });

  t.test(
    "a token that runs out while connected closes with 4501",
    async (t) => {
      const { connectionId } = await backend.prepare();
      const socket = open(t, `${ws}?token=${await token(connectionId, 3)}`, [
        BRIDGE,
      ]);
      await welcomed(socket);
      t.match(await socket.closed, { code: 4501 });
    },
  );

  t.test(
    "a client that breaks the protocol is closed, and told why",
    async (t) => {
      const cases: [what: string, code: number, frame: string][] = [
        [
          "an ack beyond what was sent",
          1008,
          `{"type":"ack","seq":9007199254740991}`,
        ],
        ["no JSON", 1008, "hello"],
        ["an unknown type", 1008, `{"type":"dance"}`],
        ["a frame of more than 262,144 bytes", 1009, "x".repeat(262_145)],
      ];
      for (const [what, code, frame] of cases) {
        const { token } = await backend.prepare();
        const socket = open(t, `${ws}?token=${token}`, [BRIDGE]);
        await welcomed(socket);
        socket.socket.send(frame);
        t.equal((await socket.closed).code, code, what);
        if (code === 1008) {
          t.match(socket.frames.at(-1), {
            type: "error",
            error: { code: "invalid_frame" },
          });
        }
      }
    },
  );

  t.test("a flood is throttled, then told and closed with 4029", async (t) => {
    const { token } = await backend.prepare();
    const socket = open(t, `${ws}?token=${token}`, [BRIDGE]);
    await welcomed(socket);
    const flood = setInterval(() => {
      if (socket.socket.bufferedAmount < 65_536) {
        for (let count = 0; count < 20; count += 1) {
          socket.socket.send('{"type":"pong"}');
        }
      }
    }, 50);
    t.teardown(() => clearInterval(flood));
    t.match(await socket.closed, { code: 4029 });
    clearInterval(flood);
    t.match(
      socket.frames.find(({ type }) => type === "error"),
      { error: { code: "upstream_too_fast" } },
    );
  });

  t.test(
    "a heartbeat comes, and a line that is dead is given up",
    async (t) => {
      const { connectionId, token } = await backend.prepare();
      const proxy = await startProxy(t, wsFn.port);
      const through = `ws://127.0.0.1:${proxy.port}/ws?token=${token}`;
      const socket = open(t, through, [BRIDGE]);
      const welcome = await welcomed(socket);
      t.equal(welcome["heartbeatMs"], 500);
      await until(() => socket.frames.some(({ type }) => type === "ping"));
      proxy.pause();
      await until(
        async () => {
          const answer = await backend.ask(
            "GET",
            `/v1/connections/${connectionId}`,
          );
          return answer.json()["state"] === "away";
        },
        { ms: 20_000, message: "ws-fn gave the line up" },
      );
      proxy.cutAll();
    },
  );

  t.test("a heartbeat that is answered keeps the socket", async (t) => {
    const { token } = await backend.prepare();
    const application = startApplication(t, { token, to: () => wsFn.url });
    await application.bridge.ready;
    let pings = 0;
    application.socket.on("message", (data: Buffer) => {
      if (data.includes('"ping"')) pings += 1;
    });
    // More than go unanswered before a line counts as dead.
    await until(() => pings > 5, { ms: 20_000 });
    t.equal(application.dials, 1);
    t.equal(application.bridge.state, "open");
  });

  t.test("a raw client need not answer the pings it asked for", async (t) => {
    const { token } = await backend.prepare();
    // As ten lines would have it: it listens and says nothing.
    const socket = new WebSocket(`${wsFn.url}/ws?token=${token}&heartbeat=1`);
    t.teardown(() => socket.terminate());
    let pings = 0;
    socket.on("message", (data: Buffer) => {
      if (data.includes('"ping"')) pings += 1;
    });
    await once(socket, "open");
    await until(() => pings > 5 || socket.readyState !== WebSocket.OPEN, {
      ms: 20_000,
    });
    t.equal(socket.readyState, WebSocket.OPEN);
    t.ok(pings > 5, "more than go unanswered before a line counts as dead");
  });
});
