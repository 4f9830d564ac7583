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
  parseGroupMessageId,
  parseMessageId,
  type MessageRoute,
} from "./ids.js";
import { channels, everybody } from "./keys.js";
import type { Fact, Log } from "./log.js";
import type { RedisLink } from "./redis.js";

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
  isFinal(status) || (status === "sent" && !("connection" in to));

/** Where news about a receipt are heard. */
const newsOf = (to: Receipt["to"]): string =>
  "connection" in to
    ? channels.news(to.connection)
    : channels.groupNews("group" in to ? to.group : everybody);

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
  readonly #fanout: Fanout;
  readonly #redis: RedisLink;
  readonly #receiptMs: number;
  readonly #listeners = new Map<string, Set<(news: string) => void>>();

  constructor(redis: RedisLink, log: Log, fanout: Fanout, receiptMs: number) {
    this.#redis = redis;
    this.#log = log;
    this.#fanout = fanout;
    this.#receiptMs = receiptMs;
  }

  /** The receipt now. Throws message_not_found, also when its time is over. */
  async read(id: string): Promise<Receipt> {
    const route = parseMessageId(id);
    const group = route ? undefined : parseGroupMessageId(id);
    const receipt = route
      ? await this.#read(id, route)
      : group && (await groupReceipt(this.#fanout, id, group, this.#receiptMs));
    if (!receipt)
      throw new BridgeError("message_not_found", {
        detail: `there is no message ${id}, or its receipt is no longer kept`,
      });
    return receipt;
  }

  async #read(id: string, route: MessageRoute): Promise<Receipt | undefined> {
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

  /**
   * The receipt now and after each change of its status, until a final one or until `signal` aborts. Throws
   * message_not_found.
   */
  async *follow(id: string, signal: AbortSignal): AsyncGenerator<Receipt> {
    const first = await this.read(id);
    yield first;
    if (isOver(first)) return;
    let news = true;
    let wake: () => void = () => undefined;
    const onNews = () => {
      news = true;
      wake();
    };
    const { heard, stop } = this.listen(newsOf(first.to), onNews);
    // What changed before the channel was heard; one that cannot be subscribed is made up for by looking again.
    heard.then(onNews, () => undefined);
    this.#redis.subscriptions.on("gap", onNews);
    signal.addEventListener("abort", onNews);
    try {
      let status = first.status;
      while (!signal.aborted) {
        if (!news) {
          let timer: NodeJS.Timeout | undefined;
          await new Promise<void>((resolve) => {
            wake = resolve;
            const untilExpiry = Date.parse(first.expiresAt) - Date.now() + 5;
            timer = setTimeout(
              resolve,
              untilExpiry > 0
                ? Math.min(untilExpiry, lookAgainMs)
                : lookAgainMs / 4,
            );
          });
          clearTimeout(timer);
        }
        news = false;
        if (signal.aborted) return;
        const receipt = await this.read(id);
        if (receipt.status === status) continue;
        status = receipt.status;
        yield receipt;
        if (isOver(receipt)) return;
      }
    } finally {
      stop();
      this.#redis.subscriptions.off("gap", onNews);
      signal.removeEventListener("abort", onNews);
    }
  }
}
