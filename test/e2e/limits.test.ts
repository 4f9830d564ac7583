/**
 * The largest body passes, byte for byte, raw and in parts, straight and through the platform's gateway; one byte more,
 * and everything else that cannot be taken, is the documented problem and leaves nothing in Redis.
 */
import { randomBytes } from "node:crypto";
import t, { type Test } from "tap";
import { WebSocket } from "ws";
import type { Problem } from "../../shared/api.js";
import { startApplication } from "../../scripts/lab/application.js";
import { backendOf } from "../../scripts/lab/backend.js";
import {
  startHttpFn,
  startProcess,
  startWsFn,
} from "../../scripts/lab/processes.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";

const BYTES_MAX = 262_144;
/** Texts of exactly the limit in UTF-8; the last two grow when they are escaped into a frame. */
const TEXTS = {
  ascii: "a".repeat(BYTES_MAX),
  "four bytes a character": "😀".repeat(BYTES_MAX / 4),
  quotes: '"'.repeat(BYTES_MAX),
  "control characters": "\u0001".repeat(BYTES_MAX),
};

/** The largest bodies through `origin` to a raw and a bridge client. */
async function largestPass(t: Test, httpOrigin: string, wsOrigin: string) {
  const backend = backendOf(t, httpOrigin);
  const bytes = randomBytes(BYTES_MAX);
  const binary = { headers: { "content-type": "application/octet-stream" } };

  t.test("to a raw client, as one frame each", async (t) => {
    const { connectionId, url } = await backend.prepare();
    const socket = new WebSocket(
      `${wsOrigin}/ws${new URL(url).search}&welcome=0`,
    );
    t.teardown(() => socket.close(1000));
    const frames: { data: Buffer; isBinary: boolean }[] = [];
    socket.on("message", (data: Buffer, isBinary: boolean) => {
      frames.push({ data, isBinary });
    });
    await new Promise((resolve, reject) => {
      socket.once("open", resolve);
      socket.once("error", reject);
    });
    await backend.accepted(connectionId, TEXTS.ascii);
    await backend.accepted(connectionId, bytes, binary);
    await until(() => frames.length === 2, { ms: 20_000 });
    t.equal(frames[0]?.isBinary, false);
    t.ok(frames[0]?.data.equals(Buffer.from(TEXTS.ascii)));
    t.equal(frames[1]?.isBinary, true);
    t.ok(frames[1]?.data.equals(bytes));
  });

  t.test("to a bridge client, in parts", async (t) => {
    const { connectionId, token } = await backend.prepare();
    let longest = 0;
    let parts = 0;
    const application = startApplication(t, {
      token,
      to: () => wsOrigin,
      // A process that stood still may end a socket (rule 1); what came over the next one counts as well.
      onSocket: (socket) =>
        socket.on("message", (data: Buffer) => {
          longest = Math.max(longest, data.length);
          parts += 1;
        }),
    });
    await application.bridge.ready;
    for (const text of Object.values(TEXTS)) {
      await backend.accepted(connectionId, text);
    }
    await backend.accepted(connectionId, bytes, binary);
    const count = Object.keys(TEXTS).length;
    await application.has(count + 1);
    for (const [index, [name, text]] of Object.entries(TEXTS).entries()) {
      t.ok(application.texts[index] === text, name);
    }
    t.ok(bytes.equals(application.messages[count]?.bytes ?? Buffer.of()));
    t.ok(longest <= BYTES_MAX, `the longest frame has ${longest} bytes`);
    t.ok(parts > count + 2, `${parts} frames, the welcome among them`);
    t.same(application.errors, []);
  });

  t.test("and one byte more does not", async (t) => {
    const { connectionId } = await backend.prepare();
    const answer = await backend.push(connectionId, `${TEXTS.ascii}a`);
    t.equal(answer.status, 413);
    t.match(answer.json<Problem>(), {
      code: "payload_too_large",
      limit: BYTES_MAX,
      actual: BYTES_MAX + 1,
    });
  });
}

t.test("the limits", async (t) => {
  const redis = await singleRedis(t);
  const env = { REDIS_URL: redis.url, LOG_LEVEL: "warn" };
  const [httpFn, wsFn] = await Promise.all([
    startHttpFn(t, env),
    startWsFn(t, env),
  ]);
  const backend = backendOf(t, httpFn.url);

  t.test("the largest body passes", (t) =>
    largestPass(t, httpFn.url, wsFn.url),
  );

  t.test("what cannot be taken leaves nothing", async (t) => {
    const { connectionId } = await backend.prepare();
    const ended = await backend.prepare();
    await backend.ask("DELETE", `/v1/connections/${ended.connectionId}`);
    const unknown = `c_${"0".repeat(22)}`;
    const json = { "content-type": "application/json" };
    const cases: [
      what: string,
      status: number,
      code: Problem["code"],
      id: string,
      body: string | Buffer,
      options?: { query?: string; headers?: Record<string, string> },
    ][] = [
      [
        "too much",
        413,
        "payload_too_large",
        connectionId,
        "a".repeat(BYTES_MAX + 1),
      ],
      ["bad JSON", 400, "invalid_json", connectionId, "{", { headers: json }],
      ["no JSON", 400, "invalid_json", connectionId, "", { headers: json }],
      ["bad UTF-8", 400, "invalid_utf8", connectionId, Buffer.of(0xff)],
      [
        "unknown parameter",
        400,
        "unknown_parameter",
        connectionId,
        "a",
        { query: "?tttl=1" },
      ],
      [
        "bad parameter",
        400,
        "invalid_parameter",
        connectionId,
        "a",
        { query: "?ttl=-1" },
      ],
      [
        "bad header",
        400,
        "invalid_parameter",
        connectionId,
        "a",
        { headers: { ttl: "soon" } },
      ],
      [
        "two times",
        400,
        "invalid_parameter",
        connectionId,
        "a",
        { query: "?delay=1&at=2099-01-01T00:00:00Z" },
      ],
      ["unknown connection", 404, "connection_not_found", unknown, "a"],
      ["no connection ID", 404, "connection_not_found", "nobody", "a"],
      ["ended connection", 410, "connection_ended", ended.connectionId, "a"],
    ];
    const keysBefore = await redis.cli("DBSIZE");
    for (const [what, status, code, id, body, options = {}] of cases) {
      const answer = await backend.push(id, body, options);
      t.equal(answer.status, status, what);
      t.match(answer.headers["content-type"], /^application\/problem\+json/);
      t.match(answer.json<Problem>(), { status, code }, `${what}: ${code}`);
    }
    t.equal(await redis.cli("DBSIZE"), keysBefore, "no key more");
    t.equal(await redis.cli("EXISTS", `bridge:{${connectionId}}:log`), 0);
    const gone = await backend.ask(
      "GET",
      `/v1/connections/${ended.connectionId}`,
    );
    t.equal(gone.status, 410);
  });

  t.test("the largest body passes the platform's gateway", async (t) => {
    const platform = await startProcess(t, {
      name: "platform",
      args: ["--enable-source-maps", "dist/platform/main.js"],
      env: { ...env, GATEWAY_PORT: "0" },
    });
    const [, origin = ""] = await platform.waitForLine(
      /^ready (http:\/\/\S+)$/,
      60_000,
    );
    await largestPass(t, origin, origin.replace("http", "ws"));
  });
});
