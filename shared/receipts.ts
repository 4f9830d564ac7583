/**
 * Receipts: what became of a message, and who waits for it. Nothing is stored per message but that it was accepted;
 * its state follows from the connection's positions (sent, acked), from the marks that say when, and from the fates of
 * those that ended otherwise. So an ack of a thousand messages costs what an ack of one does.
 */
import type { Receipt, Reason, Status, TimelineEntry } from "./api.js";
import { BridgeError } from "./errors.js";
import type { Fanout } from "./fanout.js";
import { groupReceipt } from "./group-receipts.js";
import {
  messageId,
  parseGroupMessageId,
  parseMessageId,
  userTag,
  type MessageRoute,
} from "./ids.js";
import { channels, everybody } from "./keys.js";
import type { Fact, Log } from "./log.js";
import type { RedisLink, Subscriptions } from "./redis.js";
import type { UserRecord, Users } from "./users.js";

const finalStatuses: ReadonlySet<Status> = new Set<Status>([
  "delivered",
  "expired",
  "recalled",
  "replaced",
  "undeliverable",
]);

/** A follower looks again after this long even when no news came (a lost PUBLISH). */
const lookAgainMs = 2_000;
/** A live owner reports an expiry that it found itself; others wait this much for it. */
const expiryGraceMs = 1_000;

export const isFinal = (status: Status): boolean => finalStatuses.has(status);

/** Nothing more becomes of its status: final, or a group's that was handed to sockets. */
export const isOver = ({ status, to }: Pick<Receipt, "status" | "to">) =>
  isFinal(status) ||
  (status === "sent" && ("group" in to || "broadcast" in to));

/** Where news about a receipt are heard; of a user's message from the user and, once it is given, from its connections. */
function newsOf({
  to,
  deliveries = [],
}: Pick<Receipt, "to" | "deliveries">): string[] {
  if ("connection" in to) return [channels.news(to.connection)];
  if ("user" in to)
    return [
      userTag(to.user),
      ...deliveries.map(({ connection }) => connection),
    ].map(channels.news);
  return [channels.groupNews("group" in to ? to.group : everybody)];
}

const time = (ms: number) => new Date(ms).toISOString();

interface State {
  status: Status;
  atMs: number;
  reason?: string;
}

/** What a message is now, from the facts. */
function settle(facts: Extract<Fact, { kind: "facts" }>): State {
  const { seq, nowMs, expiresAtMs } = facts;
  const acceptedMs = Math.floor(seq / 1_000);
  if (facts.fate !== "") {
    const [, status = "", reason = "", at] = facts.fate.split(":");
    return { status: status as Status, atMs: Number(at), reason };
  }
  if (facts.acked >= seq)
    return {
      status: "delivered",
      atMs: facts.ackedAtMs ?? facts.sentAtMs ?? acceptedMs,
    };
  const sent = facts.sent >= seq;
  const graceMs = facts.ownerLive ? expiryGraceMs : 0;
  const overMs = facts.state === "ended" ? facts.endedMs : nowMs - graceMs;
  if (!sent && expiresAtMs < overMs)
    return expiresAtMs <= acceptedMs
      ? { status: "undeliverable", atMs: expiresAtMs, reason: "not_connected" }
      : { status: "expired", atMs: expiresAtMs };
  if (facts.state === "ended")
    return {
      status: "undeliverable",
      atMs: facts.endedMs,
      reason: facts.endReason,
    };
  return sent
    ? { status: "sent", atMs: facts.sentAtMs ?? acceptedMs }
    : { status: "queued", atMs: acceptedMs };
}

