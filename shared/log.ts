/**
 * The log of a connection: its messages in order until they are acked, recalled or expired. Append (with flag and
 * doorbell), read, report, recall, and the facts a receipt is made of. The scripts are in log-scripts.ts.
 */
import { pageBytesMax } from "./bulk-reads.js";
import { flagsOf, parseEntry, type Entry } from "./entry.js";
import { BridgeError, connectionEnded, connectionNotFound } from "./errors.js";
import { messageId, randomBase62, scheduledMessageId } from "./ids.js";
import { keys } from "./keys.js";
import {
  appendFullScript,
  appendManyScript,
  appendScript,
  dropDueScript,
  makeRoomScript,
  messageOverheadBytes,
  pendingScript,
  pruneScript,
  readScript,
  recallScheduledScript,
  recallScript,
  receiptScript,
  reportScript,
  roomScript,
  scheduleScript,
  settleScript,
  unscheduleScript,
} from "./log-scripts.js";
import { ManyCalls } from "./many.js";
import { replyKeptMs } from "./replies.js";
import type { Argument, RedisLink, Script } from "./redis.js";

export const logScripts: readonly Script[] = [
  appendScript,
  appendFullScript,
  appendManyScript,
  makeRoomScript,
  dropDueScript,
  pruneScript,
  scheduleScript,
  unscheduleScript,
  readScript,
  reportScript,
  recallScript,
  recallScheduledScript,
  receiptScript,
  settleScript,
  pendingScript,
  roomScript,
];

/** One read gives at most so many messages. */
const readRowsMax = 500;
/** Reports that come within this time of others go together, milliseconds. */
const reportWindowMs = 5;
/** How many connections a producer counts for before it starts anew under another ID. */
const producerConnectionsMax = 50_000;

/** A message as it is pushed. */
export interface Append {
  connectionId: string;
  /** A scheduled message to a user, which has no connection yet: `connectionId` is "". */
  userId?: string;
  body: Buffer;
  contentType: string;
  binary: boolean;
  ttlSeconds: number;
  topic?: string;
  idempotency?: Idempotency;
  /** Its sender waits for a reply, which is taken for so long, milliseconds (replies.ts). */
  replyMs?: number;
  /** A scheduled message whose 202 said that a replica has it must not lose that when it is due. */
  durability?: "replica";
  /** True when a later message of the same sender went out meanwhile: a refused one is not tried again then. */
  overtaken?: () => boolean;
}

/** A push without options, which can go with others in one call. */
export type PlainAppend = Pick<
  Append,
  | "connectionId"
  | "body"
  | "contentType"
  | "binary"
  | "ttlSeconds"
  | "overtaken"
>;

export interface Idempotency {
  /** Hash of the API key, the target and the client's key. */
  key: string;
  fingerprint: string;
  /** How long the first request may still be waiting for its answer, milliseconds. */
  busyMs: number;
}

/** Who should have heard of a message. */
export interface Unheard {
  /** The process that owns the connection, … */
  instance: string;
  /** … in this epoch. */
  epoch: number;
}

/** An accepted message. */
export interface Appended {
  messageId: string;
  /** Where it is: its seq, or the ID under which it waits for its time. */
  place: { seq: number } | { scheduledId: string };
  expiresAtMs: number;
  online: boolean;
  status: "queued" | "scheduled" | "undeliverable";
  /** Set when its owner should have heard and nobody did: a deliver job must be added (queue.ts). */
  unheard?: Unheard;
  /** Set when an Idempotency-Key was seen before: the stored answer, or null for "the 202 again". */
  replayed?: string | null;
}

export type Page =
  | { kind: "rows"; seq: number; more: boolean; rows: Entry[] }
  | { kind: "fenced" }
  | { kind: "missing" };

