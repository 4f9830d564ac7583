/** A heartbeat: asks at an interval, gives up after three questions in a row that nobody answered. */

/** Unanswered pings after which the line counts as dead. Counted, not timed: a pause of ours is no silence of theirs. */
const missedMax = 3;

export interface Heartbeat {
  /** Something came from the other side. */
  heard(): void;
  stop(): void;
}

export function startHeartbeat(options: {
  everyMs: number;
  ping(): void;
  terminate(): void;
}): Heartbeat {
  let missed = 0;
  const timer = setInterval(() => {
    if (missed >= missedMax) {
      clearInterval(timer);
      options.terminate();
      return;
    }
    missed += 1;
    options.ping();
  }, options.everyMs);
  return {
    heard() {
      missed = 0;
    },
    stop() {
      clearInterval(timer);
    },
  };
}
