/**
 * What a client says to the backend: its events, in the order of its frames, and its replies to messages that ask.
 *
 * Nothing is lost in silence: each is stored before its `result` says so, what Redis cannot take now is tried again for a
 * while (under one identity, so twice is once), and what it did not take by then the client is told of. While more waits
 * than is good the client is not read.
 */
import { createHash } from "node:crypto";
import type { Answers } from "../shared/answers.js";
import { BridgeError, toProblem } from "../shared/errors.js";
import type { Events, NewEvent } from "../shared/events.js";
import { userTag } from "../shared/ids.js";
import { eventsTag } from "../shared/keys.js";
import type { RedisMemory } from "../shared/redis-memory.js";
import { replyPlace, type Replies } from "../shared/replies.js";
import { Results } from "./results.js";
import type { Frame, Said, Speaker } from "./speaker.js";
import type { Throttle } from "./upstream.js";

/** So long what Redis cannot take now is tried again, milliseconds; a failover takes about that long. */
const patienceMs = 5_000;
/** First and longest pause between two attempts. */
const againMs = { first: 100, most: 1_000 };
/** Events in one script, and their bytes. */
const batchMax = 16;
const batchBytesMax = 524_288;
/** From here on the client is not read: a second's worth of the largest frames, or a few seconds of small ones. */
const waitingMax = 32;
const waitingBytesMax = 1_048_576;
/** A connection that closes waits so long for what it has said. */
const flushMs = 1_000;
/** An event without `ref` is known for so long: only we repeat it. */
const ownIdentityMs = 60_000;

/** Codes after which the same thing may be stored a moment later. Not a full Redis: it needs the acks behind this frame. */
const passing = new Set(["redis_unavailable", "outcome_unknown"]);

/** A client's patience: one attempt at the webhook, and a little for its lane and the way back. */
const resultMarginMs = 3_000;

export interface VoiceDeps {
  /** Undefined: no webhook is told of events, their results come when they are stored. */
  webhookResults?:
    { answers: Pick<Answers, "read">; timeoutMs: number } | undefined;
  replies: Pick<Replies, "store">;
  events: Pick<Events, "append">;
  memory: Pick<RedisMemory, "admit">;
}

export interface VoicePorts {
  connectionId: string;
  epoch: number;
  /** "" for nobody. */
  userId: string;
  /** A client that comes back within this may say again what had no result. */
  resumeMs: number;
  speaker: Speaker;
  write(frame: Frame | undefined): void;
  /** Holds the client's frames back. */
  intake: Throttle;
  /** Something was not stored, and the client speaks no protocol in which it could be told. */
  unheard(error: unknown): void;
}

interface Waiting {
  event: NewEvent;
  ref: string | undefined;
  bytes: number;
}

type Event = Extract<Said, { kind: "event" }>;

export class Voice {
  readonly #deps: VoiceDeps;
  readonly #ports: VoicePorts;
  readonly #userTag: string;
  /** Of events that wait for the webhook's answer. */
  readonly results: Results | undefined;
  readonly #waiting: Waiting[] = [];
  #waitingBytes = 0;
  #count = 0;
  #holding = false;
  #telling: Promise<void> | undefined;

  constructor(deps: VoiceDeps, ports: VoicePorts) {
    this.#deps = deps;
    this.#ports = ports;
    const { webhookResults: webhook } = deps;
    this.results =
      webhook &&
      new Results(webhook.answers, {
        ...ports,
        patienceMs: webhook.timeoutMs + resultMarginMs,
      });
    this.#userTag = ports.userId === "" ? "" : userTag(ports.userId);
  }

  /** The client is not read just now, so its silence means nothing. */
  get holding(): boolean {
    return this.#holding;
  }

