/** What both functions keep in Redis, put together once: registry, log, queues, replication and tokens over one link. */
import type { Config } from "./config.js";
import { Log, logScripts } from "./log.js";
import type { Logger } from "./logging.js";
import { accuseScript } from "./poison.js";
import { DeliveryQueues } from "./queue.js";
import { RedisLink } from "./redis.js";
import { RedisMemory } from "./redis-memory.js";
import { Registry, registryScripts } from "./registry.js";
import { Replication, replicationScripts } from "./replication.js";
import { Tokens } from "./tokens.js";

export interface Stores {
  redis: RedisLink;
  memory: RedisMemory;
  registry: Registry;
  log: Log;
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
    [...logScripts, ...registryScripts, ...replicationScripts, accuseScript],
    logger,
  );
  const memory = new RedisMemory(redis, config.redisMemoryHigh, logger);
  void memory.look();
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
  const queues = new DeliveryQueues(redis, logger);
  const tokens = new Tokens(config.tokenKeys, config.keyless, redis);
  return {
    redis,
    memory,
    registry,
    log,
    queues,
    replication: new Replication(redis, logger),
    tokens,
    async close() {
      await queues.close();
      redis.close();
    },
  };
}
