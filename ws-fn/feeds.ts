/**
 * The groups that this instance has members of. A feed hears each message of its group once and offers it to its members;
 * its frame is made once and is the same for all of them. When a bell is missing, late or too large it reads the history
 * before it goes on, so that its members get every message in order (delivery rule 14).
 *
 * Where its group stands is compared now and then, so that the last message of a quiet group is noticed even if its bell was
 * lost. Of many feeds some are compared at a time: what that costs does not grow with their number.
 */
import { BridgeError } from "../shared/errors.js";
import {
  parseGroupBell,
  type Fanout,
  type GroupBell,
  type GroupEntry,
  type HistoryPage,
  type Position,
} from "../shared/fanout.js";
import { channels, everybody } from "../shared/keys.js";
import type { Logger } from "../shared/logging.js";
import { whileOpen } from "../shared/membership.js";
import type { RedisLink } from "../shared/redis.js";
import { startRounds } from "./rounds.js";
import type { Frame, Speaker } from "./speaker.js";
import { Window, Windows } from "./windows.js";

/** A position is compared this often where there are few, but not more rarely than a third of a lease. */
const compareEveryMs = 5_000;
/** Feeds that are compared at a time, at most. */
const compareMax = 32;
/** Members in one script. */
const holdMembersMax = 500;
/** Bells kept during a read; more than that and the history is read once more instead. */
const heardMax = 1_000;
/** A subscription that takes longer is waited for no more: its `gap`, or a comparison, makes up for it. */
const subscribeMs = 1_000;
/** How many sockets were handed what is told after this long, all of it at once. */
const countDelayMs = 40;
const againMs = { first: 100, most: 2_000 };

/** One message on its way to many sockets. */
export class Delivery {
  readonly entry: GroupEntry;
  /** Its time was over before it came here. */
  readonly expired: boolean;
  readonly #frames = new Map<string, Frame[]>();
  readonly #now: boolean;

  /** `now`: written to each socket as it is offered, so that the first has it while the last waits. */
  constructor(entry: GroupEntry, now: boolean) {
    this.entry = entry;
    this.#now = now;
    this.expired = !entry.onceOnly && entry.expiresAtMs <= Date.now();
  }

  /** The frames for a way to speak, made for the first who needs them. */
  frames(speaker: Pick<Speaker, "protocol" | "groupMessage">): Frame[] {
    let frames = this.#frames.get(speaker.protocol);
    if (!frames) {
      frames = speaker.groupMessage(this.entry, false);
      const [frame] = frames;
      if (this.#now && frame && frames.length === 1) frame.now = true;
      this.#frames.set(speaker.protocol, frames);
    }
    return frames;
  }
}

/** A connection in a group, as the group's feed sees it. */
export interface FeedMember {
  readonly connectionId: string;
  /** True when it was handed to the socket. */
  offer(delivery: Delivery): boolean;
  /** What came before `position` cannot be had any more. */
  moved(position: Position): void;
}

/** What a member reads of its group's history. */
export type GroupPage =
  | { recovered: false; epoch: string; offset: number }
  | {
      recovered: true;
      epoch: string;
      rows: readonly GroupEntry[];
      /** Nothing but these rows lies between the position that was asked for and this offset. */
      to: number;
    };

export interface FeedDeps {
  fanout: Fanout;
  redis: Pick<RedisLink, "subscriptions">;
  logger: Logger;
  leaseMs: number;
  /** Of histories that members read, kept for the others. Default: 32 MiB. */
  windowBytes?: number;
}

export class Feed {
  readonly group: string;
  readonly members = new Set<FeedMember>();
  /** Resolves when it hears the group and knows where it stands. */
  readonly opened: Promise<void>;
  readonly #deps: FeedDeps;
  readonly #channel: string;
  #epoch = "";
  #cur = 0;
  #busy = true;
  #closed = false;
  #heard: GroupBell[] = [];
  #missed = false;
  #reading: Promise<void> | undefined;
  #retry: NodeJS.Timeout | undefined;
  #retryMs = againMs.first;
  /** A message was offered in this turn of the event loop: the next ones of a burst are gathered for each socket. */
  #fanned = false;
  readonly #counts = new Map<number, number>();
  #countTimer: NodeJS.Timeout | undefined;
  readonly #window: Window;
  /** Reads for members that are under way, by the position that they begin at. */
  readonly #pages = new Map<string, Promise<HistoryPage>>();

  constructor(group: string, deps: FeedDeps, windows: Windows) {
    this.group = group;
    this.#deps = deps;
    this.#window = new Window(windows);
    this.#channel = channels.groupBell(group);
    this.opened = this.#open();
    // Whoever enters awaits it; one that all have left again is nobody's error.
    this.opened.catch(() => undefined);
  }

