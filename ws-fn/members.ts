/**
 * One connection in its groups, while this instance holds its socket. Each membership has a position of its own:
 *
 *            position reached by the feed           socket full, lease in doubt
 *   behind ─────────────────────────────▶ live ──────────────────────────────▶ behind
 *      │  ▲                                     │
 *      │  └──────────── Redis did not do it ──────┼──── paused
 *      │                              leave asked ┴──────▶ │ done
 *      └──────────────────── close ───────────────┴────────┴──▶ left
 *
 * A live one takes what its feed offers. One that is behind (it came back, it does not read, it has just joined) reads the
 * history by itself, after its position, and is live again once it is level with the feed. What the history does not hold
 * any more is said, not skipped. Nothing is kept in memory for a member.
 */
import type { GroupPosition } from "../shared/api.js";
import { BridgeError, toProblem } from "../shared/errors.js";
import type { Fanout, GroupEntry, Position } from "../shared/fanout.js";
import { isFor, type Who } from "../shared/selection.js";
import { everybody, groupTag } from "../shared/keys.js";
import { whileOpen, type Memberships } from "../shared/membership.js";
import type { RedisMemory } from "../shared/redis-memory.js";
import type { Claim, Positions } from "../shared/registry.js";
import type { ClientQuotas } from "./client-quotas.js";
import { Delivery, type Feed, type Feeds, type FeedMember } from "./feeds.js";
import type { Frame, GroupRequest, Speaker } from "./speaker.js";

const againMs = { first: 100, most: 2_000 };

export interface GroupStores {
  feeds: Feeds;
  fanout: Fanout;
  memberships: Memberships;
  memory: Pick<RedisMemory, "admit">;
  quotas: Pick<ClientQuotas, "publish" | "naming">;
}

/** What its connection lends. */
export interface MemberPorts {
  readonly connectionId: string;
  readonly epoch: number;
  readonly speaker: Speaker;
  /** The fence: whether this epoch may write now. */
  mayWrite(): boolean;
  /** Renews the lease; false when the connection is not ours any more. */
  confirm(): Promise<boolean>;
  /** Asks the fence and the socket, and writes: one call, because it is made for every message and member. */
  hand(delivery: Delivery): "sent" | "doubt" | "full";
  /** Hands frames of a message to the socket, which may be written. */
  send(frames: readonly Frame[]): void;
  /** Any other frame; false when it may not be written now. */
  write(frame: Frame | undefined): boolean;
  /** The socket has enough; `drained` follows. */
  full(): boolean;
  /** Bytes that it takes before it has. */
  room(): number;
  live(): boolean;
}

class Member implements FeedMember {
  readonly connectionId: string;
  readonly group: string;
  readonly #ports: MemberPorts;
  readonly #who: Who;
  #mode: "behind" | "live" | "paused" | "left" = "behind";
  #feed: Feed | undefined;
  #at: Position = { epoch: "", offset: 0 };
  #acked: Position | undefined;
  #told: Position | undefined;
  /** Up to here messages may have been sent before. */
  #redeliveredTo = 0;
  #catching = false;
  #retry: NodeJS.Timeout | undefined;
  #retryMs = againMs.first;

  constructor(group: string, ports: MemberPorts, who: Who) {
    this.group = group;
    this.connectionId = ports.connectionId;
    this.#ports = ports;
    this.#who = who;
  }

