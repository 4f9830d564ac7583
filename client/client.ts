/**
 * The receiving end of the bridge for browsers and Node: one file, no dependencies, speaks `bridge.v1.json`
 * (PROTOCOL.md) and hands every message to the application exactly once and in order, however often the socket ends.
 *
 *                 welcome              socket ended, or its drain slot came
 *   connecting ────────────▶ open ──────────────────────────────────────────▶ resuming
 *       │                     │ ◀──────────────────────────────────────────     │
 *       │                     │                   welcome                       │
 *       └─────────────────────┴── close(), refused for good, gave up ───────────┴──▶ closed
 */

import type {
  Bridge,
  BridgeError as Fault,
  BridgeErrorCode,
  Clock,
  Frame,
  GroupState,
  Loss,
  Message,
  MessageFrame,
  Options,
  Problem,
  Request,
  Result,
  SocketConstructor,
  SocketLike,
  State,
  Welcome,
} from "./types.js";

// Types only: the compiled library is this one file.
export type * from "./types.js";

/** First retry waits at most this long; every further one in a row twice as long (full jitter). */
const BACKOFF_BASE_MS = 200;
/** No retry waits longer: somebody is looking at a page that does not move. */
const BACKOFF_CAP_MS = 10_000;
/** A socket that lived this long starts the back-off anew; one that dies younger does not, or it would be a tight loop. */
const STABLE_MS = 5_000;
/** From dialling to `welcome`; covers a cold start of the function, ends a handshake that hangs. */
const WELCOME_DEADLINE_MS = 30_000;
/** Silence for this many heartbeats means that the socket is dead: one may be late, two may not. */
const SILENT_HEARTBEATS = 2.5;
/** Used when `welcome` names no interval: 4 acks a second leave room under the 10 messages/s a client may send. */
const ACK_INTERVAL_MS = 250;
/** Likewise for groups: their offsets matter when a page is loaded anew, since this client names its own when it resumes. */
const GROUP_ACK_INTERVAL_MS = 5_000;
/** Failing without a pause for this long ends the attempts; equals the server's resume window. */
const GIVE_UP_MS = 120_000;
/** The most that one attempt adds to the time above, so that a laptop's sleep does not count as failing. */
const FAILURE_STEP_MS = BACKOFF_CAP_MS + WELCOME_DEADLINE_MS;
/** Of the frames a second in `welcome` so many are left for acks and a pong. */
const ACKS_A_SECOND = 6;
/** What may be sent in a second is sent in this time: the server counts when frames come, and some come late. */
const PACE_MS = 1_500;
/** The limits of a server that names none. */
const MESSAGES_A_SECOND = 10;
const BYTES_A_SECOND = 131_072;
const FRAME_BYTES_MAX = 262_144;
/** What waits for its result, at most: more says that the application is faster than it may be. */
const OUTGOING_MAX = 100;
/** How long `close()` waits for the other side's Close frame. */
const CLOSE_DEADLINE_MS = 2_000;
/** Close code for a socket given up by this client; from the range that may be retried, so the connection stays. */
const CLOSE_GIVEN_UP = 4000;
/** `WebSocket.readyState` (WHATWG WebSockets, 3.1). */
const CONNECTING = 0;
const OPEN = 1;
const CLOSED = 3;

/** The errors of this library, each with one of the codes in `BridgeErrorCode`. */
export class BridgeError extends Error implements Fault {
  readonly code: BridgeErrorCode;
  readonly closeCode: number | undefined;
  readonly status: number | undefined;
  readonly problem: Problem | undefined;

  constructor(
    code: BridgeErrorCode,
    message: string,
    facts: {
      closeCode?: number | undefined;
      status?: number | undefined;
      problem?: Problem | undefined;
      cause?: unknown;
    } = {},
  ) {
    super(message, { cause: facts.cause });
    this.name = "BridgeError";
    this.code = code;
    this.closeCode = facts.closeCode;
    this.status = facts.status;
    this.problem = facts.problem;
  }
}

/**
 * Connects to `url` (`ws://host/ws`, or the `url` of `POST /v1/connections`) and stays connected until `close()` or an
 * end that no retry can mend. Throws when there is no WebSocket or the URL or token cannot be used at all.
 */
export function connect(url: string, options: Options): Bridge {
  return new Connection(url, options);
}

