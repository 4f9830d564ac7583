// The platform's time: everything that waits or dates something asks here, so that a test can hand in another clock.

/** Milliseconds since 1970, and timers in milliseconds. */
export interface Clock {
  now(): number;
  /** Calls `fire` once after `ms`; the returned function takes the timer back. */
  setTimer(ms: number, fire: () => void): () => void;
}

export const realClock: Clock = {
  now: () => Date.now(),
  setTimer(ms, fire) {
    const timer = setTimeout(fire, ms);
    return () => clearTimeout(timer);
  },
};

/** Resolves after `ms`. */
export function pause(clock: Clock, ms: number): Promise<void> {
  return new Promise((resolve) => clock.setTimer(ms, resolve));
}
