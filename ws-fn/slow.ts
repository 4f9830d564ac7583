/**
 * A client that does not read. When a socket has more than `slowBytes` unsent nothing more is given to it, messages wait in
 * Redis; it goes on when half of that is taken, and is given up when it takes nothing for `slowMs`.
 */
export class SlowReader {
  readonly #socket: { readonly bufferedBytes: number };
  readonly #limits: { slowBytes: number; slowMs: number };
  readonly #on: { drained(): void; stuck(unsentBytes: number): void };
  #timer: NodeJS.Timeout | undefined;

  constructor(
    socket: { readonly bufferedBytes: number },
    limits: { slowBytes: number; slowMs: number },
    on: { drained(): void; stuck(unsentBytes: number): void },
  ) {
    this.#socket = socket;
    this.#limits = limits;
    this.#on = on;
  }

  /** It has enough for now; `drained` says when it takes more. */
  get full(): boolean {
    if (this.#timer) return true;
    const { bufferedBytes } = this.#socket;
    if (bufferedBytes <= this.#limits.slowBytes) return false;
    this.#watch(bufferedBytes);
    return true;
  }

  #watch(before: number): void {
    const { slowBytes, slowMs } = this.#limits;
    let least = before;
    let movedAt = performance.now();
    const look = () => {
      const now = performance.now();
      const left = this.#socket.bufferedBytes;
      if (left < slowBytes / 2) {
        this.#timer = undefined;
        this.#on.drained();
        return;
      }
      if (left < least) {
        least = left;
        movedAt = now;
      } else if (now - movedAt > slowMs) {
        this.#on.stuck(left);
        return;
      }
      this.#timer = setTimeout(look, Math.min(50, slowMs / 4));
    };
    this.#timer = setTimeout(look, 5);
  }

  /** Nothing is watched any more. */
  stop(): void {
    clearTimeout(this.#timer);
  }
}