/** How far the application has got, for the connection or for one group. */
interface Position {
  at: number;
  epoch?: string | number | undefined;
  /** Something was handed over, so there is something to ack. */
  handed: boolean;
  unacked: boolean;
}

/** One socket, and what is known about it alone. */
interface Link {
  readonly socket: SocketLike;
  readonly isResume: boolean;
  welcomedAt: number | undefined;
  heardAt: number;
  watchdog: unknown;
  /** The parts so far of a message that came split. */
  parts: MessageFrame[];
  /** The answer to an upgrade that was refused. */
  refusal: { status: number; problem: Problem | undefined } | undefined;
  error: string | undefined;
}

/** A request that waits for its result. */
/** What waits for its result. */
interface Outgoing extends Settle<Result> {
  readonly text: string;
  readonly bytes: number;
  /** Another socket does not say it again: whether it was done is not known. */
  readonly request?: Request | undefined;
  /** On this socket. */
  isSent: boolean;
}

interface Settle<T> {
  resolve(value: T): void;
  reject(error: BridgeError): void;
}

class Connection implements Bridge {
  readonly ready: Promise<Welcome>;

  readonly #url: string;
  readonly #options: Options;
  readonly #WebSocket: SocketConstructor;
  readonly #clock: Clock;
  readonly #settleReady: Settle<Welcome>;

  #state: State = "connecting";
  #link: Link | undefined;
  /** The socket that is being left (`drain`); it must not be closed before the new one has its `welcome`. */
  #previous: Link | undefined;
  #welcome: Welcome | undefined;
  #closing: Promise<void> | undefined;

  readonly #seq: Position = { at: 0, handed: false, unacked: false };
  readonly #groups = new Map<string, Position>();
  #ackedAt = -Infinity;
  #groupsAckedAt = -Infinity;
  /** From then on an ack takes the groups along; Infinity: nothing new of any. */
  #groupsFrom = Infinity;
  /** Who got the same broadcast does not ack it in the same instant: this part of half an interval later. */
  readonly #spread: number;
  #ackTimer: unknown;
  #ackTimerAt = Infinity;

  #drainTimer: unknown;
  #retryTimer: unknown;
  #retries = 0;
  /** Names this client among the attempts of a connection; nothing secret. */
  readonly #who = Math.random().toString(36).slice(2, 12) || "0";
  #dials = 0;
  #failingMs = 0;
  #failedAt: number;

  /** In the order in which they were given. */
  readonly #outgoing = new Map<string, Outgoing>();
  /** What of it was sent in the last PACE_MS. */
  readonly #spent: { at: number; bytes: number }[] = [];
  #outgoingTimer: unknown;
  #lastRef = 0;

  constructor(url: string, options: Options) {
    this.#url = url;
    this.#options = options;
    this.#WebSocket = options.WebSocket ?? globalWebSocket();
    this.#clock = options.clock ?? systemClock;
    this.#spread = this.#random();
    this.#failedAt = this.#clock.now();
    let settle: Settle<Welcome> | undefined;
    this.ready = new Promise((resolve, reject) => {
      settle = { resolve, reject };
    });
    this.#settleReady = settle!;
    // Whoever does not look at `ready` learns of a failure by onError and onState.
    this.ready.catch(() => undefined);
    this.#dial();
  }

  get state(): State {
    return this.#state;
  }

  get connectionId(): string | undefined {
    return this.#welcome?.connectionId;
  }

  request(request: Request): Promise<Result> {
    return request.type === "event"
      ? this.#deliver(request, (result) => result)
      : this.#deliver(request, (result) => result, request);
  }

  async join(group: string): Promise<GroupState> {
    return parseResult(await this.request({ type: "join", group }));
  }

  async leave(group: string): Promise<GroupState> {
    return parseResult(await this.request({ type: "leave", group }));
  }

  async publish(
    group: string,
    data: string,
    contentType?: string,
  ): Promise<{ id: string }> {
    return parseResult(
      await this.request({
        type: "publish",
        group,
        data,
        ...(contentType === undefined ? {} : { contentType }),
      }),
    );
  }

