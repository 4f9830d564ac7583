/**
 * What any awake instance does: for all, leases and windows that ran out, and scheduled messages that are due, which any number of
 * instances may do at once; and for itself, the messages that it did not hear (shared/queue.ts).
 */
import type { Fanout } from "../shared/fanout.js";
import { userTag } from "../shared/ids.js";
import { groupTag } from "../shared/keys.js";
import type { Log } from "../shared/log.js";
import type { Logger } from "../shared/logging.js";
import type { DeliveryQueues, WakeUp } from "../shared/queue.js";
import type { RedisLink } from "../shared/redis.js";
import type { Registry, SweepPorts } from "../shared/registry.js";
import type { Replication } from "../shared/replication.js";
import type { Users } from "../shared/users.js";
import { BridgeError } from "../shared/errors.js";

/** Refusals at the due time that trying again does not change. */
const settled = new Set([
  "connection_not_found",
  "connection_ended",
  "log_full",
]);

/** What failed for want of Redis is tried again after this long, milliseconds. */
const retryMs = 500;
/** How long a due message may wait for a replica before its job tries again. */
const confirmDueMs = 500;

/** Starts the chores; returns what ends them. */
export function startChores(deps: {
  registry: Registry;
  queues: DeliveryQueues;
  log: Log;
  users: Pick<Users, "due" | "record">;
  fanout: Fanout;
  sweeping: SweepPorts;
  instance: string;
  /** A connection of this instance has a message that it did not hear. */
  wake: (wakeUp: WakeUp) => Promise<void>;
  replication: Replication;
  redis: Pick<RedisLink, "mode">;
  logger: Logger;
  everyMs: number;
}): () => void {
  const { registry, queues, log, users, replication, redis, logger, everyMs } =
    deps;
  const { fanout, sweeping, instance, wake } = deps;
  let stopped = false;
  let isConsuming = false;
  let timer: NodeJS.Timeout | undefined;

  async function round(): Promise<void> {
    let nextMs = everyMs * (0.75 + Math.random() / 2);
    try {
      if (!isConsuming) {
        await queues.startDeliver(instance, wake);
        await queues.startSchedule(
          async (push, scheduledId) => {
            try {
              const { userId } = push;
              if (userId !== undefined) {
                await users.due({ ...push, userId }, scheduledId);
                if (push.durability && redis.mode === "cluster") {
                  const tag = userTag(userId);
                  const record = await users.record(tag, scheduledId);
                  if (!record) return;
                  const { deliveries } = record;
                  await replication.ready(tag);
                  await replication.confirmOfUser(
                    { userTag: tag, place: scheduledId, deliveries },
                    confirmDueMs,
                  );
                }
                return;
              }
              const appended = await log.appendDue(push, scheduledId);
              if (appended?.unheard)
                await queues.wake(push.connectionId, appended.unheard);
              // On a Cluster the job may lie on another master: it stays until the log's own replica has the message.
              if (push.durability && redis.mode === "cluster") {
                const { connectionId } = push;
                await replication.ready(connectionId);
                await replication.confirm(
                  { connectionId, place: { scheduledId }, due: true },
                  confirmDueMs,
                );
              }
            } catch (error) {
              if (!(error instanceof BridgeError && settled.has(error.code)))
                throw error;
              logger.debug(
                { code: error.code },
                "a due message found no place",
              );
            }
          },
          async (message, scheduledId) => {
            await fanout.publishDue(message, scheduledId);
            if (message.durability && redis.mode === "cluster") {
              const { group } = message;
              await replication.ready(groupTag(group));
              await replication.confirm(
                { group, place: { scheduledId }, due: true },
                confirmDueMs,
              );
            }
          },
        );
        isConsuming = true;
      }
      if ((await registry.sweep(sweeping)) >= 100) nextMs = 10;
    } catch (error) {
      logger.debug({ err: error }, "chores wait for Redis");
      nextMs = Math.min(nextMs, retryMs);
    }
    if (!stopped) timer = setTimeout(() => void round(), nextMs);
  }

  void round();
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}