/** What a message to a user is now; undefined when nothing is known of its deliveries any more. */
function settleUser(
  record: UserRecord,
  each: readonly Receipt[],
): State | undefined {
  const { state, atMs, nowMs, expiresMs, acceptedMs, dueMs } = record;
  if (record.deliveredMs !== undefined)
    return { status: "delivered", atMs: record.deliveredMs };
  if (state === "given") {
    const states = each.map(({ status, timeline, reason }) => ({
      status,
      atMs: Date.parse(timeline.at(-1)?.at ?? ""),
      ...(reason === null ? {} : { reason }),
    }));
    const one = (wanted: Status) =>
      states.find(({ status }) => status === wanted);
    return (
      one("delivered") ??
      one("sent") ??
      one("queued") ??
      states.sort((a, b) => b.atMs - a.atMs)[0]
    );
  }
  if (state === "recalled" || state === "replaced")
    return { status: state, atMs };
  if (state === "undeliverable")
    return { status: state, atMs, reason: record.reason };
  if (state === "waiting" && nowMs < Math.max(dueMs, expiresMs))
    return { status: "scheduled", atMs: acceptedMs };
  if (expiresMs <= nowMs && expiresMs > Math.max(acceptedMs, dueMs))
    return { status: "expired", atMs: expiresMs };
  if (state === "waiting") return { status: "scheduled", atMs: acceptedMs };
  return { status: "queued", atMs: dueMs > 0 ? atMs : acceptedMs };
}

/** `w:dueMs:expiresMs:acceptedMs:online`, as log-scripts.ts stores it; `:replica` after it is replication.ts's. */
function parseWaiting(record: string) {
  const at = record.indexOf("w:");
  const [due = 0, expires = 0, accepted = 0, online = 0] = record
    .slice(at + 2)
    .split(":", 4)
    .map(Number);
  return {
    due,
    expires,
    accepted,
    online,
    durable: record.endsWith(":replica"),
  };
}

/** Reads and follows receipts. */
export class Receipts {
  readonly #log: Log;
  readonly #users: Users;
  readonly #fanout: Fanout;
  readonly #redis: RedisLink;
  readonly #receiptMs: number;
  readonly #listeners = new Map<string, Set<(news: string) => void>>();

  constructor(
    redis: RedisLink,
    { log, users, fanout }: { log: Log; users: Users; fanout: Fanout },
    receiptMs: number,
  ) {
    this.#redis = redis;
    this.#log = log;
    this.#users = users;
    this.#fanout = fanout;
    this.#receiptMs = receiptMs;
  }