  /** Everything up to here was handed to the socket or was not for it. */
  get at(): Position {
    return { ...this.#at };
  }

  /**
   * Takes its place where it may go on, or at `here`, where the group stands. Whether everything after that can be had is looked
   * up, unless nothing follows.
   */
  async enter(
    feed: Feed,
    here: Position,
    { stored, from, recovered: asked, redelivered }: Place,
  ): Promise<GroupPosition> {
    this.#feed = feed;
    this.#at = { ...here };
    let recovered = asked;
    if (from && !same(from, here)) {
      const page = await feed.page(from, this.#ports.room());
      if (page.recovered) this.#at = { ...from, epoch: page.epoch };
      else {
        recovered = false;
        this.#at = { epoch: page.epoch, offset: page.offset };
      }
      if (redelivered)
        this.#redeliveredTo = Math.max(here.offset, feed.position.offset);
    }
    this.#told = stored;
    // A connection that dies before its first ack comes back to here.
    this.#acked = this.at;
    return { ...this.#at, recovered };
  }

  offer(delivery: Delivery): boolean {
    if (this.#mode !== "live") return false;
    const { entry } = delivery;
    if (entry.offset <= this.#at.offset) return false;
    if (!isFor(entry.selection, this.#who) || delivery.expired) {
      this.#at.offset = entry.offset;
      return false;
    }
    const word = this.#ports.hand(delivery);
    if (word === "sent") {
      this.#at.offset = entry.offset;
      return true;
    }
    this.#mode = "behind";
    if (word === "doubt") this.catchUp();
    return false;
  }

  moved(position: Position): void {
    if (this.#mode !== "live") return;
    this.#lose(position);
  }

  /** Something before `position` cannot be had any more, and its client hears so. */
  #lose(position: Position): void {
    this.#at = { epoch: position.epoch, offset: position.offset };
    this.#acked = this.at;
    this.#ports.write(
      this.#ports.speaker.group(this.group, { ...this.#at, recovered: false }),
    );
  }

  /** Reads what it misses, if it misses anything, until it is level with its feed. */
  catchUp(): void {
    if (this.#catching || this.#mode !== "behind") return;
    this.#catching = true;
    void this.#catchUp()
      .catch(() => {
        this.#retry = setTimeout(() => this.catchUp(), this.#retryMs);
        this.#retryMs = Math.min(this.#retryMs * 2, againMs.most);
      })
      .finally(() => {
        this.#catching = false;
      });
  }

  /** Read at every use: it changes while others are awaited. */
  get #behind(): boolean {
    return this.#mode === "behind" && this.#ports.live();
  }

  async #catchUp(): Promise<void> {
    const feed = this.#feed;
    while (feed && this.#behind && !this.#ports.full()) {
      const { epoch, offset } = feed.position;
      if (
        this.#at.epoch === epoch &&
        this.#at.offset >= offset &&
        this.#ports.mayWrite()
      ) {
        this.#mode = "live";
        this.#retryMs = againMs.first;
        return;
      }
      if (!this.#ports.mayWrite() && !(await this.#ports.confirm())) return;
      const page = await feed.page(this.#at, this.#ports.room());
      if (!this.#behind) return;
      if (!page.recovered) this.#lose(page);
      else if (page.to <= this.#at.offset)
        throw new Error("Redis knows less than was heard");
      else if (this.#take(page.rows))
        this.#at = { epoch: page.epoch, offset: page.to };
      // The history is of an epoch that the feed has not heard of.
      if (page.epoch !== feed.position.epoch) await feed.read();
    }
  }

  /** Sends rows of the history; false when it had to stop. */
  #take(rows: readonly GroupEntry[]): boolean {
    for (const row of rows) {
      if (row.offset <= this.#at.offset) continue;
      if (isFor(row.selection, this.#who) && row.expiresAtMs > Date.now()) {
        if (!this.#ports.mayWrite() || this.#ports.full()) return false;
        const { speaker } = this.#ports;
        const again = row.offset <= this.#redeliveredTo;
        this.#ports.send(speaker.groupMessage(row, again));
        if (!again) this.#feed?.count(row.offset, 1);
      }
      this.#at = { epoch: row.epoch, offset: row.offset };
    }
    return true;
  }

  /** The client has everything up to here; false when it was not sent that. */
  ack(offset: number): boolean {
    if (offset > this.#at.offset) return false;
    if (offset > (this.#acked?.offset ?? 0))
      this.#acked = { epoch: this.#at.epoch, offset };
    return true;
  }

  /** Its place where Redis does not know it. */
  get news(): Position | undefined {
    const place = this.#ports.speaker.acks ? this.#acked : this.#at;
    return place && !(this.#told && same(place, this.#told))
      ? { epoch: place.epoch, offset: place.offset }
      : undefined;
  }

  told(place: Position): void {
    this.#told = place;
  }

  /** Takes nothing more, until `goOn`: its place stays what it is. */
  pause(): void {
    this.#mode = "paused";
  }

  goOn(): void {
    if (this.#mode === "paused") this.#mode = "behind";
    this.catchUp();
  }

  /** Takes nothing more. */
  leave(feeds: Feeds): void {
    this.#mode = "left";
    clearTimeout(this.#retry);
    if (this.#feed) feeds.leave(this.#feed, this);
  }
}

const same = (a: Position, b: Position): boolean =>
  a.epoch === b.epoch && a.offset === b.offset;

/** Where a member begins. */
interface Place {
  /** What Redis knows. */
  stored: Position | undefined;
  /** What follows it is wanted; undefined: where the group stands. */
  from: Position | undefined;
  /** False: the client misses something that it cannot have. */
  recovered: boolean;
  /** What follows may have been sent before. */
  redelivered: boolean;
}

/**
 * A position that a client names is a claim. Redis knows where it joined, or what it has acked since: before that nothing was said to
 * it, or it has it. `fresh`: nothing can have been sent to it yet.
 */
function placeOf(
  stored: Position | undefined,
  asked?: number,
  fresh = true,
): Place {
  const isAhead = stored !== undefined && (asked ?? -1) > stored.offset;
  return {
    stored,
    from: isAhead ? { ...stored, offset: asked ?? 0 } : stored,
    recovered: asked === undefined || isAhead || asked === stored?.offset,
    redelivered: !fresh && !isAhead,
  };
}

/** Whether `join:<group>` or `publish:<group>` is among a connection's permissions; `*` stands for every group. */
const permits = (permissions: string, verb: string, group: string) => {
  const all = JSON.parse(permissions) as string[];
  return all.includes(`${verb}:${group}`) || all.includes(`${verb}:*`);
};

/** All groups of one connection. */
export class Members {
  readonly #stores: GroupStores;
  readonly #ports: MemberPorts;
  readonly #failed: (error: unknown) => void;
  readonly #members = new Map<string, Member>();
  readonly #who: Who;
  readonly #permissions: string;
  #version: number;
  /** Joining, leaving and looking again, one after the other. */
  #chain: Promise<unknown> = Promise.resolve();
  #stopped = false;

  constructor(
    stores: GroupStores,
    ports: MemberPorts,
    claim: Claim,
    /** Groups could not be changed, and are not. */
    failed: (error: unknown) => void,
  ) {
    this.#stores = stores;
    this.#ports = ports;
    this.#failed = failed;
    this.#version = claim.groups.version;
    this.#permissions = claim.identity.permissions;
    this.#who = {
      id: ports.connectionId,
      userId: claim.identity.userId,
      labels:
        claim.identity.labels === "{}"
          ? noLabels
          : (JSON.parse(claim.identity.labels) as Record<string, string>),
      groups: this.#members,
    };
  }

  /** The names of its groups, without `$all`. */
  get names(): string[] {
    return [...this.#members.keys()].filter((name) => name !== everybody);
  }

  /**
   * Takes its place in all its groups; a message is written only after `start`. A position comes from the client (`asked`),
   * else from its acks: then what follows may have been sent before. Throws redis_unavailable, outcome_unknown.
   */
  async enter(
    claim: Claim,
    asked: ReadonlyMap<string, number>,
  ): Promise<Record<string, GroupPosition>> {
    const names = JSON.parse(claim.identity.groups) as string[];
    const { positions, fresh } = claim.groups;
    const places = await Promise.all(
      [everybody, ...names].map(async (group) => {
        const here = group === everybody ? claim.groups.everybody : undefined;
        const place = placeOf(positions.get(group), asked.get(group), fresh);
        return [group, await this.#enter(group, place, here)] as const;
      }),
    );
    return Object.fromEntries(places);
  }

  async #enter(
    group: string,
    place: Place,
    here?: Position,
  ): Promise<GroupPosition> {
    const { feeds, fanout } = this.#stores;
    const member = new Member(group, this.#ports, this.#who);
    this.#members.set(group, member);
    try {
      const feed = await feeds.enter(group, member);
      // Subscribed by now: what the position does not cover, the feed hears.
      const now =
        here ??
        (await fanout.hold(
          group,
          [member.connectionId],
          whileOpen,
          feed.position,
        ));
      const entered = await member.enter(feed, now, place);
      if (this.#stopped) member.leave(feeds);
      return entered;
    } catch (error) {
      this.#members.delete(group);
      member.leave(feeds);
      throw error;
    }
  }

  /** The client has its welcome: messages may follow. */
  start(): void {
    for (const member of this.#members.values()) member.catchUp();
  }

  /** The socket takes more again. */
  drained(): void {
    this.start();
  }

  /** False when the client acks what it was not sent. Groups it is not in any more do not matter. */
  ack(groups: Readonly<Record<string, number>>): boolean {
    return Object.entries(groups).every(
      ([name, offset]) => this.#members.get(name)?.ack(offset) ?? true,
    );
  }

  /** Places that Redis does not know yet; `told` once it does. */
  news(): Positions {
    const places = new Map<string, Position>();
    for (const [name, { news }] of this.#members)
      if (news) places.set(name, news);
    return places;
  }

  told(places: Positions): void {
    for (const [name, place] of places) this.#members.get(name)?.told(place);
  }

  #inTurn(work: () => Promise<void>): void {
    this.#chain = this.#chain.then(work).catch(this.#failed);
  }

  /** The client asks to join, leave or publish. */
  request(request: GroupRequest): void {
    this.#inTurn(async () => {
      const { ref, group } = request;
      const { speaker } = this.#ports;
      let answer: Frame | undefined;
      let begin: (() => void) | undefined;
      try {
        const verb = request.action === "publish" ? "publish" : "join";
        if (!permits(this.#permissions, verb, group))
          throw new BridgeError("forbidden", {
            detail: `this connection has no permission ${verb}:${group}`,
          });
        let value: object;
        if (request.action === "publish") value = await this.#publish(request);
        else if (request.action === "leave") value = await this.#leave(group);
        else ({ value, begin } = await this.#join(group));
        if (ref !== undefined) answer = speaker.done(ref, value);
      } catch (error) {
        const problem = toProblem(error);
        answer =
          ref === undefined
            ? speaker.error(problem)
            : speaker.result(ref, problem);
      }
      await this.#say(answer);
      // Messages come after the answer that tells where they begin.
      begin?.();
    });
  }

  /** A frame that must arrive while the connection is ours, whatever the lease says at this moment. */
  async #say(frame: Frame | undefined): Promise<void> {
    while (frame && this.#ports.live() && !this.#ports.write(frame))
      if (!(await this.#ports.confirm())) return;
  }

  async #join(group: string): Promise<{ value: object; begin(): void }> {
    let member = this.#members.get(group);
    if (!member) {
      const { connectionId, epoch: owner } = this.#ports;
      await this.#stores.memory.admit(groupTag(group), memberBytes);
      const joined = await this.#stores.memberships.joinAsOwner(
        connectionId,
        group,
        owner,
        this.#stores.quotas.naming(connectionId, this.#who.userId),
      );
      this.#version = joined.version ?? this.#version;
      const { epoch, offset } = joined;
      const joinedAt = { epoch, offset };
      await this.#enter(group, placeOf(joinedAt), joinedAt);
      member = this.#members.get(group);
    }
    const { epoch, offset } = member?.at ?? { epoch: "", offset: 0 };
    return {
      value: { group, epoch, offset },
      begin: () => member?.catchUp(),
    };
  }

  /** Nothing of the group is sent from here on: its place now is the end of the membership. */
  async #leave(group: string): Promise<object> {
    const member = this.#members.get(group);
    member?.pause();
    try {
      const { connectionId, epoch: owner } = this.#ports;
      this.#version =
        (await this.#stores.memberships.leave(connectionId, group, owner)) ??
        this.#version;
    } catch (error) {
      // It may or may not be one: it goes on as one, and what Redis says is looked up with the next renewal.
      this.#version = -1;
      member?.goOn();
      throw error;
    }
    member?.leave(this.#stores.feeds);
    this.#members.delete(group);
    return { group, ...place(member?.at) };
  }

  async #publish(
    request: Extract<GroupRequest, { action: "publish" }>,
  ): Promise<object> {
    const { group, data, contentType } = request;
    const body = Buffer.from(data);
    const { quotas } = this.#stores;
    const { id, userId } = this.#who;
    const naming = quotas.publish(id, userId, body.length);
    await this.#stores.memory.admit(groupTag(group), body.length);
    const { messageId, position, recipients, online } =
      await this.#stores.fanout.publish({
        group,
        body,
        contentType,
        binary: false,
        ttlSeconds: publishTtlSeconds,
        // Its own words may say anything; this is who it is.
        from: { userId: userId || null },
        naming,
      });
    return { id: messageId, group, ...position, recipients, online };
  }

  /** The backend changed the groups of this connection, or may have: Redis says what they are. */
  changed(version?: number): void {
    if (this.#stopped || version === this.#version) return;
    this.#inTurn(async () => {
      if (this.#stopped || version === this.#version) return;
      const now = await this.#stores.memberships.of(this.#ports.connectionId);
      const names = new Set([everybody, ...now.names]);
      for (const [name, member] of this.#members)
        if (!names.has(name)) {
          member.leave(this.#stores.feeds);
          this.#members.delete(name);
        }
      for (const name of names) {
        if (this.#members.has(name)) continue;
        const joined = await this.#enter(
          name,
          placeOf(now.positions.get(name)),
        );
        await this.#say(this.#ports.speaker.group(name, joined));
        this.#members.get(name)?.catchUp();
      }
      this.#version = now.version;
    });
  }

  /** Takes nothing more from any group. */
  stop(): void {
    this.#stopped = true;
    for (const member of this.#members.values())
      member.leave(this.#stores.feeds);
  }

  /** Redis had lost the connection: its groups may have lost it as well. */
  async hold(): Promise<void> {
    const { connectionId } = this.#ports;
    await Promise.all(
      this.names.map((group) =>
        this.#stores.fanout.hold(group, [connectionId], whileOpen),
      ),
    );
  }

  /** The connection is away (`spanMs`: it may come back) or has ended (0): its groups hear so. `$all` hears it from the directory. */
  async left(spanMs: number): Promise<void> {
    await this.#stores.memberships.away(
      this.#ports.connectionId,
      this.names,
      spanMs,
    );
  }
}

const noLabels: Readonly<Record<string, string>> = {};
/** What a membership takes, rounded up; bytes. */
const memberBytes = 512;
/** Longer than any history. */
const publishTtlSeconds = 86_400;

const place = (at: Position | undefined) =>
  at ? { epoch: at.epoch, offset: at.offset } : {};
