/**
 * What is in the log after `cur` goes to the socket, in order, once. Three ways lead here: a bell that carries the very
 * next message is written at once; any other bell, a claim, a deliver job and a comparison that saw more make the log be read;
 * and a recall is decided between two writes. Reading and recalling are exclusive; bells that come meanwhile are kept
 * and applied after, as long as there is no gap (delivery rules 4, 5, 9, 10).
 *
 * The single writer of one epoch. Knows no WebSocket and no Redis, only its ports.
 */
import type { Bell, Entry } from "../shared/entry.js";
import type { Page, RecallOutcome } from "../shared/log.js";

/** Bells kept during a read; more than that and the log is read once more instead. */
const heardMax = 1_000;
/** After a Redis error the log is looked at again, with back-off. */
const againMs = { first: 100, most: 2_000 };

export interface DeliveryPorts {
  read(cur: number): Promise<Page>;
  recall(seq: number): Promise<RecallOutcome>;
  /** The fence: whether this epoch may write now. */
  mayWrite(): boolean;
  /** Asks Redis; false when the connection is not ours any more. */
  confirm(): Promise<boolean>;
  /** Hands a message to the socket; true when the socket has enough for now. */
  send(entry: Entry, redelivered: boolean): boolean;
  /** A message that is not sent any more. */
  skip(seq: number, status: "expired" | "undeliverable", reason: string): void;
  fenced(): void;
  /** Redis knows less than the client has: its history was lost (rule 2). */
  lost(): void;
}

type MessageBell = Extract<Bell, { kind: "message" | "append" }>;

export class Delivery {
  readonly #ports: DeliveryPorts;
  readonly #epoch: number;
  readonly #readTo: number;
  #cur: number;
  #busy = false;
  #blocked = false;
  #stopped = false;
  #heard: MessageBell[] = [];
  #missed = false;
  #chain: Promise<unknown> = Promise.resolve();
  #queuedRead: Promise<number> | undefined;
  #retry: NodeJS.Timeout | undefined;
  #retryMs = againMs.first;
  #activeAtMs = -Infinity;

  constructor(
    ports: DeliveryPorts,
    from: { epoch: number; cur: number; readTo: number },
  ) {
    this.#ports = ports;
    this.#epoch = from.epoch;
    this.#cur = from.cur;
    this.#readTo = from.readTo;
  }

  /** Everything up to here was handed to the socket or ended otherwise. */
  get cur(): number {
    return this.#cur;
  }

  /** When something was last written, on the monotonic clock. */
  get activeAtMs(): number {
    return this.#activeAtMs;
  }

  /** A doorbell rang. */
  onBell(bell: MessageBell): void {
    if (this.#stopped || this.#blocked) return;
    if (this.#busy) {
      if (this.#heard.length < heardMax) this.#heard.push(bell);
      else this.#missed = true;
      return;
    }
    if (this.#apply(bell) === "read") void this.read();
  }

  #apply(bell: MessageBell): "done" | "read" {
    const seq = bell.kind === "message" ? bell.entry.seq : bell.seq;
    if (seq <= this.#cur) return "done";
    if (bell.prev < this.#cur) this.#ports.lost();
    if (bell.kind !== "message" || bell.prev !== this.#cur) return "read";
    return this.#write(bell.entry) === "fence" ? "read" : "done";
  }

  #write(entry: Entry): "done" | "fence" | "blocked" {
    if (entry.seq <= this.#cur) return "done";
    if (!this.#ports.mayWrite()) return "fence";
    if (entry.onlyEpoch !== undefined && entry.onlyEpoch !== this.#epoch)
      this.#ports.skip(entry.seq, "undeliverable", "not_connected");
    else if (entry.onlyEpoch === undefined && entry.expiresAtMs <= Date.now())
      this.#ports.skip(entry.seq, "expired", "");
    else if (this.#ports.send(entry, entry.seq <= this.#readTo))
      this.#blocked = true;
    this.#cur = entry.seq;
    this.#activeAtMs = performance.now();
    return this.#blocked ? "blocked" : "done";
  }

  /**
   * Reads the log after `cur` and writes it. Resolves with the number of messages found. A read that waits its turn serves
   * everybody who asks meanwhile.
   */
  read(): Promise<number> {
    if (this.#queuedRead) return this.#queuedRead;
    const read = this.#exclusive(() => {
      this.#queuedRead = undefined;
      return this.#readAll();
    });
    this.#queuedRead = read;
    return read;
  }

  /** Decides a recall as the owner: what is not written yet may go. */
  recall(seq: number): Promise<string> {
    return this.#exclusive(async () => {
      if (seq <= this.#cur) return "sent";
      const outcome = await this.#ports.recall(seq);
      return typeof outcome === "string" ? outcome : "maybe";
    }).catch(() => "maybe");
  }

  /** The socket takes more again. */
  unblock(): void {
    if (!this.#blocked || this.#stopped) return;
    this.#blocked = false;
    void this.read();
  }

  /** Redis answers again: a look that failed is not put off any longer. */
  lookNow(): void {
    if (this.#retry === undefined) return;
    this.#retryMs = againMs.first;
    void this.read();
  }

  /** Nothing is written from now on. */
  stop(): void {
    this.#stopped = true;
    this.#heard = [];
    clearTimeout(this.#retry);
  }

  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#chain.then(async () => {
      this.#busy = true;
      try {
        return await work();
      } finally {
        this.#busy = false;
        this.#applyHeard();
      }
    });
    this.#chain = turn.catch(() => undefined);
    return turn;
  }

  #applyHeard(): void {
    const heard = this.#heard;
    this.#heard = [];
    let again = this.#missed;
    this.#missed = false;
    if (this.#stopped || this.#blocked) return;
    for (const bell of heard) {
      if (this.#blocked) return;
      if (!again && this.#apply(bell) === "read") again = true;
    }
    if (again) void this.read();
  }

  async #readAll(): Promise<number> {
    let found = 0;
    clearTimeout(this.#retry);
    this.#retry = undefined;
    try {
      while (!this.#stopped && !this.#blocked) {
        if (!this.#ports.mayWrite()) {
          // What was heard under the old certainty is not trusted: a recall may have passed it.
          this.#heard = [];
          if (!(await this.#ports.confirm())) return found;
        }
        const page = await this.#ports.read(this.#cur);
        if (page.kind === "fenced") {
          this.#ports.fenced();
          return found;
        }
        if (page.kind === "missing") {
          if (!(await this.#ports.confirm())) return found;
          continue;
        }
        this.#retryMs = againMs.first;
        found += page.rows.length;
        let fence = false;
        for (const row of page.rows) {
          if (this.#stopped) return found;
          const outcome = this.#write(row);
          if (outcome === "blocked") return found;
          fence = outcome === "fence";
          if (fence) break;
        }
        if (fence || page.more) continue;
        // Nothing up to here is in the log any more: it was recalled, replaced, or never put there.
        this.#cur = Math.max(this.#cur, page.seq);
        return found;
      }
    } catch {
      // A deliver job never fails for want of Redis: look again (rule 8).
      this.#lookAgain();
    }
    return found;
  }

  #lookAgain(): void {
    if (this.#stopped) return;
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => void this.read(), this.#retryMs);
    this.#retryMs = Math.min(this.#retryMs * 2, againMs.most);
  }
}
