// Every smuggling case, straight to the built functions and through a real nginx and a real haproxy: no request takes effect
// that the proxy did not take for one, and who asks next on the same connections gets the own answer.

import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { connect, createServer, type AddressInfo } from "node:net";

import t, { type Test } from "tap";

import { call, prepare } from "../../scripts/attacks/target.js";
import { inTurns } from "../../scripts/attacks/weapon.js";
import type { Connection } from "../../shared/api.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import {
  proxyNames,
  startFrontProxy,
  type Ports,
} from "../fixtures/front-proxies.js";
import {
  smugglingCases,
  type Piece,
  type SmugglingCase,
} from "./smuggling-cases.js";

t.setTimeout(240_000);

/** Longer than the functions wait for the rest of a request, ms. */
const SILENCE_MS = 15_000;
const kinds = ["http", "ws"] as const;
type Kind = (typeof kinds)[number];
/** The case whose hidden request everybody takes for one. */
const PIPELINED = "data behind a body";

const key = randomBytes(24).toString("base64url");
const authorization = `Authorization: Bearer ${key}\r\n`;
const lines = `Host: 127.0.0.1\r\n${authorization}`;

/** A hidden request, and how it is known. */
interface Marker {
  /** In the path of the hidden request, and nowhere else. */
  readonly text: string;
  readonly connectionId: string;
  readonly piece: Piece;
}

/** A hidden request that would be seen: a message that waits for a connection, or a connection that has been opened. */
function markerOf(
  kind: Kind,
  prepared: { connectionId: string; token: string },
  carrier: string,
): Marker {
  const { connectionId, token } = prepared;
  const hidden =
    kind === "http"
      ? `POST /v1/connections/${connectionId}/messages HTTP/1.1\r\n${lines}Content-Length: 0\r\n\r\n`
      : `GET /ws?token=${token} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n`;
  const path =
    kind === "http" ? `/v1/connections/${carrier}/messages` : "/healthz";
  const text = kind === "http" ? connectionId : token;
  return { text, connectionId, piece: { path, lines, hidden } };
}

let names = 0;
/** A name that no other request says. */
const freshName = (): string => `honest-${(names += 1)}`;
const honestRequest = (name: string, more = ""): string =>
  `GET /v1/groups/${name} HTTP/1.1\r\n${lines}${more}\r\n`;

/** Where the heads of answers are; 100 Continue is none. */
const finalAnswers = (text: string): string[] =>
  text
    .split(/(?=HTTP\/1\.[01] [2-9]\d\d )/)
    .filter((part) => /^HTTP\/1\.[01] (?:101|[2-9]\d\d) /.test(part));
const isWhole = (answer: string, isHead: boolean): boolean => {
  const end = answer.indexOf("\r\n\r\n");
  if (end < 0 || isHead) return end >= 0;
  const length = /^content-length: (\d+)/im.exec(answer.slice(0, end))?.[1];
  if (length !== undefined) return answer.length >= end + 4 + Number(length);
  return (
    !/^transfer-encoding: chunked/im.test(answer) ||
    answer.endsWith("0\r\n\r\n")
  );
};

/**
 * Writes the bytes, waits for the first answer (or for the end, where there is none), and then for `meanwhile`, while the line
 * is open. Without one it asks once more instead: by the answer all that was taken for requests before has been answered.
 */
async function attack(
  port: number,
  bytes: string,
  meanwhile?: () => Promise<void>,
): Promise<void> {
  let text = "";
  const socket = connect(port, "127.0.0.1", () =>
    socket.write(bytes, "latin1"),
  );
  socket.setEncoding("latin1");
  socket.setTimeout(SILENCE_MS, () => socket.destroy());
  socket.on("error", () => undefined);
  const closed = new Promise<void>((resolve) => {
    socket.on("close", () => resolve());
  });
  const answered = new Promise<void>((resolve) => {
    socket.on("data", (chunk: string) => {
      text += chunk;
      const [first] = finalAnswers(text);
      if (first && isWhole(first, bytes.startsWith("HEAD "))) resolve();
    });
  });
  await Promise.race([answered, closed]);
  if (meanwhile) {
    await meanwhile();
    socket.destroy();
  } else socket.write(honestRequest(freshName(), "Connection: close\r\n"));
  await closed;
}

/** One request on a connection of its own, and all that was said to it; after a 101 it hangs up. */
function asked(port: number, request: string): Promise<string> {
  return new Promise((resolve) => {
    let text = "";
    const socket = connect(port, "127.0.0.1", () => socket.write(request));
    socket.setEncoding("latin1");
    socket.setTimeout(SILENCE_MS, () => socket.destroy());
    socket.on("data", (chunk: string) => {
      text += chunk;
      if (/^HTTP\/1\.1 101 [^]*\r\n\r\n/.test(text)) socket.destroy();
    });
    socket.on("error", () => undefined);
    socket.on("close", () => resolve(text));
  });
}

