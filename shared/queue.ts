/**
 * BullMQ's home (and webhook-queue.ts, which builds on this). Three uses of it:
 *
 * * the deliver queue of each connection, named by its ID: a durable wake-up, one job per burst. Its Worker is stock
 *   BullMQ over the process's one command connection; only "wait for a job" is replaced by a doorbell, so that ten
 *   thousand Workers cost no connection (the doorbell backend below). A Worker lives around its runs only;
 * * the schedule queue, shared by all: delayed jobs that carry a message until it is due. A stock Worker with a
 *   blocking connection of its own;
 * * removal of what an ended connection's queue left.
 *
 * A job carries no correctness: messages are in the log, and a job that comes twice or late does no harm.
 */
import { setTimeout as sleep } from "node:timers/promises";
import {
  createRedisBackend,
  Queue,
  RedisConnection,
  RedisQueueBackend,
  WaitingError,
  Worker,
  type BackendFactory,
  type Job,
} from "bullmq";
import { BridgeError } from "./errors.js";
import type { GroupPublish } from "./fanout.js";
import type { Append } from "./log.js";
import { bullPrefix, channels, horizonMs, keys } from "./keys.js";
import { isOutOfMemory, redisFull } from "./full.js";
import { sparing, type Logger } from "./logging.js";
import type { RedisLink } from "./redis.js";

/** How long an add may take; the 202 does not depend on it. */
const addDeadlineMs = 600;
/** A Worker without work is closed after this long; creating one costs less than keeping it. */
const workerIdleMs = 30_000;
/** How long a closing Worker may take before it is forced. */
const closeDeadlineMs = 1_000;
/** A job's lock, renewed at half of it; what an instance that died held is taken over on claim, long before. */
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
const queuesMax = 2_000;
/** A scheduled message may outlive any number of instances that died with it. */
export const always = 1_000_000;

/** What a run is told: stop lingering when the signal aborts. Resolves "again" to have its job put back. */
export type RunDelivery = (signal: AbortSignal) => Promise<"done" | "again">;

