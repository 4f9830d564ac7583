// The book of one phase of the load generator: which message was posted when and by whom, and whether each
// arrived exactly once and in its publisher's order.
import { performance } from "node:perf_hooks";
import type { Counting } from "./crowd.js";

/** What one phase saw. Latencies are milliseconds from before the POST to the frame in the client. */
export interface PhaseResult {
  /** Messages whose POST was answered 202. */
  accepted: number;
  /** Messages that arrived. */
  delivered: number;
  /** Accepted, and never there. */
  lost: number;
  /** Given to the application a second time. */
  twice: number;
  p50: number;
  p99: number;
  /** From the first POST to the last arrival. */
  seconds: number;
  /** What went wrong, in words; empty when every message arrived once and in order. */
  faults: string[];
}

/** Waiting for messages ends when nothing has arrived for this long. */
const PATIENCE_MS = 5_000;

export class Book implements Counting {
  readonly #first: number;
  readonly #targets: number;
  readonly #publisherOf: Uint16Array;
  readonly #postedAt: Float64Array;
  /** NaN until the message arrives. */
  readonly #latencyMs: Float64Array;
  /** The newest message that arrived, per publisher and target. */
  readonly #newest: Int32Array;
  readonly #faults = new Map<string, number>();
  #accepted = 0;
  #arrived = 0;
  #twice = 0;
  #lastArrivalAt = NaN;
  #wake: (() => void) | undefined;

  /** Messages are numbered from 0 up to `messages`; their bodies carry `first` and up. */
  constructor(
    messages: number,
    publishers: number,
    targets: number,
    first: number,
  ) {
    this.#first = first;
    this.#targets = targets;
    this.#publisherOf = new Uint16Array(messages);
    this.#postedAt = new Float64Array(messages);
    this.#latencyMs = new Float64Array(messages).fill(NaN);
    this.#newest = new Int32Array(publishers * targets).fill(-1);
  }

  /** Call right before the POST. */
  posting(message: number, publisher: number): void {
    this.#publisherOf[message] = publisher;
    this.#postedAt[message] = performance.now();
  }

  /** Notes the status of the answer to a POST; only what was answered 202 has to arrive. */
  answered(status: number): void {
    if (status === 202) this.#accepted++;
    else this.fault(`answered ${status}`);
  }

  /** A message is complete in the client of connection `target`. */
  arrived(number: number | undefined, target: number): void {
    if (number === undefined) {
      this.fault("damaged");
      return;
    }
    const now = performance.now();
    const message = number - this.#first;
    const postedAt = this.#postedAt[message];
    const publisher = this.#publisherOf[message];
    if (postedAt === undefined || publisher === undefined) {
      this.fault("arrived outside its phase");
    } else if (message % this.#targets !== target) {
      this.fault("arrived at another connection");
    } else if (!Number.isNaN(this.#latencyMs[message])) {
      this.#twice++;
    } else {
      this.#latencyMs[message] = now - postedAt;
      this.#lastArrivalAt = now;
      this.#arrived++;
      const line = publisher * this.#targets + target;
      if (message < (this.#newest[line] ?? -1)) this.fault("out of order");
      else this.#newest[line] = message;
      if (this.#arrived === this.#accepted) this.#wake?.();
    }
  }

  fault(what: string): void {
    this.#faults.set(what, (this.#faults.get(what) ?? 0) + 1);
  }

  /** True as soon as everything accepted so far has arrived; false when nothing more comes. */
  async settled(): Promise<boolean> {
    while (this.#arrived < this.#accepted) {
      const before = this.#arrived;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, PATIENCE_MS);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      if (this.#arrived === before) return false;
    }
    return true;
  }

  /** Closes the book. */
  result(): PhaseResult {
    const missing = this.#accepted - this.#arrived;
    if (missing > 0) this.#faults.set("lost", missing);
    if (this.#twice > 0) this.#faults.set("arrived twice", this.#twice);
    const sorted = this.#latencyMs
      .filter((latency) => !Number.isNaN(latency))
      .sort();
    return {
      accepted: this.#accepted,
      delivered: this.#arrived,
      lost: Math.max(0, missing),
      twice: this.#twice,
      p50: quantile(sorted, 0.5),
      p99: quantile(sorted, 0.99),
      seconds: (this.#lastArrivalAt - (this.#postedAt[0] ?? NaN)) / 1_000,
      faults: [...this.#faults].map(([what, count]) => `${count} ${what}`),
    };
  }
}

export function quantile(sorted: Float64Array, share: number): number {
  return sorted[Math.ceil(sorted.length * share) - 1] ?? NaN;
}
