/** What both functions keep in Redis, put together once: registry, log, groups, queues, replication, tokens, over one link. */
import type { Config } from "./config.js";
import { Fanout, fanoutScripts } from "./fanout.js";
import { Log, logScripts } from "./log.js";
import type { Logger } from "./logging.js";
import { Memberships, membershipScripts } from "./membership.js";
import { accuseScript } from "./poison.js";
import { DeliveryQueues } from "./queue.js";
import { RedisLink } from "./redis.js";
import { Registry, registryScripts } from "./registry.js";
import { Replication, replicationScripts } from "./replication.js";
import { Tokens } from "./tokens.js";

export interface Stores {
  redis: RedisLink;
  registry: Registry;
  log: Log;
  fanout: Fanout;
  memberships: Memberships;
  queues: DeliveryQueues;
  replication: Replication;
  tokens: Tokens;
  /** Ends Workers, then connections. */
  close(): Promise<void>;
}

/** Connects in the background: the stores exist before their Redis answers. */
export function openStores(config: Config, logger: Logger): Stores {
  const redis = new RedisLink(
    config.redisUrl,
    [
      ...logScripts,
      ...registryScripts,
      ...fanoutScripts,
      ...membershipScripts,
      ...replicationScripts,
      accuseScript,
    ],
    logger,
  );
  const registry = new Registry(redis, config);
  const log = new Log(
    redis,
    {
      maxMessages: config.logMaxMessages,
      maxBytes: config.logMaxBytes,
      resumeMs: config.resumeMs,
      receiptMs: config.receiptMs,
      idempotencyMs: config.idempotencyMs,
    },
    (connectionId) => registry.lapse(connectionId),
  );
  const fanout = new Fanout(redis, {
    historyMs: config.groupHistoryMs,
    historyMessages: config.groupHistoryMessages,
    historyBytes: config.groupHistoryBytes,
    keepMs: config.groupHistoryMs + config.resumeMs + config.receiptMs,
    receiptMs: config.receiptMs,
    idempotencyMs: config.idempotencyMs,
    scheduledMax: config.logMaxMessages,
  });
  const queues = new DeliveryQueues(redis, logger);
  const tokens = new Tokens(config.tokenKeys, config.keyless, redis);
  return {
    redis,
    registry,
    log,
    fanout,
    memberships: new Memberships(redis, registry, fanout, config),
    queues,
    replication: new Replication(redis, logger),
    tokens,
    async close() {
      await queues.close();
      redis.close();
    },
  };
}