  /** The receipt now. Throws message_not_found, also when its time is over. */
  async read(id: string): Promise<Receipt> {
    const route = parseMessageId(id);
    const group = route ? undefined : parseGroupMessageId(id);
    const receipt = group
      ? await groupReceipt(this.#fanout, id, group, this.#receiptMs)
      : route &&
        (route.kind === "user"
          ? await this.#readUser(id, route)
          : await this.#read(id, route));
    if (!receipt)
      throw new BridgeError("message_not_found", {
        detail: `there is no message ${id}, or its receipt is no longer kept`,
      });
    return receipt;
  }

  async #read(
    id: string,
    route: Exclude<MessageRoute, { kind: "user" }>,
  ): Promise<Receipt | undefined> {
    const facts = await this.#log.facts(
      route.connectionId,
      route.kind === "sequence"
        ? { seq: route.seq }
        : { scheduledId: route.scheduledId },
    );
    if (!facts) return undefined;
    const timeline: TimelineEntry[] = [];
    const push = (status: Status, atMs: number) =>
      timeline.push({ status, at: time(atMs) });
    let state: State;
    let expiresMs: number;
    let online: number;
    let durable: boolean;
    if (facts.kind === "waiting") {
      const { record, nowMs } = facts;
      const waiting = parseWaiting(record);
      expiresMs = waiting.expires;
      online = waiting.online;
      durable = waiting.durable;
      push("scheduled", waiting.accepted);
      const [kind, at] = record.split(":");
      if (kind === "r") state = { status: "recalled", atMs: Number(at) };
      else if (kind === "u")
        state = {
          status: "undeliverable",
          atMs: Number(at),
          reason: "log_full",
        };
      else if (facts.state === "ended")
        state = {
          status: "undeliverable",
          atMs: facts.endedMs,
          reason: facts.endReason,
        };
      else if (expiresMs < nowMs && expiresMs > waiting.due)
        state = { status: "expired", atMs: expiresMs };
      else state = { status: "scheduled", atMs: waiting.accepted };
      if (state.status !== "scheduled") push(state.status, state.atMs);
      if (this.#isOver(state, nowMs)) return undefined;
    } else {
      state = settle(facts);
      if (this.#isOver(state, facts.nowMs)) return undefined;
      expiresMs = facts.expiresAtMs;
      online = facts.online ? 1 : 0;
      durable = facts.seq <= facts.durable;
      if (facts.record !== "") {
        const waiting = parseWaiting(facts.record);
        push("scheduled", waiting.accepted);
        online = waiting.online;
        durable ||= waiting.durable;
      }
      push("queued", Math.floor(facts.seq / 1_000));
      if (facts.sent >= facts.seq || state.status === "delivered")
        push(
          "sent",
          Math.min(facts.sentAtMs ?? state.atMs, facts.ackedAtMs ?? Infinity),
        );
      if (state.status !== "queued" && state.status !== "sent")
        push(state.status, state.atMs);
    }
    return {
      id,
      status: state.status,
      to: { connection: route.connectionId },
      recipients: 1,
      online,
      expiresAt: time(expiresMs),
      durability: durable ? "replica" : "local",
      ack:
        state.status === "delivered" && facts.kind === "facts"
          ? (facts.ackedBy ?? "client")
          : null,
      reason:
        state.status === "undeliverable" ? (state.reason as Reason) : null,
      timeline,
    };
  }

  /**
   * A message to a user is what its deliveries are: \`delivered\` as soon as one of them is, which is final whatever becomes
   * of the others; else the furthest of those that may still change; else what the last of them ended as.
   */
  async #readUser(
    id: string,
    { userTag, place }: Extract<MessageRoute, { kind: "user" }>,
  ): Promise<Receipt | undefined> {
    const record = await this.#users.record(userTag, place);
    if (!record) return undefined;
    const each = (
      await Promise.all(
        record.deliveries.map(({ connectionId, seq }) =>
          this.#read(messageId(connectionId, seq), {
            connectionId,
            kind: "sequence",
            seq,
          }),
        ),
      )
    ).filter((receipt) => receipt !== undefined);
    const state = settleUser(record, each);
    if (!state || this.#isOver(state, record.nowMs)) return undefined;
    if (state.status === "delivered" && record.deliveredMs === undefined)
      await this.#users.seal(userTag, place, state.atMs);
    const timeline: TimelineEntry[] = [];
    const push = (status: Status, atMs: number) =>
      timeline.push({ status, at: time(atMs) });
    const scheduled = record.dueMs > 0;
    if (scheduled) push("scheduled", record.acceptedMs);
    if (!scheduled || record.state === "parked" || record.state === "given")
      push("queued", scheduled ? record.atMs : record.acceptedMs);
    const sent = each
      .map((one) => one.timeline.find(({ status }) => status === "sent")?.at)
      .filter((at) => at !== undefined)
      .sort()[0];
    if (sent !== undefined) push("sent", Date.parse(sent));
    if (timeline.at(-1)?.status !== state.status)
      push(state.status, state.atMs);
    const delivered = each.find(({ status }) => status === "delivered");
    return {
      id,
      status: state.status,
      to: { user: record.userId },
      recipients: record.recipients,
      online: record.online,
      expiresAt: time(record.expiresMs),
      durability: record.durable ? "replica" : "local",
      ack: state.status === "delivered" ? (delivered?.ack ?? "client") : null,
      reason:
        state.status === "undeliverable" ? (state.reason as Reason) : null,
      timeline,
      deliveries: each.map((one) => ({
        ...(one.to as { connection: string }),
        status: one.status,
        at: one.timeline.at(-1)?.at ?? time(record.atMs),
        ack: one.ack,
        reason: one.reason,
      })),
    };
  }

