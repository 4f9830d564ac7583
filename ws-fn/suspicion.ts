/**
 * The owner's side of the poison rule (shared/poison.ts): a message that sockets keep ending at is sent alone, and the end of
 * a socket that nobody here wanted is told. Costs one comparison a message.
 */
import { parseSuspect, poisonWithinMs } from "../shared/poison.js";

export interface SuspicionPorts {
  /** Calls `then` after `ms`, unless the connection has closed. */
  after(ms: number, then: () => void): void;
  /** What waits behind the suspected message may follow. */
  goOn(): void;
}

export class Suspicion {
  /** The message that is sent alone, or 0. */
  readonly #suspect: number;
  readonly #suspected: boolean;
  readonly #ports: SuspicionPorts;
  #holding = false;

  /** `record`: what the claim found. A socket that cannot ack clears nobody, so there nothing is held. */
  constructor(record: string, acks: boolean, ports: SuspicionPorts) {
    const { suspect, suspected } = parseSuspect(record);
    this.#suspect = acks ? suspect : 0;
    this.#suspected = suspected;
    this.#ports = ports;
  }

  /** The suspected message is out, neither acked nor survived yet: nothing follows it. */
  get holding(): boolean {
    return this.#holding;
  }

  /** A message was handed to the socket; true when it was the suspected one. */
  sent(seq: number): boolean {
    if (seq !== this.#suspect) return false;
    this.#holding = true;
    this.#ports.after(poisonWithinMs, () => this.#clear());
    return true;
  }

  acked(seq: number): void {
    if (seq >= this.#suspect) this.#clear();
  }

  /**
   * Whether the end of a socket that was not ours to end has to be told: it came soon with something unacked, or
   * there is a suspicion that it may clear.
   */
  tells(end: { messages: number; unacked: boolean; soon: boolean }): boolean {
    if (end.messages === 0) return false;
    return this.#suspected || (end.soon && end.unacked);
  }

  #clear(): void {
    if (!this.#holding) return;
    this.#holding = false;
    this.#ports.goOn();
  }
}
