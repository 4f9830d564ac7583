/**
 * Upstream limits of one connection (WS-LIM-2, WS-LIM-3): 10 frames and 128 KB a second, acks, pongs and control frames
 * included. One fast second is throttled (the socket is not read until it is over), the third in a row is a violation.
 *
 * A pause holds back what has not been read yet, at most. What was read with the frame that was too many is parsed in
 * the same turn, 10,000 frames perhaps: so a second that holds two seconds' worth counts as two, and is over after two,
 * and one that holds more than three seconds' worth is the violation by itself.
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
  /** Seconds that this window is too fast for; 0: it keeps the limits. */
  #over = 0;
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
    const windowMs = Math.max(1, this.#over) * 1_000;
    if (passed >= windowMs) {
      // A whole quiet second in between forgives.
      if (this.#over === 0 || passed >= windowMs + 1_000) this.#fastSeconds = 0;
      this.#windowStart = now;
      this.#messages = 0;
      this.#bytes = 0;
      this.#over = 0;
    }
    this.#messages += 1;
    this.#bytes += bytes;
    const over = this.#overNow();
    if (over === this.#over) return true;
    this.#fastSeconds += over - this.#over;
    this.#over = over;
    if (this.#fastSeconds >= fastSecondsMax) return false;
    this.#pause(this.#windowStart + over * 1_000 - now);
    return true;
  }

  #overNow(): number {
    const byMessages = Math.floor((this.#messages - 1) / messagesPerSecond);
    // A single frame may be larger than a second's bytes; it then has its second for itself. Of bytes a pause lets no more
    // through than one read, so they need not be counted any further.
    const byBytes = this.#bytes > bytesPerSecond && this.#messages > 1 ? 1 : 0;
    return Math.max(byMessages, byBytes);
  }

  #pause(ms: number): void {
    clearTimeout(this.#paused);
    this.#socket.pause();
    this.#paused = setTimeout(
      () => {
        this.#paused = undefined;
        this.#socket.resume();
      },
      Math.max(1, ms),
    );
  }

  close(): void {
    clearTimeout(this.#paused);
  }
}
