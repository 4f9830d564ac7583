/**
 * What whoever can reach the functions may do before any credentials are shown: connections, requests on them, broken ones,
 * and the lines they cause in the log.
 */
import { execFile } from "node:child_process";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { promisify } from "node:util";
import t, { type Test } from "tap";
import type { Problem } from "../../shared/api.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";

const redis = await singleRedis(t);
const env = { REDIS_URL: redis.url, LOG_LEVEL: "info", ALLOW_ANONYMOUS: "1" };
const HOST = "Host: 127.0.0.1\r\n";
const UPGRADE =
  "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==\r\n";

function dial(t: Test, port: number, text = ""): Socket {
  const socket = connect(port, "127.0.0.1");
  socket.on("error", () => undefined);
  t.teardown(() => socket.destroy());
  if (text !== "") socket.write(text);
  return socket;
}

/** Everything the server says until it hangs up. */
async function untilClosed(socket: Socket): Promise<string> {
  let text = "";
  socket.on("data", (chunk: Buffer) => (text += chunk.toString("latin1")));
  await once(socket, "close");
  return text;
}

/** What comes first. */
async function heard(socket: Socket): Promise<string> {
  const [chunk] = (await once(socket, "data")) as [Buffer];
  return chunk.toString("latin1");
}

const statusesIn = (text: string) =>
  (text.match(/^HTTP\/1\.1 \d+/gm) ?? []).map((line) => Number(line.slice(9)));

function problemIn(text: string): Problem {
  t.match(text, /content-type: application\/problem\+json/i);
  return JSON.parse(text.slice(text.indexOf("\r\n\r\n") + 4)) as Problem;
}