export interface Report {
  /** Everything up to this seq is acked. */
  acked?: number;
  /** `total` of the message acked last, where it is known. */
  ackedTotal?: number;
  ackedBy: "client" | "socket";
  /** Positions with the time (ms) at which they were handed to the socket. */
  sent: readonly { seq: number; atMs: number }[];
  fates: readonly {
    seq: number;
    status: "expired" | "undeliverable";
    reason: string;
  }[];
}

export type Fact =
  | {
      kind: "waiting";
      record: string;
      state: string;
      endedMs: number;
      endReason: string;
      nowMs: number;
    }
  | {
      kind: "facts";
      nowMs: number;
      seq: number;
      expiresAtMs: number;
      online: boolean;
      acked: number;
      sent: number;
      state: string;
      endedMs: number;
      endReason: string;
      epoch: number;
      ownerLive: boolean;
      fate: string;
      sentAtMs: number | undefined;
      ackedAtMs: number | undefined;
      ackedBy: "client" | "socket" | undefined;
      record: string;
      /** A replica has everything up to here. */
      durable: number;
    };

export type RecallOutcome =
  | "recalled"
  | "sent"
  | "final"
  | "maybe"
  | "not_found"
  | "fenced"
  | { ask: number };

const logFull = (what: string, limit: number, actual: number): BridgeError =>
  new BridgeError("log_full", {
    detail: `too many ${what} wait for this connection`,
    limit,
    actual,
    retryAfterSeconds: 1,
  });

/** Turns a script's refusal into the error of the contract. */
function refuse(connectionId: string, reply: readonly unknown[]): never {
  const [word, first, second, third] = reply.map(String);
  switch (word) {
    case "not_found":
      throw connectionNotFound(connectionId);
    case "ended":
      throw connectionEnded(Number(first), second ?? "");
    case "mismatch":
      throw new BridgeError("idempotency_mismatch", {
        detail: "this Idempotency-Key was used with another request",
      });
    case "running":
      throw new BridgeError("idempotency_in_progress", {
        detail: "the first request with this Idempotency-Key is still waiting",
        retryAfterSeconds: 1,
      });
    case "unknown":
      throw new BridgeError("outcome_unknown", { retryAfterSeconds: 1 });
    case "failed":
      // Redis found fault with it in the middle of others.
      throw new BridgeError("outcome_unknown", { retryAfterSeconds: 1 });
    case "full":
      throw logFull(first ?? "", Number(second), Number(third));
    default:
      throw new Error(`unexpected reply of a log script: ${word}`);
  }
}

export interface LogOptions {
  maxMessages: number;
  maxBytes: number;
  resumeMs: number;
  receiptMs: number;
  idempotencyMs: number;
}

/** The log, in Redis. All methods throw `redis_unavailable` or `outcome_unknown` when Redis is away or silent. */
export class Log {
  readonly #redis: RedisLink;
  readonly #options: LogOptions;
  /** Fewer bytes than this reach neither limit. */
  readonly #unlimitedBytes: number;
  readonly #limits: string;
  readonly #lapse: (connectionId: string) => Promise<unknown>;
  #producer = randomBase62(8);
  readonly #counters = new Map<string, number>();
  readonly #reports: ManyCalls;
  readonly #makingRoom = new Map<string, Promise<boolean>>();

