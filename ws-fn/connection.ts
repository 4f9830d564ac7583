/**
 * One connection while this instance holds its socket.
 *
 *            claim                 drain (told the client)
 *   opening ───────▶ open ──────────────────────────▶ moving
 *      │              │ fenced by a newer socket: 4509   │ fenced: it moved, wait for its 1000
 *      │              │ closed by the backend, too slow, │ slot over: 1012
 *      │              │ too fast, token over, violation  │
 *      └──────────────┴───────────────▶ closing ◀────────┘
 *                                          │ the socket is gone, reports are told
 *                                          ▼
 *                     closed: ended (client's 1000), released (it may come back), or nothing (fenced)
 *
 * Before every write it is asked whether the connection is ours for certain (ownership.ts): by `#write` for all frames but messages, by delivery.ts for those (rule 1).
 */
import type { CloseCode, Reason } from "../shared/api.js";
import { pageBytesMax } from "../shared/bulk-reads.js";
import {
  CLOSE_BY_BACKEND,
  CLOSE_CODES,
  CLOSE_NORMAL,
  CLOSE_OVERLOAD,
  CLOSE_POLICY,
  CLOSE_RESTART,
  CLOSE_TAKEN_OVER,
  CLOSE_TOKEN,
  CLOSE_TOO_FAST,
  CLOSE_TOO_SLOW,
} from "../shared/close-codes.js";
import { BridgeError, toProblem } from "../shared/errors.js";
import { channels } from "../shared/keys.js";
import { parseBell, type Bell, type Entry } from "../shared/entry.js";
import type { Log } from "../shared/log.js";
import type { Logger } from "../shared/logging.js";
import { accuse, poisonWithinMs } from "../shared/poison.js";
import type { RedisLink } from "../shared/redis.js";
import type { Claim, Confirmation, Registry } from "../shared/registry.js";
import type { Origin, Revocations } from "../shared/revocations.js";
import { toleranceMs, type Tokens } from "../shared/tokens.js";
import type { Users } from "../shared/users.js";
import { Delivery } from "./delivery.js";
import { Heartbeat } from "./heartbeat.js";
import { Intake } from "./intake.js";
import type { Lease } from "./lease.js";
import { Members, type GroupStores } from "./members.js";
import { Ownership } from "./ownership.js";
import { Reporter } from "./reporter.js";
import { SlowReader } from "./slow.js";
import type { Frame, Speaker } from "./speaker.js";
import { Suspicion } from "./suspicion.js";
import { UpstreamLimit, type Throttle } from "./upstream.js";
import { Voice, type VoiceDeps } from "./voice.js";

/** A client that was told to move has this long after its slot. */
const moveGraceMs = 5_000;
/** What waits for the user is asked for again after this long. */
const arriveRetryMs = 1_000;
/** A timer of Node counts at most this many milliseconds. */
const timerMaxMs = 2_147_483_647;

/** The socket as a connection sees it; server.ts is the only file that knows `ws`. */
export interface Socket {
  /** Bytes handed over but not yet taken by the system. */
  readonly bufferedBytes: number;
  /** `taken` is called when the system took the frame. */
  send(frame: Frame, taken?: () => void): void;
  /** A control ping. */
  ping(): void;
  /** `deaf`: what still comes is thrown away unread. */
  close(code: number, reason: string, deaf: boolean): void;
  terminate(): void;
  pause(): void;
  resume(): void;
}

export interface ConnectionDeps extends GroupStores, VoiceDeps {
  instance: string;
  log: Log;
  registry: Registry;
  users: Pick<Users, "arrive">;
  redis: RedisLink;
  tokens: Tokens;
  /** Of this process, for all its connections. */
  lease: Lease;
  logger: Logger;
  config: {
    resumeMs: number;
    heartbeatMs: number;
    slowMs: number;
    slowBytes: number;
  };
}

