/** The bridge on Redis: what http-fn asks for, put together from the shared rooms. */
import type { Accepted, Connection, Receipt } from "../shared/api.js";
import type { Config } from "../shared/config.js";
import { BridgeError, connectionEnded } from "../shared/errors.js";
import { EventFeed } from "../shared/event-feed.js";
import {
  isConnectionId,
  newConnectionId,
  newScheduledId,
  parseGroupMessageId,
  parseMessageId,
  randomBase62,
  userTag,
  type MessageRoute,
} from "../shared/ids.js";
import { Gathering } from "../shared/gathering.js";
import { channels, keys } from "../shared/keys.js";
import type { Append, Appended, PlainAppend } from "../shared/log.js";
import type { Logger } from "../shared/logging.js";
import { tagsOf } from "../shared/membership.js";
import { Receipts } from "../shared/receipts.js";
import { confirmWithinMs } from "../shared/replication.js";
import { isoTimes } from "../shared/time.js";
import { openStores } from "../shared/stores.js";
import { createExplain } from "./explain.js";
import { createGroups } from "./redis-groups.js";
import type {
  Bridge,
  Publish,
  Push,
  Pushed,
  StoredAnswer,
  UserPush,
} from "./bridge.js";

/** A waited request may go on this long after its wait before a replay gets the plain 202. */
const busyMarginMs = 2_000;
/** How long the owner of a connection may take to decide about a recall (rule 10). */
const recallDeadlineMs = 1_000;

/** What a new connection takes besides its labels and groups, rounded up; bytes. */
const connectionBytes = 1_024;
/** BullMQ's queue of scheduled messages lies under this tag, and holds their bodies in base64. */
const scheduleTag = keys.scheduleQueue.slice(1, -1);
/** Connections in one look before an answer: what fits into its few milliseconds. */
const lookAtMost = 20;

const acceptedUntil = isoTimes();

/** Whether a push has none of the options that need more than the append. */
const isPlain = (push: Push): push is Push & PlainAppend =>
  push.ttlSeconds > 0 &&
  push.idempotency === undefined &&
  push.topic === undefined &&
  push.dueAtMs === undefined &&
  push.durability === undefined;

const acceptedBy = (
  { connectionId, durability }: Push,
  { messageId, status, online, expiresAtMs }: Appended,
): Accepted => ({
  id: messageId,
  status,
  to: { connection: connectionId },
  recipients: 1,
  online: online ? 1 : 0,
  expiresAt: acceptedUntil(expiresAtMs),
  durability: durability ?? "local",
});

/** A bridge with its connections; `close` ends them. */
export interface OpenBridge {
  bridge: Bridge;
  close(): Promise<void>;
}

