// The platform's time: what the documents time (idle, execution, init, warm instances, rates, bills) asks a clock here,
// so that a test can hand in another one. Timers of our own machine (polls, lingers) are on the real clock always.

/** Milliseconds since 1970, and timers in milliseconds. */
export interface Clock {
  now(): number;
  /** Calls `fire` once after `ms`; the returned function takes the timer back. */
  setTimer(ms: number, fire: () => void): () => void;
}

/** Node turns a longer timeout into 1 ms. */
const LONGEST_TIMEOUT_MS = 2_147_483_647;

export const realClock: Clock = {
  now: () => Date.now(),
  setTimer(ms, fire) {
    const timer = setTimeout(fire, Math.min(ms, LONGEST_TIMEOUT_MS));
    return () => clearTimeout(timer);
  },
};

/** A clock on which a platform second lasts `scale` real seconds: at 0.01 a 10 s timeout ends after 100 ms. */
export function scaledClock(scale: number, base: Clock = realClock): Clock {
  const start = base.now();
  return {
    now: () => start + (base.now() - start) / scale,
    setTimer: (ms, fire) => base.setTimer(ms * scale, fire),
  };
}

interface Timer {
  readonly at: number;
  readonly fire: () => void;
}

/** A clock that stands still until a test advances it. */
export class VirtualClock implements Clock {
  #now: number;
  readonly #timers = new Set<Timer>();

  constructor(now = Date.UTC(2026, 0, 1)) {
    this.#now = now;
  }

  now(): number {
    return this.#now;
  }

  setTimer(ms: number, fire: () => void): () => void {
    const timer = { at: this.#now + Math.max(0, ms), fire };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  /** Timers that wait. */
  get waiting(): number {
    return this.#timers.size;
  }

  /**
   * Moves on by `ms` and fires what becomes due on the way: in the order of time, then of setting. What a timer sets
   * off gets its turn before the next one, so a chain of timers inside `ms` runs to its end.
   */
  async advance(ms: number): Promise<void> {
    const end = this.#now + ms;
    for (;;) {
      const next = this.#next(end);
      if (next === undefined) break;
      this.#timers.delete(next);
      this.#now = Math.max(this.#now, next.at);
      next.fire();
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.#now = end;
  }

  #next(end: number): Timer | undefined {
    let next: Timer | undefined;
    for (const timer of this.#timers)
      if (timer.at <= end && (next === undefined || timer.at < next.at))
        next = timer;
    return next;
  }
}

/** Resolves after `ms`. */
export function pause(clock: Clock, ms: number): Promise<void> {
  return new Promise((resolve) => clock.setTimer(ms, resolve));
}
