/**
 * What any awake instance does for all: leases and windows that ran out, and scheduled messages that are due. Every
 * chore may be done by any number of instances at once.
 */
import type { Log } from "../shared/log.js";
import type { Logger } from "../shared/logging.js";
import type { DeliveryQueues } from "../shared/queue.js";
import type { Registry } from "../shared/registry.js";
import { BridgeError } from "../shared/errors.js";

/** Refusals at the due time that trying again does not change. */
const settled = new Set([
  "connection_not_found",
  "connection_ended",
  "log_full",
]);

/** Starts the chores; returns what ends them. */
export function startChores(deps: {
  registry: Registry;
  queues: DeliveryQueues;
  log: Log;
  logger: Logger;
  everyMs: number;
}): () => void {
  const { registry, queues, log, logger, everyMs } = deps;
  let stopped = false;
  let scheduleStarted = false;
  let timer: NodeJS.Timeout | undefined;

  async function round(): Promise<void> {
    let busy = false;
    try {
      if (!scheduleStarted) {
        await queues.startSchedule(async (push, scheduledId) => {
          try {
            const appended = await log.appendDue(push, scheduledId);
            if (appended && appended.jobEpoch > 0)
              await queues.wake(push.connectionId, appended.jobEpoch);
          } catch (error) {
            if (!(error instanceof BridgeError && settled.has(error.code)))
              throw error;
            logger.debug({ code: error.code }, "a due message found no place");
          }
        });
        scheduleStarted = true;
      }
      busy = (await registry.sweep((id) => queues.remove(id))) >= 100;
    } catch (error) {
      logger.debug({ err: error }, "chores wait for Redis");
    }
    if (!stopped)
      timer = setTimeout(
        () => void round(),
        busy ? 10 : everyMs * (0.75 + Math.random() / 2),
      );
  }

  void round();
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}
