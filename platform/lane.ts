// One direction of a WebSocket through the platform: what one side sends, and what of it goes on to the other.
//
// Where nothing is to be changed the reader only looks on, and each chunk goes on as it came. Where a limit may drop,
// delay or end, or a fault waits for a message, the stream is cut at its frames: a header goes on when it is whole
// and has been judged. The bytes that go on are the same either way.

import type { Clock } from "./clock.js";
import { FrameReader } from "./frames.js";
import { HeldMessage } from "./held-message.js";
import { RateWindow } from "./rate-window.js";
import type { LimitPolicy } from "./rules.js";

/** The limits of one direction; a rate without bound is `Infinity`. */
export interface LaneLimits {
  readonly maxMessageBytes: number;
  readonly messageSizePolicy: LimitPolicy;
  readonly bytesPerSecond: number;
  readonly bytesPolicy: LimitPolicy;
  readonly messagesPerSecond: number;
  readonly messagesPolicy: LimitPolicy;
  readonly rateWindow: "sliding" | "fixed";
}

export type LimitName = "size" | "bytes" | "messages";

/** What a fault makes of a message that begins: nothing, the end of the lane, or a stop in its middle. */
export type MessageFate = "pass" | "end" | "halve";

export interface LaneOptions {
  readonly limits: LaneLimits;
  readonly clock: Clock;
  /** These bytes go on to the other side. */
  send(bytes: Buffer): void;
  /** Whether the sender's socket has to stand still. */
  hold(isHolding: boolean): void;
  /** A limit with the policy `close` was passed: the connection has to end. */
  exceeded(limit: LimitName): void;
  /** Asked once for each message; absent where no fault waits for one. */
  readonly begins?: ((nth: number) => MessageFate) | undefined;
  /** Half of a message has gone on; the lane stands still until `proceed`. */
  halved(): void;
}

/** Where the bytes of the current frame go: on, into the message that waits to be complete, or nowhere. */
type Route = "forward" | "hold" | "hold-control" | "drop";
/** What becomes of the frame whose header is being looked at; a limit's name: it is too much for that. */
type Fate = Route | "wait" | "end" | LimitName;

/** A throttled lane goes on in this many steps a second: not every byte has a timer of its own. */
const STEPS_PER_SECOND = 8;

export class Lane {
  readonly reader = new FrameReader();
  readonly messages: RateWindow;
  readonly bytes: RateWindow;
  /** How many messages were too many, or had bytes too many, for their second. */
  readonly excess = { messages: 0, bytes: 0 };
  dropped = 0;

  readonly #options: LaneOptions;
  readonly #limits: LaneLimits;
  readonly #cuts: boolean;
  readonly #holdsFragments: boolean;
  readonly #held = new HeldMessage();
  #state: "open" | "stopping" | "stopped" = "open";
  #route: Route = "forward";
  /** The beginning of a header, until the rest of it comes. */
  #partial: Buffer | undefined;
  /** What was read and may not go on yet, and the timer until it may. */
  #rest: Buffer | undefined;
  #cancelWait: () => void = () => {};
  /** The rest of the current message goes nowhere. */
  #isDropping = false;
  /** The last messages a fault was asked about, or a rate noted: each message once. */
  #asked = 0;
  #notedMessages = 0;
  #notedBytes = 0;
  /** Payload bytes until the middle of a message that is to be halved. */
  #untilHalf: number | undefined;
  #onStopped: (mayClose: boolean) => void = () => {};

  constructor(options: LaneOptions) {
    const { limits } = options;
    this.#options = options;
    this.#limits = limits;
    this.messages = new RateWindow(limits.rateWindow);
    this.bytes = new RateWindow(limits.rateWindow);
    const size = limits.messageSizePolicy;
    const bytes = policyOf(limits.bytesPolicy, limits.bytesPerSecond);
    const messages = policyOf(limits.messagesPolicy, limits.messagesPerSecond);
    this.#holdsFragments = size === "drop" || bytes === "drop";
    this.#cuts =
      options.begins !== undefined ||
      size === "close" ||
      size === "drop" || // a size cannot be throttled, so that is a warning too
      bytes !== "warn" ||
      messages !== "warn";
  }

  /** Bytes are kept back that shall go on later. */
  get isWaiting(): boolean {
    return this.#rest !== undefined;
  }

