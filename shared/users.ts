/**
 * Users: a push goes to every open connection of a user, and waits for the first one to come when there is none.
 *
 * A user and its connections lie in different Cluster slots, so nothing here is one script. The steps of a push are: begin
 * (user: who is there) → append to each (connection) → settle (user: given, or parked unless somebody came meanwhile). Those
 * of a handover are: claim (user: this message is for that connection) → append once (connection: known there by the
 * message's ID) → given (user). Any step may be repeated by anybody, and whoever dies in between leaves a claim that the
 * next one to come finishes: for the same connection, or for another when that one ended without it.
 */
import { flagsOf, parseFlags } from "./entry.js";
import { BridgeError } from "./errors.js";
import {
  newScheduledId,
  userMessageId,
  userMessageLabel,
  userTag,
} from "./ids.js";
import { horizonMs, keys } from "./keys.js";
import type { Append, Appended, Idempotency, Log } from "./log.js";
import type { DeliveryQueues } from "./queue.js";
import type { RedisLink } from "./redis.js";
import type { Registry } from "./registry.js";
import type { Replies } from "./replies.js";
import {
  answerUserScript,
  arriveScript,
  beginScript,
  dueScript,
  forgetUserScript,
  givenScript,
  passScript,
  recallUserScript,
  sealUserScript,
  settleUserScript,
  userRecordScript,
} from "./user-scripts.js";

/** A push under way is taken for dead after this long, milliseconds; a repetition goes on with it then. */
const underWayMs = 5_000;
/** How often a push looks around again because somebody came; each time somebody did. */
const looksMax = 50;

/** A message as it is pushed to a user. */
export interface UserAppend extends Omit<Append, "connectionId" | "userId"> {
  userId: string;
  /** Milliseconds since 1970; absent means now. */
  dueAtMs?: number;
}

export interface UserAppended {
  messageId: string;
  status: "queued" | "scheduled" | "undeliverable";
  /** Connections it was given to, and how many of them heard of it at once. */
  recipients: number;
  online: number;
  expiresAtMs: number;
  /** Set when an Idempotency-Key was seen before: the stored answer, or null for "the 202 again". */
  replayed?: string | null;
}

/** What is known of a message to a user. */
export interface UserRecord {
  nowMs: number;
  userId: string;
  state:
    | "begun"
    | "waiting"
    | "parked"
    | "given"
    | "recalled"
    | "replaced"
    | "undeliverable";
  /** Since when. */
  atMs: number;
  acceptedMs: number;
  expiresMs: number;
  /** 0: at once. */
  dueMs: number;
  reason: string;
  recipients: number;
  online: number;
  deliveries: { connectionId: string; seq: number }[];
  /** When it was first seen to be delivered; a receipt never goes back from there. */
  deliveredMs: number | undefined;
  /** A replica had it when its push was answered. */
  durable: boolean;
}

export interface UsersOptions {
  maxMessages: number;
  maxBytes: number;
  resumeMs: number;
  receiptMs: number;
  idempotencyMs: number;
}

/** What a push found when it looked around. */
interface Around {
  newest: string;
  parked: number;
  connections: string[];
}

interface Begun extends Around {
  place: string;
  acceptedMs: number;
  expiresMs: number;
}

const gone = new Set(["connection_not_found", "connection_ended"]);

/** Pushes to users, in Redis. Throws `redis_unavailable` or `outcome_unknown` when Redis is away or silent. */
export class Users {
  readonly #redis: RedisLink;
  readonly #registry: Registry;
  readonly #log: Log;
  readonly #queues: DeliveryQueues;
  readonly #replies: Replies;
  readonly #options: UsersOptions;

  constructor(
    parts: {
      redis: RedisLink;
      registry: Registry;
      log: Log;
      queues: DeliveryQueues;
      replies: Replies;
    },
    options: UsersOptions,
  ) {
    this.#redis = parts.redis;
    this.#registry = parts.registry;
    this.#log = parts.log;
    this.#queues = parts.queues;
    this.#replies = parts.replies;
    this.#options = options;
  }

