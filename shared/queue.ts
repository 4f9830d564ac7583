/**
 * BullMQ's home (and webhook-queue.ts, which builds on this). Two uses of it:
 *
 * * a deliver queue for each ws-fn process: a message that its owner did not hear (its subscription was down, or it stood
 *   still when it was called) makes a job there. The process takes it with a stock Worker over a blocking connection of its own,
 *   within milliseconds, however deaf its subscription is. A message that was heard makes no job;
 * * the schedule queue, shared by all: delayed jobs that carry a message until it is due.
 *
 * A deliver job carries no message: that is in the log, and a job that comes twice, late or to a process that is dead does no
 * harm.
 */
import { setTimeout as sleep } from "node:timers/promises";
import {
  createRedisBackend,
  Queue,
  RedisConnection,
  RedisQueueBackend,
  Worker,
  type BackendFactory,
  type Job,
} from "bullmq";
import { answerWithin } from "./deadlines.js";
import { BridgeError } from "./errors.js";
import type { GroupPublish } from "./fanout.js";
import type { Append, Unheard } from "./log.js";
import { bullPrefix, horizonMs, keys, queueKeys } from "./keys.js";
import { isOutOfMemory, redisFull } from "./full.js";
import { sparing, type Logger } from "./logging.js";
import type { RedisLink } from "./redis.js";

/** How long an add may take; the 202 does not depend on it. */
const addDeadlineMs = 600;
/** How long a closing Worker may take before it is forced. */
const closeDeadlineMs = 1_000;
/** A job's lock, renewed at half of it. */
const lockMs = 30_000;
/** Scheduled jobs whose instance died are looked for this often. */
const stalledInterval = 5_000;
/** A failed fetch is tried again after this long (BullMQ's own default of 15 s is for batch work). */
export const fetchRetryMs = 500;
/** The same while Redis is out of memory, where no fetch succeeds: each waits twice as long, up to this. */
const fetchRetryMsMost = 5_000;
/** What goes wrong with every job while Redis refuses writes is told this often. */
const tellEveryMs = 10_000;
/** How many Queue objects are kept for adding. */
const queuesMax = 200;
/** Connections that a process looks at side by side because of jobs. */
const wakingAbreast = 32;
/** A scheduled message may outlive any number of instances that died with it. */
export const always = 1_000_000;

/** A deliver job: a connection has a message that its owner of this epoch did not hear. */
export interface WakeUp {
  connectionId: string;
  epoch: number;
}

/** A message for a connection, or for a group. */
type ScheduledJob = ScheduledPush | ScheduledPublish;

interface ScheduledPublish {
  group: string;
  scheduledId: string;
  body: string;
  contentType: string;
  binary: boolean;
  ttlSeconds: number;
  selection?: NonNullable<GroupPublish["selection"]>;
  durability?: "replica";
}

interface ScheduledPush {
  connectionId: string;
  userId?: string;
  scheduledId: string;
  body: string;
  contentType: string;
  binary: boolean;
  ttlSeconds: number;
  topic?: string;
  durability?: "replica";
}

export class DeliveryQueues {
  readonly #redis: RedisLink;
  readonly #logger: Logger;
  #root: Promise<RedisQueueBackend> | undefined;
  readonly #queues = new Map<string, Queue>();
  #scheduleWorker: Worker<ScheduledJob> | undefined;
  #deliverWorker: Worker<WakeUp> | undefined;
  #closed = false;
  readonly #mayTellWake = sparing(tellEveryMs);
  readonly #mayTellDeliver = sparing(tellEveryMs);
  readonly #mayTellSchedule = sparing(tellEveryMs);
  readonly #silenced = new Set<string>();

  constructor(redis: RedisLink, logger: Logger) {
    this.#redis = redis;
    this.#logger = logger;
  }

