/**
 * Whether a connection is still this process's, for certain. The lease of the process (lease.ts) says so for all its
 * connections at once; after a doubt each has to be confirmed by itself before its next write. Every confirmation is a
 * comparison, too: it tells where the connection stands in Redis (delivery rules 1 and 4).
 */
import type { Confirmation } from "../shared/registry.js";
import type { Lease } from "./lease.js";

export interface OwnershipPorts {
  live(): boolean;
  /** Asks Redis; with `upkeep` what is stored gets a new expiry as well. */
  ask(upkeep: boolean): Promise<Confirmation>;
  /** It is ours, and this is where it stands. */
  confirmed(confirmation: Extract<Confirmation, { kind: "ok" }>): void;
  fenced(): void;
  ended(code: number, words: string): void;
}

/** What is stored lives two days (keys.ts, horizonMs); its expiry is renewed after this long. */
const upkeepEveryMs = 6 * 3_600_000;

export class Ownership {
  readonly #lease: Lease;
  readonly #ports: OwnershipPorts;
  /** The doubt since which it is confirmed. */
  #certain: number;
  #asking: Promise<boolean> | undefined;
  #keptAtMs = performance.now();

  /** `certain`: the lease's doubt from before the claim was sent. */
  constructor(lease: Lease, certain: number, ports: OwnershipPorts) {
    this.#lease = lease;
    this.#certain = certain;
    this.#ports = ports;
  }

  /** Whether a write is allowed now. */
  get holds(): boolean {
    return this.#lease.holds && this.#lease.doubt === this.#certain;
  }

  /** Asks Redis; everybody who asks meanwhile gets the same answer. False: it is not ours any more. */
  confirm(): Promise<boolean> {
    this.#asking ??= this.#confirm().finally(() => {
      this.#asking = undefined;
    });
    return this.#asking;
  }

  confirmQuietly(): void {
    this.confirm().catch(() => undefined);
  }

  async #confirm(): Promise<boolean> {
    const ports = this.#ports;
    if (!ports.live()) return false;
    await this.#lease.ensure();
    const { doubt } = this.#lease;
    const now = performance.now();
    const upkeep = now - this.#keptAtMs > upkeepEveryMs;
    const confirmation = await ports.ask(upkeep);
    if (confirmation.kind === "fenced") {
      ports.fenced();
      return false;
    }
    if (confirmation.kind === "ended") {
      ports.ended(confirmation.code, confirmation.words);
      return false;
    }
    if (!ports.live()) return false;
    if (upkeep) this.#keptAtMs = now;
    this.#certain = doubt;
    ports.confirmed(confirmation);
    return true;
  }
}