  /**
   * Throws log_full, idempotency_mismatch, idempotency_in_progress. Calls `issued` when no later push can come before this
   * one any more, which is known before it returns only where connections are there.
   */
  async push(push: UserAppend, issued?: () => void): Promise<UserAppended> {
    const { userId, idempotency, dueAtMs } = push;
    const tag = userTag(userId);
    const open =
      dueAtMs === undefined
        ? 0
        : (await this.#registry.ofUser(userId)).filter(
            ({ state }) => state === "open",
          ).length;
    const place = newScheduledId();
    const reply = (
      (await this.#redis.run(
        beginScript,
        [
          keys.userMessage(tag, place),
          keys.idempotency(tag, idempotency?.key ?? ""),
          keys.userConnections(tag),
          keys.userParked(tag),
        ],
        [
          place,
          idempotency?.fingerprint ?? "",
          this.#options.idempotencyMs,
          Math.max(idempotency?.busyMs ?? 0, underWayMs),
          push.ttlSeconds * 1_000,
          dueAtMs ?? 0,
          this.#keepMs(idempotency),
          userId,
          open,
        ],
      )) as unknown[]
    ).map(String);
    if (reply[0] === "replayed")
      return this.#replayed(tag, reply[1] ?? "", reply[2] ?? "");
    if (reply[0] === "mismatch")
      throw new BridgeError("idempotency_mismatch", {
        detail: "this Idempotency-Key was used with another request",
      });
    if (reply[0] === "running")
      throw new BridgeError("idempotency_in_progress", {
        detail: "the first request with this Idempotency-Key is still running",
        retryAfterSeconds: 1,
      });
    const begun = parseBegun(reply);
    // Before anybody can have the message, and so reply to it.
    if (push.replyMs !== undefined)
      await this.#replies.open(
        { tag, place: begun.place },
        push.replyMs,
        idempotency !== undefined,
      );
    return dueAtMs === undefined
      ? this.#deliver(tag, push, begun, {
          once: idempotency !== undefined,
          issued,
        })
      : this.#schedule(tag, push, begun, dueAtMs, open);
  }

  /** A record outlives the last moment at which one of its deliveries may become final, and its idempotency key. */
  #keepMs(idempotency: Idempotency | undefined): number {
    const { receiptMs, resumeMs, idempotencyMs } = this.#options;
    return Math.max(receiptMs + resumeMs, idempotency ? idempotencyMs : 0);
  }

  async #replayed(
    tag: string,
    place: string,
    answer: string,
  ): Promise<UserAppended> {
    const record = await this.record(tag, place);
    if (!record && answer === "")
      throw new BridgeError("outcome_unknown", { retryAfterSeconds: 1 });
    return {
      messageId: userMessageId(tag, place),
      status:
        record?.state === "waiting"
          ? "scheduled"
          : record?.reason === "not_connected"
            ? "undeliverable"
            : "queued",
      recipients: record?.recipients ?? 0,
      online: record?.online ?? 0,
      expiresAtMs: record?.expiresMs ?? 0,
      replayed: answer === "" ? null : answer,
    };
  }

  async #schedule(
    tag: string,
    push: UserAppend,
    { place, expiresMs }: Begun,
    dueAtMs: number,
    online: number,
  ): Promise<UserAppended> {
    try {
      await this.#queues.schedule(
        { ...push, connectionId: "" },
        place,
        Math.max(0, dueAtMs - Date.now()),
      );
    } catch (error) {
      // Without its job the message would wait for ever: take it back, or say that nobody knows.
      await this.#forget(tag, place, push.idempotency).catch(() => undefined);
      throw error instanceof BridgeError
        ? error
        : new BridgeError("outcome_unknown", { retryAfterSeconds: 1 }, error);
    }
    return {
      messageId: userMessageId(tag, place),
      status: "scheduled",
      recipients: 0,
      online,
      expiresAtMs: expiresMs,
    };
  }

  /** A scheduled message is due. Quiet when it was recalled or is on its way already, so that a job may run twice. */
  async due(push: UserAppend, place: string): Promise<void> {
    const tag = userTag(push.userId);
    const reply = (
      (await this.#redis.run(
        dueScript,
        [
          keys.userMessage(tag, place),
          keys.userConnections(tag),
          keys.userParked(tag),
        ],
        [place],
      )) as unknown[]
    ).map(String);
    if (reply[0] !== "begun") return;
    await this.#deliver(tag, push, parseBegun(reply), {
      once: true,
      ifFull: "log_full",
    });
  }

  /**
   * Appends to everybody who is there, else parks. With `once` all of it may have been done before. `ifFull`: what becomes
   * of a message that has no place; without it the push is refused and forgotten.
   */
  async #deliver(
    tag: string,
    push: UserAppend,
    begun: Begun,
    how: {
      once: boolean;
      ifFull?: string;
      issued?: (() => void) | undefined;
    },
  ): Promise<UserAppended> {
    const { place, expiresMs } = begun;
    const { once, ifFull, issued } = how;
    let around: Around = begun;
    for (let look = 0; look < looksMax; look++) {
      await this.#registry.settle(around.connections);
      // What waits was accepted before this one.
      if (around.parked > 0)
        for (const connectionId of around.connections)
          await this.#handOver(tag, connectionId, "only");
      const appending = this.#appendToAll(tag, push, around.connections, {
        place,
        expiresMs,
        once,
      });
      // All of it is on its way. With nobody there it is not known yet where it goes.
      if (around.connections.length > 0) issued?.();
      const { appended, full } = await appending;
      const online = appended.filter((one) => one.online).length;
      if (full && appended.length === 0 && ifFull === undefined) {
        await this.#forget(tag, place, push.idempotency);
        throw full;
      }
      const settled = await this.#settle(tag, push, place, around, {
        to: appended,
        online,
        unless:
          full && appended.length === 0
            ? (ifFull ?? "")
            : push.ttlSeconds === 0
              ? "not_connected"
              : "park",
      });
      if (settled.word === "changed") {
        around = settled.around;
        continue;
      }
      if (settled.word === "full") {
        if (ifFull === undefined) {
          await this.#forget(tag, place, push.idempotency);
          throw settled.error;
        }
        await this.#settle(tag, push, place, around, {
          to: [],
          online: 0,
          unless: ifFull,
        });
      }
      return {
        messageId: userMessageId(tag, place),
        status: settled.word === "undeliverable" ? "undeliverable" : "queued",
        recipients: appended.length,
        online,
        expiresAtMs: expiresMs,
      };
    }
    throw new BridgeError("outcome_unknown", {
      detail: "the user's connections change too fast",
      retryAfterSeconds: 1,
    });
  }

  async #appendToAll(
    tag: string,
    push: UserAppend,
    connections: readonly string[],
    message: { place: string; expiresMs: number; once: boolean },
  ): Promise<{
    appended: { connectionId: string; seq: number; online: boolean }[];
    full: BridgeError | undefined;
  }> {
    const { place, expiresMs, once } = message;
    const user = {
      label: userMessageLabel(tag, place),
      expiresAtMs: expiresMs,
      onlyOpen: true,
    };
    const results = await Promise.allSettled(
      connections.map(async (connectionId) => {
        const one = await this.#log.appendForUser(
          bare(push, connectionId),
          user,
          once,
        );
        if (one) await this.#wake(connectionId, one);
        return one;
      }),
    );
    const appended: { connectionId: string; seq: number; online: boolean }[] =
      [];
    let full: BridgeError | undefined;
    let broken: unknown;
    for (const [index, result] of results.entries()) {
      const connectionId = connections[index] ?? "";
      if (result.status === "fulfilled") {
        const one = result.value;
        if (one && "seq" in one.place && one.status === "queued")
          appended.push({
            connectionId,
            seq: one.place.seq,
            online: one.online,
          });
        continue;
      }
      const error: unknown = result.reason;
      if (!(error instanceof BridgeError)) broken = error;
      else if (error.code === "log_full") full = error;
      else if (gone.has(error.code))
        await this.#registry.forgetOfUser(tag, connectionId);
      else broken = error;
    }
    // Some may have it and nobody can tell: a repetition with the same key goes on, any other one is a new message.
    if (broken !== undefined) throw broken;
    return { appended, full };
  }

  async #wake(connectionId: string, { unheard }: Appended): Promise<void> {
    if (unheard) await this.#queues.wake(connectionId, unheard);
  }

  async #settle(
    tag: string,
    push: UserAppend,
    place: string,
    { newest }: Around,
    given: {
      to: readonly { connectionId: string; seq: number }[];
      online: number;
      unless: string;
    },
  ): Promise<
    | { word: "given" | "parked" | "undeliverable" | "done" }
    | { word: "full"; error: BridgeError }
    | { word: "changed"; around: Around }
  > {
    const reply = (
      (await this.#redis.run(
        settleUserScript,
        [
          keys.userMessage(tag, place),
          keys.userConnections(tag),
          keys.userParked(tag),
          keys.userClaims(tag),
        ],
        [
          place,
          given.to
            .map(({ connectionId, seq }) => `${connectionId}:${seq}`)
            .join(","),
          given.to.length,
          given.online,
          newest,
          `${push.topic ?? "-"} ${flagsOf(push.binary, push.replyMs !== undefined)} ${push.contentType}`,
          push.body,
          this.#options.maxMessages,
          this.#options.maxBytes,
          push.topic ?? "-",
          given.unless,
        ],
      )) as unknown[]
    ).map(String);
    const [word = "", ...rest] = reply;
    if (word === "changed") return { word, around: parseAround(rest) };
    if (word === "full") {
      const [what = "", limit, actual] = rest;
      return { word, error: parkedFull(what, Number(limit), Number(actual)) };
    }
    return { word: word as "given" | "parked" | "undeliverable" | "done" };
  }

  async #forget(
    tag: string,
    place: string,
    idempotency: Idempotency | undefined,
  ): Promise<void> {
    await this.#redis.run(
      forgetUserScript,
      [
        keys.userMessage(tag, place),
        keys.idempotency(tag, idempotency?.key ?? ""),
      ],
      [idempotency ? 1 : 0],
    );
  }

  /** A connection of a user is open: it is listed, and gets what waits for the user. May be repeated. */
  async arrive(userId: string, connectionId: string): Promise<void> {
    await this.#handOver(userTag(userId), connectionId, "1");
  }

  /** `only`: without being listed anew. */
  async #handOver(
    tag: string,
    connectionId: string,
    take: "1" | "only",
  ): Promise<void> {
    for (;;) {
      const reply = (await this.#redis.runBuffer(
        arriveScript,
        [keys.userConnections(tag), keys.userParked(tag), keys.userClaims(tag)],
        [connectionId, horizonMs, take],
      )) as Buffer[];
      const given: Promise<boolean>[] = [];
      // All appends leave in this turn, in their order.
      for (let i = 0; i + 3 < reply.length; i += 4)
        given.push(
          this.#give(tag, connectionId, {
            place: String(reply[i]),
            whose: String(reply[i + 1]),
            header: String(reply[i + 2]),
            body: reply[i + 3] as Buffer,
          }),
        );
      const all = await Promise.all(given);
      if (all.length === 0 || !all.includes(true)) return;
    }
  }

  /** Gives a parked message to whom it is claimed for, or to `me` when that one ended without it. */
  async #give(
    tag: string,
    me: string,
    parked: { place: string; whose: string; header: string; body: Buffer },
  ): Promise<boolean> {
    const { place, header, body } = parked;
    let { whose } = parked;
    const [expires = "0", topic = "-", flags = "0"] = header.split(" ", 3);
    const contentType = header.slice(`${expires} ${topic} ${flags} `.length);
    const { binary, asks } = parseFlags(flags);
    const user = {
      label: userMessageLabel(tag, place),
      expiresAtMs: Number(expires),
      onlyOpen: false,
    };
    for (;;) {
      let seq: number | undefined;
      try {
        const one = await this.#log.appendForUser(
          {
            connectionId: whose,
            body,
            contentType,
            binary,
            ttlSeconds: 1,
            ...(asks ? { replyMs: 0 } : {}),
            ...(topic === "-" ? {} : { topic }),
          },
          user,
          true,
        );
        if (one && "seq" in one.place) ({ seq } = one.place);
        if (one) await this.#wake(whose, one);
      } catch (error) {
        if (!(error instanceof BridgeError)) throw error;
        // It stays claimed; there is room again when this connection, or somebody else, comes next.
        if (error.code === "log_full") return false;
        if (!gone.has(error.code)) throw error;
        seq = await this.#log.appendedForUser(whose, user.label);
      }
      if (seq !== undefined) {
        const news = await this.#redis.run(
          givenScript,
          [
            keys.userMessage(tag, place),
            keys.userParked(tag),
            keys.userClaims(tag),
          ],
          [place, whose, seq],
        );
        // Known before, or its record is lost and the row stays until its time is over: nothing to look again for.
        return Number(news) === 1;
      }
      if (whose === me) return false;
      const passed = await this.#redis.run(
        passScript,
        [keys.userClaims(tag)],
        [place, whose, me],
      );
      if (Number(passed) !== 1) return false;
      whose = me;
    }
  }

  /** Takes back what was not given to a connection yet; `given` names those that may have it. */
  async recall(
    tag: string,
    place: string,
  ): Promise<"recalled" | "given" | "maybe" | "final" | "not_found"> {
    const word = String(
      await this.#redis.run(
        recallUserScript,
        [
          keys.userMessage(tag, place),
          keys.userParked(tag),
          keys.userClaims(tag),
        ],
        [],
      ),
    );
    if (word !== "waiting")
      return word as "recalled" | "given" | "maybe" | "final" | "not_found";
    // Only tidiness: a job that still runs finds the recall.
    await this.#queues.unschedule(place).catch(() => undefined);
    return "recalled";
  }

  /** Stores the answer of a push with an idempotency key; "" when there will be none. */
  async answer(
    userId: string,
    { key }: Pick<Idempotency, "key">,
    answer: string,
  ): Promise<void> {
    await this.#redis.run(
      answerUserScript,
      [keys.idempotency(userTag(userId), key)],
      [answer],
    );
  }

  /** What a push with `bytes` would find in the user's slot; changes nothing. */
  async room(
    userId: string,
    bytes: number,
    idempotencyKey: string | undefined,
  ): Promise<{ full: BridgeError | undefined; stored: string }> {
    const tag = userTag(userId);
    const { maxMessages, maxBytes } = this.#options;
    const [count, held, stored] = (await Promise.all([
      this.#redis.command("XLEN", keys.userParked(tag)),
      this.#redis.command("HGET", keys.userClaims(tag), "#bytes"),
      idempotencyKey === undefined
        ? null
        : this.#redis.command("GET", keys.idempotency(tag, idempotencyKey)),
    ])) as [number, string | null, string | null];
    const after = Number(held ?? 0) + bytes;
    const full =
      count >= maxMessages
        ? parkedFull("messages", maxMessages, count)
        : count > 0 && after > maxBytes
          ? parkedFull("bytes", maxBytes, after)
          : undefined;
    return { full, stored: stored ?? "" };
  }

  /** What became of a message; undefined when it is not known any more. */
  async record(tag: string, place: string): Promise<UserRecord | undefined> {
    const [now, ...pairs] = (
      (await this.#redis.run(
        userRecordScript,
        [keys.userMessage(tag, place)],
        [],
      )) as unknown[]
    ).map(String);
    if (pairs.length === 0) return undefined;
    const fields: Record<string, string | undefined> = {};
    for (let i = 0; i + 1 < pairs.length; i += 2)
      fields[pairs[i] ?? ""] = pairs[i + 1];
    const number = (name: string) => Number(fields[name] ?? 0);
    return {
      nowMs: Number(now),
      userId: fields["user"] ?? "",
      state: fields["state"] as UserRecord["state"],
      atMs: number("at"),
      acceptedMs: number("accepted"),
      expiresMs: number("expires"),
      dueMs: number("due"),
      reason: fields["reason"] ?? "",
      recipients: number("recipients"),
      online: number("online"),
      deliveries: (fields["to"] ?? "")
        .split(",")
        .filter((part) => part !== "")
        .map((part) => {
          const [connectionId = "", seq] = part.split(":");
          return { connectionId, seq: Number(seq) };
        }),
      deliveredMs:
        fields["delivered"] === undefined ? undefined : number("delivered"),
      durable: fields["durable"] === "1",
    };
  }

  /** Notes that a message was seen to be delivered: what its receipt says must outlive what its connections know. */
  async seal(tag: string, place: string, deliveredMs: number): Promise<void> {
    await this.#redis.run(
      sealUserScript,
      [keys.userMessage(tag, place)],
      [deliveredMs],
    );
  }
}

const parkedFull = (what: string, limit: number, actual: number): BridgeError =>
  new BridgeError("log_full", {
    detail: `too many ${what} wait for this user`,
    limit,
    actual,
    retryAfterSeconds: 1,
  });

function parseAround([newest = "0", parked, ...connections]: string[]): Around {
  return { newest, parked: Number(parked), connections };
}

function parseBegun(reply: readonly string[]): Begun {
  const [, place = "", accepted, expires, ...around] = reply;
  return {
    place,
    acceptedMs: Number(accepted),
    expiresMs: Number(expires),
    ...parseAround(around),
  };
}

/** The message as one connection gets it. */
function bare(push: UserAppend, connectionId: string): Append {
  const { body, contentType, binary, ttlSeconds, topic, replyMs } = push;
  return {
    connectionId,
    body,
    contentType,
    binary,
    ttlSeconds,
    ...(topic === undefined ? {} : { topic }),
    ...(replyMs === undefined ? {} : { replyMs }),
    ...(push.overtaken ? { overtaken: push.overtaken } : {}),
  };
}