  send(
    event: string,
    data: string | Uint8Array = "",
    contentType?: string,
  ): Promise<Result> {
    return this.#deliver(
      {
        type: "event",
        event,
        ...(contentType === undefined ? {} : { contentType }),
        ...payload(data),
      },
      (result) => result,
    );
  }

  reply(
    replyTo: string,
    body: string | Uint8Array,
    contentType?: string,
  ): Promise<void> {
    return this.#deliver(
      {
        type: "reply",
        replyTo,
        ...(contentType === undefined ? {} : { contentType }),
        ...payload(body),
      },
      () => undefined,
    );
  }

  /** Never used again in the life of the connection, by this page or one after it. */
  #newRef(): string {
    return `${this.#who}.${++this.#lastRef}`;
  }

  close(): Promise<void> {
    this.#closing ??= this.#hangUp();
    return this.#closing;
  }

  async #hangUp(): Promise<void> {
    const links = [this.#link, this.#previous];
    this.#finish(
      new BridgeError("closed", "close() was called", { closeCode: 1000 }),
    );
    // When a handler calls close(), it returns first: then its message counts as arrived and the last ack says so.
    await Promise.resolve();
    this.#sendAck(links[0], true);
    await Promise.all(
      links.map((link) => link && endSocket(link.socket, this.#clock)),
    );
  }

  #setState(next: State): void {
    const previous = this.#state;
    if (previous === next) return;
    this.#state = next;
    this.#call(() => this.#options.onState?.(next, previous));
  }

  /** The end of all attempts; the sockets are the caller's. */
  #finish(reason: BridgeError): void {
    this.#retryTimer = this.#clear(this.#retryTimer);
    this.#leaveLink();
    this.#giveUpOutgoing("the connection ended before the result");
    this.#previous = undefined;
    this.#setState("closed");
    this.#settleReady.reject(reason);
  }

  /** Takes no more input from the current socket. */
  #leaveLink(): Link | undefined {
    const link = this.#link;
    this.#link = undefined;
    this.#stopAckTimer();
    this.#drainTimer = this.#clear(this.#drainTimer);
    this.#outgoingTimer = this.#clear(this.#outgoingTimer);
    if (link !== undefined) link.watchdog = this.#clear(link.watchdog);
    for (const [ref, outgoing] of this.#outgoing) {
      outgoing.isSent = false;
      if (outgoing.request === undefined) continue;
      this.#outgoing.delete(ref);
      outgoing.reject(
        new BridgeError("interrupted", "the socket ended before the result"),
      );
    }
    return link;
  }

  // Dialling, and what happens when a socket ends

  #dial(): void {
    const isResume = this.#welcome !== undefined;
    const protocols = ["bridge.v1.json"];
    const { token } = this.#options;
    if (!isResume && token !== undefined) protocols.push(`bearer.${token}`);
    const link: Link = {
      socket: new this.#WebSocket(this.#address(), protocols),
      isResume,
      welcomedAt: undefined,
      heardAt: this.#clock.now(),
      watchdog: undefined,
      parts: [],
      refusal: undefined,
      error: undefined,
    };
    this.#link = link;
    this.#watch(link, WELCOME_DEADLINE_MS);
    const { socket } = link;
    socket.addEventListener("message", ({ data }) => {
      if (link === this.#link) this.#receive(link, data);
    });
    socket.addEventListener("error", ({ message }) => {
      link.error = message;
    });
    socket.addEventListener("close", ({ code = 1006, reason = "" }) => {
      if (link === this.#previous) this.#previous = undefined;
      if (link === this.#link) this.#linkEnded(link, code, reason);
    });
    noteRefusal(link);
  }

  #address(): string {
    const url = new URL(this.#url);
    // An attempt that was given up may be read after this one; the number keeps it from taking over (4509).
    url.searchParams.set("attempt", `${this.#who}.${++this.#dials}`);
    if (this.#welcome === undefined) return url.href;
    url.searchParams.delete("token");
    url.searchParams.set("resume", this.#welcome.resumeToken);
    url.searchParams.set("seq", String(this.#seq.at));
    if (this.#groups.size > 0) {
      const positions = [...this.#groups].map(([name, { at }]) => [name, at]);
      url.searchParams.set(
        "groups",
        positions.map((pair) => pair.join(":")).join(","),
      );
    }
    return url.href;
  }

  #linkEnded(link: Link, code: number, reason: string): void {
    this.#leaveLink();
    const status = link.refusal?.status;
    const why =
      status === undefined
        ? [`close code ${code}`, reason, link.error].filter(Boolean).join(", ")
        : `status ${status}${describe(link.refusal?.problem)}`;
    const facts = { closeCode: code, status, problem: link.refusal?.problem };
    if (status !== undefined && isFinalStatus(status)) {
      this.#fail(
        new BridgeError("refused", `the server refused: ${why}`, facts),
      );
    } else if (!mayRetry(code)) {
      this.#fail(
        new BridgeError(
          "closed",
          `the server ended the connection: ${why}`,
          facts,
        ),
      );
    } else if (this.#failedFor(link) >= this.#giveUpMs) {
      const seconds = Math.round(this.#giveUpMs / 1000);
      this.#fail(
        new BridgeError(
          "gave_up",
          `no connection for ${seconds} s: ${why}`,
          facts,
        ),
      );
    } else {
      this.#retry(link);
    }
  }

  get #giveUpMs(): number {
    return this.#options.giveUpMs ?? GIVE_UP_MS;
  }

  /** Milliseconds of failing in a row, this end included. */
  #failedFor(link: Link): number {
    const now = this.#clock.now();
    this.#failingMs =
      link.welcomedAt === undefined
        ? this.#failingMs + Math.min(now - this.#failedAt, FAILURE_STEP_MS)
        : 0;
    this.#failedAt = now;
    return this.#failingMs;
  }

  #retry(link: Link): void {
    const lived = this.#clock.now() - (link.welcomedAt ?? Infinity);
    if (lived >= STABLE_MS) this.#retries = 0;
    const ceiling = Math.min(
      BACKOFF_CAP_MS,
      BACKOFF_BASE_MS * 2 ** this.#retries++,
    );
    this.#retryTimer = this.#clock.setTimeout(() => {
      this.#retryTimer = undefined;
      this.#dial();
    }, this.#random() * ceiling);
    if (this.#welcome !== undefined) this.#setState("resuming");
  }

  #random(): number {
    return (this.#options.random ?? Math.random)();
  }

  #fail(error: BridgeError): void {
    const previous = this.#previous;
    this.#finish(error);
    if (previous !== undefined) void endSocket(previous.socket, this.#clock);
    this.#report(error);
  }

  /** Ends a socket that is of no use; not with 1000, which would end the connection, and without waiting for it. */
  #cut(link: Link, reason: string): void {
    link.socket.close(CLOSE_GIVEN_UP, reason);
    this.#linkEnded(link, 1006, reason);
  }

  /** Cuts the socket when nothing is heard for `ms`. One timer, re-armed when it rings: not one per frame. */
  #watch(link: Link, ms: number): void {
    this.#clear(link.watchdog);
    const check = (): void => {
      const left = link.heardAt + ms - this.#clock.now();
      if (left <= 0) this.#cut(link, `nothing heard for ${ms} ms`);
      else link.watchdog = this.#clock.setTimeout(check, left);
    };
    link.watchdog = ms > 0 ? this.#clock.setTimeout(check, ms) : undefined;
  }

  /** `drain`: on to a new socket in the slot that the server gave, with the old one open until `welcome`. */
  #move(): void {
    this.#sendAck(this.#link, true);
    // From here on the old socket's input is dropped: the new one brings everything after `seq`.
    this.#previous = this.#leaveLink();
    this.#setState("resuming");
    // The application may have closed in onState.
    if (this.#state === "resuming") this.#dial();
  }

  // Frames

  #receive(link: Link, data: unknown): void {
    const frame = parseFrame(data);
    if (frame === undefined) {
      this.#badFrame(link, "not a frame of bridge.v1.json");
      return;
    }
    // Before `welcome` only its own arrival counts, so that the deadline holds.
    if (link.welcomedAt !== undefined) link.heardAt = this.#clock.now();
    switch (frame.type) {
      case "welcome":
        if (link.welcomedAt === undefined) this.#welcomed(link, frame);
        break;
      case "message":
        this.#part(link, frame);
        break;
      case "group":
        this.#placed(frame);
        break;
      case "ping":
        link.socket.send('{"type":"pong"}');
        // A socket that is being left may still say an older one.
        if (
          link === this.#link &&
          this.#welcome !== undefined &&
          typeof frame.resumeToken === "string"
        )
          this.#welcome = { ...this.#welcome, resumeToken: frame.resumeToken };
        break;
      case "drain":
        this.#drainTimer ??= this.#clock.setTimeout(() => {
          this.#drainTimer = undefined;
          this.#move();
        }, frame.reconnectAfterMs);
        break;
      case "result":
        this.#result(frame);
        break;
      case "error":
        this.#report(
          new BridgeError(
            "server_error",
            `the server reports an error${describe(frame.error)}`,
            { problem: frame.error },
          ),
        );
        break;
    }
  }

  #badFrame(link: Link, why: string): void {
    this.#report(new BridgeError("bad_frame", why));
    // Going on could skip a message, and the next ack would cover it: the resume brings it again.
    if (link === this.#link) this.#cut(link, "bad frame");
  }

  #welcomed(link: Link, welcome: Welcome): void {
    const previousId = this.connectionId;
    const goesOn = link.isResume && welcome.resumed;
    link.welcomedAt = link.heardAt = this.#clock.now();
    this.#welcome = welcome;
    this.#watch(link, (welcome.heartbeatMs ?? 0) * SILENT_HEARTBEATS);
    const losses = this.#takePositions(welcome, goesOn);
    if (previousId !== undefined && !goesOn) {
      losses.unshift({
        what: "connection",
        connectionId: welcome.connectionId,
      });
    } else if (welcome.lost) {
      losses.unshift({ what: "messages", connectionId: welcome.connectionId });
    }
    if (this.#previous !== undefined) {
      void endSocket(this.#previous.socket, this.#clock);
      this.#previous = undefined;
    }
    this.#ackSoon();
    if (previousId !== undefined && !goesOn)
      this.#giveUpOutgoing("the connection is gone, this is a new one");
    this.#spent.length = 0;
    this.#sendOutgoing();
    this.#settleReady.resolve(welcome);
    this.#setState("open");
    for (const loss of losses) this.#lost(loss);
  }

  #takePositions(welcome: Welcome, goesOn: boolean): Loss[] {
    const own = this.#seq;
    if (goesOn) {
      // After a loss the server's numbers may begin again below ours; dropping its messages would be a second loss.
      if (welcome.lost) own.at = Math.min(own.at, welcome.seq);
      // The last ack may have died with its socket.
      own.unacked = own.handed;
    } else {
      Object.assign(own, { at: welcome.seq, handed: false, unacked: false });
    }
    const losses: Loss[] = [];
    const groups = welcome.groups ?? {};
    for (const name of this.#groups.keys()) {
      if (!Object.hasOwn(groups, name)) this.#groups.delete(name);
    }
    for (const [group, { epoch, offset, recovered }] of Object.entries(
      groups,
    )) {
      const known = goesOn ? this.#groups.get(group) : undefined;
      // What was recovered follows as messages, so our own position stays until they are here.
      if (known?.epoch === epoch && recovered !== false) {
        known.unacked = known.handed;
        if (known.unacked) this.#groupNews();
        continue;
      }
      this.#groups.set(group, {
        at: offset,
        epoch,
        handed: false,
        unacked: false,
      });
      if (known !== undefined || recovered === false) {
        losses.push({
          what: "group",
          connectionId: welcome.connectionId,
          group,
        });
      }
    }
    return losses;
  }

  /** The server says where we stand in a group: it made us a member, or something is missing before that place. */
  #placed({ group, epoch, offset, recovered }: Frame & { type: "group" }) {
    const known = this.#groups.get(group);
    if (known?.epoch === epoch && recovered !== false) return;
    this.#groups.set(group, {
      at: offset,
      epoch,
      handed: false,
      unacked: false,
    });
    if (recovered !== false) return;
    const connectionId = this.#welcome?.connectionId ?? "";
    this.#lost({ what: "group", connectionId, group });
  }

  #lost(loss: Loss): void {
    const { onLost } = this.#options;
    if (onLost !== undefined) {
      this.#call(() => onLost.call(this.#options, loss));
      return;
    }
    const of = loss.what === "group" ? `group ${loss.group}` : loss.what;
    this.#report(
      new BridgeError("lost", `messages may have been lost (${of})`),
    );
  }

  #part(link: Link, frame: MessageFrame): void {
    const position = this.#positionOf(frame);
    const number = frame.group === undefined ? frame.seq : frame.offset;
    if (link.welcomedAt === undefined || typeof number !== "number") {
      this.#badFrame(link, "a message before welcome, or without a number");
      return;
    }
    // Held already: the server repeated it because it did not see our ack.
    if (number <= position.at) return;
    const { part = 1, parts = 1 } = frame;
    const first = link.parts[0] ?? frame;
    if (part !== link.parts.length + 1 || frame.id !== first.id) {
      this.#badFrame(link, `part ${part} of ${parts} of ${frame.id} is astray`);
      return;
    }
    link.parts.push(frame);
    if (part < parts) return;
    const message = join(link.parts.splice(0));
    if (message === undefined) {
      this.#badFrame(link, `${frame.id} is not base64`);
      return;
    }
    this.#call(() => this.#options.onMessage(message));
    // Handed over, even when the handler threw or closed.
    position.at = number;
    position.epoch = frame.epoch;
    position.handed = position.unacked = true;
    if (frame.group !== undefined) {
      this.#groups.set(frame.group, position);
      this.#groupNews();
    }
    this.#ackSoon();
  }

  #positionOf({ group, epoch }: MessageFrame): Position {
    if (group === undefined) return this.#seq;
    const position = this.#groups.get(group);
    return position?.epoch === epoch && position !== undefined
      ? position
      : { at: -Infinity, handed: false, unacked: false };
  }

  #result(frame: Frame & { type: "result" }): void {
    const { ref, error, ok } = frame;
    const waiting = this.#outgoing.get(ref);
    const request = waiting?.request;
    this.#outgoing.delete(ref);
    if (ok) {
      if (request?.type === "leave") this.#groups.delete(request.group);
      if (request?.type === "join")
        this.#placed({
          type: "group",
          group: request.group,
          ...parseResult<GroupState>(frame),
        });
      waiting?.resolve(frame);
    } else {
      waiting?.reject(
        new BridgeError("rejected", `the server said no${describe(error)}`, {
          problem: error,
          cause: frame,
        }),
      );
    }
  }

  // What is said to the server: in order, as fast as it allows; events and replies once, whatever becomes of the socket

  #deliver<T>(
    frame: object,
    read: (result: Result) => T,
    request?: Request,
  ): Promise<T> {
    const ref = this.#newRef();
    const text = JSON.stringify({ ...frame, ref });
    const bytes = new TextEncoder().encode(text).length;
    const most = this.#welcome?.limits?.maxBytes ?? FRAME_BYTES_MAX;
    const sent = new Promise<Result>((resolve, reject) => {
      const refuse = (code: BridgeErrorCode, why: string) =>
        reject(new BridgeError(code, `not sent: ${why}`));
      if (this.#state === "closed" || (request && !this.#isOpen))
        refuse("not_open", `${this.#state}, not open`);
      else if (bytes > most) refuse("too_big", `${bytes} of ${most} bytes`);
      else if (this.#outgoing.size >= OUTGOING_MAX)
        refuse("busy", `${OUTGOING_MAX} wait for their results`);
      else
        this.#outgoing.set(ref, {
          text,
          bytes,
          request,
          isSent: false,
          resolve,
          reject,
        });
    });
    const result = sent.then(read);
    // Who does not look at the result does not want to hear that there is none.
    result.catch(() => undefined);
    this.#sendOutgoing();
    return result;
  }

  #sendOutgoing(): void {
    const link = this.#link;
    if (link?.welcomedAt === undefined || link.socket.readyState !== OPEN)
      return;
    if (this.#outgoingTimer !== undefined) return;
    const { limits } = this.#welcome ?? {};
    const messages = Math.max(
      1,
      (limits?.messagesPerSecond ?? MESSAGES_A_SECOND) - ACKS_A_SECOND,
    );
    const most = limits?.bytesPerSecond ?? BYTES_A_SECOND;
    for (const outgoing of this.#outgoing.values()) {
      if (outgoing.isSent) continue;
      const now = this.#clock.now();
      const spent = this.#spent;
      while (spent[0] !== undefined && spent[0].at <= now - PACE_MS)
        spent.shift();
      const bytes = spent.reduce((sum, one) => sum + one.bytes, outgoing.bytes);
      // One that is larger than a second's bytes has its second for itself.
      if (
        spent[0] !== undefined &&
        (spent.length >= messages || bytes > most)
      ) {
        this.#outgoingTimer = this.#clock.setTimeout(
          () => {
            this.#outgoingTimer = undefined;
            this.#sendOutgoing();
          },
          Math.max(1, spent[0].at + PACE_MS - now),
        );
        return;
      }
      outgoing.isSent = true;
      spent.push({ at: now, bytes: outgoing.bytes });
      link.socket.send(outgoing.text);
    }
  }

  #giveUpOutgoing(why: string): void {
    for (const { reject } of this.#outgoing.values())
      reject(new BridgeError("interrupted", why));
    this.#outgoing.clear();
  }

  // Acks: the first of `seq` at once, then one per interval, the last never forgotten. Groups are acked rarely: along with
  // an ack of `seq` when their interval is over, by themselves a little later.

  get #groupInterval(): number {
    return this.#welcome?.limits?.groupAckIntervalMs ?? GROUP_ACK_INTERVAL_MS;
  }

  /** Of a quiet group half an interval from now on, of a busy one an interval after the last time. */
  #groupNews(): void {
    const half = this.#groupInterval / 2;
    const from = Math.max(this.#clock.now(), this.#groupsAckedAt + half) + half;
    this.#groupsFrom = Math.min(this.#groupsFrom, from);
  }

  #ackSoon(): void {
    if (this.#link === undefined) return;
    const interval = this.#welcome?.limits?.ackIntervalMs ?? ACK_INTERVAL_MS;
    const groupsAt =
      this.#groupsFrom + (this.#spread * this.#groupInterval) / 2;
    const at = Math.max(
      this.#ackedAt + interval,
      this.#seq.unacked ? -Infinity : groupsAt,
    );
    const wait = Math.ceil(at - this.#clock.now());
    // Not left to the timer alone: a page in the background has its timers slowed down.
    if (wait <= 0) this.#sendAck(this.#link);
    else if (at < this.#ackTimerAt) {
      this.#stopAckTimer();
      this.#ackTimerAt = at;
      this.#ackTimer = this.#clock.setTimeout(() => {
        this.#stopAckTimer();
        this.#ackSoon();
      }, wait);
    }
  }

  #stopAckTimer(): void {
    this.#ackTimer = this.#clear(this.#ackTimer);
    this.#ackTimerAt = Infinity;
  }

  /** `all`: the socket is being left. */
  #sendAck(link: Link | undefined, all = false): void {
    this.#stopAckTimer();
    if (link?.welcomedAt === undefined || link.socket.readyState !== OPEN) {
      return;
    }
    const now = this.#clock.now();
    const isTime = all || now >= this.#groupsFrom;
    if (isTime) this.#groupsFrom = Infinity;
    const groups = [...this.#groups].filter(
      ([, position]) => isTime && position.unacked,
    );
    if (this.#seq.unacked || groups.length > 0) {
      const frame = {
        type: "ack",
        seq: this.#seq.at,
        ...(groups.length > 0
          ? {
              groups: Object.fromEntries(
                groups.map(([name, p]) => [name, p.at]),
              ),
            }
          : {}),
      };
      link.socket.send(JSON.stringify(frame));
      this.#ackedAt = now;
      if (groups.length > 0) this.#groupsAckedAt = now;
      this.#seq.unacked = false;
      for (const [, position] of groups) position.unacked = false;
    }
    // Groups whose time has not come.
    if (this.#groupsFrom < Infinity) this.#ackSoon();
  }

  get #isOpen(): boolean {
    return this.#state === "open" && this.#link?.socket.readyState === OPEN;
  }

  // The application's callbacks must not harm the machine that calls them

  #call(callback: () => void): void {
    try {
      callback();
    } catch (cause) {
      this.#report(
        new BridgeError("handler_failed", `a callback threw: ${cause}`, {
          cause,
        }),
      );
    }
  }

  #report(error: BridgeError): void {
    try {
      if (this.#options.onError === undefined) console.error(error);
      else this.#options.onError(error);
    } catch (cause) {
      console.error(cause);
    }
  }

  #clear(timer: unknown): undefined {
    if (timer !== undefined) this.#clock.clearTimeout(timer);
  }
}

