/**
 * Groups: publish once for all members, a short history to come back to, who is a member and who of them is online. A
 * publish costs the same in Redis for one member and for ten thousand: one script, one bell that each instance with a
 * member hears once. The scripts are in fanout-scripts.ts.
 */
import { pageBytesMax } from "./bulk-reads.js";
import { BridgeError } from "./errors.js";
import {
  admitScript,
  groupReceiptScript,
  historyScript,
  holdScript,
  leaveScript,
  publishScript,
  recallGroupScript,
  scheduleGroupScript,
  sentScript,
  unscheduleGroupScript,
} from "./fanout-scripts.js";
import {
  groupMessageId,
  randomBase62,
  scheduledGroupMessageId,
} from "./ids.js";
import { keys } from "./keys.js";
import type { RedisLink, Script } from "./redis.js";
import type { Selection } from "./selection.js";

export const fanoutScripts: readonly Script[] = [
  holdScript,
  admitScript,
  leaveScript,
  publishScript,
  historyScript,
  sentScript,
  scheduleGroupScript,
  unscheduleGroupScript,
  recallGroupScript,
  groupReceiptScript,
];

/** One read of a history gives at most so many messages. */
const readRowsMax = 500;

/** Where a group, or a member in it, stands: an offset grows with every message, an epoch changes when history was lost. */
export interface Position {
  epoch: string;
  offset: number;
}

/** Whether a caller may begin groups that nobody knows yet, and who counts them: only Redis knows which those are. */
export interface Naming {
  readonly allowed: boolean;
  began(): void;
  refused(): BridgeError;
}

/** A message as it is published. */
export interface GroupPublish {
  group: string;
  body: Buffer;
  contentType: string;
  binary: boolean;
  ttlSeconds: number;
  selection?: Selection;
  /** The client that publishes it; none: a backend. */
  from?: Publisher;
  idempotency?: { key: string; fingerprint: string };
  /** A scheduled message whose 202 said that a replica has it must not lose that when it is due. */
  durability?: "replica";
  /** None: it may. */
  naming?: Naming;
}

/** The client that published a message, as the bridge knows it. */
export interface Publisher {
  /** null: it has no user. */
  userId: string | null;
}

export interface Published {
  messageId: string;
  /** Absent while the message waits for its time. */
  position?: Position;
  expiresAtMs: number;
  /** null: for a selection, so nobody counted. */
  recipients: number | null;
  online: number;
  status: "queued" | "scheduled" | "undeliverable";
  scheduledId?: string;
  replayed: boolean;
}

/** One message of a history. */
export interface GroupEntry {
  group: string;
  epoch: string;
  offset: number;
  prev: number;
  id: string;
  expiresAtMs: number;
  /** With `ttl` 0: for those who are online when it is published, and nobody later. */
  onceOnly: boolean;
  binary: boolean;
  contentType: string;
  selection: Selection | undefined;
  /** undefined: a backend published it. */
  from: Publisher | undefined;
  body: Buffer;
}

export type GroupBell =
  | { kind: "message"; entry: GroupEntry }
  | { kind: "append"; epoch: string; offset: number; prev: number };

export interface HistoryPage extends Position {
  /** Everything after the position that was asked for follows. */
  recovered: boolean;
  more: boolean;
  rows: GroupEntry[];
}

export type GroupFact =
  | { kind: "waiting"; nowMs: number; record: string }
  | {
      kind: "facts";
      nowMs: number;
      offset: number;
      expiresAtMs: number;
      recipients: number | null;
      online: number;
      undeliverable: boolean;
      sent: number;
      sentAtMs: number | undefined;
      record: string;
      /** A replica has everything up to here. */
      durable: number;
    };

export interface FanoutOptions {
  historyMessages: number;
  historyBytes: number;
  historyMs: number;
  /** What is known of a quiet group outlives its history and every resume window by this, milliseconds. */
  keepMs: number;
  receiptMs: number;
  idempotencyMs: number;
  scheduledMax: number;
}

const scheduledFull = (limit: number, actual: number): BridgeError =>
  new BridgeError("log_full", {
    detail: "too many scheduled messages wait for this group",
    limit,
    actual,
    retryAfterSeconds: 1,
  });

/** Who published, as one word of an entry's header: `-` a backend, `u` a client, and after it its user, encoded. */
const fromWord = (from: Publisher | undefined): string =>
  from ? `u${encodeURIComponent(from.userId ?? "")}` : "-";

const parseFrom = (word: string): Publisher | undefined =>
  word.startsWith("u")
    ? { userId: decodeURIComponent(word.slice(1)) || null }
    : undefined;

