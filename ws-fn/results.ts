/**
 * Results that wait for the backend's webhook: what became of a client's event goes back under its `ref`, whichever
 * instance delivered it. A bell tells that an answer is there (shared/answers.ts); a look now and then makes up for a bell
 * that was lost. Who waits for too long is told that it is stored and will be delivered.
 */
import type { Answers, EventAnswer } from "../shared/answers.js";
import { BridgeError, toProblem } from "../shared/errors.js";
import type { Frame, Speaker } from "./speaker.js";

/** Answers are looked for this often, bells or not. */
const lookAgainMs = 2_000;

export interface ResultPorts {
  connectionId: string;
  /** So long a client waits for its result, milliseconds. */
  patienceMs: number;
  speaker: Speaker;
  write(frame: Frame | undefined): void;
}

interface Waiting {
  ref: string;
  untilMs: number;
}

export class Results {
  readonly #answers: Pick<Answers, "read">;
  readonly #ports: ResultPorts;
  /** By the event's identity. */
  readonly #waiting = new Map<string, Waiting>();
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor(answers: Pick<Answers, "read">, ports: ResultPorts) {
    this.#answers = answers;
    this.#ports = ports;
  }

  /** An event is stored: its answer may be there already, of a time before this socket. */
  wait(eventId: string, ref: string): void {
    if (this.#stopped) return;
    this.#waiting.set(eventId, {
      ref,
      untilMs: performance.now() + this.#ports.patienceMs,
    });
    this.#timer ??= setInterval(() => this.lookAll(), lookAgainMs);
    void this.look(eventId);
  }

  /** A bell rang. */
  async look(eventId: string): Promise<void> {
    if (!this.#waiting.has(eventId)) return;
    let answer: EventAnswer | undefined;
    try {
      answer = await this.#answers.read(this.#ports.connectionId, eventId);
    } catch {
      // Looked for again.
    }
    const waiting = this.#waiting.get(eventId);
    if (!waiting) return;
    const { ref, untilMs } = waiting;
    const leftMs = untilMs - performance.now();
    const isLater =
      answer === undefined ||
      (answer.kind === "later" && Number(answer.body.toString()) < leftMs);
    if (isLater && leftMs > 0) return;
    this.#waiting.delete(eventId);
    if (this.#waiting.size === 0) this.#rest();
    this.#ports.write(this.#frame(ref, answer));
  }

  /** Bells may have been lost. */
  lookAll(): void {
    for (const eventId of this.#waiting.keys()) void this.look(eventId);
  }

  #frame(ref: string, answer: EventAnswer | undefined): Frame | undefined {
    const { speaker } = this.#ports;
    switch (answer?.kind) {
      case "answered":
        return speaker.answered(ref, answer);
      case "refused":
        return speaker.answered(
          ref,
          answer,
          toProblem(
            new BridgeError("event_refused", {
              detail: `the backend answered ${answer.status}`,
            }),
          ),
        );
      case "given_up":
        return speaker.result(
          ref,
          toProblem(new BridgeError("event_undelivered")),
        );
      default:
        return speaker.result(
          ref,
          toProblem(
            new BridgeError("event_pending", {
              detail:
                "the event is stored and will be delivered; saying it again would be another one",
            }),
          ),
        );
    }
  }

  /** Nobody waits any more. Any time, twice. */
  stop(): void {
    this.#stopped = true;
    this.#waiting.clear();
    this.#rest();
  }

  #rest(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}
