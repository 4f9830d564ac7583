/** The bridge on Redis: what http-fn asks for, put together from the shared rooms. */
import type { Accepted, Connection, Receipt } from "../shared/api.js";
import type { Config } from "../shared/config.js";
import { BridgeError, connectionEnded } from "../shared/errors.js";
import type { Published } from "../shared/fanout.js";
import { groupTarget } from "../shared/group-receipts.js";
import {
  isConnectionId,
  newScheduledId,
  parseGroupMessageId,
  parseMessageId,
  randomBase62,
} from "../shared/ids.js";
import { channels } from "../shared/keys.js";
import type { Append, Appended } from "../shared/log.js";
import type { Logger } from "../shared/logging.js";
import { isFinal, Receipts } from "../shared/receipts.js";
import { confirmWithinMs } from "../shared/replication.js";
import { isoTimes } from "../shared/time.js";
import { openStores } from "../shared/stores.js";
import type { Bridge, Publish, Push, Pushed, StoredAnswer } from "./bridge.js";

/** A waited request may go on this long after its wait before a replay gets the plain 202. */
const busyMarginMs = 2_000;
/** How long the owner of a connection may take to decide about a recall (rule 10). */
const recallDeadlineMs = 1_000;

const acceptedUntil = isoTimes();

/** A bridge with its connections; `close` ends them. */
export interface OpenBridge {
  bridge: Bridge;
  close(): Promise<void>;
}

/** Connects to Redis in the background: a bridge exists before its Redis answers. */
export function openBridge(config: Config, logger: Logger): OpenBridge {
  const stores = openStores(config, logger);
  const { redis, registry, log, queues, replication, tokens } = stores;
  const { fanout, memberships } = stores;
  const receipts = new Receipts(redis, log, fanout, config.receiptMs);

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

  async function push(request: Push): Promise<Pushed> {
    refuseUnknown(request.connectionId);
    const durable = request.durability === "replica";
    const deadline = durable ? performance.now() + confirmWithinMs : 0;
    if (durable) await replication.ready(request.connectionId);
    const append = toAppend(request);
    const appended =
      request.dueAtMs === undefined
        ? await log.append(append)
        : await schedule(append, request.dueAtMs);
    await Promise.all([
      appended.jobEpoch > 0 &&
        queues.wake(request.connectionId, appended.jobEpoch),
      durable && confirm(request, appended, deadline),
    ]);
    const accepted: Accepted = {
      id: appended.messageId,
      status: appended.status,
      to: { connection: request.connectionId },
      recipients: 1,
      online: appended.online ? 1 : 0,
      expiresAt: acceptedUntil(appended.expiresAtMs),
      durability: durable ? "replica" : "local",
    };
    const pushed: Pushed = { messageId: appended.messageId, accepted };
    if (appended.replayed !== undefined)
      pushed.replayed =
        appended.replayed === null
          ? true
          : (JSON.parse(appended.replayed) as StoredAnswer);
    return pushed;
  }

  async function publish(request: Publish): Promise<Pushed> {
    const { dueAtMs } = request;
    let published: Published;
    if (dueAtMs === undefined) published = await fanout.publish(request);
    else {
      const fresh = newScheduledId();
      published = await fanout.schedule(request, fresh, dueAtMs);
      // A replay as well: the first request may have ended before its job was stored. A key may have published at once, too.
      const { scheduledId, replayed } = published;
      try {
        if (scheduledId !== undefined)
          await queues.scheduleGroup(
            request,
            scheduledId,
            Math.max(0, dueAtMs - Date.now()),
          );
      } catch (error) {
        if (!replayed)
          await fanout.unschedule(request, fresh).catch(() => undefined);
        throw error instanceof BridgeError
          ? error
          : new BridgeError("outcome_unknown", { retryAfterSeconds: 1 }, error);
      }
    }
    const { messageId, status, recipients, online, expiresAtMs } = published;
    return {
      messageId,
      accepted: {
        id: messageId,
        status,
        to: groupTarget(request.group),
        recipients,
        online,
        expiresAt: acceptedUntil(expiresAtMs),
        durability: "local",
      },
      ...(published.replayed ? { replayed: true } : {}),
    };
  }

  /** Only what waits for its time can be taken back: once published, every instance has it. */
  async function recallFromGroup(messageId: string): Promise<Receipt> {
    const route = parseGroupMessageId(messageId);
    const before = await receipts.read(messageId);
    const outcome =
      route?.kind === "scheduled"
        ? await fanout.recall(route.group, route.scheduledId)
        : "sent";
    if (outcome === "recalled" && route?.kind === "scheduled") {
      // Only tidiness: a job that still runs finds the recall.
      await queues.unschedule(route.scheduledId).catch(() => undefined);
      return receipts.read(messageId);
    }
    if (outcome === "not_found") throw new BridgeError("message_not_found");
    if (outcome === "final" || isFinal(before.status))
      throw new BridgeError("already_final", {
        detail: `the message is ${before.status}`,
      });
    if (before.status === "queued")
      throw new BridgeError("may_have_been_delivered", {
        detail: "the message is published; a member may have it",
      });
    throw new BridgeError("already_sent", {
      detail: "the message was published to the group",
    });
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

  async function recall(messageId: string): Promise<Receipt> {
    if (parseGroupMessageId(messageId)) return recallFromGroup(messageId);
    const route = parseMessageId(messageId);
    // Tells an unknown message from one that cannot be recalled.
    await receipts.read(messageId);
    if (!route) throw new Error("a readable message has a route");
    const { connectionId } = route;
    let outcome: string;
    let seq: number | undefined;
    if (route.kind === "scheduled") {
      const word = await log.recallScheduled(connectionId, route.scheduledId);
      if (typeof word === "number") seq = word;
      else if (word === "recalled")
        // Only tidiness: a job that still runs finds the recall in the connection's hash.
        await queues.unschedule(route.scheduledId).catch(() => undefined);
      outcome = String(word);
    } else {
      seq = route.seq;
      outcome = "";
    }
    if (seq !== undefined) {
      const word = await log.recall(connectionId, seq);
      outcome =
        typeof word === "string"
          ? word
          : await recallFromOwner(connectionId, seq, word.ask);
    }
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

  const bridge: Bridge = {
    async prepare(input) {
      const { connectionId, expiresAtMs } = await memberships.prepare(input);
      return {
        connectionId,
        token: await tokens.forConnection(connectionId, input.userId ?? ""),
        expiresAt: new Date(expiresAtMs).toISOString(),
      };
    },
    push,
    async settle(request, answer) {
      const { idempotency } = request;
      if (idempotency)
        await log.settle(
          request.connectionId,
          idempotency,
          JSON.stringify(answer),
        );
    },
    receipt: (messageId) => receipts.read(messageId),
    follow: (messageId, signal) => receipts.follow(messageId, signal),
    recall,
    inspect,
    list: (query) => registry.list(query),
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
    publish,
    async group(group, { limit, cursor = "" }) {
      const [counts, page] = await Promise.all([
        fanout.count(group),
        memberships.page(group, cursor, limit),
      ]);
      return { ...counts, ...page };
    },
    async join(group, connectionId) {
      refuseUnknown(connectionId);
      return memberships.join(connectionId, group);
    },
    async leave(group, connectionId) {
      refuseUnknown(connectionId);
      await memberships.leave(connectionId, group);
    },
    ready: () => redis.ready(),
  };

  return {
    bridge,
    close: () => stores.close(),
  };
}