  /** The client says something to the backend. */
  event(said: Event): void {
    const { body, ref } = said;
    const event = this.#eventOf(said);
    this.#waiting.push({ event, ref, bytes: body.length });
    this.#waitingBytes += body.length;
    this.#holdOrRelease();
    this.#telling ??= this.#tellAll().finally(() => {
      this.#telling = undefined;
    });
  }

  #eventOf({ event, contentType, binary, body, ref }: Event): NewEvent {
    const { connectionId, epoch, userId, resumeMs } = this.#ports;
    return {
      id:
        ref === undefined
          ? `${connectionId}.${epoch}.${++this.#count}`
          : `${connectionId}.${identityOf([ref, event, contentType], body)}`,
      knownMs: ownIdentityMs + (ref === undefined ? 0 : resumeMs),
      type: "event",
      subject: connectionId,
      timeMs: Date.now(),
      data: {
        userId: userId === "" ? null : userId,
        event,
        contentType,
        ...(binary
          ? { dataBase64: body.toString("base64") }
          : { data: body.toString("utf8") }),
        ...(ref === undefined ? {} : { ref }),
      },
    };
  }

  #holdOrRelease(): void {
    const factor = this.#holding ? 0.5 : 1;
    const hold =
      this.#waiting.length >= waitingMax * factor ||
      this.#waitingBytes >= waitingBytesMax * factor;
    if (hold === this.#holding) return;
    this.#holding = hold;
    if (hold) this.#ports.intake.pause();
    else this.#ports.intake.resume();
  }

  /** One append at a time, so that the order of frames is the order of events. */
  async #tellAll(): Promise<void> {
    for (;;) {
      const batch = this.#next();
      if (batch.length === 0) return;
      const bytes = batch.reduce((sum, one) => sum + one.bytes, 0);
      try {
        await patiently(async () => {
          await this.#deps.memory.admit(eventsTag, bytes);
          const word = await this.#deps.events.append(
            batch.map(({ event }) => event),
          );
          if (word === "full" || word === "often")
            throw new BridgeError("events_full", {
              detail:
                word === "full"
                  ? "too much of what clients said waits for the backend's webhook, or of what this client said"
                  : "this client has said its share of the events that are kept",
            });
        });
        const { speaker, write } = this.#ports;
        for (const { event, ref } of batch) {
          if (ref === undefined) continue;
          if (this.results) this.results.wait(event.id, ref);
          else write(speaker.done(ref));
        }
      } catch (error) {
        for (const { ref } of batch) this.refuse(ref, error);
      }
      this.#waiting.splice(0, batch.length);
      this.#waitingBytes -= bytes;
      this.#holdOrRelease();
    }
  }

  #next(): Waiting[] {
    const batch: Waiting[] = [];
    let bytes = 0;
    for (const one of this.#waiting) {
      bytes += one.bytes;
      if (batch.length === batchMax) break;
      if (batch.length > 0 && bytes > batchBytesMax) break;
      batch.push(one);
    }
    return batch;
  }

  /** Resolves when everything said was stored or refused, or after a moment: the rest goes on by itself. */
  async flush(): Promise<void> {
    if (this.#telling === undefined) return;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, flushMs);
    });
    await Promise.race([this.#telling, late]);
    clearTimeout(timer);
  }

  /** The client replied to a message. */
  async reply(said: Extract<Said, { kind: "reply" }>): Promise<void> {
    const { replyTo, contentType, body, ref } = said;
    const { connectionId } = this.#ports;
    try {
      const at = replyPlace(replyTo);
      // What was asked of others is not for this client to answer.
      if (!at || (at.tag !== connectionId && at.tag !== this.#userTag))
        throw nobodyWaits();
      const word = await patiently(async () => {
        await this.#deps.memory.admit(at.tag, body.length);
        return this.#deps.replies.store(at, {
          connectionId,
          contentType,
          body,
        });
      });
      if (word === "nobody") throw nobodyWaits();
      if (word === "answered")
        throw new BridgeError("already_answered", {
          detail: "another reply to this message was first",
        });
      if (ref !== undefined) this.#ports.write(this.#ports.speaker.done(ref));
    } catch (error) {
      this.refuse(ref, error);
    }
  }

  /** Tells the client what went wrong: in the result of its frame, or as an error when it named none. */
  refuse(ref: string | undefined, error: unknown): void {
    const { speaker, write, unheard } = this.#ports;
    const problem = toProblem(error);
    const frame =
      ref === undefined ? speaker.error(problem) : speaker.result(ref, problem);
    if (frame) write(frame);
    else unheard(error);
  }
}

const nobodyWaits = (): BridgeError =>
  new BridgeError("message_not_found", {
    detail: "nobody waits for a reply to this message",
  });

/**
 * The same frame has the same identity on whatever socket it comes; the same `ref` with other contents, of a page that
 * counts anew, has another one.
 */
function identityOf(names: readonly string[], body: Buffer): string {
  return createHash("sha256")
    .update(JSON.stringify(names))
    .update(body)
    .digest("base64url")
    .slice(0, 22);
}

/** Does it again while Redis is away, for `patienceMs`. */
async function patiently<T>(work: () => Promise<T>): Promise<T> {
  const until = performance.now() + patienceMs;
  for (let pause = againMs.first; ; pause = Math.min(pause * 2, againMs.most)) {
    try {
      return await work();
    } catch (error) {
      const mayPass = error instanceof BridgeError && passing.has(error.code);
      if (!mayPass || performance.now() + pause > until) throw error;
    }
    await new Promise((resolve) => {
      setTimeout(resolve, pause);
    });
  }
}