t.test("ws-fn", async (t) => {
  const wsFn = await startWsFn(t, env);
  const { port } = wsFn;

  t.test("is as strict as http-fn about what is HTTP", async (t) => {
    const cases: [name: string, text: string, status: number, code: string][] =
      [
        ["no HTTP", "HELLO\r\n\r\n", 400, "bad_request"],
        ["no Host", "GET /healthz HTTP/1.1\r\n\r\n", 400, "bad_request"],
        [
          "two Hosts",
          `GET /healthz HTTP/1.1\r\n${HOST}${HOST}\r\n`,
          400,
          "bad_request",
        ],
        [
          "an upgrade with two Hosts",
          `GET /ws HTTP/1.1\r\n${HOST}Host: localhost\r\n${UPGRADE}\r\n`,
          400,
          "bad_request",
        ],
        [
          "chunks in HTTP/1.0",
          `POST /healthz HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
          400,
          "bad_request",
        ],
        [
          "17 KB of headers",
          `GET /ws HTTP/1.1\r\n${HOST}X-A: ${"a".repeat(17_000)}\r\n\r\n`,
          431,
          "headers_too_large",
        ],
        ["a connection that says nothing", "", 408, "request_timeout"],
        [
          "no upgrade",
          `GET /ws HTTP/1.1\r\n${HOST}\r\n`,
          426,
          "upgrade_required",
        ],
        [
          "an upgrade of another path",
          `GET /a/ws HTTP/1.1\r\n${HOST}${UPGRADE}\r\n`,
          404,
          "not_found",
        ],
      ];
    await Promise.all(
      cases.map(async ([name, text, status, code]) => {
        const answer = await untilClosed(dial(t, port, text));
        t.same(statusesIn(answer), [status], name);
        t.match(answer, /connection: close/i, name);
        t.match(problemIn(answer), { status, code }, name);
      }),
    );
  });

  t.test("20,000 requests in one write are 64", async (t) => {
    const socket = dial(
      t,
      port,
      `GET /healthz HTTP/1.1\r\n${HOST}\r\n`.repeat(20_000),
    );
    const statuses = statusesIn(await untilClosed(socket));
    t.equal(statuses.filter((status) => status === 200).length, 64);
    t.same(statuses.slice(64), [429]);
  });

  t.test("no upgrade before what was asked is answered", async (t) => {
    const upgrade = `GET /ws HTTP/1.1\r\n${HOST}${UPGRADE}\r\n`;
    const both = dial(t, port, `GET /readyz HTTP/1.1\r\n${HOST}\r\n${upgrade}`);
    t.same(statusesIn(await untilClosed(both)), [], "that line is cut");
    const after = dial(t, port, `GET /readyz HTTP/1.1\r\n${HOST}\r\n`);
    t.match(await heard(after), /^HTTP\/1\.1 200 /);
    after.write(upgrade);
    t.match(await heard(after), /^HTTP\/1\.1 101 /);
  });

  t.test("refused upgrades are logged in samples", async (t) => {
    const count = 300;
    const told = () =>
      wsFn.logs.filter(
        (line) => /upgrade refused.*/.test(line) && /not_found/.test(line),
      );
    const before = told().length;
    for (let n = 0; n < count; n += 1)
      await untilClosed(
        dial(t, port, `GET /flood HTTP/1.1\r\n${HOST}${UPGRADE}\r\n`),
      );
    const leftOut = () =>
      wsFn.logs
        .flatMap((line) => /"kind":"not_found","lines":(\d+)/.exec(line) ?? [])
        .reduce((sum, text) => sum + (Number(text) || 0), 0);
    await until(() => told().length - before + leftOut() >= count);
    t.equal(told().length - before + leftOut(), count, "none is forgotten");
    t.ok(told().length - before < count);
  });
});

t.test("a client's address is what a proxy of ours says", async (t) => {
  const wsFn = await startWsFn(t, {
    ...env,
    TRUST_PROXY: "127.0.0.1",
    MAX_CONNECTIONS_PER_ADDRESS: "2",
  });
  const from = (address: string) =>
    dial(
      t,
      wsFn.port,
      `GET /ws HTTP/1.1\r\n${HOST}X-Forwarded-For: 6.6.6.6, ${address}\r\n${UPGRADE}\r\n`,
    );
  const first = from("192.0.2.1");
  t.match(await heard(first), /^HTTP\/1\.1 101 /);
  t.match(await heard(from("192.0.2.1")), /^HTTP\/1\.1 101 /);
  const third = await untilClosed(from("192.0.2.1"));
  t.same(statusesIn(third), [503]);
  t.match(problemIn(third), { code: "no_room", limit: 2 });
  t.match(await heard(from("192.0.2.2")), /^HTTP\/1\.1 101 /);
  first.destroy();
  await until(async () =>
    /^HTTP\/1\.1 101 /.test(await heard(from("192.0.2.1"))),
  );

  const untrusting = await startWsFn(t, {
    ...env,
    MAX_CONNECTIONS_PER_ADDRESS: "1",
  });
  const spoofing = (address: string) =>
    dial(
      t,
      untrusting.port,
      `GET /ws HTTP/1.1\r\n${HOST}X-Forwarded-For: ${address}\r\n${UPGRADE}\r\n`,
    );
  t.match(await heard(spoofing("192.0.2.1")), /^HTTP\/1\.1 101 /);
  const second = await untilClosed(spoofing("192.0.2.2"));
  t.same(statusesIn(second), [503], "a stranger's header is worth nothing");
});

t.test("who is refused and does not hang up is cut", async (t) => {
  const wsFn = await startWsFn(t, { ...env, MAX_CONNECTIONS: "1" });
  const stays = connect({
    port: wsFn.port,
    host: "127.0.0.1",
    allowHalfOpen: true,
  });
  stays.on("error", () => undefined);
  t.teardown(() => stays.destroy());
  stays.write(`GET /nothing HTTP/1.1\r\n${HOST}${UPGRADE}\r\n`);
  t.match(await heard(stays), /^HTTP\/1\.1 404 /);
  await until(async () => {
    const next = dial(t, wsFn.port, `GET /healthz HTTP/1.1\r\n${HOST}\r\n`);
    return /^HTTP\/1\.1 200 /.test(await heard(next));
  });
  t.equal(stays.destroyed, false, "it has not hung up itself");
});

t.test("400 idle sockets do not block 256 descriptors", async (t) => {
  const files = 256;
  const functions = await Promise.all([startHttpFn(t, env), startWsFn(t, env)]);
  for (const { pid, port } of functions) {
    await promisify(execFile)("prlimit", [
      `--pid=${pid}`,
      `--nofile=${files}:`,
    ]);
    // The limit is looked at once in a second.
    await until(async () => {
      const idle = Array.from({ length: files }, () => dial(t, port));
      await until(() => idle.every(({ connecting }) => !connecting));
      const kept = () => idle.filter(({ closed }) => !closed).length;
      return until(() => kept() < files - 60, { ms: 500 }).catch(() => false);
    });
    const idle = Array.from({ length: 400 }, () => dial(t, port));
    await until(() => idle.every(({ connecting }) => !connecting));
    for (let n = 0; n < 3; n += 1)
      t.match(
        await heard(dial(t, port, `GET /readyz HTTP/1.1\r\n${HOST}\r\n`)),
        /^HTTP\/1\.1 200 /,
        "with its connection to Redis",
      );
    for (const socket of idle) socket.destroy();
  }
});
