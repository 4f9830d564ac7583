// Two sockets as one line: bytes pass in both directions, at the pace of the slower side. What passes, and when a side
// has to stand still, is said by whoever looks on; it knows nothing of what it carries.

import type { Socket } from "node:net";
import type { Clock } from "./clock.js";

export type Side = "client" | "server";

export const otherSide = (side: Side): Side =>
  side === "client" ? "server" : "client";

export interface RelayOptions {
  readonly client: Socket;
  readonly server: Socket;
  /** From the first end of a side until both are cut, for peers that never answer an end. */
  readonly lingerMs: number;
  readonly clock: Clock;
  /** The next bytes of a side; what of them goes on is sent with `send`. */
  onData(from: Side, chunk: Buffer): void;
  /** What came from a side is still on its way: its end has to wait. */
  isBusy(from: Side): boolean;
  /** Nothing more comes from a side; what was kept back of it is sent now. Called once for each side. */
  onEnd(from: Side): void;
  /** The first side whose line ended, before the other one hears of it. Called at most once. */
  onDropped(by: Side): void;
  /** Both sides are closed. Called once. */
  onClosed(): void;
}

/** Why a side is not read; it is read again when no reason is left. */
export type HoldReason = "peer" | "lane" | "slow" | "frozen";

interface End {
  readonly socket: Socket;
  readonly reasons: Set<HoldReason>;
  /** It said its last, but is held: the other side hears of it later. */
  endsLater: boolean;
  hasEnded: boolean;
  isMute: boolean;
}

export class Relay {
  readonly #options: RelayOptions;
  readonly #ends: Readonly<Record<Side, End>>;
  #open = 2;
  #stopLingering: (() => void) | undefined;
  #wasDropped = false;

  constructor(options: RelayOptions) {
    const end = (socket: Socket): End => ({
      socket,
      reasons: new Set(),
      endsLater: false,
      hasEnded: false,
      isMute: false,
    });
    this.#options = options;
    this.#ends = { client: end(options.client), server: end(options.server) };
  }

  start(): void {
    for (const side of ["client", "server"] as const) this.#couple(side);
  }

  send(to: Side, bytes: Buffer): void {
    const { socket, isMute } = this.#ends[to];
    if (isMute || !socket.writable) return;
    if (!socket.write(bytes)) this.hold(otherSide(to), "peer");
  }

  /** Says goodbye to a side; what it still sends is read and goes nowhere. */
  finish(to: Side): void {
    const { socket, isMute } = this.#ends[to];
    if (!isMute && socket.writable) socket.end();
  }

  hold(from: Side, reason: HoldReason): void {
    const end = this.#ends[from];
    end.reasons.add(reason);
    end.socket.pause();
  }

  release(from: Side, reason: HoldReason): void {
    const end = this.#ends[from];
    if (!end.reasons.delete(reason) || end.reasons.size > 0) return;
    end.socket.resume();
    this.settle(from);
  }

  /** Passes on an end that had to wait, if it need not any more. */
  settle(from: Side): void {
    const end = this.#ends[from];
    if (!end.endsLater || end.reasons.size > 0) return;
    if (!this.#options.isBusy(from)) this.#ended(from);
  }

  /** The side's line goes dead: nothing comes from it or reaches it any more, and nobody is told. */
  mute(side: Side): void {
    this.#ends[side].isMute = true;
  }

  /** Ends one line at once, as if somebody had pulled it. */
  drop(side: Side): void {
    this.#ends[side].socket.destroy();
  }

  /** From now on both lines have `lingerMs` left. */
  linger(): void {
    this.#stopLingering ??= this.#options.clock.setTimer(
      this.#options.lingerMs,
      () => this.cut(),
    );
  }

  /** Cuts both lines at once. */
  cut(): void {
    this.#ends.client.socket.destroy();
    this.#ends.server.socket.destroy();
  }

  #couple(side: Side): void {
    const end = this.#ends[side];
    const { socket } = end;
    socket.setNoDelay(true);
    socket.on("data", (chunk: Buffer) => {
      if (!end.isMute) this.#options.onData(side, chunk);
    });
    socket.on("drain", () => this.release(otherSide(side), "peer"));
    socket.on("end", () => {
      end.endsLater = true;
      this.settle(side);
    });
    socket.on("error", () => this.#ended(side));
    socket.on("close", () => {
      this.#ended(side);
      // With its peer gone nothing drains a held socket any more; reading on finds its end.
      const other = this.#ends[otherSide(side)];
      other.reasons.clear();
      other.socket.resume();
      if (--this.#open > 0) return;
      this.#stopLingering?.();
      this.#options.onClosed();
    });
    if (end.reasons.size === 0) socket.resume();
  }

  #ended(side: Side): void {
    const end = this.#ends[side];
    if (end.hasEnded || end.isMute) return;
    end.hasEnded = true;
    this.#options.onEnd(side);
    this.linger();
    if (!this.#wasDropped) {
      this.#wasDropped = true;
      this.#options.onDropped(side);
    }
    this.finish(otherSide(side));
  }
}