/** Connects to Redis in the background: a bridge exists before its Redis answers. */
export function openBridge(config: Config, logger: Logger): OpenBridge {
  const stores = openStores(config, logger);
  const {
    redis,
    memory,
    registry,
    log,
    events,
    fanout,
    memberships,
    queues,
    users,
    replication,
    tokens,
  } = stores;
  const receipts = new Receipts(
    redis,
    { log, users, fanout },
    config.receiptMs,
  );
  const feed = new EventFeed(events, redis);
  const gathering = new Gathering(log, redis);

  function refuseUnknown(connectionId: string): void {
    if (!isConnectionId(connectionId))
      throw new BridgeError("connection_not_found", {
        detail: "that is no connection ID",
      });
  }

  function toAppend(push: Push): Append {
    return {
      connectionId: push.connectionId,
      body: push.body,
      contentType: push.contentType,
      binary: push.binary,
      ttlSeconds: push.ttlSeconds,
      ...(push.topic === undefined ? {} : { topic: push.topic }),
      ...(push.durability ? { durability: push.durability } : {}),
      ...(push.overtaken ? { overtaken: push.overtaken } : {}),
      ...(push.idempotency
        ? {
            idempotency: {
              ...push.idempotency,
              busyMs: push.waitMs ? push.waitMs + busyMarginMs : 0,
            },
          }
        : {}),
    };
  }

  async function schedule(append: Append, dueAtMs: number): Promise<Appended> {
    const fresh = newScheduledId();
    const accepted = await log.schedule(append, fresh, dueAtMs);
    const { place, replayed } = accepted;
    const scheduledId = "scheduledId" in place ? place.scheduledId : fresh;
    try {
      // A replay as well: the first request may have ended before its job was stored. Adding it twice is adding it once.
      await queues.schedule(
        append,
        scheduledId,
        Math.max(0, dueAtMs - Date.now()),
      );
    } catch (error) {
      // Without its job the message would wait for ever: take it back, or say that nobody knows.
      if (replayed === undefined)
        await log.unschedule(append, scheduledId).catch(() => undefined);
      throw error instanceof BridgeError
        ? error
        : new BridgeError("outcome_unknown", { retryAfterSeconds: 1 }, error);
    }
    return accepted;
  }

  /** Waits for a replica. A replay waits again: what the first request saw is not known. */
  async function confirm(
    request: Push,
    { place }: Appended,
    deadline: number,
  ): Promise<void> {
    const { connectionId, idempotency } = request;
    const left = deadline - performance.now();
    const held = { connectionId, place };
    try {
      await Promise.all([
        replication.confirm(
          idempotency ? { ...held, idempotencyKey: idempotency.key } : held,
          left,
        ),
        "scheduledId" in place &&
          replication.confirmJob(connectionId, place.scheduledId, left),
      ]);
    } catch (error) {
      // This request does not wait for the receipt any more, so a retry must not be told that it still does.
      if (idempotency && request.waitMs)
        await log.settle(connectionId, idempotency, "").catch(() => undefined);
      throw error;
    }
  }

  /**
   * Before anything is stored. Throws redis_full, but not at a request that was taken before: it adds nothing, and its
   * publisher must not hear that its message is not there.
   */
  async function admit(
    tag: string,
    { body, dueAtMs, idempotency }: Push | UserPush | Publish,
  ): Promise<void> {
    try {
      const known = memory.admit(tag, body.length);
      if (known) await known;
      if (dueAtMs !== undefined)
        await memory.admit(scheduleTag, body.length * 2);
    } catch (error) {
      if (!idempotency || !(await log.knows(tag, idempotency))) throw error;
    }
  }

  function push(request: Push, issued?: () => void): Promise<Pushed> {
    return isPlain(request)
      ? pushPlain(request, issued)
      : pushWithOptions(request, issued);
  }

  /** Nearly all pushes: what another one may need is left out, because it costs. */
  async function pushPlain(
    request: Push & PlainAppend,
    issued?: () => void,
  ): Promise<Pushed> {
    const { connectionId, body } = request;
    refuseUnknown(connectionId);
    const known = memory.admit(connectionId, body.length);
    if (known) await known;
    const appending = gathering.append(request);
    issued?.();
    const appended = await appending;
    if (appended.jobEpoch > 0)
      await queues.wake(connectionId, appended.jobEpoch);
    return {
      messageId: appended.messageId,
      accepted: acceptedBy(request, appended),
    };
  }

  async function pushWithOptions(
    request: Push,
    issued?: () => void,
  ): Promise<Pushed> {
    refuseUnknown(request.connectionId);
    await admit(request.connectionId, request);
    const durable = request.durability === "replica";
    const deadline = durable ? performance.now() + confirmWithinMs : 0;
    if (durable) await replication.ready(request.connectionId);
    const append = toAppend(request);
    gathering.flush();
    const appending =
      request.dueAtMs === undefined
        ? log.append(append)
        : schedule(append, request.dueAtMs);
    // The command is on its way, and commands keep their order.
    issued?.();
    const appended = await appending;
    await Promise.all([
      appended.jobEpoch > 0 &&
        queues.wake(request.connectionId, appended.jobEpoch),
      durable && confirm(request, appended, deadline),
    ]);
    const pushed: Pushed = {
      messageId: appended.messageId,
      accepted: acceptedBy(request, appended),
    };
    if (appended.replayed !== undefined)
      pushed.replayed =
        appended.replayed === null
          ? true
          : (JSON.parse(appended.replayed) as StoredAnswer);
    return pushed;
  }

  async function pushToUser(request: UserPush): Promise<Pushed> {
    const { userId, idempotency, waitMs, ...message } = request;
    await admit(userTag(userId), request);
    const appended = await users.push({
      ...message,
      userId,
      ...(idempotency
        ? {
            idempotency: {
              ...idempotency,
              busyMs: waitMs ? waitMs + busyMarginMs : 0,
            },
          }
        : {}),
    });
    const { recipients, online, status } = appended;
    const accepted: Accepted = {
      id: appended.messageId,
      status,
      to: { user: userId },
      recipients,
      online,
      expiresAt: acceptedUntil(appended.expiresAtMs),
      durability: "local",
    };
    const pushed: Pushed = { messageId: appended.messageId, accepted };
    if (appended.replayed !== undefined)
      pushed.replayed =
        appended.replayed === null
          ? true
          : (JSON.parse(appended.replayed) as StoredAnswer);
    else if (idempotency && !waitMs)
      await settle(request, { status: 202, body: JSON.stringify(accepted) });
    return pushed;
  }

  async function settle(
    request: Push | UserPush,
    answer: StoredAnswer,
  ): Promise<void> {
    const { idempotency } = request;
    if (!idempotency) return;
    const text = JSON.stringify(answer);
    await ("userId" in request
      ? users.answer(request.userId, idempotency, text)
      : log.settle(request.connectionId, idempotency, text));
  }

  /** Asks the owner, who alone knows what it has sent. */
  async function recallFromOwner(
    connectionId: string,
    seq: number,
    epoch: number,
  ): Promise<string> {
    const nonce = randomBase62(8);
    let answer: (word: string) => void = () => undefined;
    const answered = new Promise<string>((resolve) => {
      answer = resolve;
    });
    const channel = channels.news(connectionId);
    const { heard, stop } = receipts.listen(channel, (news) => {
      const [kind, forWhom, word = ""] = news.split(" ");
      if (kind === "recalled" && forWhom === nonce) answer(word);
    });
    const timer = setTimeout(() => answer("maybe"), recallDeadlineMs);
    try {
      await Promise.race([heard, answered]);
      await redis.publish(
        `${channels.bell(connectionId)}${epoch}`,
        `recall ${seq} ${nonce}`,
      );
      return await answered;
    } finally {
      clearTimeout(timer);
      stop();
    }
  }

  /** How a recall of a message to one connection went. */
  async function recallOne(
    route: Exclude<MessageRoute, { kind: "user" }>,
  ): Promise<string> {
    const { connectionId } = route;
    let seq: number;
    if (route.kind === "scheduled") {
      const word = await log.recallScheduled(connectionId, route.scheduledId);
      if (typeof word !== "number") {
        if (word === "recalled")
          // Only tidiness: a job that still runs finds the recall in the connection's hash.
          await queues.unschedule(route.scheduledId).catch(() => undefined);
        return word;
      }
      seq = word;
    } else ({ seq } = route);
    const word = await log.recall(connectionId, seq);
    return typeof word === "string"
      ? word
      : await recallFromOwner(connectionId, seq, word.ask);
  }

  /** From everybody who does not have it yet: recalled when nobody has. */
  async function recallFromUser({
    userTag,
    place,
  }: Extract<MessageRoute, { kind: "user" }>): Promise<string> {
    const word = await users.recall(userTag, place);
    if (word !== "given") return word;
    const record = await users.record(userTag, place);
    const words = await Promise.all(
      (record?.deliveries ?? []).map(({ connectionId, seq }) =>
        recallOne({ kind: "sequence", connectionId, seq }),
      ),
    );
    // What is worst tells: one that has it outweighs all that had not.
    for (const worst of ["sent", "final", "maybe", "recalled"])
      if (words.includes(worst)) return worst;
    return words[0] ?? "not_found";
  }

  async function recall(messageId: string): Promise<Receipt> {
    if (parseGroupMessageId(messageId)) return groups.recall(messageId);
    const route = parseMessageId(messageId);
    // Tells an unknown message from one that cannot be recalled.
    await receipts.read(messageId);
    if (!route) throw new Error("a readable message has a route");
    const outcome =
      route.kind === "user"
        ? await recallFromUser(route)
        : await recallOne(route);
    switch (outcome) {
      case "recalled":
        return receipts.read(messageId);
      case "sent":
        throw new BridgeError("already_sent", {
          detail: "the message was handed to the client's socket",
        });
      case "not_found":
        throw new BridgeError("message_not_found");
      case "final": {
        const { status } = await receipts.read(messageId);
        throw new BridgeError("already_final", {
          detail: `the message is ${status}`,
        });
      }
      default:
        throw new BridgeError("may_have_been_delivered", {
          detail: "whether the client has the message is not known yet",
        });
    }
  }

  async function inspect(connectionId: string): Promise<Connection> {
    refuseUnknown(connectionId);
    const connection = await registry.inspect(connectionId);
    if (connection.state === "ended")
      throw connectionEnded(
        Date.parse(connection.endedAt ?? connection.createdAt),
        connection.reason ?? "",
      );
    return connection;
  }

  /** Before a connection is made. Throws redis_full. */
  async function admitConnection(
    connectionId: string,
    groups: readonly string[],
  ): Promise<void> {
    for (const tag of tagsOf(connectionId, groups))
      await memory.admit(tag, connectionBytes);
  }

  const groups = createGroups(stores, receipts, admit);

  const bridge: Bridge = {
    async prepare(input) {
      const connectionId = newConnectionId();
      await admitConnection(connectionId, input.groups ?? []);
      const { expiresAtMs } = await memberships.prepare(input, connectionId);
      return {
        connectionId,
        token: await tokens.forConnection(connectionId, input.userId ?? ""),
        expiresAt: new Date(expiresAtMs).toISOString(),
      };
    },
    push,
    pushToUser,
    settle,
    receipt: (messageId) => receipts.read(messageId),
    follow: (messageId, signal) => receipts.follow(messageId, signal),
    recall,
    inspect,
    list: (query) => registry.list(query),
    connectionsOf: (userId) => registry.ofUser(userId),
    explain: createExplain(stores, config),
    async pending(connectionId, query) {
      await inspect(connectionId);
      const { nowMs, sent, more, rows } = await log.pending(
        connectionId,
        query,
      );
      return {
        items: rows.map(({ entry, topic, bytes }) => ({
          id: entry.id,
          seq: entry.seq,
          status:
            entry.seq <= sent
              ? "sent"
              : entry.expiresAtMs < nowMs
                ? "expired"
                : "queued",
          contentType: entry.contentType,
          binary: entry.binary,
          bytes,
          topic: topic ?? null,
          acceptedAt: new Date(Math.floor(entry.seq / 1_000)).toISOString(),
          expiresAt: new Date(entry.expiresAtMs).toISOString(),
          preview:
            query.previewBytes === 0 || entry.binary
              ? null
              : // A character that was cut in the middle is left out.
                new TextDecoder().decode(entry.body, { stream: true }),
        })),
        next: more ? String(rows.at(-1)?.entry.seq ?? "") : null,
      };
    },
    async close(connectionId, { code, reason }) {
      await inspect(connectionId);
      await registry.end(connectionId, {
        reason: "closed_by_backend",
        code,
        words: reason,
      });
      await memberships.forget(connectionId);
      return registry.inspect(connectionId);
    },
    followEvents: (after, signal) => feed.follow(after, signal),
    lookAfter: (withinMs) =>
      registry.sweep(stores.remove, {
        limit: lookAtMost,
        withinMs,
      }),
    publish: groups.publish,
    group: groups.group,
    join: groups.join,
    leave: groups.leave,
    joinUser: groups.joinUser,
    leaveUser: groups.leaveUser,
    ready: () => redis.ready(),
  };

  return {
    bridge,
    close: () => stores.close(),
  };
}