  /** Up to here its members were offered everything. */
  get position(): Position {
    return { epoch: this.#epoch, offset: this.#cur };
  }

  /** Subscribe and await, then the position; bells that came meanwhile are kept and applied above it. */
  async #open(): Promise<void> {
    const { redis, fanout } = this.#deps;
    let late = false;
    let timer: NodeJS.Timeout | undefined;
    const subscribed = redis.subscriptions
      .subscribe(this.#channel, (payload) => this.#onBell(payload))
      .then(
        () => (late ? this.read() : undefined),
        // It is noted: it is subscribed at the next `ready`, and `gap` makes the history be read.
        (error: unknown) =>
          this.#deps.logger.warn(
            { err: error, group: this.group },
            "group not subscribed yet",
          ),
      );
    await Promise.race([
      subscribed,
      new Promise((resolve) => {
        timer = setTimeout(resolve, subscribeMs);
      }),
    ]);
    clearTimeout(timer);
    late = true;
    const { epoch, offset } = await fanout.hold(this.group, [], whileOpen);
    this.#epoch = epoch;
    this.#cur = offset;
    this.#release();
  }

  #onBell(payload: Buffer): void {
    const bell = parseGroupBell(this.group, payload);
    if (!bell || this.#closed) return;
    if (this.#busy) {
      if (this.#heard.length < heardMax) this.#heard.push(bell);
      else this.#missed = true;
    } else if (this.#apply(bell) === "read") void this.read();
  }

  #apply(bell: GroupBell): "done" | "read" {
    const { epoch, offset, prev } = bell.kind === "message" ? bell.entry : bell;
    // Epochs follow the clock: an older one's bell is late.
    if (epoch !== this.#epoch)
      return Number(epoch) < Number(this.#epoch) ? "done" : "read";
    if (offset <= this.#cur) return "done";
    if (prev < this.#cur) void this.#lost();
    if (bell.kind !== "message" || prev !== this.#cur) return "read";
    this.#fan(bell.entry);
    return "done";
  }

  #fan(entry: GroupEntry): void {
    const delivery = new Delivery(entry, !this.#fanned);
    if (!this.#fanned) {
      this.#fanned = true;
      process.nextTick(() => {
        this.#fanned = false;
      });
    }
    this.#cur = entry.offset;
    this.#window.heard(entry);
    let count = 0;
    for (const member of this.members) if (member.offer(delivery)) count += 1;
    if (count > 0) this.count(entry.offset, count);
  }

  /** Redis went on from less than was heard here: whoever was away must not be told that nothing is missing. */
  async #lost(): Promise<void> {
    this.#deps.logger.error(
      { group: this.group },
      "Redis lost messages of a group",
    );
    await this.#deps.fanout
      .hold(this.group, [], whileOpen, {
        epoch: this.#epoch,
        offset: "lost",
      })
      .then(
        () => this.read(),
        () => this.#lookAgain(),
      );
  }

  /** Reads what follows and offers it. Whoever asks while a read is under way gets one that began after. */
  read(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    if (this.#reading) {
      this.#missed = true;
      return this.#reading;
    }
    this.#busy = true;
    this.#reading = this.#readAll().finally(() => {
      this.#reading = undefined;
      this.#release();
    });
    return this.#reading;
  }

  async #readAll(): Promise<void> {
    try {
      for (;;) {
        this.#missed = false;
        const page = await this.#deps.fanout.read(this.group, this.position);
        if (this.#closed) return;
        this.#retryMs = againMs.first;
        if (page.recovered) for (const row of page.rows) this.#fan(row);
        else {
          this.#deps.logger.warn(
            { group: this.group },
            "the history of a group does not reach back",
          );
          this.#epoch = page.epoch;
          this.#cur = page.offset;
          for (const member of this.members) member.moved(this.position);
        }
        if (page.more) continue;
        this.#cur = Math.max(this.#cur, page.offset);
        if (!this.#missed) return;
      }
    } catch {
      this.#lookAgain();
    }
  }

  #lookAgain(): void {
    if (this.#closed) return;
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => void this.read(), this.#retryMs);
    this.#retryMs = Math.min(this.#retryMs * 2, againMs.most);
  }

  #release(): void {
    this.#busy = false;
    const heard = this.#heard;
    this.#heard = [];
    let again = this.#missed;
    this.#missed = false;
    for (const bell of heard)
      if (!again && this.#apply(bell) === "read") again = true;
    if (again) void this.read();
  }

  /**
   * What follows a member's position, about `bytes` of it: from what others have read, else from Redis, once for all who ask for
   * the same meanwhile. Throws redis_unavailable, outcome_unknown.
   */
  async page(from: Position, bytes: number): Promise<GroupPage> {
    const here = this.#window.after(from, bytes);
    if (here) return { recovered: true, epoch: from.epoch, ...here };
    const name = `${from.epoch} ${from.offset}`;
    let reading = this.#pages.get(name);
    if (!reading) {
      reading = this.#deps.fanout.read(this.group, from).finally(() => {
        this.#pages.delete(name);
      });
      this.#pages.set(name, reading);
      const page = await reading;
      if (!this.#closed) this.#window.add(from.offset, page);
    }
    const { recovered, epoch, rows, more, offset } = await reading;
    if (!recovered) return { recovered, epoch, offset };
    const to = more ? (rows.at(-1)?.offset ?? from.offset) : offset;
    return { recovered, epoch, rows, to };
  }

  /** A message was handed to so many sockets more. */
  count(offset: number, count: number): void {
    this.#counts.set(offset, (this.#counts.get(offset) ?? 0) + count);
    this.#countTimer ??= setTimeout(() => this.#tellCounts(), countDelayMs);
  }

  #tellCounts(): void {
    clearTimeout(this.#countTimer);
    this.#countTimer = undefined;
    if (this.#counts.size === 0) return;
    const counts = [...this.#counts];
    this.#counts.clear();
    this.#deps.fanout.sent(this.group, counts).catch((error: unknown) => {
      // What surely was not counted is counted later; what may have been is not counted twice.
      if (error instanceof BridgeError && error.code === "redis_unavailable")
        for (const [offset, count] of counts)
          if (!this.#closed) this.count(offset, count);
    });
  }

  /** Looks whether the group is further than was heard. One that Redis has forgotten hears of its members again. */
  async compare(): Promise<void> {
    await this.opened;
    const { epoch } = this.position;
    const now = await this.#deps.fanout.hold(
      this.group,
      [],
      whileOpen,
      this.position,
    );
    if (now.epoch !== epoch) await this.#holdAll();
    if (now.epoch !== epoch || now.offset > this.#cur) await this.read();
  }

  /** Says that its members are here; those of `$all` are in the directory. */
  async #holdAll(): Promise<void> {
    if (this.group === everybody) return;
    const ids = [...this.members].map(({ connectionId }) => connectionId);
    for (let from = 0; from < ids.length && !this.#closed;)
      await this.#deps.fanout.hold(
        this.group,
        ids.slice(from, (from += holdMembersMax)),
        whileOpen,
      );
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#window.clear();
    this.#tellCounts();
    void this.#deps.redis.subscriptions.unsubscribe(this.#channel);
  }
}

/** All feeds of an instance; a feed lives while it has members. */
export class Feeds {
  readonly #deps: FeedDeps;
  readonly #feeds = new Map<string, Feed>();
  readonly #windows: Windows;
  #onGap: (() => void) | undefined;
  #endRounds = () => {};

