/**
 * What one subject (an API key, a user, a connection) has used of its quotas: token buckets in this process, all of them
 * in arrays of numbers. Used amounts run down with the clock, so a count cannot drift for ever.
 *
 * A rate is one bucket. What lives has several, one for each length of life, and the sum of them is bounded:
 *
 *   scheduled for 50 s ──▶ bucket of 60 s ┐
 *   for 20 min ──▶ bucket of 2 h          ├─▶ together at most the limit
 *   for 5 days ──▶ bucket of a week       ┘
 *
 * A bucket gives back its limit in its length, and nothing in it lives longer: so at most twice the limit lives of each length.
 *
 * What the whole cluster uses is learned in the background (quotas.ts): `unreported` is what others have not heard of yet.
 * A take of three quotas at once costs 0.3 µs. rate-limiter-flexible 11.4, which was measured first, takes 0.2 µs and a promise
 * for each quota, 440 bytes and a timer for each key and quota, any number of keys, and counts in fixed windows.
 */
import { BridgeError, type QuotaFacts } from "./errors.js";
import { livesSeconds, type Quota, type Quotas } from "./quota-settings.js";

/** So much of something that lives for so long. */
export interface Lasting {
  readonly amount: number;
  readonly seconds: number;
}

/** So many of each; those that are not named are 0. What lives for no known time counts as its shortest. */
export type Cost<Name extends string> = Partial<Record<Name, number | Lasting>>;

/** The opposite of a cost. */
export function negated<Name extends string>(cost: Cost<Name>): Cost<Name> {
  const out: Cost<Name> = {};
  for (const name of Object.keys(cost) as Name[]) {
    const part = cost[name];
    if (part !== undefined)
      out[name] =
        typeof part === "number"
          ? -part
          : { amount: -part.amount, seconds: part.seconds };
  }
  return out;
}

/** How far a subject may get into debt with what is counted afterwards, in limits. */
const debtMax = 2;

const amountOf = (part: number | Lasting): number =>
  typeof part === "number" ? part : part.amount;

/** One bucket: its quota, how long it takes to give back a limit, and what others call it. */
export interface Bucket<Name extends string> {
  readonly name: Name;
  readonly windowSeconds: number;
  readonly label: string;
}

/** The buckets of all quotas of a kind of subject, those of one side by side, shortest first. */
export interface Layout<Name extends string> {
  readonly buckets: readonly Bucket<Name>[];
  /** Where those of a quota begin, and where they end. */
  readonly spans: Readonly<Record<Name, readonly [from: number, to: number]>>;
}

export function layoutOf<Name extends string>(
  quotas: Quotas<Name>,
): Layout<Name> {
  const buckets: Bucket<Name>[] = [];
  const spans: Partial<Record<Name, readonly [number, number]>> = {};
  for (const name of Object.keys(quotas) as Name[]) {
    const { windowSeconds, lives }: Quota = quotas[name];
    const from = buckets.length;
    buckets.push({ name, windowSeconds, label: name });
    for (const seconds of lives ? livesSeconds : [])
      if (seconds > windowSeconds)
        buckets.push({
          name,
          windowSeconds: seconds,
          label: `${name}/${seconds}`,
        });
    spans[name] = [from, buckets.length];
  }
  return { buckets, spans: spans as Layout<Name>["spans"] };
}

export class Allowance<Name extends string> {
  readonly #buckets: Layout<Name>["buckets"];
  readonly #spans: Layout<Name>["spans"];
  readonly #quotas: Quotas<Name>;
  /** Who it is, in the words of a refusal. */
  readonly #who: () => string;
  readonly #now: () => number;
  // One number for each bucket, in their order.
  readonly #used: number[];
  readonly #unreported: number[];
  #atMs: number;

  /** `now`: wall clock, which goes on while a process is frozen; milliseconds. `layout` is that of the quotas. */
  constructor(
    quotas: Quotas<Name>,
    { buckets, spans }: Layout<Name>,
    who: () => string,
    now: () => number = Date.now,
  ) {
    this.#buckets = buckets;
    this.#spans = spans;
    this.#quotas = quotas;
    this.#who = who;
    this.#now = now;
    this.#used = buckets.map(() => 0);
    this.#unreported = buckets.map(() => 0);
    this.#atMs = now();
  }

