/** C1: those who do not read, who read slowly, and who come back all at once to much that waits. */
import http from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

import { call, prepare, type Target } from "../target.js";
import { crowd, inTurns, soon, type Haul } from "../weapon.js";
import { Wire } from "../wire.js";

export interface Readers extends Record<string, number> {
  readonly sockets: number;
  readonly broadcasts: number;
  readonly bytes: number;
  /** How long one looks on when nobody publishes any more. */
  readonly holdMs: number;
  /** Reads for 3 ms out of so many; 0 reads nothing. */
  readonly readEveryMs: number;
}

const READ_MS = 3;

/** Sockets that read little or nothing, broadcasts to all, and then nobody says a word. */
export async function readers(target: Target, size: Readers): Promise<Haul> {
  const { wires, refused } = await crowd(target, size.sockets, {
    keeps: false,
  });
  for (const { socket } of wires) socket.pause();
  const timers =
    size.readEveryMs > 0
      ? wires.map(({ socket }) =>
          setInterval(() => {
            socket.resume();
            setTimeout(() => socket.pause(), READ_MS);
          }, size.readEveryMs),
        )
      : [];
  const agent = new http.Agent({ keepAlive: true });
  let published = 0;
  for (let n = 0; n < size.broadcasts; n += 1) {
    const { status } = await call(target, "POST", "/v1/broadcast", {
      body: "x".repeat(size.bytes),
      headers: { "content-type": "text/plain" },
      agent,
    });
    if (status === 202) published += 1;
  }
  await sleep(size.holdMs);
  agent.destroy();
  timers.forEach(clearInterval);
  return {
    sockets: wires.length,
    refused,
    published,
    publishedBytes: published * size.bytes,
    cut: wires.filter(({ isGone }) => isGone).length,
  };
}

export interface Comeback extends Record<string, number> {
  readonly connections: number;
  readonly messages: number;
  readonly bytes: number;
  readonly patienceMs: number;
}

/** Much waits for many connections, and all of them come at once. They read as fast as they can, and never ack. */
export async function comeback(target: Target, size: Comeback): Promise<Haul> {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 8 });
  const tokens: string[] = [];
  let stored = 0;
  await inTurns(size.connections, 8, async () => {
    const { connectionId, token } = await prepare(target);
    for (let n = 0; n < size.messages; n += 1) {
      const { status } = await call(
        target,
        "POST",
        `/v1/connections/${connectionId}/messages`,
        {
          body: "y".repeat(size.bytes),
          headers: { "content-type": "text/plain" },
          agent,
        },
      );
      if (status === 202) stored += 1;
    }
    tokens.push(token);
  });
  agent.destroy();
  let refused = 0;
  const wires: Wire[] = [];
  let messages = 0;
  await Promise.all(
    tokens.map((token) =>
      Wire.dial({
        port: target.wsPort,
        path: `/ws?token=${token}`,
        keeps: false,
        onFrame: ({ payload }) => {
          const head = payload.toString("latin1", 0, 200);
          const [, part, parts] =
            /"part":(\d+),"parts":(\d+)/.exec(
              payload.toString("latin1", payload.length - 60),
            ) ?? [];
          if (head.includes('"type":"message"') && part === parts)
            messages += 1;
        },
      }).then(
        (wire) => void wires.push(wire),
        () => void (refused += 1),
      ),
    ),
  );
  await soon(() => messages >= stored, size.patienceMs);
  return {
    dialled: tokens.length,
    refused,
    stored,
    storedBytes: stored * size.bytes,
    missing: stored - messages,
    cut: wires.filter(({ isGone }) => isGone).length,
  };
}