const systemClock: Clock = {
  now: () => performance.now(),
  setTimeout: (callback, ms) => globalThis.setTimeout(callback, ms),
  clearTimeout: (timer) => globalThis.clearTimeout(timer as number),
};

function globalWebSocket(): SocketConstructor {
  const { WebSocket } = globalThis as { WebSocket?: SocketConstructor };
  if (WebSocket === undefined) {
    throw new BridgeError(
      "no_websocket",
      "this runtime has no WebSocket: pass one, as in connect(url, { WebSocket, … }) with the one of the package ws",
    );
  }
  return WebSocket;
}

/** The rule of shared/close-codes.ts: 1000, 1008, 1009 and 4500 up would end the next socket too. */
function mayRetry(code: number): boolean {
  if (code >= 4000) return code < 4500;
  return ![1000, 1008, 1009].includes(code);
}

/** Statuses that say the same next time; 408, 425 and 429 ask for a retry (RFC 9110, 15.5; RFC 8470; RFC 6585). */
function isFinalStatus(status: number): boolean {
  return status >= 400 && status < 500 && ![408, 425, 429].includes(status);
}

function describe(problem: Problem | undefined): string {
  const said = [problem?.code, problem?.detail ?? problem?.title];
  const text = said.filter((word) => typeof word === "string").join(", ");
  return text === "" ? "" : `: ${text}`;
}

