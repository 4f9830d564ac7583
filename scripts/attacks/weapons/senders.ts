/** H1, H5, H6: what one socket says, too much of it and all at once. */
import { once } from "node:events";
import type { Socket } from "node:net";

import { tokenOf, type Target } from "../target.js";
import { soon, type Haul } from "../weapon.js";
import { frameOf, OPCODE, said, Wire } from "../wire.js";

async function open(target: Target, claims: object = {}): Promise<Wire> {
  const wire = await Wire.dial({
    port: target.wsPort,
    path: `/ws?token=${tokenOf(target, { sub: "mallory", ...claims })}`,
  });
  await wire.hears(({ type }) => type === "welcome");
  return wire;
}

const end = ({ isGone, closeCode }: Wire): Haul => ({
  cut: isGone ? 1 : 0,
  ...(closeCode !== undefined && { closeCode }),
});

export interface Frames extends Record<string, number> {
  /** In one write. */
  readonly atOnce: number;
  /** Writes, one every 10 ms. */
  readonly writes: number;
  readonly bytes: number;
  /** How long one looks on after the last of them. */
  readonly holdMs: number;
}

const event = (bytes: number): Buffer =>
  said({ type: "event", event: "e", data: "z".repeat(bytes) });

/** Many events in one segment; or some in every hundredth of a second. */
export async function frames(target: Target, size: Frames): Promise<Haul> {
  const wire = await open(target);
  const bytes = Buffer.concat(
    Array.from({ length: size.atOnce }, () => event(size.bytes)),
  );
  let writes = 0;
  await soon(
    () => {
      if (writes === size.writes || wire.isGone) return true;
      wire.write(bytes);
      writes += 1;
      return false;
    },
    size.writes * 10 + 20_000,
    10,
  );
  await wire.ends(size.holdMs);
  return { sent: writes * size.atOnce, ...end(wire) };
}

export interface Publishes extends Record<string, number> {
  readonly frames: number;
  readonly bytes: number;
  readonly holdMs: number;
}

/** A socket that may publish to every group publishes to a new one with every frame. */
export async function publishes(
  target: Target,
  size: Publishes,
): Promise<Haul> {
  const wire = await open(target, { permissions: ["publish:*"] });
  const data = "p".repeat(size.bytes);
  wire.write(
    Buffer.concat(
      Array.from({ length: size.frames }, (_, n) =>
        said({ type: "publish", group: `new-${n}`, data, ref: `${n}` }),
      ),
    ),
  );
  await wire.ends(size.holdMs);
  const taken = wire.said.filter(({ type, ok }) => type === "result" && ok);
  return { sent: size.frames, taken: taken.length, ...end(wire) };
}

export interface Controls extends Record<string, number> {
  readonly opcode: number;
  /** Most frames that are written. */
  readonly most: number;
  readonly ms: number;
}

/** Control frames as fast as they are taken. */
export async function controls(target: Target, size: Controls): Promise<Haul> {
  const wire = await open(target);
  const each = frameOf(size.opcode);
  const perWrite = 10_000;
  const bytes = Buffer.concat(Array.from({ length: perWrite }, () => each));
  const until = performance.now() + size.ms;
  let sent = 0;
  while (
    sent < size.most &&
    performance.now() < until &&
    !wire.isGone &&
    wire.closeCode === undefined
  ) {
    sent += perWrite;
    if (!wire.socket.write(bytes)) await drained(wire.socket, until);
  }
  await wire.ends(Math.max(1, until - performance.now()));
  const pongs = wire.frames.filter(({ opcode }) => opcode === OPCODE.pong);
  return { sent, pongs: pongs.length, ...end(wire) };
}

/** Until there is room to write, the line ends or it is `until`. */
async function drained(socket: Socket, until: number): Promise<void> {
  const over = AbortSignal.timeout(
    Math.max(1, Math.ceil(until - performance.now())),
  );
  const stop = new AbortController();
  const signal = AbortSignal.any([over, stop.signal]);
  await Promise.race([
    once(socket, "drain", { signal }),
    once(socket, "close", { signal }),
  ]).catch(() => undefined);
  stop.abort();
}