export interface Admitted {
  connectionId: string;
  claim: Claim;
  /** The lease's doubt from before the claim was sent (ownership.ts). */
  certain: number;
  speaker: Speaker;
  resumed: boolean;
  /** The client's last offset in each group that it names. */
  offsets: ReadonlyMap<string, number>;
  heartbeatMs: number | undefined;
  tokenExpiresAtMs: number | undefined;
  /** The token it came with first; undefined: none. */
  origin: Origin | undefined;
}

/** Of all connections at which no socket has ended. */
const unsuspected = new Suspicion("", true, {
  after: () => undefined,
  goOn: () => undefined,
});

type State = "opening" | "open" | "moving" | "closing" | "closed";

export class Connection {
  readonly id: string;
  /** Resolves when the socket is gone and Redis was told. */
  readonly closed: Promise<void>;
  readonly #deps: ConnectionDeps;
  readonly #admitted: Admitted;
  readonly #socket: Socket;
  readonly #speaker: Speaker;
  readonly #ownership: Ownership;
  readonly epoch: number;
  readonly #delivery: Delivery;
  readonly #members: Members;
  readonly #intake: Intake;
  readonly #heartbeat: Heartbeat;
  // Made when they are needed first: most connections are idle, and what they never need they need not have.
  #madeReporter: Reporter | undefined;
  #madeVoice: Voice | undefined;
  #madeLimit: UpstreamLimit | undefined;
  #slow: SlowReader | undefined;
  #timers: Set<NodeJS.Timeout> | undefined;
  /** Holds back what a client says before we know who it is. */
  #opening: Throttle | undefined;
  readonly #channel: string;
  readonly #startedAt = Date.now();
  #state: State = "opening";
  #fenced = false;
  /** The client broke the protocol: nothing it says counts any more. */
  #deaf = false;
  /** A drain came before the welcome: told right after it. */
  #slotMs: number | undefined;
  #ended = false;
  #handed: number;
  #messages = 0;
  /** When the client was given the resume token that it has. */
  #renewedAt = 0;
  readonly #suspicion: Suspicion;
  #leave: "end" | "release" | "nothing" = "release";
  #settle: () => void = () => undefined;