/** `ws` alone shows the answer to a refused upgrade; everywhere else it looks like 1006. */
function noteRefusal(link: Link): void {
  interface Response {
    readonly statusCode?: number;
    setEncoding(encoding: "utf8"): void;
    on(event: "data" | "end", listener: (text: string) => void): void;
  }
  const socket = link.socket as SocketLike & {
    on?(
      event: "unexpected-response",
      listener: (request: unknown, response: Response) => void,
    ): void;
  };
  socket.on?.("unexpected-response", (_request, response) => {
    let body = "";
    response.setEncoding("utf8");
    response.on("data", (text) => {
      if (body.length < 16_384) body += text;
    });
    response.on("end", () => {
      link.refusal = {
        status: response.statusCode ?? 0,
        problem: parseObject(body),
      };
      // Listening makes us the ones who end the handshake; `close` follows.
      socket.close();
    });
  });
}

/** Close 1000 (an empty Close frame would count as a failed invocation); resolves when the socket is gone. */
function endSocket(socket: SocketLike, clock: Clock): Promise<void> {
  return new Promise((resolve) => {
    const deadline = clock.setTimeout(() => {
      // A handshake that hangs is broken off; `ws` would wait half a minute for the other side's Close.
      if (socket.readyState === CONNECTING) socket.close();
      socket.terminate?.();
      resolve();
    }, CLOSE_DEADLINE_MS);
    const done = (): void => {
      clock.clearTimeout(deadline);
      resolve();
    };
    socket.addEventListener("close", done);
    if (socket.readyState === OPEN) socket.close(1000);
    else if (socket.readyState === CONNECTING) {
      // Breaking off an upgrade that the server has answered already would look like a cut line to it.
      socket.addEventListener("open", () => socket.close(1000));
    } else if (socket.readyState === CLOSED) done();
  });
}

