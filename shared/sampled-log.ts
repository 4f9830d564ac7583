/**
 * Log lines that strangers cause: of each kind no more than a few in a second, and then one that says how many were left
 * out. So a flood is seen in the log, and does not fill it.
 */

/** Lines of one kind in one second. */
export const LINES_PER_SECOND = 10;

/** How long a kind is counted, milliseconds. */
const windowMs = 1_000;

/** What was left out of a kind. */
export interface LeftOut {
  kind: string;
  lines: number;
}

export interface SampledLogOptions {
  /** Writes the line that says how many were not written. */
  onLeftOut(leftOut: LeftOut): void;
  /** Lines of one kind in one second; default 10. */
  perSecond?: number;
}

interface Window {
  told: number;
  leftOut: number;
  timer: NodeJS.Timeout;
}

export class SampledLog {
  readonly #options: Required<SampledLogOptions>;
  readonly #windows = new Map<string, Window>();

  constructor(options: SampledLogOptions) {
    this.#options = { perSecond: LINES_PER_SECOND, ...options };
  }

  /** Calls `tell` unless enough was told of this kind. A kind is one of a closed set, not what a stranger said. */
  say(kind: string, tell: () => void): void {
    let window = this.#windows.get(kind);
    if (!window) {
      const timer = setTimeout(() => this.#end(kind), windowMs);
      // What is left to say is no reason to stay.
      timer.unref();
      window = { told: 0, leftOut: 0, timer };
      this.#windows.set(kind, window);
    }
    if (window.told >= this.#options.perSecond) {
      window.leftOut += 1;
      return;
    }
    window.told += 1;
    tell();
  }

  /** Says at once what was left out until now. */
  flush(): void {
    for (const kind of this.#windows.keys()) this.#end(kind);
  }

  #end(kind: string): void {
    const window = this.#windows.get(kind);
    if (!window) return;
    clearTimeout(window.timer);
    this.#windows.delete(kind);
    if (window.leftOut > 0)
      this.#options.onLeftOut({ kind, lines: window.leftOut });
  }
}
