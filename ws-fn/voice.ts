/**
 * What a client says to the backend: replies to messages that ask. Each is stored in Redis before its `result` says so; what
 * Redis did not take is tried again for a while, because it may be done twice, and then the client is told.
 */
import { BridgeError, toProblem } from "../shared/errors.js";
import { userTag } from "../shared/ids.js";
import type { RedisMemory } from "../shared/redis-memory.js";
import { replyPlace, type Replies } from "../shared/replies.js";
import type { Frame, Said, Speaker } from "./speaker.js";

/** So long what Redis cannot take now is tried again, milliseconds; a failover takes about that long. */
export const patienceMs = 5_000;
/** First and longest pause between two attempts. */
const againMs = { first: 100, most: 1_000 };

/** Codes after which the same thing may be stored a moment later. Not a full Redis: it needs the acks behind this frame. */
const passing = new Set(["redis_unavailable", "outcome_unknown"]);

export interface VoiceDeps {
  replies: Pick<Replies, "store">;
  memory: Pick<RedisMemory, "admit">;
}

export interface VoicePorts {
  connectionId: string;
  /** "" for nobody. */
  userId: string;
  speaker: Speaker;
  write(frame: Frame | undefined): void;
}

export class Voice {
  readonly #deps: VoiceDeps;
  readonly #ports: VoicePorts;
  readonly #userTag: string;

  constructor(deps: VoiceDeps, ports: VoicePorts) {
    this.#deps = deps;
    this.#ports = ports;
    this.#userTag = ports.userId === "" ? "" : userTag(ports.userId);
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
    const { speaker, write } = this.#ports;
    const problem = toProblem(error);
    write(
      ref === undefined ? speaker.error(problem) : speaker.result(ref, problem),
    );
  }
}

const nobodyWaits = (): BridgeError =>
  new BridgeError("message_not_found", {
    detail: "nobody waits for a reply to this message",
  });

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
