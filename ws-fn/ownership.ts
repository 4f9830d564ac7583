/**
 * An owner keeps its connection: the lease is renewed at a third of it, and whenever a write is in doubt (lease.ts). Every
 * renewal is the watchdog, too: it tells where the connection stands in Redis. One that failed schedules the next by itself.
 */
import type { Renewal } from "../shared/registry.js";
import { Beats } from "./beats.js";
import type { Lease } from "./lease.js";

/** A renewal that failed is tried again after this long. */
const retryMs = 500;
/** The expiry of a connection's keys is renewed with every so many renewals. */
const expireEvery = 100;

/** Of all connections of the process. */
const beats = new Beats();

export interface OwnershipPorts {
  live(): boolean;
  renew(expire: boolean): Promise<Renewal>;
  /** It is ours, and this is where it stands. */
  renewed(renewal: Extract<Renewal, { kind: "ok" }>): void;
  fenced(): void;
  ended(code: number, words: string): void;
}

export class Ownership {
  readonly #lease: Lease;
  readonly #leaseMs: number;
  readonly #ports: OwnershipPorts;
  #renewal: Promise<boolean> | undefined;
  #cancel: (() => void) | undefined;
  #count = 0;

  constructor(lease: Lease, leaseMs: number, ports: OwnershipPorts) {
    this.#lease = lease;
    this.#leaseMs = leaseMs;
    this.#ports = ports;
  }

  /** Whether a write is allowed now. */
  get holds(): boolean {
    return this.#lease.holds;
  }

  /** The first renewal comes after up to a third of the lease, so that those of many connections spread. */
  start(): void {
    this.#schedule(Math.random() * (this.#leaseMs / 3));
  }

  #schedule(ms: number): void {
    this.#cancel?.();
    this.#cancel = beats.after(ms, () => this.confirmQuietly());
  }

  /** Renews the lease; everybody who asks meanwhile gets the same answer. False: it is not ours any more. */
  confirm(): Promise<boolean> {
    this.#renewal ??= this.#renew().finally(() => {
      this.#renewal = undefined;
    });
    return this.#renewal;
  }

  confirmQuietly(): void {
    this.confirm().catch(() => undefined);
  }

  async #renew(): Promise<boolean> {
    const ports = this.#ports;
    if (!ports.live()) return false;
    const confirmed = this.#lease.renewal();
    try {
      const renewal = await ports.renew(this.#count++ % expireEvery === 0);
      if (renewal.kind === "fenced") {
        ports.fenced();
        return false;
      }
      if (renewal.kind === "ended") {
        ports.ended(renewal.code, renewal.words);
        return false;
      }
      if (!ports.live()) return false;
      confirmed();
      this.#schedule(this.#leaseMs / 3);
      ports.renewed(renewal);
      return true;
    } catch (error) {
      if (ports.live()) this.#schedule(retryMs);
      throw error;
    }
  }

  stop(): void {
    this.#cancel?.();
  }
}