/** Reads an entry: its header (fanout-scripts.ts), its selection and its body. */
function parseEntry(
  group: string,
  at: Position,
  header: string,
  selection: string,
  body: Buffer,
): GroupEntry {
  // expiresAt bytesBefore prev scheduledId onceOnly binary from contentType, the last of which may have spaces.
  const [exp, , prev, scheduled = "-", once, binary, from = "-"] = header.split(
    " ",
    7,
  );
  let cut = -1;
  for (let i = 0; i < 7; i++) cut = header.indexOf(" ", cut + 1);
  return {
    group,
    ...at,
    prev: Number(prev),
    id:
      scheduled === "-"
        ? groupMessageId(group, at.offset)
        : scheduledGroupMessageId(group, scheduled),
    expiresAtMs: Number(exp),
    onceOnly: once === "1",
    binary: binary === "1",
    contentType: header.slice(cut + 1),
    selection:
      selection === "" ? undefined : (JSON.parse(selection) as Selection),
    from: parseFrom(from),
    body,
  };
}

/** Reads what came over a group's channel; undefined for what no version of ours sends. */
export function parseGroupBell(
  group: string,
  payload: Buffer,
): GroupBell | undefined {
  const kind = String.fromCharCode(payload[0] ?? 0);
  if (kind !== "m" && kind !== "n") return undefined;
  const end = payload.indexOf(10);
  const line = payload.toString("latin1", 2, end < 0 ? undefined : end);
  const [offset, prev, epoch = ""] = line.split(" ", 3);
  const at = { epoch, offset: Number(offset) };
  if (kind === "n") return { kind: "append", ...at, prev: Number(prev) };
  let cut = -1;
  for (let i = 0; i < 3; i++) cut = line.indexOf(" ", cut + 1);
  const next = payload.indexOf(10, end + 1);
  return {
    kind: "message",
    entry: parseEntry(
      group,
      at,
      line.slice(cut + 1),
      payload.toString("utf8", end + 1, next),
      payload.subarray(next + 1),
    ),
  };
}

/** `w:dueMs:expiresMs:acceptedMs:recipients:online`, as it was scheduled; what became of it stands before. */
export function parseScheduledGroup(record: string) {
  const [due = 0, expires = 0, accepted = 0, recipients = 0, online = 0] =
    record
      .slice(record.indexOf("w:") + 2)
      .split(":", 5)
      .map(Number);
  return {
    due,
    expires,
    accepted,
    recipients: recipients < 0 ? null : recipients,
    online,
    durable: record.endsWith(":replica"),
  };
}

/** Groups, in Redis. All methods throw `redis_unavailable` or `outcome_unknown` when Redis is away or silent. */
export class Fanout {
  readonly #redis: RedisLink;
  readonly #options: FanoutOptions;

  constructor(redis: RedisLink, options: FanoutOptions) {
    this.#redis = redis;
    this.#options = options;
  }

