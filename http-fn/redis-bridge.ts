/** The bridge on Redis: what http-fn asks for, put together from the shared rooms. */
import type { Connection } from "../shared/api.js";
import type { Config } from "../shared/config.js";
import { connectionEnded } from "../shared/errors.js";
import { EventFeed } from "../shared/event-feed.js";
import { Gathering } from "../shared/gathering.js";
import { newConnectionId } from "../shared/ids.js";
import type { Logger } from "../shared/logging.js";
import { tagsOf } from "../shared/membership.js";
import { Receipts } from "../shared/receipts.js";
import type { RedisLink } from "../shared/redis.js";
import type { RedisMemory } from "../shared/redis-memory.js";
import { revoke } from "../shared/revocations.js";
import { openStores } from "../shared/stores.js";
import type { Bridge } from "./bridge.js";
import { invalidParameter } from "./contract.js";
import { createExplain } from "./explain.js";
import { createAsks } from "./redis-asks.js";
import { createGroups } from "./redis-groups.js";
import { createPushes, refuseUnknown } from "./redis-push.js";
import { createRecall } from "./redis-recall.js";

/** What a new connection takes besides its labels and groups, rounded up; bytes. */
const connectionBytes = 1_024;
/** Connections in one look before an answer: what fits into its few milliseconds. */
const lookAtMost = 20;

/** A bridge with its connections; `close` ends them. */
export interface OpenBridge {
  bridge: Bridge;
  /** For what the processes share besides (key-quotas.ts). */
  redis: RedisLink;
  memory: RedisMemory;
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
    users,
    tokens,
  } = stores;
  const receipts = new Receipts(
    redis,
    { log, users, fanout },
    config.receiptMs,
  );
  const feed = new EventFeed(events, redis);
  const asks = createAsks(stores, receipts);

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

  const { admit, ...pushes } = createPushes(
    stores,
    new Gathering(log, redis),
    asks.checkAsk,
  );
  const groups = createGroups(stores, receipts, admit);

  const bridge: Bridge = {
    async prepare(input, naming) {
      const connectionId = newConnectionId();
      await admitConnection(connectionId, input.groups ?? []);
      const { expiresAtMs } = await memberships.prepare(
        input,
        connectionId,
        naming,
      );
      return {
        connectionId,
        token: await tokens.forConnection(connectionId, input.userId ?? ""),
        expiresAt: new Date(expiresAtMs).toISOString(),
      };
    },
    push: pushes.push,
    pushToUser: pushes.pushToUser,
    settle: pushes.settle,
    reply: asks.reply,
    receipt: (messageId) => receipts.read(messageId),
    follow: (messageId, signal) => receipts.follow(messageId, signal),
    recall: createRecall(stores, receipts, groups.recall),
    inspect,
    list: (query) => registry.list(query),
    async revokeTokens(revoked) {
      if ("kid" in revoked && (await tokens.signsWith(revoked.kid)))
        throw invalidParameter(
          "/query/kid",
          "is a key that the bridge signs with: take it out of TOKEN_KEYS first",
        );
      const revokedAtMs = await revoke(redis, revoked, config.revokedMs);
      return { revokedAtMs, untilMs: revokedAtMs + config.revokedMs };
    },
    connectionsOf: (userId) => registry.ofUser(userId),
    explain: createExplain(stores, config, (tag) => memory.admit(tag, 0)),
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
      registry.sweep(stores.sweeping, {
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
    redis,
    memory,
    close: () => stores.close(),
  };
}
