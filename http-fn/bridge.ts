/**
 * What http-fn asks of the rest of the bridge. The form on Redis is in `shared`, the one in memory in the tests.
 * Everything is in the shapes of openapi.yaml; every refusal is a thrown `BridgeError`.
 */
import type {
  Accepted,
  Connection,
  ConnectionState,
  Explanation,
  PendingPage,
  PrepareRequest,
  Receipt,
} from "../shared/api.js";
import type { Following } from "../shared/event-feed.js";
import type { GroupPublish, Naming } from "../shared/fanout.js";
import type { Reply } from "../shared/replies.js";
import type { Revoked } from "../shared/revocations.js";

export interface Bridge {
  /** Throws redis_full, redis_unavailable, outcome_unknown, quota_exceeded by its `naming`. */
  prepare(
    input: PrepareRequest,
    naming?: Naming,
  ): Promise<{ connectionId: string; token: string; expiresAt: string }>;
  /**
   * Throws connection_not_found, connection_ended, log_full, redis_full, idempotency_…, redis_unavailable,
   * outcome_unknown, no_replica. Calls `issued` as soon as no later push can come before this one; mostly before it returns.
   */
  push(push: Push, issued?: () => void): Promise<Pushed>;
  /** To every open connection of a user, or parked. Throws as `push`; `issued` as there. */
  pushToUser(push: UserPush, issued?: () => void): Promise<Pushed>;
  /** Stores the answer of a waited push that carries an idempotency key, so that it can be replayed. */
  settle(push: Push | UserPush, answer: StoredAnswer): Promise<void>;
  /**
   * The first reply to a message that asks (`replyMs`). Throws, when the signal aborts before there is one, reply_timeout;
   * as soon as there can be none any more reply_impossible; outcome_unknown.
   */
  reply(
    pushed: Pushed,
    ask: { replyMs: number; hasKey: boolean },
    signal: AbortSignal,
  ): Promise<Reply>;
  /** Throws message_not_found. */
  receipt(messageId: string): Promise<Receipt>;
  /** First the current receipt, then each change; ends after a final one and when the signal aborts. */
  follow(messageId: string, signal: AbortSignal): AsyncGenerator<Receipt>;
  /** Throws message_not_found, already_sent, already_final, may_have_been_delivered. */
  recall(messageId: string): Promise<Receipt>;
  /** Throws connection_not_found, connection_ended. */
  inspect(connectionId: string): Promise<Connection>;
  list(query: ListQuery): Promise<{ items: Connection[]; next: string | null }>;
  /** Throws invalid_parameter for a key that the bridge signs with; redis_full, redis_unavailable, outcome_unknown. */
  revokeTokens(
    revoked: Revoked,
  ): Promise<{ revokedAtMs: number; untilMs: number }>;
  /** A user's connections that have not ended; none for a user nobody has heard of. */
  connectionsOf(userId: string): Promise<Connection[]>;
  /** What a push would do now; nothing is sent, stored or changed. Throws redis_unavailable. */
  explain(push: Push | UserPush | Publish): Promise<Explanation>;
  /** Messages of a connection that wait or are not acknowledged, oldest first. Throws connection_not_found, connection_ended. */
  pending(
    connectionId: string,
    query: { limit: number; after: number; previewBytes: number },
  ): Promise<PendingPage>;
  /** Throws connection_not_found, connection_ended. */
  close(
    connectionId: string,
    close: { code: number; reason: string },
  ): Promise<Connection>;
  /**
   * The events after a position; 0 is before all that are kept, none is now. Ends when the signal aborts. Throws
   * redis_unavailable.
   */
  followEvents(
    after: number | undefined,
    signal: AbortSignal,
  ): Promise<Following>;
  /** Looks after connections whose time is over; begins with nothing more once `withinMs` have passed. */
  lookAfter(withinMs: number): Promise<unknown>;
  /**
   * To every member of a group, `$all` included. Throws idempotency_mismatch, log_full, redis_full, redis_unavailable,
   * outcome_unknown, no_replica; `issued` as in `push`.
   */
  publish(publish: Publish, issued?: () => void): Promise<Pushed>;
  /** How many are in a group, and a page of them. */
  group(
    group: string,
    page: { limit: number; cursor?: string },
  ): Promise<{
    recipients: number;
    online: number;
    items: Connection[];
    next: string | null;
  }>;
  /** Throws connection_not_found, connection_ended, bad_request when it is in too many groups, quota_exceeded by its `naming`. */
  join(
    group: string,
    connectionId: string,
    naming?: Naming,
  ): Promise<{ epoch: string; offset: number }>;
  /** Throws connection_not_found, connection_ended. */
  leave(group: string, connectionId: string): Promise<void>;
  /** The same for every connection that a user has now; tells how many. */
  joinUser(group: string, userId: string, naming?: Naming): Promise<number>;
  leaveUser(group: string, userId: string): Promise<number>;
  /** Throws redis_unavailable. */
  ready(): Promise<void>;
}

export interface Push {
  connectionId: string;
  body: Buffer;
  contentType: string;
  binary: boolean;
  ttlSeconds: number;
  topic?: string;
  /** Milliseconds since 1970; absent means now. */
  dueAtMs?: number;
  idempotency?: {
    /** Hash of API key name, target and key. */
    key: string;
    fingerprint: string;
  };
  /** Resolve only when a replica has it, too; throws no_replica, outcome_unknown. */
  durability?: "replica";
  /** True when a later message to the same target went out meanwhile: this one must not be tried again after it. */
  overtaken?: () => boolean;
  /** Milliseconds the answer will wait for the final state; `settle` follows. */
  waitMs?: number;
  /** The message asks: a reply is taken for so long, milliseconds. Throws reply_impossible when nobody can. */
  replyMs?: number;
}

export interface UserPush extends Omit<Push, "connectionId"> {
  userId: string;
}

/** A message to a group. */
export type Publish = GroupPublish & {
  /** Milliseconds since 1970; absent means now. */
  dueAtMs?: number;
};

export interface Pushed {
  messageId: string;
  accepted: Accepted;
  /** A replay: the stored answer, or true for the 202 with `accepted` again. */
  replayed?: StoredAnswer | true;
}

/** An answer as it went out; `body` is JSON. */
export interface StoredAnswer {
  status: number;
  body: string;
}

export interface ListQuery {
  userId?: string;
  group?: string;
  state?: ConnectionState;
  limit: number;
  cursor?: string;
}