  /**
   * The backend whose siblings serve every queue over the one command connection. Made when Redis answers: one that
   * was made while Redis was away would be broken for good.
   */
  #backend(): Promise<RedisQueueBackend> {
    this.#root ??= openRoot(this.#redis, this.#logger, "root", {
      lockDuration: lockMs,
      stalledInterval,
    }).catch((error: unknown) => {
      this.#root = undefined;
      throw error;
    });
    return this.#root;
  }

  async #queue(name: string): Promise<Queue> {
    const known = this.#queues.get(name);
    if (known) return known;
    const root = await this.#backend();
    if (this.#queues.size >= queuesMax) this.#queues.clear();
    const queue = new Queue(
      name,
      {
        connection: this.#redis.client,
        prefix: bullPrefix,
        skipMetasUpdate: true,
      },
      ((sibling: string) =>
        root.forQueue(
          sibling,
        ) as RedisQueueBackend) as BackendFactory<RedisQueueBackend>,
    );
    queue.on("error", (error) =>
      this.#logger.debug({ err: error, queue: name }, "queue error"),
    );
    this.#queues.set(name, queue);
    return queue;
  }

  /**
   * Adds a deliver job to the queue of the process that should have heard. Never throws: the message is in the log, and the
   * process looks for it anyway (rule 4).
   */
  async wake(
    connectionId: string,
    { instance, epoch }: Unheard,
  ): Promise<void> {
    try {
      await answerWithin(
        addDeadlineMs,
        this.#addWakeUp(instance, { connectionId, epoch }),
      );
    } catch (error) {
      const level = this.#mayTellWake() ? "warn" : "debug";
      this.#logger[level](
        { err: error, connectionId },
        "deliver job not added",
      );
    }
  }

  async #addWakeUp(instance: string, wakeUp: WakeUp): Promise<void> {
    const name = keys.deliverQueue(instance);
    const queue = await this.#queue(name);
    await this.#silence(name);
    const { id } = await queue.add("deliver", wakeUp, {
      removeOnComplete: true,
      removeOnFail: true,
      attempts: 1,
    });
    // Its process may be dead, and forgotten already: then nobody takes it away (rule 13).
    const job = `${bullPrefix}:${name}:${id ?? ""}`;
    await Promise.all(
      [...queueKeys(name), job].map((key) =>
        this.#redis.command("PEXPIRE", key, horizonMs),
      ),
    );
  }

  /**
   * Starts this process's consumer of its own deliver queue: `run` delivers what a connection has in its log. Throws while Redis is
   * away; again is harmless.
   */
  async startDeliver(
    instance: string,
    run: (wakeUp: WakeUp) => Promise<void>,
  ): Promise<void> {
    if (this.#deliverWorker || this.#closed) return;
    const root = await this.#backend();
    const name = keys.deliverQueue(instance);
    await this.#silence(name);
    const worker = new Worker<WakeUp>(
      name,
      ({ data }) => run(data),
      {
        connection: this.#redis.client,
        prefix: bullPrefix,
        concurrency: wakingAbreast,
        lockDuration: lockMs,
        // Its jobs are nobody else's: what it held when it died goes with it.
        skipStalledCheck: true,
        runRetryDelay: fetchRetryMs,
        removeOnComplete: { count: 0 },
        removeOnFail: { count: 0 },
      },
      withBlocking(root, this.#redis),
    );
    worker.on("error", (error) => {
      const level = this.#mayTellDeliver() ? "warn" : "debug";
      this.#logger[level]({ err: error }, "deliver worker error");
    });
    this.#deliverWorker = worker;
  }

  /** Removes the deliver queue of a process that is gone. */
  async retire(instance: string): Promise<void> {
    await this.#remove(keys.deliverQueue(instance));
  }

  async #remove(name: string): Promise<void> {
    await (await this.#queue(name)).obliterate({ force: true });
    this.#queues.delete(name);
    this.#silenced.delete(name);
  }

  /**
   * Stores a message until it is due. The job's ID is the message's, so adding it twice is adding it once. Throws
   * redis_full when it surely was not stored.
   */
  async schedule(
    push: Append,
    scheduledId: string,
    delayMs: number,
  ): Promise<void> {
    const data: ScheduledPush = {
      connectionId: push.connectionId,
      scheduledId,
      body: push.body.toString("base64"),
      contentType: push.contentType,
      binary: push.binary,
      ttlSeconds: push.ttlSeconds,
      ...(push.userId === undefined ? {} : { userId: push.userId }),
      ...(push.topic === undefined ? {} : { topic: push.topic }),
      ...(push.durability ? { durability: push.durability } : {}),
    };
    await this.#later(data, delayMs);
  }

  /** The same for a message of a group. */
  async scheduleGroup(
    message: GroupPublish,
    scheduledId: string,
    delayMs: number,
  ): Promise<void> {
    const { group, contentType, binary, ttlSeconds, selection } = message;
    await this.#later(
      {
        group,
        scheduledId,
        body: message.body.toString("base64"),
        contentType,
        binary,
        ttlSeconds,
        ...(selection ? { selection } : {}),
        ...(message.durability ? { durability: message.durability } : {}),
      },
      delayMs,
    );
  }

  async #later(data: ScheduledJob, delay: number): Promise<void> {
    const queue = await this.#queue(keys.scheduleQueue);
    await this.#silence(keys.scheduleQueue);
    try {
      await queue.add("push", data, {
        jobId: `s${data.scheduledId}`,
        delay,
        removeOnComplete: true,
        attempts: always,
        backoff: { type: "fixed", delay: 1_000 },
      });
    } catch (error) {
      throw isOutOfMemory(error) ? redisFull({}, error) : error;
    }
  }

  /** BullMQ's event stream is not used and must not grow. Once for a queue in a process; again after a failure. */
  async #silence(name: string): Promise<void> {
    if (this.#silenced.has(name)) return;
    if (this.#silenced.size >= queuesMax) this.#silenced.clear();
    await this.#redis.command(
      "HSET",
      `${bullPrefix}:${name}:meta`,
      "opts.maxLenEvents",
      0,
    );
    this.#silenced.add(name);
  }

  /** Removes the job of a recalled message; the recall itself is in the connection's hash. */
  async unschedule(scheduledId: string): Promise<void> {
    const queue = await this.#queue(keys.scheduleQueue);
    await queue.remove(`s${scheduledId}`);
  }

  /** Starts the Worker for scheduled messages; `due` puts one into its log, `publish` to its group. Both must be idempotent. */
  async startSchedule(
    due: (push: Append, scheduledId: string) => Promise<void>,
    publish: (
      message: GroupPublish,
      scheduledId: string,
    ) => Promise<void> = noGroups,
  ): Promise<void> {
    if (this.#scheduleWorker || this.#closed) return;
    const root = await this.#backend();
    await this.#silence(keys.scheduleQueue);
    const worker = new Worker<ScheduledJob>(
      keys.scheduleQueue,
      async (job: Job<ScheduledJob>) => {
        const { data } = job;
        const body = Buffer.from(data.body, "base64");
        if ("group" in data) await publish({ ...data, body }, data.scheduledId);
        else await due({ ...data, body }, data.scheduledId);
      },
      {
        connection: this.#redis.client,
        prefix: bullPrefix,
        concurrency: 50,
        // A frozen instance may hold the wake-up of a due message: look by ourselves now and then.
        drainDelay: 2,
        lockDuration: lockMs,
        stalledInterval,
        maxStalledCount: always,
        runRetryDelay: fetchRetryMs,
      },
      withBlocking(root, this.#redis),
    );
    worker.on("error", (error) => {
      const level = this.#mayTellSchedule() ? "warn" : "debug";
      this.#logger[level]({ err: error }, "schedule worker error");
    });
    this.#scheduleWorker = worker;
  }

  /** Jobs of messages that will never be due for anybody. One that is being worked on finds out by itself. */
  async unscheduleAll(connectionId: string): Promise<void> {
    let cursor = "0";
    do {
      const [next, pairs] = (await this.#redis.command(
        "HSCAN",
        keys.scheduled(connectionId),
        cursor,
        "COUNT",
        100,
      )) as [string, string[]];
      cursor = next;
      const waiting = pairs.filter(
        (_, at) => at % 2 === 0 && pairs[at + 1]?.startsWith("w"),
      );
      await Promise.all(waiting.map((id) => this.unschedule(id)));
    } while (cursor !== "0");
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([
      closeWithin(this.#deliverWorker),
      closeWithin(this.#scheduleWorker),
    ]);
    if (this.#deliverWorker)
      await this.#remove(this.#deliverWorker.name).catch(() => undefined);
    this.#queues.clear();
  }
}

/**
 * A backend whose siblings serve queues over the process's one command connection; they inherit the options, a Worker's own are
 * not asked. Throws redis_unavailable while Redis is away: one that was made then would be broken for good.
 */
export async function openRoot(
  redis: RedisLink,
  logger: Logger,
  name: string,
  options: { lockDuration: number; stalledInterval: number },
): Promise<RedisQueueBackend> {
  if (!redis.healthy)
    throw new BridgeError("redis_unavailable", { retryAfterSeconds: 1 });
  const root = createRedisBackend(name, {
    connection: redis.client,
    prefix: bullPrefix,
    maxStalledCount: always,
    ...options,
  } as Parameters<typeof createRedisBackend>[1]);
  root.on("error", (error: Error) =>
    logger.debug({ err: error }, "BullMQ connection error"),
  );
  await root.waitUntilReady();
  return root;
}

/** For a stock Worker: it waits for jobs on a connection of its own. */
export function withBlocking(
  root: RedisQueueBackend,
  redis: RedisLink,
): BackendFactory<RedisQueueBackend> {
  const blocking = redis.openBlocking();
  return ((name: string) => {
    const sibling = patient(root.forQueue(name) as RedisQueueBackend);
    const own = new RedisConnection(blocking, { shared: true, blocking: true });
    // The link logs it already; without a listener a reset (RST, not FIN) of this one socket ends the process.
    own.on("error", () => undefined);
    sibling.blockingConnection = own;
    return sibling;
  }) as BackendFactory<RedisQueueBackend>;
}

/**
 * While Redis is away our connection refuses a command in the same turn of the event loop. BullMQ takes that for no
 * error of the connection and asks again at once, for ever, and nothing else of the process runs: a refusal must last.
 * So must that of a Redis out of memory, where even a fetch from an empty queue is refused.
 */
function patient(backend: RedisQueueBackend): RedisQueueBackend {
  const fetchJob = backend.moveToActive.bind(backend);
  let retryMs = fetchRetryMs;
  backend.moveToActive = async (...args) => {
    try {
      const fetched = await fetchJob(...args);
      retryMs = fetchRetryMs;
      return fetched;
    } catch (error) {
      await sleep(retryMs);
      retryMs = isOutOfMemory(error)
        ? Math.min(retryMs * 2, fetchRetryMsMost)
        : fetchRetryMs;
      throw error;
    }
  };
  return backend;
}

/** Their jobs stay for somebody who has. */
const noGroups = (): Promise<void> =>
  Promise.reject(new Error("this process publishes to no groups"));

export async function closeWithin(
  worker: Worker | undefined,
  deadlineMs = closeDeadlineMs,
): Promise<void> {
  if (!worker) return;
  let timer: NodeJS.Timeout | undefined;
  await Promise.race([
    worker.close(),
    new Promise((resolve) => {
      timer = setTimeout(resolve, deadlineMs);
    }),
  ]);
  clearTimeout(timer);
}
