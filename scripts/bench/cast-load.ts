// One broadcast to all clients: posts it, and notes by one clock when each of them has it, whole and once.
import { quantile } from "./book.js";
import type { Counting, Crowd } from "./crowd.js";
import { HttpClient } from "./http-client.js";
import { requestTo } from "./load.js";
import { bodyOf } from "./message.js";
import type { Pushing } from "./pushing.js";

/** What one broadcast took, milliseconds from before the POST. */
export interface CastResult {
  last: number;
  p50: number;
  /** Acks written by all clients since the last broadcast. */
  acks: number;
  faults: string[];
}

/** Waiting for the last one ends when no client has got anything for this long. */
const PATIENCE_MS = 10_000;

export async function cast(
  crowd: Crowd,
  pushing: Pushing,
  number: number,
): Promise<CastResult> {
  const roll = new Roll(number, crowd.size);
  crowd.counting = roll;
  const acks: (() => void)[] = [];
  crowd.held = acks;
  // A new one each time: servers end one that was silent for a while.
  const http = await HttpClient.connect(pushing.port);
  const postedAt = performance.now();
  const status = await http.send(
    requestTo("/v1/broadcast", pushing) + bodyOf(number),
  );
  http.close();
  if (status !== 202) roll.fault(`answered ${status}`);
  else await roll.complete();
  crowd.held = undefined;
  for (const write of acks) write();
  const sorted = roll.latencies(postedAt);
  return {
    last: sorted.at(-1) ?? NaN,
    p50: quantile(sorted, 0.5),
    acks: acksOf(crowd),
    faults: [...roll.faults(), ...crowd.breaks.splice(0)],
  };
}

function acksOf(crowd: Crowd): number {
  let acks = 0;
  for (const listener of crowd.listeners) {
    acks += listener.ackCount;
    listener.ackCount = 0;
  }
  return acks;
}

/** Who has one broadcast, and since when. */
class Roll implements Counting {
  readonly #number: number;
  readonly #arrivedAt: Float64Array;
  readonly #faults = new Map<string, number>();
  #arrived = 0;
  #isComplete: (() => void) | undefined;

  constructor(number: number, clients: number) {
    this.#number = number;
    this.#arrivedAt = new Float64Array(clients).fill(NaN);
  }

  arrived(number: number | undefined, place: number): void {
    if (number !== this.#number) this.fault("damaged or of another broadcast");
    else if (!Number.isNaN(this.#arrivedAt[place])) this.fault("arrived twice");
    else {
      this.#arrivedAt[place] = performance.now();
      this.#arrived++;
      if (this.#arrived === this.#arrivedAt.length) this.#isComplete?.();
    }
  }

  fault(what: string): void {
    this.#faults.set(what, (this.#faults.get(what) ?? 0) + 1);
  }

  /** Resolves when everybody has it, or when nothing more comes. */
  async complete(): Promise<void> {
    if (this.#arrived === this.#arrivedAt.length) return;
    let before = -1;
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      this.#isComplete = resolve;
      timer = setInterval(() => {
        if (this.#arrived === before) resolve();
        before = this.#arrived;
      }, PATIENCE_MS);
    });
    clearInterval(timer);
  }

  latencies(postedAt: number): Float64Array {
    return this.#arrivedAt
      .filter((at) => !Number.isNaN(at))
      .map((at) => at - postedAt)
      .sort();
  }

  faults(): string[] {
    const missing = this.#arrivedAt.length - this.#arrived;
    if (missing > 0) this.#faults.set("lost", missing);
    return [...this.#faults].map(([what, count]) => `${count} ${what}`);
  }
}
