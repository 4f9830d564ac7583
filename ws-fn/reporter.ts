/**
 * What a connection did, told to Redis in few words: positions that were sent and acked, and messages that ended
 * otherwise. An ack goes out at once, what was only sent a little later, all of it in one script; what Redis did not
 * take is told again.
 */
import type { Report } from "../shared/log.js";

/** What was only sent is told after this long; a client acks within 250 ms, and its ack takes it along. */
const sentDelayMs = 400;
/** What a raw socket took is told at once after a pause, and together with what follows within this time. */
const takenDelayMs = 250;
/** Times of sending are kept apart only when they differ by more than this. */
const markWindowMs = 25;
const marksMax = 50;
const retryMs = 300;
/** How many numbers about unacked messages are kept; beyond it Redis looks a total up. */
const unackedMax = 4_000;

export interface ReporterPorts {
  report(report: Report): Promise<"ok" | "fenced" | "missing">;
  /** Renews the lease, which recreates what is missing; false when the connection is not ours any more. */
  confirm(): Promise<boolean>;
  fenced(): void;
}

export class Reporter {
  readonly #ports: ReporterPorts;
  readonly #ackedBy: Report["ackedBy"];
  #sent: { seq: number; atMs: number }[] = [];
  #windowMs = 0;
  #fates: Report["fates"][number][] = [];
  #acked: number;
  #ackedTotal: number | undefined;
  #toldAcked: number;
  /** Sent and not acked: seq and `total`, alternating. */
  #unacked: number[] = [];
  #timer: NodeJS.Timeout | undefined;
  #timerAtMs = 0;
  #flushedAtMs = -Infinity;
  #flight: Promise<void> | undefined;
  #stopped = false;

  /** `acked`: what Redis knows already. */
  constructor(ports: ReporterPorts, ackedBy: Report["ackedBy"], acked: number) {
    this.#ports = ports;
    this.#ackedBy = ackedBy;
    this.#acked = acked;
    this.#toldAcked = acked;
  }

  /** Everything up to here is acked, whether Redis knows it or not. */
  get acked(): number {
    return this.#acked;
  }

  sent(seq: number, total: number): void {
    if (this.#unacked.length < unackedMax) this.#unacked.push(seq, total);
    const now = Date.now();
    const last = this.#sent.at(-1);
    if (
      last &&
      (now - this.#windowMs < markWindowMs || this.#sent.length >= marksMax)
    ) {
      last.seq = seq;
      last.atMs = now;
    } else {
      this.#sent.push({ seq, atMs: now });
      this.#windowMs = now;
    }
    this.#soon(sentDelayMs);
  }

  skip(seq: number, status: "expired" | "undeliverable", reason: string): void {
    this.#fates.push({ seq, status, reason });
    this.#soon(sentDelayMs);
  }

  /** A cumulative ack; an older one changes nothing. */
  ack(seq: number): void {
    if (seq <= this.#acked) return;
    this.#acked = seq;
    this.#ackedTotal = this.#forget(seq);
    if (this.#flight) return;
    const now = performance.now();
    if (this.#ackedBy === "socket" && now - this.#flushedAtMs < takenDelayMs)
      this.#soon(takenDelayMs);
    else void this.flush();
  }

  /** Drops what is acked; the `total` of `seq` when it is known. */
  #forget(seq: number): number | undefined {
    const list = this.#unacked;
    let end = 0;
    while (end < list.length && (list[end] ?? 0) <= seq) end += 2;
    const total = end > 0 && list[end - 2] === seq ? list[end - 1] : undefined;
    if (end > 0) this.#unacked = list.slice(end);
    return total;
  }

  /** After `ms`, or what was asked for before if that is sooner. */
  #soon(ms: number): void {
    if (this.#stopped) return;
    const atMs = performance.now() + ms;
    if (this.#timer) {
      if (this.#timerAtMs <= atMs) return;
      clearTimeout(this.#timer);
    }
    this.#timerAtMs = atMs;
    this.#timer = setTimeout(() => void this.flush(), ms);
  }

  get #empty(): boolean {
    return (
      this.#sent.length === 0 &&
      this.#fates.length === 0 &&
      this.#acked === this.#toldAcked
    );
  }

  /** Tells what there is. One report at a time; resolves when there was nothing more to tell, or it failed. */
  flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#flushedAtMs = performance.now();
    this.#flight ??= this.#tell().finally(() => {
      this.#flight = undefined;
      // What came while the last report was settling.
      if (!this.#empty)
        this.#soon(this.#acked === this.#toldAcked ? sentDelayMs : retryMs);
    });
    return this.#flight;
  }

  async #tell(): Promise<void> {
    while (!this.#empty && !this.#stopped) {
      const sent = this.#sent;
      const fates = this.#fates;
      const acked = this.#acked;
      const total = this.#ackedTotal;
      this.#sent = [];
      this.#fates = [];
      let outcome: "ok" | "fenced" | "missing" | "failed";
      try {
        outcome = await this.#ports.report({
          ...(acked > this.#toldAcked
            ? { acked, ...(total === undefined ? {} : { ackedTotal: total }) }
            : {}),
          ackedBy: this.#ackedBy,
          sent,
          fates,
        });
        if (outcome === "missing" && !(await this.#ports.confirm()))
          outcome = "fenced";
      } catch {
        outcome = "failed";
      }
      if (outcome === "ok") {
        this.#toldAcked = acked;
        continue;
      }
      if (outcome === "fenced") {
        this.#ports.fenced();
        return;
      }
      this.#sent = [...sent, ...this.#sent];
      this.#fates = [...fates, ...this.#fates];
      if (outcome === "failed") {
        this.#soon(retryMs);
        return;
      }
    }
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }
}