/** The JSON that a result carries. */
function parseResult<T>({ data }: Result): T {
  return parseObject(data ?? "") as T;
}

function parseFrame(data: unknown): Frame | undefined {
  const frame = typeof data === "string" ? parseObject(data) : undefined;
  return typeof frame?.["type"] === "string" ? (frame as Frame) : undefined;
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}

/** One message from its frames; undefined when its base64 is none. */
function join(frames: readonly MessageFrame[]): Message | undefined {
  const first = frames[0]!;
  const { id, seq, group, from, contentType, replyTo } = first;
  const { publishedAt, expiresAt, redelivered } = first;
  let text: string | undefined;
  let bytes: Uint8Array | undefined;
  if (first.data !== undefined) {
    text = frames.map((frame) => frame.data).join("");
  } else {
    bytes = fromBase64(frames.map((frame) => frame.dataBase64 ?? ""));
    if (bytes === undefined) return undefined;
  }
  return {
    id,
    seq,
    group,
    from,
    contentType,
    text,
    bytes,
    publishedAt,
    expiresAt,
    redelivered,
    replyTo,
  };
}

function fromBase64(slices: readonly string[]): Uint8Array | undefined {
  try {
    const binary = slices.map((slice) => atob(slice)).join("");
    return Uint8Array.from(binary, (char) => char.charCodeAt(0));
  } catch {
    return undefined;
  }
}

const payload = (data: string | Uint8Array): object =>
  typeof data === "string" ? { data } : { dataBase64: toBase64(data) };

function toBase64(bytes: Uint8Array): string {
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}
