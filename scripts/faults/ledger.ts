/**
 * Jepsen's check. Of every message: when it was sent, what the backend was told, and what the application got of it.
 * At the end, what was answered 2xx less what arrived must be empty; duplicates and inversions are counted apart.
 */
import { createHash } from "node:crypto";

/** What the sender knows: nothing yet, a 2xx, surely not stored, or "nobody can say". */
export type Outcome = "invoked" | "ok" | "refused" | "unknown";

/** One message, from its first POST on. */
export interface Sent {
  readonly connection: string;
  readonly publisher: string;
  /** Counts the messages of this publisher to this connection, from 0. */
  readonly counter: number;
  /** The body: publisher, counter, and a hash over both and the connection. */
  readonly text: string;
  outcome: Outcome;
  /** Its first POST, and its last answer, `performance.now()`; 0 before. */
  readonly invokedAt: number;
  answeredAt: number;
  /** POSTs so far. */
  attempts: number;
  /** The message ID of its 2xx. */
  id: string | undefined;
  /** Why its receipt says that it will not come. */
  excuse: string | undefined;
  /** Answered 2xx, and Redis has forgotten it by its own rules; see `Ledger.redisForgets`. */
  isForgotten: boolean;
}

/** A loss of Redis' own: what it was told from `from` on (`performance.now()`) may be gone at `to`. */
export interface Forgetting {
  readonly from: number;
  readonly to: number;
  /** Answered ones may be lost, too. Where not, only those that were under way may have come twice. */
  readonly mayLose: boolean;
}

export interface Verdict {
  /** Messages that were sent. */
  readonly messages: number;
  readonly ok: number;
  readonly refused: number;
  readonly unknown: number;
  /** Handed to an application. */
  readonly received: number;
  /** Answered 2xx, not received, and its receipt does not say why. */
  readonly lost: number;
  /** Answered 2xx and not received, by what the receipt says. */
  readonly excused: Readonly<Record<string, number>>;
  /** Answered 2xx, not received, and unknown to Redis since it lost its own memory of those seconds. */
  readonly forgotten: number;
  /** Handed over once more because Redis had forgotten the first time before its sender had an answer. */
  readonly forgottenTwice: number;
  /** Handed to the application more than once, every time but the first. */
  readonly duplicates: number;
  /** Handed over after a later one of the same publisher. */
  readonly inversions: number;
  /** Handed over with a hash that is not its own, or on another connection than its own. */
  readonly corrupt: number;
  /** Handed over although every answer said that nothing was stored. */
  readonly refusedYetReceived: number;
  /** Frames that repeat an earlier one of their connection, marked `redelivered` or not. */
  readonly wire: { readonly flagged: number; readonly unflagged: number };
  /** How often the most repeated message came over the wire. */
  readonly mostFrames: number;
}

export class Ledger {
  readonly #sent = new Map<string, Sent>();
  readonly #counters = new Map<string, number>();
  readonly #received = new Map<string, number>();
  readonly #highest = new Map<string, number>();
  /** Frames by connection and number. */
  readonly #frames = new Map<string, number>();
  readonly #forgettings: Forgetting[] = [];
  #inversions = 0;
  #corrupt = 0;
  #flagged = 0;
  #unflagged = 0;

  /** The next message of a publisher to a connection: it counts as sent from now on. */
  invoke(connection: string, publisher: string): Sent {
    const place = `${connection} ${publisher}`;
    const counter = this.#counters.get(place) ?? 0;
    this.#counters.set(place, counter + 1);
    const text = `${publisher} ${counter} ${hashOf(connection, publisher, counter)}`;
    const sent: Sent = {
      connection,
      publisher,
      counter,
      text,
      outcome: "invoked",
      invokedAt: performance.now(),
      answeredAt: 0,
      attempts: 0,
      id: undefined,
      excuse: undefined,
      isForgotten: false,
    };
    this.#sent.set(`${connection} ${text}`, sent);
    return sent;
  }