  constructor(deps: FeedDeps) {
    this.#deps = deps;
    this.#windows = new Windows(deps.windowBytes);
  }

  /** A member enters; resolves with the feed once it hears the group. Throws redis_unavailable, outcome_unknown. */
  async enter(group: string, member: FeedMember): Promise<Feed> {
    this.#start();
    let feed = this.#feeds.get(group);
    if (!feed) {
      feed = new Feed(group, this.#deps, this.#windows);
      this.#feeds.set(group, feed);
    }
    feed.members.add(member);
    try {
      await feed.opened;
    } catch (error) {
      this.leave(feed, member);
      // One that could not be opened is nobody's any more: the next who enters opens another.
      if (this.#feeds.get(group) === feed) {
        this.#feeds.delete(group);
        feed.close();
      }
      throw error;
    }
    return feed;
  }

  leave(feed: Feed, member: FeedMember): void {
    feed.members.delete(member);
    if (feed.members.size > 0 || this.#feeds.get(feed.group) !== feed) return;
    this.#feeds.delete(feed.group);
    feed.close();
  }

  #start(): void {
    if (this.#onGap) return;
    this.#onGap = () => {
      for (const feed of this.#feeds.values()) void feed.read();
    };
    this.#deps.redis.subscriptions.on("gap", this.#onGap);
    this.#endRounds = startRounds({
      everyMs: Math.min(compareEveryMs, this.#deps.leaseMs / 3),
      most: compareMax,
      things: this.#feeds,
      visit: (feeds) => Promise.allSettled(feeds.map((feed) => feed.compare())),
    });
  }

  close(): void {
    this.#endRounds();
    if (this.#onGap) this.#deps.redis.subscriptions.off("gap", this.#onGap);
    for (const feed of this.#feeds.values()) feed.close();
    this.#feeds.clear();
  }
}
