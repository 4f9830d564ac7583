/**
 * Following the stream of events: one reader for a whole process, however many follow. A bell makes it read what is
 * new, once; the newest events stay in memory for all, and who is further behind reads pages by itself.
 */
import type { EventPage, Events, PlacedEvent } from "./events.js";
import { channels } from "./keys.js";
import type { Subscriptions } from "./redis.js";

/** Events kept in memory while somebody follows: what a follower may be behind without asking Redis. */
const ringMax = 1_000;
/** The same in bytes: all of them together in memory. */
const ringBytesMax = 8_388_608;
/** Events in one read. */
const pageMax = 200;
/** The reader looks after this long even when no bell came (a lost PUBLISH), milliseconds. */
const lookAgainMs = 2_000;

export type FeedItem =
  | ({ kind: "event" } & PlacedEvent)
  /** Events after `after` and before what follows are not kept any more. */
  | { kind: "gap"; after: number; position: number }
  /** Everything there is has been given; the next one may take long. */
  | { kind: "idle"; position: number };

export interface Following {
  items: AsyncGenerator<FeedItem, void>;
  /** Call when done, also when `items` was never asked. Any time, twice. */
  close(): void;
}

/** Where bells are heard. */
export type Ear = Pick<
  Subscriptions,
  "on" | "off" | "subscribe" | "unsubscribe"
>;

export class EventFeed {
  readonly #events: Pick<Events, "read">;
  readonly #subscriptions: () => Ear;
  /** The newest events; all of them after `#base`, without a gap. */
  #ring: PlacedEvent[] = [];
  #ringBytes = 0;
  #base = 0;
  #last = 0;
  #followers = 0;
  #started: Promise<void> | undefined;
  #pulling: Promise<void> | undefined;
  #again = false;
  #timer: NodeJS.Timeout | undefined;
  readonly #waiting = new Set<() => void>();

  constructor(
    events: Pick<Events, "read">,
    redis: { readonly subscriptions: Ear },
  ) {
    this.#events = events;
    // The connection for subscriptions is opened by who needs it first.
    this.#subscriptions = () => redis.subscriptions;
  }

  /**
   * Begins after a position: 0 gives everything that is kept, none what comes from now on. `items` ends when the signal
   * aborts. Throws redis_unavailable, outcome_unknown; `items` does so too.
   */
  async follow(
    after: number | undefined,
    signal: AbortSignal,
  ): Promise<Following> {
    let open = true;
    const close = () => {
      if (open) this.#leave();
      open = false;
    };
    this.#followers += 1;
    try {
      await (this.#started ??= this.#start());
    } catch (error) {
      close();
      throw error;
    }
    return { items: this.#follow(after ?? this.#last, signal, close), close };
  }

  async *#follow(
    after: number,
    signal: AbortSignal,
    close: () => void,
  ): AsyncGenerator<FeedItem, void> {
    let position = after;
    try {
      while (!signal.aborted) {
        const page = await this.#after(position);
        if (page.gap) {
          // Ahead of the newest: go back to it, so that nothing new is passed over.
          const before = position;
          position = Math.min(position, page.last);
          if (page.events.length === 0) position = page.last;
          yield { kind: "gap", after: before, position };
        }
        for (const placed of page.events) {
          yield { kind: "event", ...placed };
          position = placed.position;
        }
        if (page.events.length > 0 || page.gap) continue;
        yield { kind: "idle", position };
        await this.#newer(position, signal);
      }
    } finally {
      close();
    }
  }

  /** From memory when it reaches back so far, else from Redis. */
  async #after(position: number): Promise<EventPage> {
    if (position < this.#base || position > this.#last)
      return this.#events.read(position, pageMax);
    const from = this.#ring.findIndex((placed) => placed.position > position);
    const events = from < 0 ? [] : this.#ring.slice(from, from + pageMax);
    return { events, last: this.#last, gap: false };
  }

  /** Resolves when there is something after the position, or the signal aborts. */
  async #newer(position: number, signal: AbortSignal): Promise<void> {
    if (this.#last > position || signal.aborted) return;
    await new Promise<void>((resolve) => {
      const wake = () => {
        this.#waiting.delete(wake);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      this.#waiting.add(wake);
      signal.addEventListener("abort", wake);
    });
  }

  readonly #onBell = () => void this.#pull().catch(() => undefined);

  async #start(): Promise<void> {
    const subscriptions = this.#subscriptions();
    subscriptions.on("gap", this.#onBell);
    // What comes before it is heard is found by the read that follows, or by looking again.
    subscriptions
      .subscribe(channels.events, this.#onBell)
      .then(this.#onBell, () => undefined);
    const { last } = await this.#events.read(Number.MAX_SAFE_INTEGER - 1, 1);
    this.#forget(last);
    this.#timer = setInterval(this.#onBell, lookAgainMs);
    // What was appended between the read and here, its bell unheard.
    this.#onBell();
  }

  /** Reads what is new. Calls while it reads make it look once more. */
  #pull(): Promise<void> {
    this.#again = this.#pulling !== undefined;
    this.#pulling ??= this.#readNew().finally(() => {
      this.#pulling = undefined;
    });
    return this.#pulling;
  }

  async #readNew(): Promise<void> {
    for (let more = true; more;) {
      // Not before it is known where to begin, and not after the last follower.
      if (!this.#timer) return;
      this.#again = false;
      const from = this.#last;
      const page = await this.#events.read(from, pageMax);
      const last = page.events.at(-1)?.position ?? page.last;
      more = last < page.last || this.#again;
      // Begun anew meanwhile.
      if (this.#last !== from) continue;
      if (page.gap) {
        // Too much at once, or Redis lost its history: followers ask Redis themselves and are told.
        this.#forget(page.last);
      } else if (page.events.length > 0) {
        this.#ring.push(...page.events);
        this.#last = page.events.at(-1)?.position ?? from;
        for (const { bytes } of page.events) this.#ringBytes += bytes;
        while (
          this.#ring.length > ringMax ||
          (this.#ringBytes > ringBytesMax && this.#ring.length > 0)
        )
          this.#drop();
      }
      if (page.gap || page.events.length > 0)
        for (const wake of [...this.#waiting]) wake();
    }
  }

  /** The oldest leaves the memory. */
  #drop(): void {
    const oldest = this.#ring.shift();
    if (!oldest) return;
    this.#base = oldest.position;
    this.#ringBytes -= oldest.bytes;
  }

  #forget(last: number): void {
    this.#ring = [];
    this.#ringBytes = 0;
    this.#base = this.#last = last;
  }

  #leave(): void {
    this.#followers -= 1;
    if (this.#followers > 0) return;
    this.#started = undefined;
    clearInterval(this.#timer);
    this.#timer = undefined;
    const subscriptions = this.#subscriptions();
    subscriptions.off("gap", this.#onBell);
    void subscriptions.unsubscribe(channels.events);
  }
}
