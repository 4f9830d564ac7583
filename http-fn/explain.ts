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
import { userTag } from "../shared/ids.js";
import { groupTag } from "../shared/keys.js";
import type { Stores } from "../shared/stores.js";
import type { Publish, Push, UserPush } from "./bridge.js";
import { explainGroup } from "./explain-group.js";
import type { AnyPush } from "./push-request.js";
import { nobodyCanReply } from "./redis-asks.js";

type Looks = Pick<
  Stores,
  "registry" | "log" | "users" | "replication" | "fanout" | "memberships"
>;

/** What is stored under the push's idempotency key, in one word. */
type Known = NonNullable<Explanation["idempotency"]>;

/** What was found at the target. */
interface Found extends Pick<
  Explanation,
  "to" | "recipients" | "online" | "members"
> {
  /** What is stored under its idempotency key, and how many words of it come before the answer. */
  stored: string;
  factsStored: number;
  refusal: BridgeError | undefined;
  parked: boolean;
  /** The longest that a message lives there, milliseconds. */
  lifeMs: number;
}

/** `admit` as before a push: throws redis_full where `{tag}` lies. */
export function createExplain(
  looks: Looks,
  config: Config,
  admit: (tag: string) => Promise<void> | undefined,
) {
  const { registry, log, users, replication } = looks;
  const { logMaxMessages, logMaxBytes } = config;

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

  /** What stands in the way before the target is looked at: Redis is full, or has no replica. */
  async function inTheWay(
    push: AnyPush,
    tag: string,
  ): Promise<BridgeError | undefined> {
    try {
      await admit(tag);
      if (push.durability === "replica") await replication.ready(tag);
      return undefined;
    } catch (error) {
      if (
        error instanceof BridgeError &&
        (error.code === "no_replica" || error.code === "redis_full")
      )
        return error;
      throw error;
    }
  }

  async function atConnection(push: Push): Promise<Found> {
    const { connectionId, body, idempotency, dueAtMs } = push;
    const found = await connectionOf(connectionId);
    const to = { connection: connectionId };
    const nothing = { parked: false, lifeMs: Infinity, factsStored: 4 };
    if (found instanceof BridgeError)
      return {
        ...nothing,
        to,
        recipients: [],
        online: 0,
        stored: "",
        refusal: found,
      };
    const room = await log.room(connectionId, body.length, idempotency?.key);
    return {
      ...nothing,
      to,
      recipients: [await recipient(found, push)],
      online: found.state === "open" ? 1 : 0,
      stored: room.stored,
      refusal:
        (await inTheWay(push, connectionId)) ??
        (dueAtMs === undefined ? room.full : undefined),
    };
  }

  async function atUser(push: UserPush): Promise<Found> {
    const { userId, body, idempotency, dueAtMs, ttlSeconds } = push;
    const open = (await registry.ofUser(userId, true)).filter(
      ({ state }) => state === "open",
    );
    const recipients = await Promise.all(
      open.map((connection) => recipient(connection, push)),
    );
    const room = await users.room(userId, body.length, idempotency?.key);
    const parked = open.length === 0 && ttlSeconds > 0;
    let refusal = await inTheWay(push, userTag(userId));
    if (dueAtMs === undefined && refusal === undefined) {
      if (parked) refusal = room.full;
      else if (
        open.length > 0 &&
        recipients.every(({ problem }) => problem !== null)
      )
        refusal = new BridgeError("log_full");
    }
    return {
      to: { user: userId },
      recipients,
      online: open.length,
      stored: room.stored,
      factsStored: 1,
      refusal,
      parked,
      lifeMs: Infinity,
    };
  }

  async function atGroup(push: Publish): Promise<Found> {
    const { full, historyMs, ...reach } = await explainGroup(looks, push);
    return {
      ...reach,
      // A publish is answered at once: nobody is ever told that the first one is still running.
      factsStored: 0,
      refusal: (await inTheWay(push, groupTag(push.group))) ?? full,
      parked: false,
      lifeMs: historyMs,
    };
  }

  return async (push: AnyPush): Promise<Explanation> => {
    const { idempotency, dueAtMs, ttlSeconds, body } = push;
    const found = await ("group" in push
      ? atGroup(push)
      : "userId" in push
        ? atUser(push)
        : atConnection(push));
    const replyMs = "replyMs" in push ? push.replyMs : undefined;
    let { refusal } = found;
    if (replyMs !== undefined) {
      refusal ??= nobodyCanReply(found.recipients);
      if (ttlSeconds === 0 && found.online === 0)
        refusal ??= new BridgeError("reply_impossible", {
          reason: "not_connected",
        });
    }
    let known: Known = "none";
    if (idempotency) {
      const [first, busyUntil, ...rest] = found.stored.split(" ");
      // Before the answer there is the place, and of a connection's message the facts of its 202 (log-scripts.ts).
      const isAnswered =
        found.factsStored === 0 ||
        rest.slice(found.factsStored).join("") !== "" ||
        replyMs !== undefined;
      if (found.stored === "") known = "new";
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
      to: found.to,
      status: refusal?.status ?? (replyMs === undefined ? 202 : 200),
      outcome:
        refusal !== undefined
          ? null
          : dueAtMs !== undefined
            ? "scheduled"
            : ttlSeconds === 0 && found.online === 0
              ? "undeliverable"
              : "queued",
      problem: refusal === undefined ? null : toProblem(refusal),
      recipients: found.recipients,
      online: found.online,
      ...(found.members === undefined ? {} : { members: found.members }),
      parked: found.parked && refusal === undefined,
      idempotency: known,
      message: {
        contentType: push.contentType,
        binary: push.binary,
        bytes: body.length,
        ttl: ttlSeconds,
        topic: ("topic" in push ? push.topic : undefined) ?? null,
        dueAt: dueAtMs === undefined ? null : new Date(dueAtMs).toISOString(),
        expiresAt: new Date(
          (dueAtMs ?? Date.now()) + Math.min(ttlSeconds * 1_000, found.lifeMs),
        ).toISOString(),
        durability: push.durability ?? "local",
      },
      limits:
        "group" in push
          ? {
              messages: config.groupHistoryMessages,
              bytes: config.groupHistoryBytes,
            }
          : { messages: logMaxMessages, bytes: logMaxBytes },
    };
  };
}
