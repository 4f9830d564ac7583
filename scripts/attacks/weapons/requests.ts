/** H2, H5, M6, M7: what HTTP is asked, too much of it and all at once. */
import http from "node:http";
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

import { call, tokenOf, type Target } from "../target.js";
import { crowd, inTurns, soon, type Haul } from "../weapon.js";
import { said, Wire } from "../wire.js";

export interface Pipeline extends Record<string, number> {
  readonly requests: number;
  /** Looks no longer than until all sockets are closed or each had so many answers, */
  readonly enough: number;
  /** or so long. */
  readonly ms: number;
}

const plain = (line: string): string =>
  `${line} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n`;

/** Requests without a key, all in one write, on one socket to each function. */
export async function pipeline(
  { httpPort, wsPort }: Target,
  { requests, enough, ms }: Pipeline,
): Promise<Haul> {
  const [refusals, health, wsHealth] = [
    piped(httpPort, plain("POST /v1/broadcast"), requests),
    piped(httpPort, plain("GET /healthz"), requests),
    piped(wsPort, plain("GET /healthz"), requests),
  ];
  await soon(
    () =>
      [refusals, health, wsHealth].every(
        ({ isGone, answers }) => isGone() || answers() > enough,
      ),
    ms,
  );
  return {
    refusals: refusals.answers(),
    health: health.answers(),
    wsHealth: wsHealth.answers(),
  };
}

function piped(port: number, request: string, count: number) {
  const socket = connect(port, "127.0.0.1");
  let answers = 0;
  let isGone = false;
  socket.on("data", (chunk: Buffer) => {
    answers += chunk.toString("latin1").split("HTTP/1.1 ").length - 1;
  });
  socket.on("error", () => undefined);
  socket.on("close", () => (isGone = true));
  socket.write(request.repeat(count));
  return { answers: () => answers, isGone: () => isGone };
}

export interface Names extends Record<string, number> {
  readonly requests: number;
  readonly atOnce: number;
  readonly ms: number;
}

/** An empty message to a new name of a group, again and again. */
export async function names(
  target: Target,
  { requests, atOnce, ms }: Names,
): Promise<Haul> {
  const agent = new http.Agent({ keepAlive: true });
  const until = performance.now() + ms;
  const haul: Haul = { taken: 0, limited: 0, others: 0 };
  const run = Math.random().toString(36).slice(2);
  await inTurns(requests, atOnce, async (index) => {
    if (performance.now() > until) return;
    const path = `/v1/groups/${run}-${index}/messages`;
    const { status } = await call(target, "POST", path, { body: "", agent });
    const kind =
      status === 202 ? "taken" : status === 429 ? "limited" : "others";
    haul[kind] = (haul[kind] ?? 0) + 1;
  });
  agent.destroy();
  return haul;
}

export interface Connects extends Record<string, number> {
  readonly connects: number;
  readonly ms: number;
}

/** One user's token opens one new connection after the other, and leaves each. */
export async function connects(
  target: Target,
  { connects: count, ms }: Connects,
): Promise<Haul> {
  const token = tokenOf(target, { sub: "mallory" });
  const until = performance.now() + ms;
  let opened = 0;
  let refused = 0;
  await inTurns(count, 20, async () => {
    if (performance.now() > until) return;
    await Wire.dial({
      port: target.wsPort,
      path: `/ws?token=${token}`,
      keeps: false,
    }).then(
      (wire) => {
        opened += 1;
        wire.cut();
      },
      () => void (refused += 1),
    );
  });
  return { opened, refused };
}

export interface Idle extends Record<string, number> {
  readonly sockets: number;
  readonly refusals: number;
  readonly holdMs: number;
}

/** Sockets that say nothing, and refusals that each want a line in the log. */
export async function idle(
  target: Target,
  { sockets, refusals, holdMs }: Idle,
): Promise<Haul> {
  const open: Socket[] = [];
  await inTurns(sockets, 50, async () => {
    const socket = connect(target.httpPort, "127.0.0.1");
    socket.on("error", () => undefined);
    open.push(socket);
    await new Promise((resolve) => socket.once("connect", resolve));
  });
  await sleep(holdMs);
  let answered = 0;
  await Promise.race([
    inTurns(3, 3, async () => {
      const { status } = await call(target, "GET", "/healthz", { key: null });
      if (status === 200) answered += 1;
    }),
    sleep(5_000),
  ]).catch(() => undefined);
  const kept = open.filter((socket) => !socket.closed).length;
  for (const socket of open) socket.destroy();
  let refused = 0;
  const agent = new http.Agent({ keepAlive: true });
  await inTurns(refusals, 20, async () => {
    await call(target, "GET", "/v1/connections", { key: null, agent }).then(
      ({ status }) => void (refused += status === 401 ? 1 : 0),
      () => undefined,
    );
  });
  agent.destroy();
  return { kept, answered, refused };
}

export interface Nested extends Record<string, number> {
  /** Of each body. */
  readonly bytes: number;
}

/** Batches that are nothing but brackets: in depth, side by side, and as the data of lines. */
export async function nested(target: Target, { bytes }: Nested): Promise<Haul> {
  const half = Math.floor(bytes / 2);
  const depth = 60_000;
  const line = `{"to":{"group":"nested"},"data":${"[".repeat(depth)}${"]".repeat(depth)}}\n`;
  const bodies = {
    deep: `${"[".repeat(half)}${"]".repeat(half)}`,
    wide: `[${"[],".repeat(Math.floor(bytes / 3) - 1)}[]]`,
    lines: line.repeat(Math.ceil(bytes / line.length)),
  };
  const haul: Haul = {};
  for (const [name, body] of Object.entries(bodies)) {
    const type = name === "lines" ? "x-ndjson" : "json";
    // It may be cut off in the middle, which is an answer too.
    haul[name] = await call(target, "POST", "/v1/batch", {
      body,
      headers: { "content-type": `application/${type}` },
    }).then(
      ({ status }) => status,
      () => 0,
    );
  }
  return haul;
}

export interface Followers extends Record<string, number> {
  readonly followers: number;
  /** Each said by a client of its own, which its limits allow. */
  readonly events: number;
  readonly bytes: number;
  readonly holdMs: number;
}

/** Large events, and followers from the first one kept who do not read. */
export async function followers(
  target: Target,
  { followers: count, events, bytes, holdMs }: Followers,
): Promise<Haul> {
  const { wires } = await crowd(target, events);
  const data = "f".repeat(bytes);
  for (const wire of wires)
    wire.write(said({ type: "event", event: "large", data, ref: "1" }));
  const results = await Promise.all(
    wires.map((wire) => wire.hears(({ type }) => type === "result")),
  );
  const open: Socket[] = [];
  let cut = 0;
  for (let n = 0; n < count; n += 1) {
    const socket = connect(target.httpPort, "127.0.0.1");
    socket.on("error", () => undefined);
    socket.on("close", () => (cut += 1));
    socket.pause();
    socket.write(
      `GET /v1/events?lastEventId=0 HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ${target.key}\r\n\r\n`,
    );
    open.push(socket);
  }
  await sleep(holdMs);
  return {
    followers: open.length,
    cut,
    said: results.filter((result) => result?.["ok"] === true).length,
  };
}
