/** Groups as http-fn asks for them, on Redis: publish and recall, who is in a group, and memberships from outside. */
import type { Receipt } from "../shared/api.js";
import { BridgeError } from "../shared/errors.js";
import type { Naming, Position, Published } from "../shared/fanout.js";
import { groupTarget } from "../shared/group-receipts.js";
import {
  isConnectionId,
  newScheduledId,
  parseGroupMessageId,
} from "../shared/ids.js";
import { groupTag } from "../shared/keys.js";
import { isFinal, type Receipts } from "../shared/receipts.js";
import { confirmWithinMs } from "../shared/replication.js";
import type { Stores } from "../shared/stores.js";
import { isoTimes } from "../shared/time.js";
import type { Bridge, Publish, Pushed } from "./bridge.js";

/** What a membership takes, rounded up; bytes. */
const memberBytes = 512;

const acceptedUntil = isoTimes();

type Groups = Pick<
  Bridge,
  "publish" | "group" | "join" | "leave" | "joinUser" | "leaveUser"
> & { recall(messageId: string): Promise<Receipt> };

/** `admit` as in redis-bridge.ts: before anything is stored; throws redis_full. */
export function createGroups(
  {
    fanout,
    memberships,
    memory,
    queues,
    registry,
    replication,
  }: Pick<
    Stores,
    "fanout" | "memberships" | "memory" | "queues" | "registry" | "replication"
  >,
  receipts: Receipts,
  admit: (tag: string, publish: Publish) => Promise<void>,
): Groups {
  function refuseUnknown(connectionId: string): void {
    if (!isConnectionId(connectionId))
      throw new BridgeError("connection_not_found", {
        detail: "that is no connection ID",
      });
  }

  /** Waits for a replica, as for a connection: a replay waits again. */
  async function confirm(
    { group, idempotency }: Publish,
    { position, scheduledId }: Published,
    deadline: number,
  ): Promise<void> {
    const left = deadline - performance.now();
    const place =
      scheduledId === undefined
        ? { offset: position?.offset ?? 0 }
        : { scheduledId };
    const held = { group, place };
    await Promise.all([
      replication.confirm(
        idempotency ? { ...held, idempotencyKey: idempotency.key } : held,
        left,
      ),
      scheduledId !== undefined &&
        replication.confirmJob(held, scheduledId, left),
    ]);
  }

  async function publish(
    request: Publish,
    issued?: () => void,
  ): Promise<Pushed> {
    const { dueAtMs } = request;
    const tag = groupTag(request.group);
    await admit(tag, request);
    const durable = request.durability === "replica";
    const deadline = durable ? performance.now() + confirmWithinMs : 0;
    if (durable) await replication.ready(tag);
    let published: Published;
    if (dueAtMs === undefined) {
      const publishing = fanout.publish(request);
      issued?.();
      published = await publishing;
    } else {
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
    if (durable) await confirm(request, published, deadline);
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
        durability: durable ? "replica" : "local",
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

  async function join(
    group: string,
    connectionId: string,
    naming: Naming | undefined,
  ): Promise<Position> {
    await memory.admit(groupTag(group), memberBytes);
    return memberships.join(connectionId, group, naming);
  }

  /** Does something with every connection of a user; says with how many. Those that end meanwhile do not count. */
  async function ofUser(
    userId: string,
    doIt: (connectionId: string) => Promise<unknown>,
  ): Promise<number> {
    const done = await Promise.all(
      (await registry.ofUser(userId)).map(({ connectionId }) =>
        doIt(connectionId).then(
          () => 1,
          (error: unknown) => {
            const code = error instanceof BridgeError ? error.code : undefined;
            if (code === "connection_ended" || code === "connection_not_found")
              return 0;
            throw error;
          },
        ),
      ),
    );
    return done.reduce<number>((sum, n) => sum + n, 0);
  }

  return {
    publish,
    recall: recallFromGroup,
    async group(group, { limit, cursor = "" }) {
      const [counts, page] = await Promise.all([
        fanout.count(group),
        memberships.page(group, cursor, limit),
      ]);
      return { ...counts, ...page };
    },
    async join(group, connectionId, naming) {
      refuseUnknown(connectionId);
      return join(group, connectionId, naming);
    },
    joinUser: (group, userId, naming) =>
      ofUser(userId, (connectionId) => join(group, connectionId, naming)),
    leaveUser: (group, userId) =>
      ofUser(userId, (connectionId) => memberships.leave(connectionId, group)),
    async leave(group, connectionId) {
      refuseUnknown(connectionId);
      await memberships.leave(connectionId, group);
    },
  };
}