  /**
   * `lapse` ends a connection whose time is over and tells what it has to tell (registry.ts); it is called when an append
   * finds one, or has given a message up.
   */
  constructor(
    redis: RedisLink,
    options: LogOptions,
    lapse: (connectionId: string) => Promise<unknown>,
  ) {
    this.#redis = redis;
    this.#options = options;
    this.#unlimitedBytes = Math.min(
      options.maxMessages * messageOverheadBytes,
      options.maxBytes,
    );
    this.#reports = new ManyCalls(redis, reportScript, reportWindowMs);
    this.#limits = `${options.maxMessages} ${options.maxBytes}`;
    this.#lapse = lapse;
  }

  #count(connectionId: string): number {
    if (this.#counters.size > producerConnectionsMax) {
      this.#producer = randomBase62(8);
      this.#counters.clear();
    }
    const next = (this.#counters.get(connectionId) ?? 0) + 1;
    this.#counters.set(connectionId, next);
    return next;
  }

  /**
   * Accepts a message: append under the next seq, doorbell, receipt, all or nothing. Throws connection_not_found,
   * connection_ended, log_full, idempotency_mismatch, idempotency_in_progress.
   */
  append(push: Append): Promise<Appended> {
    return this.#append(push, "-");
  }

  /**
   * Accepts pushes without options, ttl 0 not among them, all in one call: their connections lie in one slot. One outcome for each, in
   * their order, as `append` would have it. Throws when Redis took none of them.
   */
  async appendMany(
    connections: readonly (readonly PlainAppend[])[],
  ): Promise<(Appended | Promise<Appended>)[]> {
    const names: string[] = [];
    const args: Argument[] = [
      "",
      this.#unlimitedBytes,
      this.#limits,
      this.#options.resumeMs,
    ];
    for (const pushes of connections) {
      const id = pushes[0]?.connectionId ?? "";
      names.push(keys.connection(id), keys.log(id), keys.index(id));
      args.push(pushes.length);
      for (const push of pushes)
        args.push(
          this.#count(id),
          push.binary ? push.body : push.body.toString("utf8"),
          `${push.binary ? 1 : 0} ${push.contentType}`,
          push.ttlSeconds * 1_000,
        );
    }
    // Counting may have begun anew under another name.
    args[0] = this.#producer;
    const replies = (await this.#redis.run(appendManyScript, names, args)) as (
      string | unknown[]
    )[];
    return connections.flat().map((push, index) => {
      const reply = replies[index] ?? ["failed"];
      return typeof reply === "string"
        ? this.#accepted(push.connectionId, reply, "-")
        : this.#alone(push, reply);
    });
  }

  /** What was refused among others is tried again by itself, where that helps. */
  async #alone(
    push: PlainAppend,
    reply: readonly unknown[],
  ): Promise<Appended> {
    const { connectionId: id } = push;
    if (reply[0] === "lapsed") {
      await this.#lapse(id);
      return this.append(push);
    }
    if (
      reply[0] === "full" &&
      (await this.#makeRoom(id)) &&
      !push.overtaken?.()
    )
      return this.append(push);
    return this.#accepted(id, reply, "-");
  }

  /**
   * A scheduled message is due: it gets its seq now. Quiet when it was recalled or is in the log already, so that
   * a job that runs twice does nothing. The ttl counts from when it was due.
   */
  async appendDue(
    push: Append,
    scheduledId: string,
  ): Promise<Appended | undefined> {
    return this.#append(push, scheduledId);
  }

  async #append(push: Append, scheduledId: string): Promise<Appended> {
    const { connectionId: id } = push;
    const reply = await this.#send(push, scheduledId);
    if (reply[0] === "full" && scheduledId !== "-") {
      await this.#redis.run(
        dropDueScript,
        [keys.connection(id), keys.scheduled(id)],
        [scheduledId],
      );
      await this.#lapse(id);
    }
    if (reply[0] === "done")
      return {
        messageId: scheduledMessageId(id, scheduledId),
        place: { scheduledId },
        expiresAtMs: 0,
        online: false,
        status: "queued",
      };
    return this.#accepted(id, reply, scheduledId);
  }

  /**
   * Accepts a user's message for one of its connections, which must be open unless \`once\`; undefined when it is not. With
   * \`once\` it may be repeated: the first append counts. Throws as append.
   */
  async appendForUser(
    push: Append,
    user: { label: string; expiresAtMs: number; onlyOpen: boolean },
    once: boolean,
  ): Promise<Appended | undefined> {
    const { connectionId: id } = push;
    const reply = await this.#send(push, once ? user.label : "-", user);
    if (reply[0] === "not_open") return undefined;
    if (reply[0] === "done") {
      const seq = Number(reply[1]);
      return {
        messageId: messageId(id, seq),
        place: { seq },
        expiresAtMs: user.expiresAtMs,
        online: false,
        status: "queued",
      };
    }
    return this.#accepted(id, reply, "-");
  }

  /** The seq under which a connection, if only an ended one, has a user's message that was appended once. */
  async appendedForUser(
    connectionId: string,
    label: string,
  ): Promise<number | undefined> {
    const known = (await this.#redis.command(
      "HGET",
      keys.scheduled(connectionId),
      label,
    )) as string | null;
    const seq = /^s:(\d+)/.exec(known ?? "")?.[1];
    return seq === undefined ? undefined : Number(seq);
  }

  async #send(
    push: Append,
    scheduledId: string,
    user?: { label: string; expiresAtMs: number; onlyOpen: boolean },
  ): Promise<string | unknown[]> {
    const { connectionId: id, idempotency, topic } = push;
    const due = scheduledId !== "-";
    const common: Argument[] = [
      this.#producer,
      due ? 0 : this.#count(id),
      // A command of strings alone is cheaper to encode; what is not binary is valid UTF-8.
      push.binary ? push.body : push.body.toString("utf8"),
      `${flagsOf(push.binary, push.replyMs !== undefined)} ${push.contentType}`,
      push.ttlSeconds * 1_000,
      this.#unlimitedBytes,
      this.#limits,
      this.#options.resumeMs,
    ];
    const plain =
      !due &&
      user === undefined &&
      idempotency === undefined &&
      topic === undefined &&
      push.replyMs === undefined &&
      push.ttlSeconds > 0;
    const send = () =>
      (plain
        ? this.#redis.run(
            appendScript,
            [keys.connection(id), keys.log(id), keys.index(id)],
            common,
          )
        : this.#redis.run(
            appendFullScript,
            [
              keys.connection(id),
              keys.log(id),
              keys.index(id),
              keys.fates(id),
              keys.topics(id),
              keys.scheduled(id),
              idempotency
                ? keys.idempotency(id, idempotency.key)
                : keys.connection(id),
            ],
            [
              ...common,
              topic ?? "-",
              scheduledId,
              idempotency?.fingerprint ?? "",
              this.#options.idempotencyMs,
              idempotency?.busyMs ?? 0,
              user?.label ?? scheduledId,
              user?.expiresAtMs ?? 0,
              user?.onlyOpen ? 1 : 0,
              // A reply to a user's message has its place with the user.
              user ? 0 : (push.replyMs ?? 0),
              replyKeptMs(
                this.#options.idempotencyMs,
                idempotency !== undefined,
              ),
            ],
          )) as Promise<string | unknown[]>;
    let reply = await this.#onceLapsed(id, send);
    if (
      reply[0] === "full" &&
      (await this.#makeRoom(id)) &&
      !push.overtaken?.()
    ) {
      // Refused before is not executed: this is another attempt with a count of its own.
      if (!due) common[1] = this.#count(id);
      reply = await this.#onceLapsed(id, send);
    }
    return reply;
  }

  /** Messages whose time is over make room, for all that were refused together; false when there was none to go. */
  #makeRoom(id: string): Promise<boolean> {
    let making = this.#makingRoom.get(id);
    if (!making) {
      making = this.#dropExpired(id).finally(() => this.#makingRoom.delete(id));
      this.#makingRoom.set(id, making);
    }
    return making;
  }

  async #dropExpired(id: string): Promise<boolean> {
    const gone = await this.#redis.run(
      makeRoomScript,
      [keys.connection(id), keys.log(id), keys.fates(id)],
      [],
    );
    if (Number(gone) === 0) return false;
    await this.#lapse(id);
    return true;
  }

  /** Accepts a message for later. The caller adds the job that will append it. */
  async schedule(
    push: Append,
    scheduledId: string,
    dueAtMs: number,
  ): Promise<Appended> {
    const { connectionId: id, idempotency } = push;
    const reply = await this.#onceLapsed(
      id,
      () =>
        this.#redis.run(
          scheduleScript,
          [
            keys.connection(id),
            keys.scheduled(id),
            idempotency
              ? keys.idempotency(id, idempotency.key)
              : keys.connection(id),
            keys.index(id),
          ],
          [
            scheduledId,
            dueAtMs,
            push.ttlSeconds * 1_000,
            idempotency?.fingerprint ?? "",
            this.#options.idempotencyMs,
            idempotency?.busyMs ?? 0,
            this.#options.resumeMs,
            this.#options.maxMessages,
            this.#options.receiptMs,
          ],
        ) as Promise<unknown[]>,
    );
    return this.#accepted(id, reply, "-");
  }

  /** Forgets a scheduled message whose job could not be stored. */
  async unschedule(push: Append, scheduledId: string): Promise<void> {
    const { connectionId: id, idempotency } = push;
    await this.#redis.run(
      unscheduleScript,
      [
        keys.scheduled(id),
        idempotency
          ? keys.idempotency(id, idempotency.key)
          : keys.scheduled(id),
      ],
      [scheduledId, idempotency ? 1 : 0],
    );
  }

  async #onceLapsed(
    connectionId: string,
    send: () => Promise<string | unknown[]>,
  ): Promise<string | unknown[]> {
    const reply = await send();
    if (reply[0] !== "lapsed") return reply;
    await this.#lapse(connectionId);
    const again = await send();
    // Lapsed twice: somebody connected in between and lapsed again, or the clocks jump. It is gone either way.
    return again[0] === "lapsed" ? ["not_found"] : again;
  }

  #accepted(
    connectionId: string,
    reply: string | readonly unknown[],
    scheduledId: string,
  ): Appended {
    // An accepted append is one string, everything else a list.
    const parts = typeof reply === "string" ? reply.split(" ") : reply;
    const word = String(parts[0]);
    if (word !== "accepted" && word !== "replayed") refuse(connectionId, parts);
    const place = String(parts[1]);
    const status = String(word === "accepted" ? parts[5] : parts[4]);
    const appended: Appended = {
      messageId:
        status === "scheduled"
          ? scheduledMessageId(connectionId, place)
          : scheduledId === "-"
            ? messageId(connectionId, Number(place))
            : scheduledMessageId(connectionId, scheduledId),
      place:
        status === "scheduled"
          ? { scheduledId: place }
          : { seq: Number(place) },
      expiresAtMs: Number(parts[2]),
      online: Number(parts[3]) === 1,
      status: status as Appended["status"],
    };
    const unheard = word === "accepted" ? String(parts[4]) : "0";
    if (unheard !== "0") {
      const [epoch, instance = ""] = unheard.split("@");
      appended.unheard = { instance, epoch: Number(epoch) };
    }
    if (word === "replayed") {
      const answer = String(parts[5] ?? "");
      appended.replayed = answer === "" ? null : answer;
    }
    return appended;
  }

  /** Whether a request with this key was taken before. */
  async knows(
    connectionId: string,
    idempotency: Pick<Idempotency, "key">,
  ): Promise<boolean> {
    const key = keys.idempotency(connectionId, idempotency.key);
    return (await this.#redis.command("EXISTS", key)) === 1;
  }

  /** Stores the final answer of a waited push for replays; "" when there will be none. */
  async settle(
    connectionId: string,
    idempotency: Pick<Idempotency, "key">,
    answer: string,
  ): Promise<void> {
    await this.#redis.run(
      settleScript,
      [
        keys.idempotency(connectionId, idempotency.key),
        keys.connection(connectionId),
      ],
      [answer],
    );
  }

  /** What the owner of `epoch` may send after `cur`, about `bytes` of it. */
  async read(
    connectionId: string,
    epoch: number,
    cur: number,
    bytes = pageBytesMax,
  ): Promise<Page> {
    const reply = (await this.#redis.read(
      readScript,
      [
        keys.connection(connectionId),
        keys.log(connectionId),
        keys.fates(connectionId),
        keys.topics(connectionId),
      ],
      [epoch, cur, readRowsMax, bytes],
      bytes,
    )) as Buffer[];
    const word = String(reply[0]);
    if (word !== "ok")
      return { kind: word === "fenced" ? "fenced" : "missing" };
    const rows: Entry[] = [];
    for (let i = 3; i + 2 < reply.length; i += 3)
      rows.push(
        parseEntry(
          connectionId,
          Number(String(reply[i])),
          (reply[i + 1] as Buffer).toString("latin1"),
          reply[i + 2] as Buffer,
        ),
      );
    return {
      kind: "rows",
      seq: Number(String(reply[1])),
      more: Number(reply[2] as unknown) === 1,
      rows,
    };
  }

  /**
   * Stores what the owner did. Nothing happens when its epoch is over. Reports of many connections go in one call; while they
   * keep coming, a few milliseconds' worth of them.
   */
  async report(
    connectionId: string,
    epoch: number,
    report: Report,
  ): Promise<"ok" | "fenced" | "missing"> {
    const sent = report.sent
      .map((mark) => `${mark.seq}:${mark.atMs}`)
      .join(",");
    const fates = report.fates
      .map((fate) => `${fate.seq}:${fate.status}:${fate.reason}`)
      .join(",");
    const word = (await this.#reports.call({
      keys: [
        keys.connection(connectionId),
        keys.log(connectionId),
        keys.marks(connectionId),
        keys.fates(connectionId),
      ],
      args: [
        epoch,
        report.acked ?? "",
        report.ackedTotal ?? "",
        report.ackedBy,
        sent,
        fates,
        this.#options.receiptMs / 4,
      ],
    })) as "ok" | "prune" | "fenced" | "missing" | "failed";
    if (word === "failed")
      throw new BridgeError("outcome_unknown", { retryAfterSeconds: 1 });
    if (word !== "prune") return word;
    await this.#redis.run(
      pruneScript,
      [
        keys.connection(connectionId),
        keys.index(connectionId),
        keys.marks(connectionId),
        keys.fates(connectionId),
        keys.topics(connectionId),
      ],
      [this.#options.receiptMs],
    );
    return "ok";
  }

  /** Takes a message out of the log; with `epoch` as the owner that has not sent it. */
  async recall(
    connectionId: string,
    seq: number,
    epoch?: number,
  ): Promise<RecallOutcome> {
    const args: Argument[] = [seq, epoch ?? ""];
    const word = String(
      await this.#redis.run(
        recallScript,
        [
          keys.connection(connectionId),
          keys.log(connectionId),
          keys.fates(connectionId),
          keys.index(connectionId),
        ],
        args,
      ),
    );
    return word.startsWith("ask:")
      ? { ask: Number(word.slice(4)) }
      : (word as Exclude<RecallOutcome, { ask: number }>);
  }

  /** Recalls a message that waits for its time; a number is the seq it already has. */
  async recallScheduled(
    connectionId: string,
    scheduledId: string,
  ): Promise<"recalled" | "final" | "not_found" | number> {
    const word = String(
      await this.#redis.run(
        recallScheduledScript,
        [keys.connection(connectionId), keys.scheduled(connectionId)],
        [scheduledId],
      ),
    );
    if (word === "recalled" || word === "not_found") return word;
    // `s:seq:` and what it was while it waited.
    return word.startsWith("s:") ? Number(word.split(":")[1]) : "final";
  }

  /** A page of what waits or is not acked yet, oldest first; of each body at most `previewBytes`. */
  async pending(
    connectionId: string,
    query: { limit: number; after: number; previewBytes: number },
  ): Promise<{
    nowMs: number;
    sent: number;
    more: boolean;
    rows: { entry: Entry; topic: string | undefined; bytes: number }[];
  }> {
    const [now, sent, more, ...cells] = (await this.#redis.runBuffer(
      pendingScript,
      [keys.connection(connectionId), keys.log(connectionId)],
      [query.after, query.limit, query.previewBytes],
    )) as Buffer[];
    const rows = [];
    for (let i = 0; i + 3 < cells.length; i += 4) {
      const header = (cells[i + 1] as Buffer).toString("latin1");
      const topic = header.split(" ", 5)[4];
      rows.push({
        entry: parseEntry(
          connectionId,
          Number(String(cells[i])),
          header,
          cells[i + 3] as Buffer,
        ),
        topic: topic === "-" ? undefined : topic,
        bytes: Number(String(cells[i + 2])),
      });
    }
    return {
      nowMs: Number(String(now)),
      sent: Number(String(sent)),
      more: String(more) === "1",
      rows,
    };
  }

  /** How full a connection's log is for a message of `bytes`, and what is stored under an idempotency key ("" nothing). */
  async room(
    connectionId: string,
    bytes: number,
    idempotencyKey: string | undefined,
  ): Promise<{
    messages: number;
    bytes: number;
    full: BridgeError | undefined;
    stored: string;
  }> {
    const [count, held, stored, mayMakeRoom] = (
      (await this.#redis.run(
        roomScript,
        [
          keys.connection(connectionId),
          keys.log(connectionId),
          keys.idempotency(connectionId, idempotencyKey ?? ""),
        ],
        [],
      )) as unknown[]
    ).map(String);
    const { maxMessages, maxBytes } = this.#options;
    const messages = Number(count);
    const after = Number(held) + bytes + messageOverheadBytes;
    const what =
      messages >= maxMessages
        ? (["messages", maxMessages, messages] as const)
        : messages > 0 && after > maxBytes
          ? (["bytes", maxBytes, after] as const)
          : undefined;
    return {
      messages,
      bytes: Number(held),
      full:
        what === undefined || mayMakeRoom === "1"
          ? undefined
          : logFull(what[0], what[1], what[2]),
      stored: stored ?? "",
    };
  }

  /** What a receipt is made of; undefined when there is no such message any more. */
  async facts(
    connectionId: string,
    place: { seq: number } | { scheduledId: string },
  ): Promise<Fact | undefined> {
    const reply = (
      (await this.#redis.run(
        receiptScript,
        [
          keys.connection(connectionId),
          keys.index(connectionId),
          keys.marks(connectionId),
          keys.fates(connectionId),
          keys.scheduled(connectionId),
        ],
        [
          "seq" in place ? place.seq : "",
          "scheduledId" in place ? place.scheduledId : "",
        ],
      )) as unknown[]
    ).map((part) => String(part));
    const [kind, ...rest] = reply as [string, ...string[]];
    if (kind === "missing") return undefined;
    if (kind === "waiting") {
      const [record = "", state = "", ended, endReason = "", now] = rest;
      return {
        kind,
        record,
        state,
        endedMs: Number(ended),
        endReason,
        nowMs: Number(now),
      };
    }
    const optional = (text: string | undefined) =>
      text === undefined || text === "" ? undefined : Number(text);
    const [
      now,
      seq,
      exp,
      online,
      acked,
      sent,
      state = "",
      ended,
      endReason = "",
      epoch,
      live,
      fate = "",
      sentAt,
      ackedAt,
      by,
      record = "",
      durable,
    ] = rest;
    return {
      kind: "facts",
      nowMs: Number(now),
      seq: Number(seq),
      expiresAtMs: Number(exp),
      online: online === "1",
      acked: Number(acked),
      sent: Number(sent),
      state,
      endedMs: Number(ended),
      endReason,
      epoch: Number(epoch),
      ownerLive: live === "1",
      fate,
      sentAtMs: optional(sentAt),
      ackedAtMs: optional(ackedAt),
      ackedBy: by === "client" || by === "socket" ? by : undefined,
      record,
      durable: Number(durable),
    };
  }
}
