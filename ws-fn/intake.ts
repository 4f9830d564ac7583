/** Whether the client's frames are read: several may hold them back, and they are read again when none does. */
import type { Throttle } from "./upstream.js";

export class Intake {
  readonly #socket: Throttle;
  readonly #holders = new Set<object>();

  constructor(socket: Throttle) {
    this.#socket = socket;
  }

  /** For one who may hold frames back. */
  holder(): Throttle {
    const holders = this.#holders;
    const me: Throttle = {
      pause: () => {
        holders.add(me);
        if (holders.size === 1) this.#socket.pause();
      },
      resume: () => {
        if (holders.delete(me) && holders.size === 0) this.#socket.resume();
      },
    };
    return me;
  }
}
