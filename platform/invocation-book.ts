// The platform's memory of invocations: all that run, and per function the last ones that ended, so that thousands
// of HTTP requests do not push out the few connections.

import type { Clock } from "./clock.js";
import { Invocation, type InvocationState } from "./invocation.js";
import type { Log } from "./logs.js";
import { judge, type Ending, type Reading, type Verdict } from "./verdict.js";

/** Whoever follows what happens. Called on the way of every request: nothing may be formatted or waited for there. */
export interface InvocationListener {
  begun(invocation: Invocation): void;
  /** It has another state than `from`. */
  stepped(invocation: Invocation, from: InvocationState): void;
}

export class InvocationBook {
  readonly #running = new Set<Invocation>();
  readonly #ended = new Map<string, Ring>();
  readonly #kept: number;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #listeners: readonly InvocationListener[];

  /** Keeps the last `kept` ended invocations of each function. */
  constructor(
    kept: number,
    clock: Clock,
    log: Log,
    listeners: readonly InvocationListener[] = [],
  ) {
    this.#kept = kept;
    this.#clock = clock;
    this.#log = log;
    this.#listeners = listeners;
  }

  begin(functionName: string): Invocation {
    const invocation = new Invocation(functionName, this.#clock, this.#stepped);
    this.#running.add(invocation);
    for (const listener of this.#listeners) listener.begun(invocation);
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

  get running(): ReadonlySet<Invocation> {
    return this.#running;
  }

  /** All that are remembered, newest first. */
  all(): Invocation[] {
    const all = [...this.#running];
    for (const ring of this.#ended.values()) all.push(...ring.items);
    // In the same millisecond the order in which they came decides.
    return all.sort(
      (a, b) => b.startedAt - a.startedAt || b.marks.begun - a.marks.begun,
    );
  }

  readonly #stepped = (invocation: Invocation, from: InvocationState): void => {
    const { functionName, requestId, state } = invocation;
    this.#log.debug(
      { functionName, requestId },
      `invocation ${from} -> ${state}`,
    );
    for (const listener of this.#listeners) listener.stepped(invocation, from);
  };
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
