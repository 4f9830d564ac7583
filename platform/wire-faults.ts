// What the faults of one connection do to its wire and its process. The rules are in faults.ts.

import type { Clock } from "./clock.js";
import type { ConnectionFaults } from "./faults.js";
import type { MessageFate } from "./lane.js";
import { otherSide, type Relay, type Side } from "./relay.js";
import { SlowLine } from "./slow-line.js";

export interface WireFaultsOptions {
  readonly faults: ConnectionFaults;
  readonly relay: Relay;
  /** The function's process and the leader of its group. */
  readonly process: { readonly pid: number | undefined; kill(): void };
  readonly clock: Clock;
  /** The process runs again: the lane that stood still goes on. */
  thawed(from: Side): void;
}

export class WireFaults {
  readonly #options: WireFaultsOptions;
  /** By the side whose bytes they carry. */
  readonly #slow: Partial<Record<Side, SlowLine>> = {};
  #frozenMs: number | undefined;
  #isFrozen = false;

  constructor(options: WireFaultsOptions) {
    this.#options = options;
    const { slow } = options.faults;
    if (slow) this.#slowDown(slow);
  }

  /** A message begins: what happens to it, and with it. */
  begins(from: Side, nth: number): MessageFate {
    const { faults, relay, process } = this.#options;
    let fate: MessageFate = "pass";
    for (const fault of faults.at(from, nth)) {
      switch (fault.do) {
        case "kill":
          process.kill();
          fate = "end";
          break;
        case "drop":
          relay.drop(fault.line ?? "client");
          fate = "end";
          break;
        case "halfOpen":
          relay.mute("client");
          // What the function says is still seen to have come as far as here.
          if (from === "client") fate = "end";
          break;
        case "freeze":
          this.#frozenMs = fault.forMs;
          fate = "halve";
          break;
        case "slow":
          this.#slowDown(fault);
          break;
      }
    }
    return fate;
  }

  /** Half of the message has gone on. */
  halved(from: Side): void {
    this.#isFrozen = true;
    this.#signal("SIGSTOP");
    if (this.#frozenMs === undefined) return;
    this.#options.clock.setTimer(this.#frozenMs, () => {
      this.thaw();
      this.#options.thawed(from);
    });
  }

  /** A process that was stopped runs again. */
  thaw(): void {
    if (this.#isFrozen) this.#signal("SIGCONT");
    this.#isFrozen = false;
  }

  /** Takes what goes on from a side, if its way is slow. */
  delays(from: Side, bytes: Buffer): boolean {
    const line = this.#slow[from];
    line?.push(bytes);
    return line !== undefined;
  }

  isBusy(from: Side): boolean {
    return this.#slow[from]?.isEmpty === false;
  }

  #slowDown(slow: { bytesPerSecond?: number; delayMs?: number }): void {
    const { relay, clock } = this.#options;
    for (const from of ["client", "server"] as const)
      this.#slow[from] ??= new SlowLine({
        bytesPerSecond: slow.bytesPerSecond,
        delayMs: slow.delayMs,
        clock,
        send: (bytes) => relay.send(otherSide(from), bytes),
        hold: (isHolding) =>
          isHolding ? relay.hold(from, "slow") : relay.release(from, "slow"),
        idle: () => relay.settle(from),
      });
  }

  #signal(signal: "SIGSTOP" | "SIGCONT"): void {
    const { pid } = this.#options.process;
    if (pid === undefined) return;
    try {
      process.kill(-pid, signal);
    } catch {
      // ESRCH: it has ended already
    }
  }
}