  /** The sender's next bytes. */
  push(chunk: Buffer): void {
    if (this.#state === "stopped") return;
    // On its way already when reading stopped.
    if (this.#rest) this.#rest = Buffer.concat([this.#rest, chunk]);
    else if (this.#state === "stopping") this.#finishFrame(chunk);
    else if (this.#cuts) this.#cut(chunk);
    else this.#lookOn(chunk);
  }

  /** The sender says nothing more: what was kept back of an unfinished frame or message goes on. */
  end(): void {
    if (this.#state !== "open") return;
    this.#sendHeld("all");
    if (this.#partial) this.#options.send(this.#partial);
    this.#partial = undefined;
  }

  /** Goes on after a wait. */
  proceed(): void {
    this.#cancelWait();
    const rest = this.#rest;
    this.#rest = undefined;
    if (rest && this.#state === "open") this.#cut(rest);
    if (this.#rest === undefined) this.#options.hold(false);
  }

  /**
   * Lets nothing pass any more but the rest of a frame that has begun to, then calls back: whether a Close frame may
   * follow, which it may not after the sender's own, or where nobody knows where a frame ends.
   */
  stop(onStopped: (mayClose: boolean) => void): void {
    if (this.#state !== "open")
      return onStopped(!this.reader.isInFrame && !this.reader.isDone);
    this.#cancelWait();
    const rest = this.#rest;
    this.#rest = this.#partial = undefined;
    this.#onStopped = onStopped;
    this.#state = "stopping";
    if (this.#route !== "forward") this.#stopped();
    else this.#finishFrame(rest ?? Buffer.alloc(0));
    this.#options.hold(false);
  }

  /** Lets nothing pass any more, now. */
  abandon(): void {
    this.#cancelWait();
    this.#rest = this.#partial = undefined;
    this.#state = "stopped";
  }

  #stopped(): void {
    this.#state = "stopped";
    this.#onStopped(!this.reader.isDone);
  }

  #finishFrame(chunk: Buffer): void {
    const { reader } = this;
    const end =
      reader.isInFrame && !reader.isDone ? reader.pushFrame(chunk, 0) : 0;
    if (end > 0) this.#options.send(chunk.subarray(0, end));
    if (!reader.isInFrame || reader.isDone) this.#stopped();
  }

  #lookOn(chunk: Buffer): void {
    const { reader } = this;
    const { begun, passed } = reader;
    reader.push(chunk);
    const now = this.#options.clock.now();
    const messages = reader.begun - begun;
    if (messages > 0) {
      this.messages.add(now, messages);
      const over = this.messages.sum(now) - this.#limits.messagesPerSecond;
      if (over > 0) this.excess.messages += Math.min(over, messages);
    }
    if (reader.passed > passed) this.#countBytes(now, reader.passed - passed);
    this.#options.send(chunk);
  }

  /** Whether these bytes were too many. */
  #countBytes(now: number, amount: number): boolean {
    this.bytes.add(now, amount);
    if (this.bytes.sum(now) <= this.#limits.bytesPerSecond) return false;
    this.#noteBytes(this.reader.begun);
    return true;
  }

  #noteBytes(nth: number): void {
    if (this.#notedBytes === nth) return;
    this.#notedBytes = nth;
    this.excess.bytes++;
  }

  #cut(input: Buffer): void {
    const { reader } = this;
    const now = this.#options.clock.now();
    const chunk = this.#partial ? Buffer.concat([this.#partial, input]) : input;
    this.#partial = undefined;
    let from = 0; // not passed on yet
    let at = 0; // not looked at yet
    const pass = () => {
      this.#put(chunk, from, at);
      from = at;
    };
    while (at < chunk.length && !reader.isDone) {
      if (!reader.isInFrame) {
        const size = reader.peek(chunk, at);
        if (size === 0) {
          pass();
          this.#partial = Buffer.from(chunk.subarray(at));
          return;
        }
        // What is decided now may set free what is held, or end a process: what came before has to be there.
        if (this.#route !== "forward" || this.#options.begins) pass();
        const fate = this.#fateOf(now);
        if (fate !== this.#route) {
          pass();
          if (fate === "end") return;
          if (fate === "wait") return this.#wait(chunk.subarray(at), now);
          if (fate === "size" || fate === "messages" || fate === "bytes")
            return this.#options.exceeded(fate);
          this.#route = fate;
        }
        reader.begin(chunk, at);
        at += size;
      }
      const before = at;
      at = reader.pass(chunk, at, this.#room(now));
      if (this.#account(now, at - before)) {
        pass();
        this.#rest = chunk.subarray(at);
        return this.#options.exceeded("bytes");
      }
      if (this.#untilHalf === 0) {
        this.#untilHalf = undefined;
        pass();
        this.#rest = chunk.subarray(at);
        this.#options.hold(true);
        return this.#options.halved();
      }
      if (reader.isInFrame && at < chunk.length) {
        pass();
        return this.#wait(chunk.subarray(at), now);
      }
      if (this.#route === "hold" && reader.final && !reader.isInFrame) {
        pass();
        this.#settle(now);
      }
    }
    // After a Close frame, or where frames cannot be told apart, everything goes on.
    if (reader.isDone) at = chunk.length;
    pass();
  }

  #put(chunk: Buffer, from: number, to: number): void {
    if (from === to || this.#route === "drop") return;
    const bytes =
      from === 0 && to === chunk.length ? chunk : chunk.subarray(from, to);
    if (this.#route === "forward") this.#options.send(bytes);
    else this.#held.add(bytes, this.#route === "hold");
  }

  /** How many payload bytes of the current frame may go on now. */
  #room(now: number): number {
    const { reader } = this;
    if (this.#route !== "forward" || !reader.isData) return reader.left;
    const half = this.#untilHalf ?? Infinity;
    const { bytesPolicy, bytesPerSecond } = this.#limits;
    if (bytesPolicy !== "throttle") return half;
    return Math.max(0, Math.min(half, bytesPerSecond - this.bytes.sum(now)));
  }

  /** Counts what has just gone on; whether the connection has to end for it. */
  #account(now: number, passed: number): boolean {
    if (passed === 0 || this.#route !== "forward" || !this.reader.isData)
      return false;
    if (this.#untilHalf !== undefined) this.#untilHalf -= passed;
    const isOver = this.#countBytes(now, passed);
    return isOver && this.#limits.bytesPolicy === "close";
  }

  /** Stands still until the next message, or some more bytes of this one, may go on. */
  #wait(rest: Buffer, now: number): void {
    const { messagesPerSecond, bytesPerSecond } = this.#limits;
    const step = Math.ceil(bytesPerSecond / STEPS_PER_SECOND);
    const ms = this.reader.isInFrame
      ? this.bytes.msUntilRoom(
          now,
          Math.min(this.reader.left, step),
          bytesPerSecond,
        )
      : this.messages.msUntilRoom(now, 1, messagesPerSecond);
    this.#rest = rest;
    this.#options.hold(true);
    this.#cancelWait = this.#options.clock.setTimer(Math.max(1, ms), () =>
      this.proceed(),
    );
  }

  /** Judges the frame whose header has been seen, before its first byte goes on. */
  #fateOf(now: number): Fate {
    const { reader } = this;
    if (!reader.isData) {
      if (this.#held.isEmpty) return "forward";
      if (this.#held.isTooMixed) this.#drop();
      else if (!reader.isClose) return "hold-control";
      this.#sendHeld("all"); // the message will never be complete
      return "forward";
    }
    const isFirst = reader.isFirst;
    const size = (isFirst ? 0 : reader.messageSize) + reader.length;
    if (isFirst) {
      this.#isDropping = false;
      if (this.#ask(reader.begun + 1) === "end") return "end";
    } else if (this.#isDropping) return "drop";

    if (size > this.#limits.maxMessageBytes) {
      const policy = this.#limits.messageSizePolicy;
      if (policy === "close") return "size";
      if (policy === "drop") return this.#drop();
    }
    if (isFirst) {
      const fate = this.#admit(now, reader.begun + 1);
      if (fate !== "forward") return fate;
    }
    if (this.#losesBytes(now, size)) return this.#drop();
    if (isFirst) this.messages.add(now, 1);
    const isHeld = isFirst
      ? this.#holdsFragments && !reader.final
      : !this.#held.isEmpty;
    if (!isHeld) return "forward";
    this.#held.payload += reader.length;
    return "hold";
  }

  #ask(nth: number): MessageFate {
    if (this.#asked === nth) return "pass"; // it had to wait in between
    this.#asked = nth;
    const fate = this.#options.begins?.(nth) ?? "pass";
    if (fate === "halve") this.#untilHalf = this.reader.length >> 1;
    if (fate === "end") this.abandon();
    return fate;
  }

  /** One more message in this second, if it may. */
  #admit(now: number, nth: number): Fate {
    const { messagesPerSecond, messagesPolicy } = this.#limits;
    if (this.messages.sum(now) + 1 <= messagesPerSecond) return "forward";
    if (this.#notedMessages !== nth) this.excess.messages++;
    this.#notedMessages = nth;
    if (messagesPolicy === "close") return "messages";
    if (messagesPolicy === "drop") return this.#drop();
    return messagesPolicy === "throttle" ? "wait" : "forward";
  }

  /** The message cannot go on as a whole; whether a fragmented one can is known at its end. */
  #losesBytes(now: number, size: number): boolean {
    const { reader } = this;
    if (this.#limits.bytesPolicy !== "drop") return false;
    const before = reader.isFirst && reader.final ? this.bytes.sum(now) : 0;
    if (before + size <= this.#limits.bytesPerSecond) return false;
    this.#noteBytes(reader.begun + (reader.isFirst ? 1 : 0));
    return true;
  }

  #drop(): "drop" {
    this.dropped++;
    this.#isDropping = true;
    this.#untilHalf = undefined;
    this.#sendHeld("control");
    return "drop";
  }

  /** A message that was held is complete. */
  #settle(now: number): void {
    const { payload } = this.#held;
    const { bytesPolicy, bytesPerSecond } = this.#limits;
    if (
      bytesPolicy === "drop" &&
      this.bytes.sum(now) + payload > bytesPerSecond
    ) {
      this.#noteBytes(this.reader.begun);
      this.#drop();
    } else {
      this.#countBytes(now, payload);
      this.#sendHeld("all");
    }
    this.#route = "forward";
  }

  #sendHeld(part: "all" | "control"): void {
    for (const bytes of this.#held.take(part)) this.#options.send(bytes);
  }
}

/** A limit that cannot be passed needs no policy. */
function policyOf(policy: LimitPolicy, limit: number): LimitPolicy {
  return Number.isFinite(limit) ? policy : "warn";
}
