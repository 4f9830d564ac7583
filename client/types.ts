/** The types of the client library: what the application passes and gets, and the frames of `bridge.v1.json` (PROTOCOL.md). */

export type State = "connecting" | "open" | "resuming" | "closed";

/** One message. `text` for text and JSON types (the body's exact text), `bytes` for all others: always exactly one of them. */
export interface Message {
  readonly id: string;
  /** Grows with every message of the connection, not by one; undefined when the message came to a group. */
  readonly seq: number | undefined;
  /** The group, or `$all`, it was published to. */
  readonly group: string | undefined;
  /** Of a group's message, the client that published it (`publish`), as the server knows it; undefined: a backend. */
  readonly from: Publisher | undefined;
  readonly contentType: string;
  readonly text: string | undefined;
  readonly bytes: Uint8Array | undefined;
  readonly publishedAt: string;
  readonly expiresAt: string;
  /** The server may have sent it before; this client did not hand it over before. */
  readonly redelivered: boolean;
  /** Present when an answer is expected: see `Bridge.reply`. */
  readonly replyTo: string | undefined;
}

/** A client that published to a group. */
export interface Publisher {
  /** null: it has no user. */
  readonly userId: string | null;
}

/** What the server says first on every socket. */
export interface Welcome {
  readonly connectionId: string;
  readonly userId?: string | null;
  readonly groups?: Readonly<Record<string, GroupState>>;
  readonly resumeToken: string;
  readonly resumed: boolean;
  readonly lost: boolean;
  readonly seq: number;
  readonly heartbeatMs?: number;
  readonly limits?: {
    readonly messagesPerSecond?: number;
    readonly bytesPerSecond?: number;
    readonly maxBytes?: number;
    readonly ackIntervalMs?: number;
    readonly groupAckIntervalMs?: number;
  };
}

export interface GroupState {
  readonly epoch: string | number;
  readonly offset: number;
  readonly recovered?: boolean;
}

/** The problem object (RFC 9457) of `error` and `result` frames and of a refused upgrade. */
export interface Problem {
  readonly code?: string;
  readonly title?: string;
  readonly status?: number;
  readonly detail?: string;
  readonly [member: string]: unknown;
}

/**
 * What could not be recovered: `connection` (the old one is gone, this is a new one and may have a new ID), `messages`
 * (the connection goes on, but some of its messages are gone) or `group` (the history of `group` did not reach back).
 */
export type Loss =
  | { readonly what: "connection" | "messages"; readonly connectionId: string }
  | {
      readonly what: "group";
      readonly connectionId: string;
      readonly group: string;
    };

/** What a client may ask of the server; answered by a `result`. */
export type Request =
  | {
      readonly type: "event";
      readonly event: string;
      readonly data?: string;
      readonly contentType?: string;
    }
  | { readonly type: "join" | "leave"; readonly group: string }
  | {
      readonly type: "publish";
      readonly group: string;
      readonly data: string;
      readonly contentType?: string;
    };

export interface Result {
  readonly ok: boolean;
  readonly contentType?: string;
  /** What came of it, or what the backend answered, as text … */
  readonly data?: string;
  /** … or as bytes in base64. */
  readonly dataBase64?: string;
  /** The backend's answer was larger than a frame. */
  readonly omitted?: boolean;
}

export type BridgeErrorCode =
  /** There is no WebSocket: pass `{WebSocket}` (Node 20 has none of its own). */
  | "no_websocket"
  /** The upgrade was answered with a status that a retry cannot change (Node only; a browser cannot see it). Final. */
  | "refused"
  /** The server closed with a code that must not be retried: `closeCode`. Final. */
  | "closed"
  /** No `welcome` for `giveUpMs`. Final. */
  | "gave_up"
  /** The server broke the protocol; the socket is dropped and resumed. */
  | "bad_frame"
  /** A callback of the application threw: `cause`. */
  | "handler_failed"
  /** An `error` frame: `problem`. */
  | "server_error"
  /** Told to `onError` when there is no `onLost`. */
  | "lost"
  /** A request while not `open`, `send` and `reply` when closed; nothing was sent. */
  | "not_open"
  /** `send` or `reply` of more bytes than a frame may have; nothing was sent. */
  | "too_big"
  /** `send` or `reply` while a hundred of them wait for their results; nothing was sent. */
  | "busy"
  /** The socket (of `send` and `reply`: the connection) ended before the `result` came: it may have been done. */
  | "interrupted"
  /** A `result` that is not ok: `problem`; `cause` is the whole `Result`. */
  | "rejected";

/** A code, the facts and the cause. After a final one the state is `closed`. */
export interface BridgeError extends Error {
  readonly code: BridgeErrorCode;
  readonly closeCode: number | undefined;
  readonly status: number | undefined;
  readonly problem: Problem | undefined;
}