/** What is wrong with the answers that somebody else gets now. */
async function honest(
  kind: Kind,
  port: number,
  token: string,
): Promise<string[]> {
  const wrong: string[] = [];
  const isAnswer = (text: string, pattern: RegExp, count = 1) => {
    if (!pattern.test(text) || finalAnswers(text).length !== count)
      wrong.push(`not ${String(pattern)}: ${JSON.stringify(text)}`);
  };
  if (kind === "http") {
    for (let count = 0; count < 2; count++) {
      const name = freshName();
      const request = honestRequest(name, "Connection: close\r\n");
      isAnswer(
        await asked(port, request),
        new RegExp(`^HTTP/1.1 200 [^]*\\b${name}\\b`),
      );
    }
    return wrong;
  }
  const health = `GET /healthz HTTP/1.1\r\n${lines}Connection: close\r\n\r\n`;
  isAnswer(await asked(port, health), /^HTTP\/1.1 200 [^]*"status":"ok"/);
  const nonce = randomBytes(16).toString("base64");
  const accept = createHash("sha1")
    .update(`${nonce}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
    .digest("base64");
  const opened = await asked(
    port,
    `GET /ws?token=${token} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${nonce}\r\n\r\n`,
  );
  if (!opened.startsWith("HTTP/1.1 101 ") || !opened.includes(accept))
    wrong.push(`not its 101: ${JSON.stringify(opened)}`);
  return wrong;
}

interface Way {
  readonly name: string;
  readonly kind: Kind;
  readonly port: number;
  readonly cases: readonly SmugglingCase[];
  /** One for each case. */
  readonly markers: readonly Marker[];
  /** Opens a connection of somebody else. */
  readonly token: string;
  /** What the proxy took for requests. Undefined: there is none, and RFC 9112 says what is one. */
  readonly requestLines: (() => string[]) | undefined;
  /** Whether the hidden request was taken for one. */
  tookEffect(marker: Marker): boolean | Promise<boolean>;
}

interface Found {
  /** Hidden requests that were requests in their own right. */
  readonly taken: readonly string[];
  /** … though the proxy, or RFC 9112, took them for none. */
  readonly smuggled: readonly string[];
  /** Answers that were another's. */
  readonly mixedUp: readonly string[];
}

/** Straight to a function nothing is shared, so many cases go at once; behind a proxy each has its own next one. */
async function attackAll(way: Way): Promise<Found> {
  const { kind, port, cases, markers, token, requestLines } = way;
  const mixedUp: string[] = [];
  const nextOne = async (after: string) => {
    for (const wrong of await honest(kind, port, token))
      mixedUp.push(`${way.name}, after ${after}: ${wrong}`);
  };
  await inTurns(cases.length, requestLines ? 1 : 8, async (index) => {
    const one = cases[index];
    const marker = markers[index];
    if (!one || !marker) return;
    await attack(
      port,
      one.bytes(marker.piece),
      requestLines && (() => nextOne(one.name)),
    );
  });
  await nextOne("all");

  const taken: string[] = [];
  const smuggled: string[] = [];
  for (const [index, one] of cases.entries()) {
    const marker = markers[index];
    if (!marker || !(await way.tookEffect(marker))) continue;
    const name = `${way.name}, ${kind}-fn: ${one.name}`;
    taken.push(name);
    const isOne = requestLines
      ? requestLines().some((line) => line.includes(marker.text))
      : one.pipelined === true;
    if (!isOne) smuggled.push(name);
  }
  return { taken, smuggled, mixedUp };
}

t.test("the built functions, straight and behind proxies", async (t) => {
  t.equal(
    new Set(smugglingCases.map(({ name }) => name)).size,
    smugglingCases.length,
    `${smugglingCases.length} cases`,
  );
  const redis = await singleRedis(t);
  const sha256 = createHash("sha256").update(key).digest("hex");
  const env = {
    REDIS_URL: redis.url,
    LOG_LEVEL: "error",
    API_KEYS: `all:admin:${sha256}`,
    TOKEN_KEYS: `app:${randomBytes(32).toString("base64")}`,
  };
  const [httpFn, wsFn] = await Promise.all([
    startHttpFn(t, env),
    startWsFn(t, env),
  ]);
  const own: Ports = { http: httpFn.port, ws: wsFn.port };
  const target = { httpPort: own.http, wsPort: own.ws, key, secret: "" };
  const tookEffect = async ({ connectionId }: Marker): Promise<boolean> => {
    const path = `/v1/connections/${connectionId}`;
    const { status, body } = await call(target, "GET", path);
    const { state, pending } = JSON.parse(body.toString()) as Connection;
    return status !== 200 || state !== "prepared" || pending !== 0;
  };
  const markersFor = async (kind: Kind): Promise<Marker[]> => {
    const carrier = await prepare(target);
    const markers: Marker[] = [];
    await inTurns(smugglingCases.length, 8, async (index) => {
      const prepared = await prepare(target);
      markers[index] = markerOf(kind, prepared, carrier.connectionId);
    });
    return markers;
  };

  const attackBoth = async (
    name: string,
    ports: Ports,
    requestLines?: () => string[],
  ): Promise<void> => {
    await Promise.all(
      kinds.map(async (kind) => {
        const { token } = await prepare(target);
        const { taken, smuggled, mixedUp } = await attackAll({
          name,
          kind,
          port: ports[kind],
          cases: smugglingCases,
          markers: await markersFor(kind),
          token,
          requestLines,
          tookEffect,
        });
        t.same(smuggled, [], `${name}, ${kind}-fn: nothing is smuggled`);
        t.same(mixedUp, [], `${name}, ${kind}-fn: each has the own answer`);
        t.ok(
          taken.some((one) => one.endsWith(PIPELINED)),
          `${name}, ${kind}-fn: a hidden request that is one is seen`,
        );
      }),
    );
  };
  await Promise.all([
    attackBoth("straight", own),
    ...proxyNames.map(async (name) => {
      const proxy = await startFrontProxy(t, name, own);
      if (!proxy)
        return t.comment(`${name} cannot be installed here: left out`);
      await attackBoth(name, proxy.ports, () => proxy.requestLines());
    }),
  ]);
});

/** Cases that both proxies pass on. */
const passedOn = smugglingCases.filter(({ name }) =>
  ["GET with a body", "Transfer_Encoding", "hop-by-hop CL"].includes(name),
);

/**
 * A server that takes every line that looks like it for the begin of a request, bodies or not, and answers a hidden one as
 * late as may be: before the next one. What carries one is answered when the hidden one is there.
 */
async function startNaive(
  t: Test,
  isHidden: (path: string) => boolean,
): Promise<{ port: number; paths: string[] }> {
  const paths: string[] = [];
  const server = createServer((socket) => {
    let held = "";
    socket.on("error", () => undefined);
    socket.on("data", (chunk: Buffer) => {
      const text = chunk.toString("latin1");
      for (const [, path = ""] of text.matchAll(
        /^[A-Z]+ (\S+) HTTP\/1\.[01]\r?$/gm,
      )) {
        paths.push(path);
        const answer = `HTTP/1.1 200 OK\r\nContent-Length: ${path.length}\r\n\r\n${path}`;
        if (isHidden(path)) {
          socket.write(held);
          held = answer;
        } else if (path.includes("/carrier/")) held = answer;
        else {
          socket.write(held + answer);
          held = "";
        }
      }
      if (/^connection: close\r$/im.test(text)) socket.end();
    });
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  t.teardown(() => server.close());
  return { port: (server.address() as AddressInfo).port, paths };
}

t.test("a server that reads bodies as requests is found out", async (t) => {
  const markers = passedOn.map((_, index) =>
    markerOf("http", { connectionId: `hidden-${index}`, token: "" }, "carrier"),
  );
  const naive = async () => {
    const { port, paths } = await startNaive(t, (path) =>
      path.includes("/hidden-"),
    );
    const tookEffect = ({ text }: Marker) =>
      paths.some((path) => path.includes(text));
    return { own: { http: port, ws: port }, tookEffect };
  };
  const way = {
    kind: "http" as const,
    cases: passedOn,
    markers,
    token: "",
  };
  t.equal(passedOn.length, 3);
  const { own, tookEffect } = await naive();
  const { smuggled } = await attackAll({
    ...way,
    name: "straight",
    port: own.http,
    requestLines: undefined,
    tookEffect,
  });
  t.equal(smuggled.length, passedOn.length, "straight");
  for (const name of proxyNames) {
    const { own, tookEffect } = await naive();
    const proxy = await startFrontProxy(t, name, own);
    if (!proxy) {
      t.comment(`${name} cannot be installed here: left out`);
      continue;
    }
    const { smuggled, mixedUp } = await attackAll({
      ...way,
      name,
      port: proxy.ports.http,
      requestLines: () => proxy.requestLines(),
      tookEffect,
    });
    t.ok(smuggled.length > 0, `${name}: ${smuggled.length} are smuggled`);
    t.ok(
      mixedUp.length > 0,
      `${name}: ${mixedUp.length} answers are another's`,
    );
  }
});
