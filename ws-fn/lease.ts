/**
 * The fence before every socket write. An owner may write while its lease runs, by wall clock and by monotonic clock,
 * counted from before the last successful renewal was sent, less a margin; and only if the process was not stopped
 * meanwhile. A process that was frozen (SIGSTOP, a suspended instance) finds out by the pulse and renews first, so
 * that it writes nothing after somebody else took over (delivery rule 1).
 */

/** Longest silence of the event loop after which ownership must be confirmed, milliseconds. */
const pulseGapMs = 700;
const pulseEveryMs = 200;

/** Notices that the process did not run for a while. One for the whole process. */
export class Pulse {
  #last = performance.now();
  #generation = 0;
  readonly #timer: NodeJS.Timeout;

  constructor() {
    this.#timer = setInterval(() => this.generation, pulseEveryMs);
    this.#timer.unref();
  }

  /** Grows when the process has been stopped since somebody last asked. */
  get generation(): number {
    const now = performance.now();
    if (now - this.#last > pulseGapMs) this.#generation += 1;
    this.#last = now;
    return this.#generation;
  }

  close(): void {
    clearInterval(this.#timer);
  }
}

/** One connection's lease. */
export class Lease {
  readonly #pulse: Pulse;
  readonly #lengthMs: number;
  #wallEnd = 0;
  #monotonicEnd = 0;
  #generation = -1;

  /** `leaseMs` is what Redis grants; a tenth of it is kept as margin. */
  constructor(pulse: Pulse, leaseMs: number) {
    this.#pulse = pulse;
    this.#lengthMs = leaseMs * 0.9;
  }

  /** Whether a write is allowed now. */
  get holds(): boolean {
    return (
      this.#pulse.generation === this.#generation &&
      performance.now() < this.#monotonicEnd &&
      Date.now() < this.#wallEnd
    );
  }

  /** Call before a claim or renewal is sent; call what it returns once that succeeded. */
  renewal(): () => void {
    const generation = this.#pulse.generation;
    const wall = Date.now();
    const monotonic = performance.now();
    return () => {
      this.#wallEnd = wall + this.#lengthMs;
      this.#monotonicEnd = monotonic + this.#lengthMs;
      this.#generation = generation;
    };
  }
}
