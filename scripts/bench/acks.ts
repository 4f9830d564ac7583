// Cumulative acks in the rhythm of the client library: the first at once, then at most one in each interval.

export class Acks {
  readonly #intervalMs: number;
  readonly #write: () => void;
  #ackedAt = -Infinity;
  #timer: NodeJS.Timeout | undefined;

  /** `write` says how far the client has got. */
  constructor(intervalMs: number, write: () => void) {
    this.#intervalMs = intervalMs;
    this.#write = write;
  }

  /** Something new arrived. */
  due(): void {
    if (this.#timer !== undefined) return;
    const waitMs = this.#ackedAt + this.#intervalMs - performance.now();
    if (waitMs <= 0) this.#flush();
    else this.#timer = setTimeout(() => this.#flush(), waitMs);
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #flush(): void {
    this.#timer = undefined;
    this.#ackedAt = performance.now();
    this.#write();
  }
}
