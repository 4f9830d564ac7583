// What passed in the last second, on the platform's clock: any second (sliding) or the clock's own (fixed), and the
// most that ever passed in one [WS-LIM-2, WS-LIM-3].

const SECOND_MS = 1_000;
const FIRST_SLOTS = 16;

export class RateWindow {
  /** The largest sum of one second so far. */
  peak = 0;

  readonly #isFixed: boolean;
  /** A ring of the milliseconds in which something passed, oldest first: never more than a second has. */
  #times = new Float64Array(FIRST_SLOTS);
  #amounts = new Float64Array(FIRST_SLOTS);
  #first = 0;
  #count = 0;
  #sum = 0;
  /** A clock that steps back must not keep anybody waiting. */
  #latest = Number.NEGATIVE_INFINITY;

  constructor(kind: "sliding" | "fixed") {
    this.#isFixed = kind === "fixed";
  }

  /** What passed in the second that ends now, or in the clock's current one. */
  sum(now: number): number {
    this.#forget(this.#time(now));
    return this.#sum;
  }

  add(now: number, amount: number): void {
    const time = this.#time(now);
    this.#forget(time);
    const last = this.#slot(this.#count - 1);
    if (this.#count > 0 && this.#times[last] === time)
      this.#amounts[last] = (this.#amounts[last] ?? 0) + amount;
    else {
      if (this.#count === this.#times.length) this.#grow();
      const next = this.#slot(this.#count++);
      this.#times[next] = time;
      this.#amounts[next] = amount;
    }
    this.#sum += amount;
    if (this.#sum > this.peak) this.peak = this.#sum;
  }

  /** Milliseconds until `amount` more keep the sum within `limit`; for an amount above it, until nothing is left. */
  msUntilRoom(now: number, amount: number, limit: number): number {
    const time = this.#time(now);
    this.#forget(time);
    let over = this.#sum + amount - limit;
    for (let i = 0; over > 0 && i < this.#count; i++) {
      const slot = this.#slot(i);
      over -= this.#amounts[slot] ?? 0;
      if (over <= 0 || i === this.#count - 1)
        return this.#expiry(this.#times[slot] ?? time) - time;
    }
    return 0;
  }

  #time(now: number): number {
    const time = Math.floor(now);
    if (time > this.#latest) this.#latest = time;
    return this.#latest;
  }

  /** When something of that time stops to count. */
  #expiry(time: number): number {
    const start = this.#isFixed ? time - (time % SECOND_MS) : time;
    return start + SECOND_MS;
  }

  #forget(time: number): void {
    while (
      this.#count > 0 &&
      this.#expiry(this.#times[this.#first] ?? 0) <= time
    ) {
      this.#sum -= this.#amounts[this.#first] ?? 0;
      this.#first = this.#slot(1);
      this.#count--;
    }
  }

  #slot(index: number): number {
    const { length } = this.#times;
    return (this.#first + index + length) % length;
  }

  #grow(): void {
    const times = new Float64Array(this.#times.length * 2);
    const amounts = new Float64Array(this.#times.length * 2);
    for (let i = 0; i < this.#count; i++) {
      const slot = this.#slot(i);
      times[i] = this.#times[slot] ?? 0;
      amounts[i] = this.#amounts[slot] ?? 0;
    }
    this.#times = times;
    this.#amounts = amounts;
    this.#first = 0;
  }
}