/** The part of a WebSocket that is used here; the browser's, Node's own and `ws` all fit. */
export interface SocketLike {
  readonly readyState: number;
  send(data: string): void;
  close(code?: number, reason?: string): void;
  addEventListener(
    type: "open" | "message" | "close" | "error",
    listener: (event: SocketEvent) => void,
  ): void;
  /** Only `ws` has it: drops the socket when the other side does not answer a Close. */
  terminate?(): void;
}

/** The fields of the four events, where they apply. */
export interface SocketEvent {
  readonly type?: string;
  readonly data?: unknown;
  readonly code?: number;
  readonly reason?: string;
  readonly message?: string;
}

export type SocketConstructor = new (
  url: string,
  protocols: string[],
) => SocketLike;

/** The time, for tests; `now` in ms and never going back. */
export interface Clock {
  now(): number;
  setTimeout(callback: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
}

export interface Options {
  /** JWT of the connection, sent as subprotocol so that it stays out of access logs. None: anonymous, or in the URL. */
  readonly token?: string | undefined;
  /** Default `globalThis.WebSocket`. */
  readonly WebSocket?: SocketConstructor | undefined;
  /** Gets each message once, in order; when it returns (or throws) the message counts as arrived and is acked. */
  onMessage(message: Message): void;
  onState?(state: State, previous: State): void;
  /** Default: `console.error`. */
  onError?(error: BridgeError): void;
  /** Default: an error `lost`. */
  onLost?(loss: Loss): void;
  /** Failing for this long ends the attempts; default 120,000 ms. */
  readonly giveUpMs?: number | undefined;
  /** In [0, 1), spreads the retries; default `Math.random`. */
  readonly random?: (() => number) | undefined;
  readonly clock?: Clock | undefined;
}

export interface Bridge {
  readonly state: State;
  /** The address to push to; undefined until the first `welcome`. */
  readonly connectionId: string | undefined;
  /** The first `welcome`; rejects when it ends before that. */
  readonly ready: Promise<Welcome>;
  /** Joins, leaves or publishes; rejects with `not_open`, `interrupted` or `rejected`. An event goes as with `send`. */
  request(request: Request): Promise<Result>;
  /**
   * Tells the backend something, once, in the order of the calls, however often the socket ends meanwhile: what has no
   * result yet is sent again on the next one. Never faster than the server allows. Rejects with `rejected`, `interrupted`
   * (the connection is gone), `not_open`, `too_big` or `busy`; nothing happens when nobody looks at that.
   */
  send(
    event: string,
    data?: string | Uint8Array,
    contentType?: string,
  ): Promise<Result>;
  /** Becomes a member: every message with a greater offset follows. Needs the permission `join:<group>`. */
  join(group: string): Promise<GroupState>;
  /** Is a member no more: everything up to the offset was sent, nothing after it follows. The same permission. */
  leave(group: string): Promise<GroupState>;
  /** Publishes text (or JSON, with its type) to a group; resolves with the message's ID. Needs `publish:<group>`. */
  publish(
    group: string,
    data: string,
    contentType?: string,
  ): Promise<{ readonly id: string }>;
  /**
   * Answers a message with `replyTo`; resolves when the backend has this answer. The first answer wins, another one is
   * `rejected` with the problem `already_answered`, or `message_not_found` when nobody waits. Otherwise as `send`.
   */
  reply(
    replyTo: string,
    body: string | Uint8Array,
    contentType?: string,
  ): Promise<void>;
  /** Ends the connection with an explicit 1000; resolves when the socket is gone. Any time, twice. */
  close(): Promise<void>;
}

/** A message, or one part of it, on the wire. */
export interface MessageFrame {
  readonly type: "message";
  readonly id: string;
  /** Either `seq`, or `group`, `epoch` and `offset`. */
  readonly seq?: number;
  readonly group?: string;
  readonly epoch?: string | number;
  readonly offset?: number;
  readonly from?: Publisher;
  readonly contentType: string;
  readonly publishedAt: string;
  readonly expiresAt: string;
  readonly redelivered: boolean;
  readonly replyTo?: string;
  readonly data?: string;
  readonly dataBase64?: string;
  readonly part?: number;
  readonly parts?: number;
}

/** Everything the server may say; unknown types are ignored. */
export type Frame =
  | MessageFrame
  | (Welcome & { readonly type: "welcome" })
  | ({ readonly type: "group"; readonly group: string } & GroupState)
  | { readonly type: "ping"; readonly resumeToken?: string }
  | { readonly type: "drain"; readonly reconnectAfterMs: number }
  | { readonly type: "error"; readonly error: Problem }
  | (Result & {
      readonly type: "result";
      readonly ref: string;
      readonly error?: Problem;
    });