/** A deliver queue's consumer. */
export interface DeliveryWorker {
  /** A job was added: fetch it, with a new Worker if there is none. */
  ring(): void;
  /** Stops lingering, closes within a second, puts back what it held. Any time, twice. */
  close(): Promise<void>;
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
  #closed = false;
  readonly #mayTellWake = sparing(tellEveryMs);
  readonly #mayTellSchedule = sparing(tellEveryMs);
  #silenced = false;

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
   * Adds a deliver job and, once that is answered, rings the owner of `epoch` for it. Never throws: the message is in
   * the log and the owner's renewal looks for it anyway (rule 8).
   */
  async wake(connectionId: string, epoch: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const deadline = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new Error(`no answer in ${addDeadlineMs} ms`)),
        addDeadlineMs,
      );
    });
    const add = async () => {
      const queue = await this.#queue(keys.queue(connectionId));
      const { id } = await queue.add(
        "deliver",
        {},
        { removeOnComplete: true, removeOnFail: true, attempts: 1 },
      );
      // The lists of the queue have an expiry (rule 13); a job in none of them would stay for ever.
      const job = `${bullPrefix}:${keys.queue(connectionId)}:${id ?? ""}`;
      await Promise.all([
        this.#redis.publish(`${channels.bell(connectionId)}${epoch}`, "j"),
        this.#redis.command("PEXPIRE", job, horizonMs),
      ]);
    };
    try {
      await Promise.race([add(), deadline]);
    } catch (error) {
      const level = this.#mayTellWake() ? "warn" : "debug";
      this.#logger[level](
        { err: error, connectionId },
        "deliver job not added",
      );
    } finally {
      clearTimeout(timer);
    }
  }

  /** The consumer of a connection's deliver queue; no Worker exists until `ring`. */
  consume(connectionId: string, run: RunDelivery): DeliveryWorker {
    return new LazyWorker(
      connectionId,
      run,
      () => this.#backend(),
      this.#redis,
      this.#logger,
    );
  }

  /**
   * Jobs in `active` that no process of ours tracks any more go back to the head of the queue. The caller owns the
   * connection (its epoch is new) and has no Worker yet, so every one of them is an orphan (rule 7).
   */
  async recoverOrphans(connectionId: string): Promise<number> {
    const queue = await this.#queue(keys.queue(connectionId));
    const backend = queue.getBackend() as unknown as RedisQueueBackend;
    const ids = (await this.#redis.command(
      "LRANGE",
      `${bullPrefix}:{${connectionId}}:active`,
      0,
      -1,
    )) as string[];
    // Token '0' skips the check of the lock that the dead instance still holds.
    for (const id of ids) await backend.moveJobFromActiveToWait(id, "0");
    return ids.length;
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
    await this.#silenceSchedule();
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

  /** BullMQ's event stream is not used and must not grow. Once for a process; again after a failure. */
  async #silenceSchedule(): Promise<void> {
    if (this.#silenced) return;
    await this.#redis.command(
      "HSET",
      `${bullPrefix}:${keys.scheduleQueue}:meta`,
      "opts.maxLenEvents",
      0,
    );
    this.#silenced = true;
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
    await this.#silenceSchedule();
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

  /** Removes everything of an ended connection's queue, and the jobs of its scheduled messages. */
  async remove(connectionId: string): Promise<void> {
    const name = keys.queue(connectionId);
    const queue = await this.#queue(name);
    await Promise.all([
      queue.obliterate({ force: true }),
      this.#unscheduleAll(connectionId),
    ]);
    this.#queues.delete(name);
  }

  /** Jobs of messages that will never be due for anybody. One that is being worked on finds out by itself. */
  async #unscheduleAll(connectionId: string): Promise<void> {
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
    await closeWithin(this.#scheduleWorker);
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

/** Waits for a ring instead of a blocking command. */
class Doorbell {
  #rung = false;
  #wake: (() => void) | undefined;

  ring(): void {
    this.#rung = true;
    this.#wake?.();
  }

  /** Resolves at the next ring, or one that came since the last wait, or after `ms`. */
  async wait(ms: number): Promise<void> {
    if (!this.#rung)
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, ms);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    this.#wake = undefined;
    this.#rung = false;
  }
}

class LazyWorker implements DeliveryWorker {
  readonly #connectionId: string;
  readonly #run: RunDelivery;
  readonly #backend: () => Promise<RedisQueueBackend>;
  readonly #redis: RedisLink;
  readonly #logger: Logger;
  #worker: Worker | undefined;
  #starting = false;
  #bell = new Doorbell();
  #abort = new AbortController();
  #idle: NodeJS.Timeout | undefined;
  #busy = false;
  #closing: Promise<void> | undefined;

  constructor(
    connectionId: string,
    run: RunDelivery,
    backend: () => Promise<RedisQueueBackend>,
    redis: RedisLink,
    logger: Logger,
  ) {
    this.#connectionId = connectionId;
    this.#run = run;
    this.#backend = backend;
    this.#redis = redis;
    this.#logger = logger;
  }

  ring(): void {
    if (this.#closing) return;
    if (this.#worker) this.#bell.ring();
    else if (!this.#starting) void this.#start();
    else this.#bell.ring();
  }

  async #start(): Promise<void> {
    this.#starting = true;
    try {
      const root = await this.#backend();
      if (this.#closing) return;
      const bell = new Doorbell();
      this.#bell = bell;
      const factory = ((name: string) => {
        const sibling = patient(root.forQueue(name) as RedisQueueBackend);
        sibling.waitForJob = async (timeout: number) => {
          await bell.wait(timeout * 1_000);
          return null;
        };
        sibling.disconnectBlocking = () => {
          bell.ring();
          return Promise.resolve();
        };
        return sibling;
      }) as BackendFactory<RedisQueueBackend>;
      this.#worker = new Worker(
        keys.queue(this.#connectionId),
        (job, token) => this.#process(job, token),
        {
          connection: this.#redis.client,
          prefix: bullPrefix,
          concurrency: 1,
          lockDuration: lockMs,
          skipStalledCheck: true,
          runRetryDelay: fetchRetryMs,
          removeOnComplete: { count: 0 },
          removeOnFail: { count: 0 },
        },
        factory,
      );
      this.#worker.on("error", (error) =>
        this.#logger.debug(
          { err: error, connectionId: this.#connectionId },
          "deliver worker error",
        ),
      );
      // A lock that could not be renewed means that somebody else may have the job: stop lingering.
      this.#worker.on("lockRenewalFailed", () => this.#abort.abort());
      this.#rest();
    } catch (error) {
      this.#logger.debug(
        { err: error, connectionId: this.#connectionId },
        "deliver worker not started",
      );
    } finally {
      this.#starting = false;
    }
  }

  async #process(job: Job, token: string | undefined): Promise<void> {
    clearTimeout(this.#idle);
    this.#busy = true;
    // A lock that was lost ended its own run only.
    if (!this.#closing) this.#abort = new AbortController();
    try {
      const outcome = await this.#run(this.#abort.signal);
      if (outcome === "again") {
        await job.moveToWait(token);
        throw new WaitingError();
      }
    } finally {
      this.#busy = false;
      this.#rest();
    }
  }

  /** Counts down to the end of an idle Worker. */
  #rest(): void {
    clearTimeout(this.#idle);
    if (this.#closing) return;
    this.#idle = setTimeout(() => {
      if (this.#busy) return;
      const worker = this.#worker;
      this.#worker = undefined;
      if (worker) void this.#end(worker);
    }, workerIdleMs);
    this.#idle.unref();
  }

  async #end(worker: Worker): Promise<void> {
    const bell = this.#bell;
    const closed = worker.close();
    bell.ring();
    let timer: NodeJS.Timeout | undefined;
    await Promise.race([
      closed,
      new Promise((resolve) => {
        timer = setTimeout(resolve, closeDeadlineMs);
      }),
    ]);
    clearTimeout(timer);
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      clearTimeout(this.#idle);
      this.#abort.abort();
      if (this.#worker) await this.#end(this.#worker);
    })();
    return this.#closing;
  }
}
