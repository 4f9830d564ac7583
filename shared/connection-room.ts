/**
 * Room for TCP connections: how many a process holds, and how many of them one client address may have. Some descriptors
 * are kept back, for without them Redis could not be reached again. When the room is full, a connection that has shown
 * no credentials and waits for nothing makes way for the next one; who is served keeps its place.
 */
import { readFileSync } from "node:fs";
import type { Duplex } from "node:stream";
import { clientNetwork, isLoopback } from "./proxies.js";

/** Descriptors that are no connections of callers: Redis (several on a cluster), the webhook, files, the loop itself. */
export const DESCRIPTORS_KEPT = 64;
/** Of the room, what one address gets when nothing else is said. */
const addressShare = 1 / 2;
/** The limit of descriptors can be changed from outside; it is read again after this long, milliseconds. */
const limitAgeMs = 1_000;

export interface RoomOptions {
  /** Connections of the process; 0: as many as its descriptors allow. */
  max: number;
  /** … of one address; 0: half of them, and any number from loopback. */
  perAddress: number;
  /** How many descriptors the process may have; undefined where that is not known. Default: asks the system. */
  descriptors?: () => number | undefined;
}

/** Why there is no room, and how much there is. */
export interface NoRoom {
  full: "process" | "address";
  limit: number;
}

export class ConnectionRoom {
  readonly #options: RoomOptions;
  /** Those that would make way, the one that is silent longest first. */
  readonly #idle = new Set<Duplex>();
  readonly #addresses = new Map<string, number>();
  #open = 0;
  /** As they were read last. */
  #descriptors = Infinity;
  #limitReadAt = -Infinity;

  constructor(options: RoomOptions) {
    this.#options = options;
  }

  /** Connections that are open now. */
  get open(): number {
    return this.#open;
  }

  /**
   * A connection came. Its place is free again when it has closed; until `busy` it is one that makes way. `address`: the client's,
   * or undefined for a proxy's, which brings many clients.
   */
  enter(socket: Duplex, address: string | undefined): NoRoom | undefined {
    if (address !== undefined) {
      const noRoom = this.enterAddress(socket, address);
      if (noRoom) return noRoom;
    }
    const limit = this.#currentLimit();
    if (this.#open >= limit) {
      const [silent] = this.#idle;
      if (!silent) return { full: "process", limit };
      this.#idle.delete(silent);
      silent.destroy();
    }
    this.#open += 1;
    this.#idle.add(socket);
    socket.once("close", () => {
      this.#open -= 1;
      this.#idle.delete(socket);
    });
    return undefined;
  }

  /** Counts a connection for its client's address. For those that come by a proxy this is known with their request. */
  enterAddress(socket: Duplex, address: string): NoRoom | undefined {
    const { perAddress } = this.#options;
    if (perAddress === 0 && isLoopback(address)) return undefined;
    const limit =
      perAddress > 0
        ? perAddress
        : Math.max(1, Math.floor(this.#currentLimit() * addressShare));
    const network = clientNetwork(address);
    const open = this.#addresses.get(network) ?? 0;
    if (open >= limit) return { full: "address", limit };
    this.#addresses.set(network, open + 1);
    socket.once("close", () => {
      const left = (this.#addresses.get(network) ?? 0) - 1;
      if (left > 0) this.#addresses.set(network, left);
      else this.#addresses.delete(network);
    });
    return undefined;
  }

  /** It has asked something, or has shown who it is: it keeps its place. */
  busy(socket: Duplex): void {
    this.#idle.delete(socket);
  }

  /** It is answered, and has shown no credentials. */
  idle(socket: Duplex): void {
    if (!socket.destroyed) this.#idle.add(socket);
  }

  #currentLimit(): number {
    const { max, descriptors = descriptorLimit } = this.#options;
    const now = performance.now();
    if (now - this.#limitReadAt >= limitAgeMs) {
      this.#limitReadAt = now;
      this.#descriptors = descriptors() ?? this.#descriptors;
    }
    const kept = Math.min(DESCRIPTORS_KEPT, this.#descriptors / 2);
    const allowed = Math.max(1, Math.floor(this.#descriptors - kept));
    return max > 0 ? Math.min(max, allowed) : allowed;
  }
}

/** The soft limit of this process (Linux). */
function descriptorLimit(): number | undefined {
  try {
    const limits = readFileSync("/proc/self/limits", "latin1");
    const soft = /^Max open files\s+(\d+)/m.exec(limits)?.[1];
    return soft === undefined ? undefined : Number(soft);
  } catch {
    return undefined;
  }
}
