/** What the two ways to speak have in common: how a connection's events become frames, and frames become events. */
import type { Problem } from "../shared/api.js";
import type { Entry } from "../shared/entry.js";

/** One WebSocket frame. */
export interface Frame {
  data: string | Buffer;
  binary: boolean;
}

export interface WelcomeFacts {
  connectionId: string;
  userId: string;
  resumeToken: string;
  resumed: boolean;
  lost: boolean;
  seq: number;
  heartbeatMs: number;
}

/** What a client said. */
export type Said =
  | { kind: "ack"; seq: number }
  | { kind: "pong" }
  | { kind: "event"; event: string; ref: string | undefined }
  /** Understood, but not to be had: answered with a problem. */
  | { kind: "refused"; ref: string | undefined; error: Error }
  /** Not of this protocol: closed with 1008. */
  | { kind: "violation"; error: Error };

export interface Speaker {
  readonly protocol: "raw" | "bridge.v1.json";
  /** True when the client acks; otherwise what the socket took counts as delivered. */
  readonly acks: boolean;
  welcome(facts: WelcomeFacts): Frame | undefined;
  /** The frames of one message; more than one when it would exceed the frame limit. */
  message(entry: Entry, redelivered: boolean): Frame[];
  /** undefined: this client asks for no data-frame heartbeat. */
  ping(): Frame | undefined;
  drain(reconnectAfterMs: number): Frame | undefined;
  error(problem: Problem): Frame | undefined;
  result(ref: string, problem: Problem): Frame | undefined;
  read(data: Buffer, binary: boolean): Said;
}