  #isOver(state: State, nowMs: number): boolean {
    return isFinal(state.status) && state.atMs + this.#receiptMs < nowMs;
  }

  /**
   * Listens on a channel for news of receipts, as soon as `heard` resolves; `stop` ends it. While Redis is away
   * `heard` waits for it, so whoever must answer in time awaits it beside something else.
   */
  listen(
    channel: string,
    listener: (news: string) => void,
  ): { heard: Promise<void>; stop(): void } {
    let listeners = this.#listeners.get(channel);
    if (!listeners) {
      listeners = new Set();
      this.#listeners.set(channel, listeners);
    }
    listeners.add(listener);
    const all = listeners;
    const heard = this.#redis.subscriptions.subscribe(channel, (payload) => {
      const news = payload.toString();
      for (const each of this.#listeners.get(channel) ?? []) each(news);
    });
    const stop = () => {
      all.delete(listener);
      if (all.size > 0 || this.#listeners.get(channel) !== all) return;
      this.#listeners.delete(channel);
      void this.#redis.subscriptions.unsubscribe(channel);
    };
    return { heard, stop };
  }

  /** Hears the news of a message's receipts, as long as `signal` has not aborted; see Attention. */
  attend(signal: AbortSignal): Attention {
    return new Attention(
      (channel, listener) => this.listen(channel, listener),
      this.#redis.subscriptions,
      signal,
    );
  }

  /**
   * The receipt now and after each change of its status, until a final one or until `signal` aborts. Throws
   * message_not_found.
   */
  async *follow(id: string, signal: AbortSignal): AsyncGenerator<Receipt> {
    let last = await this.read(id);
    yield last;
    if (isOver(last)) return;
    const attention = this.attend(signal);
    try {
      for (;;) {
        attention.to(last);
        if (!(await attention.news(last))) return;
        const receipt = await this.read(id);
        const changed = receipt.status !== last.status;
        last = receipt;
        if (!changed) continue;
        yield receipt;
        if (isOver(receipt)) return;
      }
    } finally {
      attention.stop();
    }
  }
}

/** One who waits for news of a message, and looks again now and then because a bell may be lost. */
export class Attention {
  readonly #listen: Receipts["listen"];
  readonly #subscriptions: Subscriptions;
  readonly #signal: AbortSignal;
  readonly #stops = new Map<string, () => void>();
  /** At first there may be some already. */
  #news = true;
  #wake: () => void = () => undefined;

  constructor(
    listen: Receipts["listen"],
    subscriptions: Subscriptions,
    signal: AbortSignal,
  ) {
    this.#listen = listen;
    this.#subscriptions = subscriptions;
    this.#signal = signal;
    subscriptions.on("gap", this.#onNews);
    signal.addEventListener("abort", this.#onNews);
  }

  readonly #onNews = () => {
    this.#news = true;
    this.#wake();
  };

  /** Of a user's message the news come from the user and, once it is given, from its connections. */
  to(receipt: Pick<Receipt, "to" | "deliveries">): void {
    for (const channel of newsOf(receipt)) {
      if (this.#stops.has(channel)) continue;
      const { heard, stop } = this.#listen(channel, this.#onNews);
      this.#stops.set(channel, stop);
      // What changed before the channel was heard; one that cannot be subscribed is made up for by looking again.
      heard.then(this.#onNews, () => undefined);
    }
  }

  /** Resolves when it is time to look again; false when the signal has aborted. */
  async news({ expiresAt }: Pick<Receipt, "expiresAt">): Promise<boolean> {
    if (!this.#news && !this.#signal.aborted) {
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        const untilExpiry = Date.parse(expiresAt) - Date.now() + 5;
        timer = setTimeout(
          resolve,
          untilExpiry > 0
            ? Math.min(untilExpiry, lookAgainMs)
            : lookAgainMs / 4,
        );
      });
      clearTimeout(timer);
    }
    this.#news = false;
    return !this.#signal.aborted;
  }

  stop(): void {
    for (const stop of this.#stops.values()) stop();
    this.#subscriptions.off("gap", this.#onNews);
    this.#signal.removeEventListener("abort", this.#onNews);
  }
}
