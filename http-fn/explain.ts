/**
 * Explains a push without doing it: who would get it, where, under which limits, and what would refuse it. Only reads; what
 * it says holds for the moment at which it looked.
 */
import type {
  Connection,
  Explanation,
  ExplainedRecipient,
} from "../shared/api.js";
import type { Config } from "../shared/config.js";
import { BridgeError, connectionEnded, toProblem } from "../shared/errors.js";
import type { Stores } from "../shared/stores.js";
import type { Push, UserPush } from "./bridge.js";
import { nobodyCanReply } from "./redis-asks.js";

type Looks = Pick<Stores, "registry" | "log" | "users" | "replication">;

/** What is stored under the push's idempotency key, in one word. */
type Known = NonNullable<Explanation["idempotency"]>;

export function createExplain(
  { registry, log, users, replication }: Looks,
  { logMaxMessages, logMaxBytes }: Config,
) {
  /** One connection: what it is, and what would refuse a message of `push`'s size there. */
  async function recipient(
    connection: Connection,
    push: Push | UserPush,
  ): Promise<ExplainedRecipient> {
    const { connectionId, state, instance, protocol } = connection;
    const room = await log.room(connectionId, push.body.length, undefined);
    return {
      connection: connectionId,
      state,
      instance,
      protocol,
      pending: room.messages,
      pendingBytes: room.bytes,
      problem: room.full === undefined ? null : toProblem(room.full),
      ...(push.replyMs === undefined
        ? {}
        : { canReply: protocol === null ? null : protocol !== "raw" }),
    };
  }

  async function connectionOf(id: string): Promise<Connection | BridgeError> {
    try {
      const found = await registry.inspect(id);
      return found.state === "ended"
        ? connectionEnded(
            Date.parse(found.endedAt ?? found.createdAt),
            found.reason ?? "",
          )
        : found;
    } catch (error) {
      if (error instanceof BridgeError && error.code === "connection_not_found")
        return error;
      throw error;
    }
  }

  async function noReplica(push: Push): Promise<BridgeError | undefined> {
    if (push.durability !== "replica") return undefined;
    try {
      await replication.ready(push.connectionId);
      return undefined;
    } catch (error) {
      if (error instanceof BridgeError && error.code === "no_replica")
        return error;
      throw error;
    }
  }

  return async (push: Push | UserPush): Promise<Explanation> => {
    const { idempotency, dueAtMs, ttlSeconds, topic, body } = push;
    let refusal: BridgeError | undefined;
    let recipients: ExplainedRecipient[] = [];
    let stored = "";
    let parked = false;
    if ("userId" in push) {
      const open = (await registry.ofUser(push.userId, true)).filter(
        ({ state }) => state === "open",
      );
      recipients = await Promise.all(
        open.map((connection) => recipient(connection, push)),
      );
      const room = await users.room(push.userId, body.length, idempotency?.key);
      ({ stored } = room);
      parked = open.length === 0 && ttlSeconds > 0;
      if (dueAtMs === undefined) {
        if (parked) refusal = room.full;
        else if (recipients.every(({ problem }) => problem !== null))
          refusal = open.length > 0 ? new BridgeError("log_full") : undefined;
      }
    } else {
      const { connectionId } = push;
      const found = await connectionOf(connectionId);
      if (found instanceof BridgeError) refusal = found;
      else {
        recipients = [await recipient(found, push)];
        const room = await log.room(
          connectionId,
          body.length,
          idempotency?.key,
        );
        ({ stored } = room);
        refusal =
          (await noReplica(push)) ??
          (dueAtMs === undefined ? room.full : undefined);
      }
    }
    const online = recipients.filter(({ state }) => state === "open").length;
    if (push.replyMs !== undefined) {
      refusal ??= nobodyCanReply(recipients);
      if (ttlSeconds === 0 && online === 0)
        refusal ??= new BridgeError("reply_impossible", {
          reason: "not_connected",
        });
    }
    let known: Known = "none";
    if (idempotency) {
      const [first, busyUntil, ...rest] = stored.split(" ");
      // Before the answer there is the place, and of a connection's message the facts of its 202 (log-scripts.ts).
      const isAnswered =
        rest.slice("userId" in push ? 1 : 4).join("") !== "" ||
        push.replyMs !== undefined;
      if (stored === "") known = "new";
      else if (first !== idempotency.fingerprint) {
        known = "mismatch";
        refusal = new BridgeError("idempotency_mismatch");
      } else if (Number(busyUntil) > Date.now() && !isAnswered) {
        known = "in_progress";
        refusal = new BridgeError("idempotency_in_progress");
      } else {
        known = "replay";
        refusal = undefined;
      }
    }
    return {
      explain: true,
      to:
        "userId" in push
          ? { user: push.userId }
          : { connection: push.connectionId },
      status: refusal?.status ?? (push.replyMs === undefined ? 202 : 200),
      outcome:
        refusal !== undefined
          ? null
          : dueAtMs !== undefined
            ? "scheduled"
            : ttlSeconds === 0 && online === 0
              ? "undeliverable"
              : "queued",
      problem: refusal === undefined ? null : toProblem(refusal),
      recipients,
      online,
      parked: parked && refusal === undefined,
      idempotency: known,
      message: {
        contentType: push.contentType,
        binary: push.binary,
        bytes: body.length,
        ttl: ttlSeconds,
        topic: topic ?? null,
        dueAt: dueAtMs === undefined ? null : new Date(dueAtMs).toISOString(),
        expiresAt: new Date(
          (dueAtMs ?? Date.now()) + ttlSeconds * 1_000,
        ).toISOString(),
        durability:
          "durability" in push && push.durability ? "replica" : "local",
      },
      limits: { messages: logMaxMessages, bytes: logMaxBytes },
    };
  };
}
