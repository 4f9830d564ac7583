/** What both functions keep in Redis, put together once: registry, log, events, groups, queues, users, tokens, over one link. */
import { Answers, answerScripts } from "./answers.js";
import type { Config } from "./config.js";
import { Events, eventScripts, type EventsOptions } from "./events.js";
import { Fanout, fanoutScripts } from "./fanout.js";
import { Log, logScripts } from "./log.js";
import { laneScripts } from "./lane-scripts.js";
import type { Logger } from "./logging.js";
import { Memberships, membershipScripts } from "./membership.js";
import { accuseScript } from "./poison.js";
import { DeliveryQueues } from "./queue.js";
import { quotaScript } from "./quotas.js";
import { RedisLink, type Script } from "./redis.js";
import { RedisMemory } from "./redis-memory.js";
import { Registry, registryScripts, type SweepPorts } from "./registry.js";
import { Replies, replyScripts } from "./replies.js";
import { revokeScript } from "./revocations.js";
import { Replication, replicationScripts } from "./replication.js";
import { Tokens } from "./tokens.js";
import { userScripts } from "./user-scripts.js";
import { Users } from "./users.js";
import { WebhookQueue } from "./webhook-queue.js";

/** What the webhook answered is kept for so much longer than a client may be away, milliseconds. */
const answerMarginMs = 60_000;

/** Every script of ours: a Redis link knows those that it was made with. */
export const scripts: readonly Script[] = [
  ...logScripts,
  ...registryScripts,
  ...eventScripts,
  ...laneScripts,
  ...fanoutScripts,
  ...membershipScripts,
  ...replicationScripts,
  ...userScripts,
  ...replyScripts,
  ...answerScripts,
  accuseScript,
  quotaScript,
  revokeScript,
];

export interface Stores {
  redis: RedisLink;
  memory: RedisMemory;
  registry: Registry;
  log: Log;
  events: Events;
  fanout: Fanout;
  memberships: Memberships;
  queues: DeliveryQueues;
  /** Lanes of events that wait for the webhook. */
  webhooks: WebhookQueue;
  users: Users;
  replies: Replies;
  answers: Answers;
  replication: Replication;
  tokens: Tokens;
  /** What a sweep of the registry needs of others. */
  sweeping: SweepPorts;
  /** Ends Workers, then connections. */
  close(): Promise<void>;
}

/** Connects in the background: the stores exist before their Redis answers. */
export function openStores(
  config: Config & Pick<EventsOptions, "standstillMs">,
  logger: Logger,
): Stores {
  const redis = new RedisLink(config.redisUrl, scripts, logger);
  const memory = new RedisMemory(redis, config.redisMemoryHigh, logger);
  void memory.look();
  const webhooks = new WebhookQueue(redis, logger);
  const events = new Events(redis, config, webhooks);
  const groupKeepMs =
    config.groupHistoryMs + config.resumeMs + config.receiptMs;
  const registry = new Registry(redis, { ...config, groupKeepMs }, events);
  const limits = {
    maxMessages: config.logMaxMessages,
    maxBytes: config.logMaxBytes,
    resumeMs: config.resumeMs,
    receiptMs: config.receiptMs,
    idempotencyMs: config.idempotencyMs,
  };
  const log = new Log(redis, limits, (connectionId) =>
    registry.lapse(connectionId),
  );
  const fanout = new Fanout(redis, {
    historyMs: config.groupHistoryMs,
    historyMessages: config.groupHistoryMessages,
    historyBytes: config.groupHistoryBytes,
    keepMs: groupKeepMs,
    receiptMs: config.receiptMs,
    idempotencyMs: config.idempotencyMs,
    scheduledMax: config.logMaxMessages,
  });
  const memberships = new Memberships(redis, registry, fanout);
  const queues = new DeliveryQueues(redis, logger);
  const replies = new Replies(redis, limits);
  const tokens = new Tokens(
    {
      keys: config.tokenKeys,
      issuer: config.tokenIssuer,
      audience: config.tokenAudience,
      failed: (error) =>
        logger.warn(
          { err: error },
          "the keys of TOKEN_KEYS could not be read again: those known are used on",
        ),
    },
    redis,
  );
  return {
    redis,
    memory,
    registry,
    log,
    events,
    fanout,
    memberships,
    queues,
    webhooks,
    users: new Users({ redis, registry, log, queues, replies }, limits),
    replies,
    answers: new Answers(redis, config.resumeMs + answerMarginMs),
    replication: new Replication(redis, logger),
    tokens,
    sweeping: {
      async remove(connectionId) {
        await memberships.forget(connectionId);
        await queues.unscheduleAll(connectionId);
      },
      away: (...call) => memberships.away(...call),
      retire: (instance) => queues.retire(instance),
    },
    async close() {
      await Promise.all([queues.close(), webhooks.close()]);
      redis.close();
    },
  };
}
