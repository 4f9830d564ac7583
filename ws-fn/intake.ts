/** Whether the client's frames are read: several may hold them back, and they are read again when none does. */
import type { Throttle } from "./upstream.js";

export class Intake {
  readonly #socket: Throttle;
  /** Undefined while nobody has ever held them back. */
  #holders: Set<object> | undefined;

  constructor(socket: Throttle) {
    this.#socket = socket;
  }

  /** For one who may hold frames back. */
  holder(): Throttle {
    const me: Throttle = {
      pause: () => {
        this.#holders ??= new Set();
        if (this.#holders.has(me)) return;
        this.#holders.add(me);
        if (this.#holders.size === 1) this.#socket.pause();
      },
      resume: () => {
        if (!this.#holders?.delete(me) || this.#holders.size > 0) return;
        this.#holders = undefined;
        this.#socket.resume();
      },
    };
    return me;
  }
}
