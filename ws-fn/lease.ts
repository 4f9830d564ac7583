/**
 * The fence before every socket write. This process may write for the connections that it owns while its lease runs, by wall
 * clock and by monotonic clock, counted from before the last successful renewal was sent, less a margin; and only if it was
 * not stopped meanwhile. A process that was frozen (SIGSTOP, a suspended instance) finds out by the pulse: then nothing is
 * certain any more, neither its lease nor any of its connections, until Redis has said so again (delivery rule 1).
 */

/** Longest silence of the event loop after which everything must be confirmed, milliseconds. */
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

/** The lease of this process. */
export class Lease {
  readonly #pulse: Pulse;
  readonly #lengthMs: number;
  readonly #ask: () => Promise<boolean>;
  #wallEnd = 0;
  #monotonicEnd = 0;
  #seen: number;
  #doubt = 1;
  #asking: Promise<void> | undefined;

  /**
   * `leaseMs` is what Redis grants; a tenth of it is kept as margin. `ask` renews it in Redis: false when Redis knew of no
   * lease of this process.
   */
  constructor(pulse: Pulse, leaseMs: number, ask: () => Promise<boolean>) {
    this.#pulse = pulse;
    this.#lengthMs = leaseMs * 0.9;
    this.#ask = ask;
    this.#seen = pulse.generation;
  }

  /** Grows when what was confirmed before counts no more. */
  get doubt(): number {
    const { generation } = this.#pulse;
    if (generation !== this.#seen) {
      this.#seen = generation;
      this.#end();
    }
    return this.#doubt;
  }

  /** Whether this process may write now for what it has confirmed since the last doubt. */
  get holds(): boolean {
    return this.#runs(this.doubt);
  }

  #runs(doubt: number): boolean {
    return (
      doubt === this.#doubt &&
      performance.now() < this.#monotonicEnd &&
      Date.now() < this.#wallEnd
    );
  }

  #end(): void {
    this.#doubt += 1;
    this.#wallEnd = 0;
    this.#monotonicEnd = 0;
  }

  /** Renews it; everybody who asks meanwhile gets the same answer. Throws redis_unavailable, outcome_unknown. */
  renew(): Promise<void> {
    this.#asking ??= this.#renew().finally(() => {
      this.#asking = undefined;
    });
    return this.#asking;
  }

  async #renew(): Promise<void> {
    // One that ran out: others may have taken everything.
    if (!this.holds) this.#end();
    const { doubt } = this;
    const wall = Date.now();
    const monotonic = performance.now();
    const known = await this.#ask();
    // Stopped on the way: the answer is old.
    if (this.doubt !== doubt) return;
    if (!known) this.#doubt += 1;
    this.#wallEnd = wall + this.#lengthMs;
    this.#monotonicEnd = monotonic + this.#lengthMs;
  }

  /** Renews it if it does not run. */
  async ensure(): Promise<void> {
    if (!this.holds) await this.renew();
  }
}
