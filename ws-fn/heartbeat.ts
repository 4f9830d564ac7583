/**
 * A heartbeat: asks at an interval, gives up after three questions in a row that nobody answered. Those of thousands of
 * sockets are asked together (beats.ts): each question for itself would wake the process twice.
 */
import { Beats } from "./beats.js";

/** Unanswered pings after which the line counts as dead. Counted, not timed: a pause of ours is no silence of theirs. */
const missedMax = 3;
/** The third question gets this share of the interval for its answer: two more went unanswered before. */
const lastShare = 1 / 2;
/** Sockets whose turn comes within so much of their interval are asked together, … */
const together = 1 / 8;
/** … but no more than this, milliseconds. */
const beatMsMax = 2_000;

/** By length of a beat. */
const all = new Map<number, Beats>();

export interface HeartbeatOptions {
  everyMs: number;
  ping(): void;
  terminate(): void;
}

export class Heartbeat {
  readonly #options: HeartbeatOptions;
  readonly #beats: Beats;
  #missed = 0;
  #cancel: (() => void) | undefined;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
    const beatMs = Math.min(beatMsMax, options.everyMs * together);
    let beats = all.get(beatMs);
    if (!beats) {
      beats = new Beats(beatMs);
      all.set(beatMs, beats);
    }
    this.#beats = beats;
    this.#next();
  }

  #next(): void {
    const { everyMs } = this.#options;
    const ms = this.#missed < missedMax ? everyMs : everyMs * lastShare;
    this.#cancel = this.#beats.after(ms, () => {
      if (this.#missed >= missedMax) return this.#options.terminate();
      this.#missed += 1;
      this.#next();
      this.#options.ping();
    });
  }

  /** A question is open. */
  get asked(): boolean {
    return this.#missed > 0;
  }

  /** Something came from the other side. */
  heard(): void {
    this.#missed = 0;
  }

  stop(): void {
    this.#cancel?.();
  }
}