  constructor(deps: ConnectionDeps, admitted: Admitted, socket: Socket) {
    const { connectionId, claim, speaker } = admitted;
    const { config } = deps;
    this.id = connectionId;
    this.#deps = deps;
    this.#admitted = admitted;
    this.#socket = socket;
    this.#speaker = speaker;
    this.#ownership = new Ownership(deps.lease, admitted.certain, {
      live: () => this.#live,
      ask: (upkeep) => this.#ask(upkeep),
      confirmed: ({ seq, groupsVersion, restored }) => {
        // The watchdog: whatever bell was lost, what differs is looked up.
        if (seq !== this.#delivery.cur) void this.#delivery.read();
        this.#members.changed(groupsVersion);
        if (restored)
          this.#members
            .hold()
            .catch((error: unknown) =>
              this.#log("warn", { err: error }, "groups not told"),
            );
      },
      fenced: () => this.#onFenced(),
      ended: (code, words) => this.#onEnded(code, words),
    });
    this.epoch = claim.epoch;
    this.#handed = claim.cur;
    this.#suspicion =
      claim.suspect === ""
        ? unsuspected
        : new Suspicion(claim.suspect, speaker.acks, {
            after: (ms, then) => this.#after(ms, then),
            goOn: () => {
              if (!this.#full) this.#delivery.unblock();
            },
          });
    this.#channel = `${channels.bell(connectionId)}${claim.epoch}`;
    this.closed = new Promise((resolve) => {
      this.#settle = resolve;
    });
    this.#delivery = new Delivery(
      {
        read: (cur) =>
          deps.log.read(connectionId, claim.epoch, cur, this.#room),
        recall: (seq) => deps.log.recall(connectionId, seq, claim.epoch),
        mayWrite: () => this.#mayWrite(),
        confirm: () => this.#ownership.confirm(),
        send: (entry, redelivered) => this.#send(entry, redelivered),
        skip: (seq, status, reason) => this.#reporter.skip(seq, status, reason),
        fenced: () => this.#onFenced(),
        lost: () => this.#onLost(),
      },
      claim,
    );
    this.#members = new Members(
      deps,
      {
        connectionId,
        epoch: claim.epoch,
        speaker,
        mayWrite: () => this.#mayWrite(),
        confirm: () => this.#ownership.confirm(),
        hand: (delivery) => {
          if (!this.#mayWrite()) return "doubt";
          if (this.#full) return "full";
          for (const frame of delivery.frames(speaker)) socket.send(frame);
          return "sent";
        },
        send: (frames) => {
          for (const frame of frames) socket.send(frame);
        },
        write: (frame) => this.#write(frame),
        full: () => this.#full,
        room: () => this.#room,
        live: () => this.#live,
      },
      claim,
      (error) => this.#log("warn", { err: error }, "groups not changed"),
    );
    this.#intake = new Intake(socket);
    this.#opening = this.#intake.holder();
    this.#opening.pause();
    this.#heartbeat = new Heartbeat({
      everyMs: admitted.heartbeatMs ?? config.heartbeatMs,
      ping: () => this.#ping(),
      terminate: () => {
        this.#log("info", {}, "no sign of life, the line is given up");
        socket.terminate();
      },
    });
    if (admitted.tokenExpiresAtMs !== undefined) {
      const left = admitted.tokenExpiresAtMs + toleranceMs - Date.now();
      if (left < timerMaxMs)
        this.#after(left, () =>
          this.#close(CLOSE_TOKEN, CLOSE_CODES[CLOSE_TOKEN].reason),
        );
    }
  }

  get state(): State {
    return this.#state;
  }

  set #to(next: State) {
    const { logger } = this.#deps;
    if (logger.isLevelEnabled("debug"))
      this.#log("debug", { from: this.#state, to: next }, "connection state");
    this.#state = next;
  }

  get #reporter(): Reporter {
    const { log } = this.#deps;
    const { claim } = this.#admitted;
    this.#madeReporter ??= new Reporter(
      {
        report: async (report) => {
          const word = await log.report(this.id, this.epoch, report);
          if (report.fates.length > 0) this.#tell();
          return word;
        },
        confirm: () => this.#ownership.confirm(),
        fenced: () => this.#onFenced(),
      },
      this.#speaker.acks ? "client" : "socket",
      claim.acked,
    );
    return this.#madeReporter;
  }

  get #voice(): Voice {
    const { claim } = this.#admitted;
    this.#madeVoice ??= new Voice(this.#deps, {
      connectionId: this.id,
      epoch: this.epoch,
      userId: claim.identity.userId,
      resumeMs: this.#deps.config.resumeMs,
      speaker: this.#speaker,
      write: (frame) => this.#write(frame),
      intake: this.#intake.holder(),
      unheard: (error) => this.#unheard(error),
    });
    return this.#madeVoice;
  }

  get #limit(): UpstreamLimit {
    this.#madeLimit ??= new UpstreamLimit(this.#intake.holder());
    return this.#madeLimit;
  }

  /** The socket has enough for now; it is watched until it has not. */
  get #full(): boolean {
    const { slowBytes } = this.#deps.config;
    if (!this.#slow && this.#socket.bufferedBytes <= slowBytes) return false;
    this.#slow ??= new SlowReader(this.#socket, this.#deps.config, {
      drained: () => {
        if (!this.#suspicion.holding) this.#delivery.unblock();
        this.#members.drained();
      },
      stuck: (unsentBytes) => {
        this.#log("warn", { unsentBytes }, "the client does not read");
        this.#close(CLOSE_TOO_SLOW, CLOSE_CODES[CLOSE_TOO_SLOW].reason);
      },
    });
    return this.#slow.full;
  }

  /** Bytes of a page that the socket takes before it has enough. */
  get #room(): number {
    const room = this.#deps.config.slowBytes - this.#socket.bufferedBytes;
    return Math.max(1, Math.min(room, pageBytesMax));
  }

  /** A line of the log that says which connection it is of. */
  #log(
    level: "debug" | "info" | "warn" | "error",
    facts: object,
    words: string,
  ): void {
    const { logger } = this.#deps;
    logger[level](
      { connectionId: this.id, epoch: this.epoch, ...facts },
      words,
    );
  }

  get #live(): boolean {
    return (
      !this.#fenced && (this.#state === "open" || this.#state === "moving")
    );
  }

  #after(ms: number, run: () => void): void {
    const timer = setTimeout(
      () => {
        this.#timers?.delete(timer);
        run();
      },
      Math.max(0, ms),
    );
    this.#timers ??= new Set();
    this.#timers.add(timer);
  }

  /** Welcome, then subscribe and await, then read the log (rule 7). */
  async open(): Promise<void> {
    const { claim, speaker, resumed, offsets } = this.#admitted;
    const { config } = this.#deps;
    const subscribed = this.#subscribe();
    const groups = await this.#members.enter(claim, offsets);
    const resumeToken = speaker.acks ? await this.#resumeToken() : "";
    this.#renewedAt = Date.now();
    if (this.#state !== "opening") return;
    this.#to = "open";
    this.#opening?.resume();
    this.#opening = undefined;
    const welcome = speaker.welcome({
      connectionId: this.id,
      userId: claim.identity.userId,
      resumeToken,
      resumed,
      lost: claim.lost,
      seq: claim.said,
      heartbeatMs: config.heartbeatMs,
      groups,
    });
    // Stopped since the claim, if only by a storm of others: ask first. Without welcome a client waits for nothing (rule 1).
    while (welcome && !this.#write(welcome))
      if (!(await this.#ownership.confirm())) return;
    this.#log(
      "info",
      { protocol: speaker.protocol, resumed, lost: claim.lost },
      "connection open",
    );
    if (this.#slotMs !== undefined) this.drain(this.#slotMs);
    // What the client has seen is acked by coming back with it.
    if (claim.cur > claim.acked) this.#reporter.ack(claim.cur);
    this.#members.start();
    await subscribed;
    if (!this.#live) return;
    await Promise.all([this.#delivery.read(), this.#arrive()]);
  }

  /** What waits for the user is this connection's now. Until it is known to be, again and again. */
  async #arrive(): Promise<void> {
    const { userId } = this.#admitted.claim.identity;
    if (userId === "" || !this.#live) return;
    try {
      await this.#deps.users.arrive(userId, this.id);
    } catch (error) {
      // A full Redis is told of once for all, not for every user.
      const full = error instanceof BridgeError && error.code === "redis_full";
      this.#log(
        full ? "debug" : "warn",
        { err: error },
        "what waits for the user is not here",
      );
      if (this.#live) this.#after(arriveRetryMs, () => void this.#arrive());
    }
  }

  async #subscribe(): Promise<void> {
    try {
      await this.#deps.redis.subscriptions.subscribe(this.#channel, (payload) =>
        this.#onBell(payload),
      );
    } catch (error) {
      // The channel is noted: it is subscribed at the next `ready`, and `gap` makes the log be read.
      this.#log("warn", { err: error }, "doorbell not subscribed yet");
    }
  }

  #mayWrite(): boolean {
    return this.#live && this.#ownership.holds;
  }

  /** The door for all frames but messages. False: not written, ownership must be confirmed first. */
  #write(frame: Frame | undefined): boolean {
    if (!frame || !this.#mayWrite()) return false;
    this.#socket.send(frame);
    return true;
  }

  #send(entry: Entry, redelivered: boolean): boolean {
    const frames = this.#speaker.message(entry, redelivered);
    const { seq } = entry;
    this.#handed = seq;
    this.#messages += 1;
    const last = frames.length - 1;
    for (const [index, frame] of frames.entries()) {
      if (index < last) this.#socket.send(frame);
      else if (this.#speaker.acks) this.#socket.send(frame);
      // A raw client cannot ack: what its socket took is delivered.
      else this.#socket.send(frame, () => this.#reporter.ack(seq));
    }
    this.#reporter.sent(seq, entry.total);
    if (this.#suspicion.sent(seq))
      this.#log("warn", { seq }, "a suspected message is sent alone");
    return this.#full || this.#suspicion.holding;
  }

  #ping(): void {
    if (this.#madeVoice?.holding) this.#heartbeat.heard();
    if (!this.#mayWrite()) {
      this.#ownership.confirmQuietly();
      return;
    }
    if (
      this.#speaker.acks &&
      Math.abs(Date.now() - this.#renewedAt) >= this.#deps.tokens.renewMs
    )
      return void this.#renew();
    const frame = this.#speaker.ping();
    if (frame) this.#socket.send(frame);
    // A raw client answers no frame; its WebSocket answers a control ping by itself.
    if (!this.#speaker.acks) this.#socket.ping();
  }

  #resumeToken(): Promise<string> {
    const { tokenExpiresAtMs, origin } = this.#admitted;
    const { tokens } = this.#deps;
    return tokens.forResume(this.id, this.epoch, tokenExpiresAtMs, origin);
  }

  /** Closes the socket if the token that its client came with was revoked. */
  lookForRevoked(revocations: Pick<Revocations, "covers">): void {
    const { origin } = this.#admitted;
    if (origin && revocations.covers(origin))
      this.#close(CLOSE_TOKEN, "token revoked");
  }

  /** A ping with a new resume token: the one that the client has runs out while its socket stays open. */
  async #renew(): Promise<void> {
    const token = await this.#resumeToken().catch((error: unknown) => {
      this.#log("warn", { err: error }, "resume token not renewed yet");
      return undefined;
    });
    if (this.#write(this.#speaker.ping(token)) && token !== undefined)
      this.#renewedAt = Date.now();
  }

  #onBell(payload: Buffer): void {
    const bell: Bell | undefined = parseBell(this.id, payload);
    if (!bell) return;
    switch (bell.kind) {
      case "message":
      case "append":
        if (this.#live) this.#delivery.onBell(bell);
        return;
      case "groups":
        this.#members.changed();
        return;
      case "answer":
        void this.#madeVoice?.results?.look(bell.eventId);
        return;
      case "fenced":
        this.#onFenced();
        return;
      case "closed":
        this.#onEnded(bell.code, bell.reason);
        return;
      case "recall":
        void this.#onRecall(bell.seq, bell.nonce);
    }
  }

  async #onRecall(seq: number, nonce: string): Promise<void> {
    if (!this.#live) return;
    const word = await this.#delivery.recall(seq);
    if (word === "fenced") return this.#onFenced();
    await this.#deps.redis
      .publish(channels.news(this.id), `recalled ${nonce} ${word}`)
      .catch(() => undefined);
  }

  async #ask(upkeep: boolean): Promise<Confirmation> {
    const { registry, instance } = this.#deps;
    const { identity } = this.#admitted.claim;
    const positions = this.#members.news();
    const confirmation = await registry.confirm(this.id, {
      epoch: this.epoch,
      owner: instance,
      cur: this.#delivery.cur,
      protocol: this.#speaker.protocol,
      identity: { ...identity, groups: JSON.stringify(this.#members.names) },
      upkeep,
      positions,
    });
    if (confirmation.kind === "ok") this.#members.told(positions);
    return confirmation;
  }

  /** Compares what is known here with Redis, and reads what is missing (keeper.ts). Never throws. */
  async compare(): Promise<void> {
    if (!this.#live) return;
    this.#madeVoice?.results?.lookAll();
    await this.#ownership.confirm().catch(() => undefined);
  }

  /** A message waits that no bell told of. */
  async look(): Promise<void> {
    if (this.#live) await this.#delivery.read();
  }

  /** Redis answers again: a look that failed is not put off any longer. */
  lookNow(): void {
    this.#delivery.lookNow();
  }

  /** A newer epoch owns the connection. Not a byte more, but the close. */
  #onFenced(): void {
    if (this.#fenced || this.#state === "closed") return;
    this.#fenced = true;
    this.#leave = "nothing";
    this.#delivery.stop();
    this.#members.stop();
    this.#madeReporter?.stop();
    this.#log("info", { moving: this.#state === "moving" }, "taken over");
    // A client that was told to move closes this socket itself, with 1000.
    if (this.#state !== "moving")
      this.#close(CLOSE_TAKEN_OVER, CLOSE_CODES[CLOSE_TAKEN_OVER].reason);
  }

  #onEnded(code: number, words: string): void {
    if (this.#fenced) return;
    this.#leave = "nothing";
    this.#ended = true;
    this.#madeReporter?.stop();
    this.#close(code || CLOSE_BY_BACKEND, words);
  }

  #onLost(): void {
    const { claim } = this.#admitted;
    this.#log("error", {}, "Redis lost messages of this connection");
    this.#write(
      this.#speaker.error(
        toProblem(
          new BridgeError("outcome_unknown", {
            detail: `Redis lost its history after ${claim.cur}; messages may be missing`,
          }),
        ),
      ),
    );
  }

  /** The client sent a frame. */
  onMessage(data: Buffer, binary: boolean): void {
    if (!this.#accept(data.length)) return;
    const said = this.#speaker.read(data, binary);
    // On a socket that is being left, too: its client does not know yet, and says it nowhere else.
    if (said.kind === "event") return this.#voice.event(said);
    if (said.kind === "reply") return void this.#voice.reply(said);
    if (!this.#live) return;
    switch (said.kind) {
      case "ack":
        this.#onAck(said.seq ?? 0, said.groups ?? {});
        return;
      case "group":
        this.#members.request(said);
        return;
      case "pong":
        return;
      case "refused":
        this.#voice.refuse(said.ref, said.error);
        return;
      case "violation":
        this.#refuse(said.error, CLOSE_POLICY);
    }
  }

  #onAck(seq: number, groups: Readonly<Record<string, number>>): void {
    const { said } = this.#admitted.claim;
    if (seq > Math.max(this.#handed, said) || !this.#members.ack(groups)) {
      this.#refuse(
        new BridgeError("invalid_frame", {
          detail: "ack of a message that was not sent",
        }),
        CLOSE_POLICY,
      );
      return;
    }
    // It may say again what it said when it came, which counts no more than it did then.
    if (seq === 0 || seq > this.#handed) return;
    this.#reporter.ack(seq);
    this.#suspicion.acked(seq);
  }

  /** A control frame came. One answer to a ping of ours is no more than was asked for; all others count as frames. */
  onControl(kind: "ping" | "pong", bytes: number): void {
    if (kind === "pong" && this.#heartbeat.asked && !this.#deaf)
      this.#heartbeat.heard();
    else this.#accept(bytes);
  }

  /** Counts what came; false: it must not be looked at. */
  #accept(bytes: number): boolean {
    if (this.#deaf || this.#state === "closed") return false;
    this.#heartbeat.heard();
    if (this.#limit.accept(bytes)) return true;
    this.#refuse(
      new BridgeError("upstream_too_fast", {
        detail: "more than the limits of `welcome` for three seconds",
      }),
      CLOSE_TOO_FAST,
    );
    return false;
  }

  /** What a raw client said is lost, and no frame could tell it: the end of its socket does. */
  #unheard(error: unknown): void {
    this.#log("warn", { err: error }, "what the client said was not stored");
    if (this.#live)
      this.#close(CLOSE_OVERLOAD, CLOSE_CODES[CLOSE_OVERLOAD].reason);
  }

  #refuse(error: Error, code: CloseCode): void {
    this.#log("info", { err: error, code }, "the client broke the protocol");
    this.#deaf = true;
    this.#write(this.#speaker.error(toProblem(error)));
    this.#close(code, CLOSE_CODES[code].reason);
  }

  /**
   * Asks the client to move within its slot: a bridge client gets `drain` and comes back by itself, a raw one is
   * closed with 1012 at its slot. Any time, twice.
   */
  drain(slotMs: number): void {
    if (this.#state === "opening") this.#slotMs ??= slotMs;
    if (this.#state !== "open") return;
    this.#to = "moving";
    const told = this.#write(this.#speaker.drain(Math.round(slotMs)));
    this.#after(slotMs + (told ? moveGraceMs : 0), () =>
      this.#close(CLOSE_RESTART, CLOSE_CODES[CLOSE_RESTART].reason),
    );
  }

  #close(code: number, reason: string): void {
    if (this.#state === "closing" || this.#state === "closed") return;
    this.#to = "closing";
    this.#delivery.stop();
    this.#members.stop();
    this.#log("info", { code, reason }, "closing the socket");
    const close = () => this.#socket.close(code, reason, this.#deaf);
    // Who cannot ack comes back to where Redis says it is: what its socket took is told before it can.
    if (this.#speaker.acks || !this.#madeReporter) close();
    else void this.#madeReporter.flush().finally(close);
  }

  /** Ends the socket without a close frame. */
  terminate(): void {
    this.#socket.terminate();
  }

  /** The socket is gone. */
  async onClose(code: number): Promise<void> {
    if (this.#state === "closed") return;
    // A 1000 of the client on its current socket ends the connection; on a superseded one it says goodbye.
    if (
      code === CLOSE_NORMAL &&
      !this.#fenced &&
      (this.#state === "open" || this.#state === "moving")
    )
      this.#leave = "end";
    // Only an end that was not ours says something about what was sent last (poison.ts).
    const byClient = this.#leave === "release" && this.#state === "open";
    const soon =
      performance.now() - this.#delivery.activeAtMs <= poisonWithinMs;
    this.#to = "closed";
    this.#delivery.stop();
    this.#members.stop();
    this.#slow?.stop();
    this.#madeVoice?.results?.stop();
    this.#madeLimit?.close();
    this.#heartbeat.stop();
    for (const timer of this.#timers ?? []) clearTimeout(timer);
    void this.#deps.redis.subscriptions.unsubscribe(this.#channel);
    const steps: (() => Promise<unknown>)[] = [
      async () => this.#madeReporter?.flush(),
      async () => this.#madeVoice?.flush(),
      () => (byClient ? this.#accuse(soon) : Promise.resolve()),
      () => this.#giveBack(),
    ];
    for (const step of steps)
      await step().catch((error: unknown) =>
        // The lease runs out by itself; nothing depends on this.
        this.#log("debug", { err: error }, "clean-up left to the lease"),
      );
    this.#madeReporter?.stop();
    this.#log(
      "info",
      {
        code,
        left: this.#leave,
        messages: this.#messages,
        seconds: Math.round((Date.now() - this.#startedAt) / 1_000),
      },
      "connection closed",
    );
    this.#settle();
  }

  /** Says what became of the connection: to the registry first, which decides whether it is ours to say. */
  async #giveBack(): Promise<void> {
    const { registry, config, instance } = this.#deps;
    const owner = { epoch: this.epoch, owner: instance };
    if (this.#leave === "end") {
      await registry.end(this.id, {
        ...owner,
        reason: "client_closed" satisfies Reason,
        code: CLOSE_NORMAL,
        words: "closed by the client",
      });
      await this.#members.left(0);
    } else if (this.#leave === "nothing") {
      if (this.#ended) await this.#members.left(0);
      await registry.abandon(this.id, instance);
    } else if (
      await registry.release(
        this.id,
        {
          ...owner,
          handed: Math.max(this.#handed, this.#admitted.claim.readTo),
        },
        this.#members.news(),
      )
    )
      await this.#members.left(config.resumeMs);
  }

  /** The socket ended without our doing. Nothing to tell of most: all was acked, or nothing was sent. */
  async #accuse(soon: boolean): Promise<void> {
    const messages = this.#messages;
    const unacked = (this.#madeReporter?.acked ?? 0) < this.#handed;
    if (!this.#speaker.acks) return;
    if (!this.#suspicion.tells({ messages, unacked, soon })) return;
    const { redis } = this.#deps;
    const seq = await accuse(redis, this.id, this.epoch, {
      sent: this.#handed,
      soon,
    });
    if (seq === undefined) return;
    this.#log("error", { seq }, "a message is given up as poison");
    this.#tell();
  }

  /** Messages were given up, which is an event. What cannot be told now is told by whoever looks next. */
  #tell(): void {
    this.#deps.registry.tell(this.id).catch(() => undefined);
  }
}
