/** Pushes on Redis: to a connection and to a user, at once or for later, until a replica has them where that is asked for. */
import type { Accepted } from "../shared/api.js";
import { BridgeError } from "../shared/errors.js";
import type { Gathering } from "../shared/gathering.js";
import {
  isConnectionId,
  newScheduledId,
  parseMessageId,
  userTag,
} from "../shared/ids.js";
import { scheduleTag } from "../shared/keys.js";
import type {
  Append,
  Appended,
  Idempotency,
  PlainAppend,
} from "../shared/log.js";
import { confirmWithinMs } from "../shared/replication.js";
import type { Stores } from "../shared/stores.js";
import { isoTimes } from "../shared/time.js";
import type { Bridge, Push, Pushed, StoredAnswer, UserPush } from "./bridge.js";
import type { AnyPush } from "./push-request.js";

/** A waited request may go on this long after its wait before a replay gets the plain 202. */
const busyMarginMs = 2_000;

const acceptedUntil = isoTimes();

/** Whether a push has none of the options that need more than the append. */
const isPlain = (push: Push): push is Push & PlainAppend =>
  push.ttlSeconds > 0 &&
  push.idempotency === undefined &&
  push.topic === undefined &&
  push.dueAtMs === undefined &&
  push.replyMs === undefined &&
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

/** The key of a push, and until when its first request may still be waiting. */
const keyOf = ({
  idempotency,
  waitMs,
}: Pick<Push, "idempotency" | "waitMs">): { idempotency?: Idempotency } =>
  idempotency === undefined
    ? {}
    : {
        idempotency: {
          ...idempotency,
          busyMs: waitMs ? waitMs + busyMarginMs : 0,
        },
      };

/** A push as answered; `stored`: the first answer to its key, null for the 202 again. */
const pushedBy = (
  accepted: Accepted,
  stored: string | null | undefined,
): Pushed => ({
  messageId: accepted.id,
  accepted,
  ...(stored === undefined
    ? {}
    : {
        replayed: stored === null ? true : (JSON.parse(stored) as StoredAnswer),
      }),
});

/** Throws connection_not_found for what cannot be a connection. */
export function refuseUnknown(connectionId: string): void {
  if (!isConnectionId(connectionId))
    throw new BridgeError("connection_not_found", {
      detail: "that is no connection ID",
    });
}

type Pushes = Pick<Bridge, "push" | "pushToUser" | "settle"> & {
  /**
   * Before anything is stored under `{tag}`. Throws redis_full and reply_impossible, but not at a request that was taken before: it adds nothing,
   * and its publisher must not hear that its message is not there.
   */
  admit(tag: string, push: AnyPush): Promise<void>;
};

export function createPushes(
  {
    log,
    memory,
    queues,
    registry,
    replication,
    users,
  }: Pick<
    Stores,
    "log" | "memory" | "queues" | "registry" | "replication" | "users"
  >,
  gathering: Gathering,
  /** Throws reply_impossible when nobody can give the reply that is asked for. */
  checkAsk: (push: Push | UserPush) => Promise<void>,
): Pushes {
  const toAppend = (push: Push): Append => ({
    connectionId: push.connectionId,
    body: push.body,
    contentType: push.contentType,
    binary: push.binary,
    ttlSeconds: push.ttlSeconds,
    ...(push.topic === undefined ? {} : { topic: push.topic }),
    ...(push.durability ? { durability: push.durability } : {}),
    ...(push.overtaken ? { overtaken: push.overtaken } : {}),
    ...(push.replyMs === undefined ? {} : { replyMs: push.replyMs }),
    ...keyOf(push),
  });

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
          replication.confirmJob(held, place.scheduledId, left),
      ]);
    } catch (error) {
      // This request does not wait for the receipt any more, so a retry must not be told that it still does.
      if (idempotency && request.waitMs)
        await log.settle(connectionId, idempotency, "").catch(() => undefined);
      throw error;
    }
  }

  /** The same for a user: what is known of the message, and each connection's copy, wherever they lie. */
  async function confirmOfUser(
    { userId, idempotency, dueAtMs }: UserPush,
    messageId: string,
    deadline: number,
  ): Promise<void> {
    const route = parseMessageId(messageId);
    if (route?.kind !== "user") throw new Error("a user's message has a route");
    const record = await users.record(route.userTag, route.place);
    const left = deadline - performance.now();
    try {
      await Promise.all([
        replication.confirmOfUser(
          { ...route, deliveries: record?.deliveries ?? [] },
          left,
        ),
        dueAtMs !== undefined &&
          replication.confirmJob(route, route.place, left),
      ]);
    } catch (error) {
      if (idempotency)
        await users.answer(userId, idempotency, "").catch(() => undefined);
      throw error;
    }
  }

  async function admit(tag: string, push: AnyPush): Promise<void> {
    const { body, dueAtMs, idempotency } = push;
    try {
      if ("replyMs" in push) await checkAsk(push);
      const known = memory.admit(tag, body.length);
      if (known) await known;
      if (dueAtMs !== undefined)
        await memory.admit(scheduleTag, body.length * 2);
    } catch (error) {
      if (!idempotency || !(await log.knows(tag, idempotency))) throw error;
    }
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
    if (registry.hasDead) await registry.settle([connectionId]);
    const appending = gathering.append(request);
    issued?.();
    const appended = await appending;
    if (appended.unheard) await queues.wake(connectionId, appended.unheard);
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
    await registry.settle([request.connectionId]);
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
      appended.unheard && queues.wake(request.connectionId, appended.unheard),
      durable && confirm(request, appended, deadline),
    ]);
    return pushedBy(acceptedBy(request, appended), appended.replayed);
  }

  async function pushToUser(
    request: UserPush,
    issued?: () => void,
  ): Promise<Pushed> {
    const { userId, idempotency, waitMs, ...message } = request;
    const tag = userTag(userId);
    await admit(tag, request);
    const durable = request.durability === "replica";
    const deadline = durable ? performance.now() + confirmWithinMs : 0;
    if (durable) await replication.ready(tag);
    const appended = await users.push(
      { ...message, userId, ...keyOf(request) },
      issued,
    );
    const { messageId, recipients, online, status } = appended;
    if (durable) await confirmOfUser(request, messageId, deadline);
    const accepted: Accepted = {
      id: messageId,
      status,
      to: { user: userId },
      recipients,
      online,
      expiresAt: acceptedUntil(appended.expiresAtMs),
      durability: durable ? "replica" : "local",
    };
    if (appended.replayed === undefined && idempotency && !waitMs)
      await settle(request, { status: 202, body: JSON.stringify(accepted) });
    return pushedBy(accepted, appended.replayed);
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

  return {
    push: (request, issued) =>
      isPlain(request)
        ? pushPlain(request, issued)
        : pushWithOptions(request, issued),
    pushToUser,
    settle,
    admit,
  };
}