  /** What is used by now. */
  #today(): number[] {
    const used = this.#used;
    const now = this.#now();
    const passed = now - this.#atMs;
    if (passed === 0) return used;
    this.#atMs = now;
    // A clock that was set back gives nothing.
    if (passed < 0) return used;
    for (let i = 0; i < used.length; i++) {
      const before = used[i] ?? 0;
      if (before === 0) continue;
      const { name, windowSeconds } = this.#buckets[i] as Bucket<Name>;
      const { limit } = this.#quotas[name];
      const less = (passed * limit) / (windowSeconds * 1_000);
      used[i] = before > less ? before - less : 0;
    }
    return used;
  }

  #usedOf(name: Name, used = this.#today()): number {
    const [from, to] = this.#spans[name];
    let sum = 0;
    for (let i = from; i < to; i++) sum += used[i] ?? 0;
    return sum;
  }

  /** Whether there is room for so many, without taking it. What is larger than a limit needs all of it. */
  has(name: Name, amount = 1): boolean {
    const { limit } = this.#quotas[name];
    return this.#usedOf(name) + Math.min(amount, limit) <= limit;
  }

  /** Takes all of `cost`, or throws quota_exceeded and takes nothing. */
  take(cost: Cost<Name>): void {
    const used = this.#today();
    for (const name in cost) {
      const part = cost[name];
      if (part === undefined) continue;
      const { limit } = this.#quotas[name];
      const amount = amountOf(part);
      if (this.#usedOf(name, used) + Math.min(amount, limit) > limit)
        throw this.exceeded(name, amount);
    }
    this.#add(used, cost);
  }

  /** Counts what nobody could know before; also less than nothing, for what did not happen. */
  charge(cost: Cost<Name>): void {
    this.#add(this.#today(), cost);
  }

  #add(used: number[], cost: Cost<Name>): void {
    for (const name in cost) {
      const part = cost[name];
      const { limit } = this.#quotas[name];
      if (part === undefined || limit === Infinity) continue;
      const i = this.#bucketOf(name, part);
      const amount = amountOf(part);
      used[i] = bounded((used[i] ?? 0) + amount, limit);
      this.#unreported[i] = (this.#unreported[i] ?? 0) + amount;
    }
  }

  /** The shortest that is as long as it lives, else the longest. */
  #bucketOf(name: Name, part: number | Lasting): number {
    const [from, to] = this.#spans[name];
    if (typeof part === "number") return from;
    let i = from;
    while (
      i < to - 1 &&
      (this.#buckets[i] as Bucket<Name>).windowSeconds < part.seconds
    )
      i += 1;
    return i;
  }

  exceeded(name: Name, amount = 1): BridgeError {
    const { limit, windowSeconds, lives }: Quota = this.#quotas[name];
    const missing = this.#usedOf(name) + Math.min(amount, limit) - limit;
    return new BridgeError("quota_exceeded", {
      detail: `${this.#who()} has used up its ${name}: ${limit} ${lives ? "at a time" : `in ${windowSeconds} s`}`,
      limit,
      quota: this.facts(name),
      retryAfterSeconds: Math.max(1, Math.ceil(this.#until(name, missing))),
    });
  }

  /** Seconds until so much of a quota is given back, if nothing more is taken. */
  #until(name: Name, amount: number): number {
    const { limit } = this.#quotas[name];
    const [from, to] = this.#spans[name];
    let rest = amount;
    let seconds = 0;
    for (let i = from; i < to && rest > 0; i++) {
      const { windowSeconds } = this.#buckets[i] as Bucket<Name>;
      // All give back at once; the shorter ones are done first.
      const part = Math.min(rest, this.#used[i] ?? 0);
      seconds = Math.max(seconds, (part * windowSeconds) / limit);
      rest -= part;
    }
    return seconds;
  }

  facts(name: Name): QuotaFacts {
    const { limit, windowSeconds, lives }: Quota = this.#quotas[name];
    const used = this.#usedOf(name);
    return {
      name,
      limit,
      ...(lives ? {} : { windowSeconds }),
      left: Math.max(0, Math.floor(limit - used)),
      resetSeconds: Math.ceil(this.#until(name, used)),
    };
  }

  /** The one of `names` with the smallest part left; undefined when none of them has a limit. */
  tightest(names: readonly Name[]): QuotaFacts | undefined {
    const used = this.#today();
    let found: Name | undefined;
    let most = -1;
    for (const name of names) {
      const { limit } = this.#quotas[name];
      if (limit === Infinity) continue;
      const part = this.#usedOf(name, used) / limit;
      if (part <= most) continue;
      most = part;
      found = name;
    }
    return found === undefined ? undefined : this.facts(found);
  }

  /** What others have not heard of by bucket, where it is `part` of a limit or more; it counts as heard. Undefined: nothing. */
  report(part: number): Map<number, number> | undefined {
    const unreported = this.#unreported;
    let out: Map<number, number> | undefined;
    for (let i = 0; i < unreported.length; i++) {
      const amount = unreported[i] ?? 0;
      if (amount === 0) continue;
      const { limit } = this.#quotas[(this.#buckets[i] as Bucket<Name>).name];
      // A limit that is not known any more has no parts.
      if (limit === Infinity || Math.abs(amount) < part * limit) continue;
      (out ??= new Map()).set(i, amount);
      unreported[i] = 0;
    }
    return out;
  }

  /** What the whole cluster has used of a bucket, what this process reported included. */
  learn(bucket: number, all: number): void {
    const { limit } =
      this.#quotas[(this.#buckets[bucket] as Bucket<Name>).name];
    this.#today()[bucket] = bounded(
      all + (this.#unreported[bucket] ?? 0),
      limit,
    );
  }
}

const bounded = (used: number, limit: number): number =>
  Math.min(Math.max(0, used), debtMax * limit);
