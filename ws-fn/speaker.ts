/** What the two ways to speak have in common: how a connection's events become frames, and frames become events. */
import type { GroupPosition, Problem } from "../shared/api.js";
import type { Entry } from "../shared/entry.js";
import type { GroupEntry } from "../shared/fanout.js";

/** One WebSocket frame. */
export interface Frame {
  data: string | Buffer;
  binary: boolean;
  /** The same for many sockets: server.ts keeps its bytes on the wire in `wire` and writes them to each. */
  shared?: boolean;
  wire?: Buffer;
  /** Nothing is to follow in this turn of the event loop that it could share a system call with. */
  now?: boolean;
}

export interface WelcomeFacts {
  connectionId: string;
  userId: string;
  resumeToken: string;
  resumed: boolean;
  lost: boolean;
  seq: number;
  heartbeatMs: number;
  groups: Record<string, GroupPosition>;
}

/** What a client asks of a group. */
export type GroupRequest =
  | {
      kind: "group";
      action: "join" | "leave";
      group: string;
      ref: string | undefined;
    }
  | {
      kind: "group";
      action: "publish";
      group: string;
      ref: string | undefined;
      data: string;
      contentType: string;
    };

/** What a client said. */
export type Said =
  | {
      kind: "ack";
      seq: number | undefined;
      groups: Readonly<Record<string, number>> | undefined;
    }
  | GroupRequest
  | { kind: "pong" }
  | {
      kind: "event";
      event: string;
      ref: string | undefined;
      contentType: string;
      binary: boolean;
      body: Buffer;
    }
  | {
      kind: "reply";
      replyTo: string;
      ref: string | undefined;
      contentType: string;
      body: Buffer;
    }
  /** Understood, but not to be had: answered with a problem. */
  | { kind: "refused"; ref: string | undefined; error: Error }
  /** Not of this protocol: closed with 1008. */
  | { kind: "violation"; error: Error };

/** What the backend's webhook answered. */
export interface Answer {
  contentType: string;
  body: Buffer;
  /** There was more of it. */
  truncated: boolean;
}

export interface Speaker {
  readonly protocol: "raw" | "bridge.v1.json";
  /** True when the client acks; otherwise what the socket took counts as delivered. */
  readonly acks: boolean;
  welcome(facts: WelcomeFacts): Frame | undefined;
  /** The frames of one message; more than one when it would exceed the frame limit. */
  message(entry: Entry, redelivered: boolean): Frame[];
  /** The frames of a group's message: the same for every member that is sent it in its time. */
  groupMessage(entry: GroupEntry, redelivered: boolean): Frame[];
  /** The client's place in a group has changed without a message. */
  group(name: string, position: GroupPosition): Frame | undefined;
  /** undefined: this client asks for no data-frame heartbeat. `resumeToken` takes the place of the one it has. */
  ping(resumeToken?: string): Frame | undefined;
  drain(reconnectAfterMs: number): Frame | undefined;
  error(problem: Problem): Frame | undefined;
  result(ref: string, problem: Problem): Frame | undefined;
  /** A request was done; `value` says what came of it, if there is anything to say. */
  done(ref: string, value?: object): Frame | undefined;
  /** What the backend answered to an event; with a problem when it refused it. */
  answered(ref: string, answer: Answer, problem?: Problem): Frame | undefined;
  read(data: Buffer, binary: boolean): Said;
}