  /** What the application of a connection was handed. */
  receive(connection: string, text: string | undefined): void {
    const key = `${connection} ${text ?? ""}`;
    const sent = this.#sent.get(key);
    if (sent === undefined) {
      this.#corrupt += 1;
      return;
    }
    const times = (this.#received.get(key) ?? 0) + 1;
    this.#received.set(key, times);
    if (times > 1) return;
    const place = `${connection} ${sent.publisher}`;
    const highest = this.#highest.get(place) ?? -1;
    if (sent.counter < highest) this.#inversions += 1;
    else this.#highest.set(place, sent.counter);
  }

  /** A message frame as it came over the wire, whether or not the client library hands it on. */
  frame(connection: string, seq: number, redelivered: boolean): void {
    const key = `${connection} ${seq}`;
    const times = (this.#frames.get(key) ?? 0) + 1;
    this.#frames.set(key, times);
    if (times === 1) return;
    if (redelivered) this.#flagged += 1;
    else this.#unflagged += 1;
  }

  hasReceived(sent: Sent): boolean {
    return this.#received.has(`${sent.connection} ${sent.text}`);
  }

  /** Redis loses its own memory of these moments, as the setting that a row tests is documented to. */
  redisForgets(forgetting: Forgetting): void {
    this.#forgettings.push(forgetting);
  }

  /** Whether a row made Redis lose what it was told. */
  get hasForgotten(): boolean {
    return this.#forgettings.length > 0;
  }

  /** Whether an accepted message that Redis does not know any more was answered in moments it may forget. */
  mayBeForgotten({ answeredAt }: Sent): boolean {
    return this.#forgettings.some(
      ({ from, to, mayLose }) =>
        mayLose && from <= answeredAt && answeredAt <= to,
    );
  }

  /** Sent again because its first answer was lost together with Redis' memory of it. */
  #mayComeTwice({ attempts, invokedAt, answeredAt }: Sent): boolean {
    return this.#forgettings.some(
      ({ from, to }) => attempts > 1 && invokedAt <= to && answeredAt >= from,
    );
  }

  /** Longest time from the first POST of an accepted message to its 2xx, ms. */
  slowestAnswer(): number {
    return [...this.#sent.values()]
      .filter(({ outcome }) => outcome === "ok")
      .reduce(
        (most, { invokedAt, answeredAt }) =>
          Math.max(most, answeredAt - invokedAt),
        0,
      );
  }

  /** Answered 2xx, not received, and not excused so far. */
  missing(): Sent[] {
    return [...this.#sent.values()].filter(
      (sent) =>
        sent.outcome === "ok" &&
        sent.excuse === undefined &&
        !sent.isForgotten &&
        !this.hasReceived(sent),
    );
  }

  verdict(): Verdict {
    const all = [...this.#sent.values()];
    const count = (outcome: Outcome) =>
      all.filter((sent) => sent.outcome === outcome).length;
    const excused: Record<string, number> = {};
    for (const sent of all) {
      if (sent.excuse === undefined || this.hasReceived(sent)) continue;
      excused[sent.excuse] = (excused[sent.excuse] ?? 0) + 1;
    }
    let duplicates = 0;
    let forgottenTwice = 0;
    for (const [key, times] of this.#received) {
      const sent = this.#sent.get(key);
      if (sent && this.#mayComeTwice(sent)) forgottenTwice += times - 1;
      else duplicates += times - 1;
    }
    return {
      messages: all.length,
      ok: count("ok"),
      refused: count("refused"),
      unknown: count("unknown") + count("invoked"),
      received: this.#received.size,
      lost: this.missing().length,
      excused,
      forgotten: all.filter(
        (sent) => sent.isForgotten && !this.hasReceived(sent),
      ).length,
      forgottenTwice,
      duplicates,
      inversions: this.#inversions,
      corrupt: this.#corrupt,
      refusedYetReceived: all.filter(
        (sent) => sent.outcome === "refused" && this.hasReceived(sent),
      ).length,
      wire: { flagged: this.#flagged, unflagged: this.#unflagged },
      mostFrames: [...this.#frames.values()].reduce(
        (most, times) => Math.max(most, times),
        0,
      ),
    };
  }
}

/** What a verdict has against the bridge, in words; empty when there is nothing. */
export function faultsOf(verdict: Verdict): string[] {
  const { lost, duplicates, inversions, corrupt, refusedYetReceived } = verdict;
  return Object.entries({
    lost,
    "handed over twice": duplicates,
    inversions,
    corrupt,
    "refused and yet received": refusedYetReceived,
  })
    .filter(([, count]) => count > 0)
    .map(([what, count]) => `${count} ${what}`);
}

function hashOf(...parts: (string | number)[]): string {
  return createHash("sha256")
    .update(parts.join(" "))
    .digest("hex")
    .slice(0, 16);
}
