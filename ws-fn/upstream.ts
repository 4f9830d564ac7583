/**
 * Upstream limits of one connection (WS-LIM-2, WS-LIM-3): 10 frames and 128 KB a second, acks and pongs included. One
 * fast second is throttled (the socket is not read until it is over), the third in a row is a violation.
 */

export const messagesPerSecond = 10;
export const bytesPerSecond = 131_072;
/** One frame at most (WS-LIM-1). */
export const frameBytesMax = 262_144;
const fastSecondsMax = 3;

export interface Throttle {
  pause(): void;
  resume(): void;
}

/** Counts what a client sends. */
export class UpstreamLimit {
  readonly #socket: Throttle;
  readonly #now: () => number;
  #windowStart: number;
  #messages = 0;
  #bytes = 0;
  #fastSeconds = 0;
  #paused: NodeJS.Timeout | undefined;

  constructor(socket: Throttle, now: () => number = () => performance.now()) {
    this.#socket = socket;
    this.#now = now;
    this.#windowStart = now();
  }

  /** Counts a frame; false when the client was too fast for the third second in a row. */
  accept(bytes: number): boolean {
    const now = this.#now();
    const passed = now - this.#windowStart;
    if (passed >= 1_000) {
      const fast =
        this.#messages > messagesPerSecond || this.#bytes > bytesPerSecond;
      // A whole quiet second in between forgives.
      if (!fast || passed >= 2_000) this.#fastSeconds = 0;
      this.#windowStart = now;
      this.#messages = 0;
      this.#bytes = 0;
    }
    this.#messages += 1;
    this.#bytes += bytes;
    // A single frame may be larger than a second's bytes; it then has its second for itself.
    const over =
      this.#messages > messagesPerSecond ||
      (this.#bytes > bytesPerSecond && this.#messages > 1);
    if (over && this.#paused === undefined) {
      this.#fastSeconds += 1;
      if (this.#fastSeconds >= fastSecondsMax) return false;
      this.#socket.pause();
      this.#paused = setTimeout(
        () => {
          this.#paused = undefined;
          this.#socket.resume();
        },
        Math.max(1, this.#windowStart + 1_000 - now),
      );
    }
    return true;
  }

  close(): void {
    clearTimeout(this.#paused);
  }
}
