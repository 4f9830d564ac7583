// How the clients of each system speak: where they dial, what a frame is, what they answer.
import { textFrame, type Dial } from "./light-socket.js";
import { readBridge, readPlain, readSocketIo, type Read } from "./message.js";

export type Speech = "plain" | "raw" | "bridge.v1.json" | "socket.io";

/** A connection to be opened. */
export interface Target {
  speech: Speech;
  port: number;
  /** What a POST addresses it by; undefined where the server says it when the client is there. */
  id: string | undefined;
  /** What the bridge let its client in by. */
  token: string | undefined;
}

/** What a client knows when it comes back. */
export interface Standing {
  /** Resume token of the bridge, `pid` of Socket.IO. */
  pass: string;
  seq: number;
  /** Of Socket.IO's stream. */
  offset: string | undefined;
  /** Of the bridge's groups. */
  groups: ReadonlyMap<string, string>;
}

/** The first frame that says that messages flow. */
export interface Welcome {
  is: "welcome";
  id?: string | undefined;
  pass?: string | undefined;
  /** Milliseconds between two acks; undefined: no acks. */
  ackMs?: number;
  groupAckMs?: number;
  groups?: ReadonlyMap<string, string>;
}

/** What a frame is; undefined: nothing to do. */
export type Heard =
  | Welcome
  | ({ is: "message" } & Read)
  | { is: "hello" }
  | { is: "question"; answer: Buffer }
  | undefined;

/** Used when `welcome` names no interval, as in the client library. */
const ACK_INTERVAL_MS = 250;
const PONG = textFrame('{"type":"pong"}');
const ENGINE_PONG = textFrame("3");

const readers: Record<Speech, (frame: string) => Heard> = {
  plain: (frame) =>
    frame === "ready"
      ? { is: "welcome" }
      : { is: "message", number: readPlain(frame) },
  raw(frame) {
    if (!frame.startsWith('{"type":"welcome"'))
      return { is: "message", number: readPlain(frame) };
    const { connectionId } = JSON.parse(frame) as { connectionId: string };
    return { is: "welcome", id: connectionId };
  },
  "bridge.v1.json"(frame) {
    const message = readBridge(frame);
    if (message) return { is: "message", ...message };
    if (frame.startsWith('{"type":"ping"'))
      return { is: "question", answer: PONG };
    return frame.startsWith('{"type":"welcome"')
      ? readWelcome(frame)
      : undefined;
  },
  "socket.io"(frame) {
    const message = readSocketIo(frame);
    if (message) return { is: "message", ...message };
    if (frame === "2") return { is: "question", answer: ENGINE_PONG };
    if (frame.startsWith("0{")) return { is: "hello" };
    if (!frame.startsWith("40{")) return undefined;
    const { sid, pid } = JSON.parse(frame.slice(2)) as {
      sid: string;
      pid?: string;
    };
    return { is: "welcome", id: sid, pass: pid };
  },
};

function readWelcome(frame: string): Welcome {
  const { connectionId, resumeToken, groups, limits } = JSON.parse(frame) as {
    connectionId: string;
    resumeToken: string;
    groups?: Record<string, { offset: number }>;
    limits?: { ackIntervalMs?: number; groupAckIntervalMs?: number };
  };
  const ackMs = limits?.ackIntervalMs ?? ACK_INTERVAL_MS;
  return {
    is: "welcome",
    id: connectionId,
    pass: resumeToken,
    ackMs,
    groupAckMs: limits?.groupAckIntervalMs ?? ackMs,
    groups: new Map(
      Object.entries(groups ?? {}).map(([name, { offset }]) => [
        name,
        String(offset),
      ]),
    ),
  };
}

/** Reads frames of a system. A frame like the last message is not read again: a broadcast is the same for thousands. */
export function reader(speech: Speech): (payload: Buffer) => Heard {
  const read = readers[speech];
  let last: { payload: Buffer; heard: Heard } | undefined;
  return (payload) => {
    if (last?.payload.equals(payload)) return last.heard;
    const heard = read(payload.toString("latin1"));
    if (heard?.is === "message")
      last = { payload: Buffer.from(payload), heard };
    return heard;
  };
}

/** Where a client dials; `attempt` is how the bridge tells its attempts apart. */
export function dialOf(
  { speech, port, id, token }: Target,
  attempt: string,
  standing: Standing | undefined,
): Dial {
  const bearer = token && !standing ? `Authorization: Bearer ${token}\r\n` : "";
  switch (speech) {
    case "plain":
      return { port, path: `/?id=${id}`, headers: "" };
    case "raw":
      return { port, path: "/ws", headers: bearer };
    case "bridge.v1.json":
      return {
        port,
        path: `/ws?attempt=${attempt}${standing ? resuming(standing) : ""}`,
        headers: `Sec-WebSocket-Protocol: bridge.v1.json\r\n${bearer}`,
      };
    case "socket.io":
      return {
        port,
        path: "/socket.io/?EIO=4&transport=websocket",
        headers: "",
      };
  }
}

function resuming({ pass, seq, groups }: Standing): string {
  const places = [...groups].map(([name, offset]) => `${name}:${offset}`);
  return `&${new URLSearchParams({
    resume: pass,
    seq: String(seq),
    ...(places.length > 0 && { groups: places.join(",") }),
  }).toString()}`;
}

/** The answer to Engine.IO's greeting: enters the one namespace there is, with what is known from before. */
export function entering(standing: Standing | undefined): Buffer {
  if (standing?.offset === undefined) return ENTERING;
  const { pass: pid, offset } = standing;
  return textFrame(`40${JSON.stringify({ pid, offset })}`);
}

const ENTERING = textFrame("40");
