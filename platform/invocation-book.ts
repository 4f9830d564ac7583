// The platform's memory of invocations: all that run, and per function the last ones that ended, so that thousands
// of HTTP requests do not push out the few connections.

import type { Clock } from "./clock.js";
import { Invocation, type InvocationRecord } from "./invocation.js";
import type { Log } from "./logs.js";
import { judge, type Ending, type Reading, type Verdict } from "./verdict.js";

export class InvocationBook {
  readonly #running = new Set<Invocation>();
  readonly #ended = new Map<string, Ring>();
  readonly #kept: number;
  readonly #clock: Clock;
  readonly #log: Log;

  /** Keeps the last `kept` ended invocations of each function. */
  constructor(kept: number, clock: Clock, log: Log) {
    this.#kept = kept;
    this.#clock = clock;
    this.#log = log;
  }

  begin(functionName: string): Invocation {
    const invocation = new Invocation(
      functionName,
      this.#clock.now(),
      this.#log,
    );
    this.#running.add(invocation);
    return invocation;
  }

  /** The end of an invocation, at `endedAt` or now; the first call counts. `reading`: default the documents'. */
  end(
    invocation: Invocation,
    ending: Ending,
    endedAt?: number,
    reading?: Reading,
  ): Verdict {
    const verdict = judge(ending, reading);
    if (!this.#running.delete(invocation)) return verdict;
    invocation.ended(endedAt ?? this.#clock.now(), verdict);
    let ring = this.#ended.get(invocation.functionName);
    if (ring === undefined) {
      ring = new Ring(this.#kept);
      this.#ended.set(invocation.functionName, ring);
    }
    ring.add(invocation);
    return verdict;
  }

  /** Newest first. */
  list(maxMessageBytes: number): InvocationRecord[] {
    const all = [...this.#running];
    for (const ring of this.#ended.values()) all.push(...ring.items);
    all.sort((a, b) => b.startedAt - a.startedAt);
    return all.map((invocation) => invocation.record(maxMessageBytes));
  }
}

/** The last `size` items, in no order. */
class Ring {
  readonly items: Invocation[] = [];
  readonly #size: number;
  #next = 0;

  constructor(size: number) {
    this.#size = size;
  }

  add(item: Invocation): void {
    this.items[this.#next] = item;
    this.#next = (this.#next + 1) % this.#size;
  }
}
