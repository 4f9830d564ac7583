// A slow network, for tests: bytes go on later than they came, in their order, and no faster than a given pace.

import type { Clock } from "./clock.js";

export interface SlowLineOptions {
  readonly bytesPerSecond?: number | undefined;
  readonly delayMs?: number | undefined;
  readonly clock: Clock;
  send(bytes: Buffer): void;
  /** Whether the sender has to stand still: enough is on the line. */
  hold(isHolding: boolean): void;
  /** Nothing is on the line any more. */
  idle(): void;
}

/** What may be on the line before its sender has to wait. */
const MAX_BYTES = 65_536;

export class SlowLine {
  readonly #options: SlowLineOptions;
  readonly #queue: { readonly bytes: Buffer; readonly due: number }[] = [];
  #size = 0;
  /** When the last byte sent so far has left the sender: the next one cannot leave before. */
  #leftAt = 0;

  constructor(options: SlowLineOptions) {
    this.#options = options;
  }

  get isEmpty(): boolean {
    return this.#queue.length === 0;
  }

  push(bytes: Buffer): void {
    const { bytesPerSecond = Infinity, delayMs = 0, clock } = this.#options;
    const leaves = Math.max(clock.now(), this.#leftAt);
    this.#leftAt = leaves + (bytes.length * 1_000) / bytesPerSecond;
    this.#queue.push({ bytes, due: this.#leftAt + delayMs });
    this.#size += bytes.length;
    if (this.#size > MAX_BYTES) this.#options.hold(true);
    if (this.#queue.length === 1) this.#arm();
  }

  #arm(): void {
    const [next] = this.#queue;
    if (next === undefined) return;
    const { clock } = this.#options;
    clock.setTimer(Math.max(0, next.due - clock.now()), () => {
      this.#queue.shift();
      this.#size -= next.bytes.length;
      this.#options.send(next.bytes);
      if (this.#size <= MAX_BYTES) this.#options.hold(false);
      if (this.isEmpty) this.#options.idle();
      else this.#arm();
    });
  }
}