  /**
   * Keeps connections members for `spanMs` from now, and online for `onlineMs` when given. `known` is what this instance
   * has heard last; "lost" says that Redis went on from less than that. Tells where the group stands; with no connections
   * it only asks. `isNew`: nobody counts on the membership yet, so it may be refused with redis_full, and by its `naming`.
   */
  async hold(
    group: string,
    connectionIds: readonly string[],
    {
      naming,
      ...span
    }: {
      spanMs: number;
      onlineMs?: number;
      isNew?: boolean;
      naming?: Naming | undefined;
    },
    known?: { epoch: string; offset: number | "lost" },
  ): Promise<Position> {
    const reply = (
      (await this.#redis.run(
        span.isNew ? admitScript : holdScript,
        [
          keys.group(group),
          keys.groupHistory(group),
          keys.groupMembers(group),
          keys.groupUntil(group),
          keys.groupOnline(group),
        ],
        [
          this.#options.keepMs,
          Math.ceil(span.spanMs),
          span.onlineMs ?? "",
          known?.epoch ?? "",
          naming?.allowed === false ? "known" : (known?.offset ?? 0),
          ...connectionIds,
        ],
      )) as unknown[]
    ).map(String);
    if (naming && reply[0] === "names") throw naming.refused();
    if (reply[2] !== "") naming?.began();
    return { epoch: reply[0] ?? "", offset: Number(reply[1]) };
  }

  /** Connections are not online any more: members for `spanMs` yet, or with 0 members no longer. */
  async leave(
    group: string,
    connectionIds: readonly string[],
    spanMs: number,
  ): Promise<void> {
    await this.#redis.run(
      leaveScript,
      [
        keys.group(group),
        keys.groupMembers(group),
        keys.groupUntil(group),
        keys.groupOnline(group),
      ],
      [Math.ceil(spanMs), this.#options.keepMs, ...connectionIds],
    );
  }

  /** Publishes to all members at once. Throws idempotency_mismatch. */
  async publish(message: GroupPublish): Promise<Published> {
    const published = await this.#publish(message, "-");
    if (!published) throw new Error("only a scheduled message may be done");
    return published;
  }

  /** A scheduled message is due. Quiet when it was recalled or is published already. The ttl counts from when it was due. */
  async publishDue(message: GroupPublish, scheduledId: string): Promise<void> {
    await this.#publish(message, scheduledId);
  }

  async #publish(
    message: GroupPublish,
    scheduledId: string,
  ): Promise<Published | undefined> {
    const { group, idempotency, selection } = message;
    const options = this.#options;
    const reply = String(
      await this.#redis.run(
        publishScript,
        [
          keys.group(group),
          keys.groupHistory(group),
          keys.groupIndex(group),
          keys.groupFacts(group),
          keys.groupUntil(group),
          keys.groupOnline(group),
          keys.groupScheduled(group),
          idempotency
            ? keys.groupIdempotency(group, idempotency.key)
            : keys.group(group),
        ],
        [
          randomBase62(12),
          message.binary ? message.body : message.body.toString("utf8"),
          `${message.binary ? 1 : 0} ${fromWord(message.from)} ${message.contentType}`,
          message.ttlSeconds * 1_000,
          selection ? JSON.stringify(selection) : "",
          options.historyMessages,
          options.historyBytes,
          options.historyMs,
          options.receiptMs,
          options.keepMs,
          scheduledId,
          idempotency?.fingerprint ?? "",
          options.idempotencyMs,
          message.durability ? 1 : "",
          message.naming?.allowed === false ? 1 : "",
          ...(selection?.except ?? []),
        ],
      ),
    );
    if (reply === "done") return undefined;
    return this.#accepted(message, reply, scheduledId);
  }

  #accepted(
    { group, naming }: GroupPublish,
    reply: string,
    scheduledId: string,
  ): Published {
    const [
      word,
      epoch = "",
      place = "",
      exp,
      recipients,
      online,
      status = "",
      fresh,
    ] = reply.split(" ");
    if (naming && word === "names") throw naming.refused();
    if (fresh !== undefined) naming?.began();
    if (word === "mismatch")
      throw new BridgeError("idempotency_mismatch", {
        detail: "this Idempotency-Key was used with another request",
      });
    if (word === "unknown")
      throw new BridgeError("outcome_unknown", { retryAfterSeconds: 1 });
    if (word === "full")
      throw scheduledFull(this.#options.scheduledMax, Number(epoch));
    if (word !== "accepted" && word !== "replayed")
      throw new Error(`unexpected reply of a group script: ${word}`);
    const waits = status === "scheduled";
    return {
      messageId: waits
        ? scheduledGroupMessageId(group, place)
        : scheduledId === "-"
          ? groupMessageId(group, Number(place))
          : scheduledGroupMessageId(group, scheduledId),
      ...(waits
        ? { scheduledId: place }
        : { position: { epoch, offset: Number(place) } }),
      expiresAtMs: Number(exp),
      recipients: Number(recipients) < 0 ? null : Number(recipients),
      online: Number(online),
      status: status as Published["status"],
      replayed: word === "replayed",
    };
  }

  /** What follows `offset`, about `bytes` of it; with an epoch only if it is still that one. */
  async read(
    group: string,
    { epoch, offset }: Position,
    bytes = pageBytesMax,
  ): Promise<HistoryPage> {
    const reply = (await this.#redis.read(
      historyScript,
      [keys.group(group), keys.groupHistory(group)],
      [epoch, offset, this.#options.historyMs, readRowsMax, bytes],
      bytes,
    )) as Buffer[];
    const now = String(reply[0]);
    const rows: GroupEntry[] = [];
    for (let i = 4; i + 3 < reply.length; i += 4)
      rows.push(
        parseEntry(
          group,
          { epoch: now, offset: Number(String(reply[i])) },
          (reply[i + 1] as Buffer).toString("latin1"),
          (reply[i + 2] as Buffer).toString("utf8"),
          reply[i + 3] as Buffer,
        ),
      );
    return {
      epoch: now,
      offset: Number(String(reply[1])),
      recovered: Number(reply[2] as unknown) === 1,
      more: Number(reply[3] as unknown) === 1,
      rows,
    };
  }

  /** This instance handed messages to so many sockets more. */
  async sent(
    group: string,
    counts: Iterable<readonly [offset: number, count: number]>,
  ): Promise<void> {
    await this.#redis.run(
      sentScript,
      [keys.group(group), keys.groupFacts(group)],
      [
        [...counts].map((pair) => pair.join(":")).join(","),
        this.#options.historyMs + this.#options.receiptMs,
      ],
    );
  }

  /** Takes a message for later; the caller adds the job that publishes it. Throws log_full, idempotency_mismatch. */
  async schedule(
    message: GroupPublish,
    scheduledId: string,
    dueAtMs: number,
  ): Promise<Published> {
    const { group, idempotency } = message;
    const { historyMs, receiptMs, scheduledMax, idempotencyMs } = this.#options;
    const reply = await this.#redis.run(
      scheduleGroupScript,
      [
        keys.group(group),
        keys.groupHistory(group),
        keys.groupScheduled(group),
        keys.groupUntil(group),
        keys.groupOnline(group),
        idempotency
          ? keys.groupIdempotency(group, idempotency.key)
          : keys.group(group),
      ],
      [
        scheduledId,
        dueAtMs,
        message.ttlSeconds * 1_000,
        historyMs,
        receiptMs,
        scheduledMax,
        message.selection ? 1 : 0,
        idempotency?.fingerprint ?? "",
        idempotencyMs,
        message.naming?.allowed === false ? 1 : "",
      ],
    );
    return this.#accepted(message, String(reply), "-");
  }

  /** Forgets a scheduled message whose job could not be stored. */
  async unschedule(message: GroupPublish, scheduledId: string): Promise<void> {
    const { group, idempotency } = message;
    await this.#redis.run(
      unscheduleGroupScript,
      [
        keys.groupScheduled(group),
        idempotency
          ? keys.groupIdempotency(group, idempotency.key)
          : keys.groupScheduled(group),
      ],
      [scheduledId, idempotency ? 1 : 0],
    );
  }

  /** Recalls a message that waits for its time. */
  async recall(
    group: string,
    scheduledId: string,
  ): Promise<"recalled" | "sent" | "final" | "not_found"> {
    return (await this.#redis.run(
      recallGroupScript,
      [keys.group(group), keys.groupScheduled(group)],
      [scheduledId],
    )) as "recalled" | "sent" | "final" | "not_found";
  }

  /** What a receipt is made of; undefined when there is no such message any more. */
  async facts(
    group: string,
    place: { offset: number } | { scheduledId: string },
  ): Promise<GroupFact | undefined> {
    const reply = (
      (await this.#redis.run(
        groupReceiptScript,
        [
          keys.group(group),
          keys.groupIndex(group),
          keys.groupFacts(group),
          keys.groupScheduled(group),
        ],
        [
          "offset" in place ? place.offset : "",
          "scheduledId" in place ? place.scheduledId : "",
        ],
      )) as unknown[]
    ).map(String);
    const [
      kind,
      now,
      first = "",
      line = "",
      sent,
      sentAt,
      record = "",
      durable,
    ] = reply;
    if (kind === "missing") return undefined;
    if (kind === "waiting") return { kind, nowMs: Number(now), record: first };
    const [exp, recipients, online, status] = line.split(" ", 4);
    return {
      kind: "facts",
      nowMs: Number(now),
      offset: Number(first),
      expiresAtMs: Number(exp),
      recipients: Number(recipients) < 0 ? null : Number(recipients),
      online: Number(online),
      undeliverable: status === "undeliverable",
      sent: Number(sent),
      sentAtMs: sentAt === "" ? undefined : Number(sentAt),
      record,
      durable: Number(durable),
    };
  }

  /** How many are members, and how many of them online. */
  async count(group: string): Promise<{ recipients: number; online: number }> {
    const now = `(${Date.now()}`;
    const [recipients, online] = await Promise.all([
      this.#redis.command("ZCOUNT", keys.groupUntil(group), now, "+inf"),
      this.#redis.command("ZCOUNT", keys.groupOnline(group), now, "+inf"),
    ]);
    return { recipients: Number(recipients), online: Number(online) };
  }

  /**
   * What a publish would find: how many scheduled messages wait, what is stored under its idempotency key ("" nothing), and
   * how long the history keeps a message. Changes nothing.
   */
  async room(
    group: string,
    idempotencyKey: string | undefined,
  ): Promise<{
    stored: string;
    historyMs: number;
    /** A scheduled message would be refused. */
    full: BridgeError | undefined;
  }> {
    const { historyMs, scheduledMax } = this.#options;
    const [records, stored] = (await Promise.all([
      this.#redis.command("HVALS", keys.groupScheduled(group)),
      idempotencyKey === undefined
        ? null
        : this.#redis.command(
            "GET",
            keys.groupIdempotency(group, idempotencyKey),
          ),
    ])) as [string[], string | null];
    const waiting = records.filter((record) => record.startsWith("w")).length;
    return {
      stored: stored ?? "",
      historyMs,
      full:
        waiting >= scheduledMax
          ? scheduledFull(scheduledMax, waiting)
          : undefined,
    };
  }

  /** One page of member IDs in order; some of them may have lapsed. */
  async page(group: string, after: string, limit: number): Promise<string[]> {
    return (await this.#redis.command(
      "ZRANGEBYLEX",
      keys.groupMembers(group),
      after === "" ? "-" : `(${after}`,
      "+",
      "LIMIT",
      0,
      limit,
    )) as string[];
  }
}
