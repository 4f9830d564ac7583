/**
 * The BullMQ queue of lanes that wait for the webhook: one job for each, named by lane and generation, so that adding it
 * twice is adding it once. Its Worker is stock; an instance that died or stands still loses its lanes to others
 * within seconds. What a job brings about, and the order, are not its concern: see lane-scripts.ts.
 */
import { setMaxListeners } from "node:events";
import {
  Queue,
  Worker,
  type BackendFactory,
  type Job,
  type RedisQueueBackend,
} from "bullmq";
import type { BegunLane, LaneKeeper } from "./events.js";
import { answerWithin } from "./deadlines.js";
import { bullPrefix, keys } from "./keys.js";
import { sparing, type Logger } from "./logging.js";
import {
  always,
  closeWithin,
  fetchRetryMs,
  openRoot,
  withBlocking,
} from "./queue.js";
import type { RedisLink } from "./redis.js";

/** How long an add may take; a sweep adds what is missing. */
const addDeadlineMs = 600;
/** A lane of an instance that died or stands still is free after this long; renewed at half of it. */
const lockMs = 8_000;
/** … and looked for this often. */
const stalledInterval = 2_000;
/** Lanes that one instance works on at the same time. */
const concurrency = 16;
/** A lane whose run failed for want of Redis comes again after this long. */
const againMs = 1_000;
/** How long a Worker that closes waits for its runs. */
const closeMs = 3_000;
/** What would come with every event is told this often. */
const tellEveryMs = 10_000;
/** Events without room are counted for so long before it is told. */
const tellMissedMs = 1_000;

/** Works along a lane; resolves with when to come again, in milliseconds, or with nothing once the lane is over. */
export type RunLane = (
  lane: BegunLane,
  signal: AbortSignal,
) => Promise<number | undefined>;

/** Has BullMQ bring the job again. */
class ComeAgain extends Error {
  readonly delayMs: number;
  constructor(delayMs: number) {
    super("comes again");
    this.delayMs = Math.max(0, Math.round(delayMs));
  }
}

export class WebhookQueue implements LaneKeeper {
  readonly #redis: RedisLink;
  readonly #logger: Logger;
  #root: Promise<RedisQueueBackend> | undefined;
  #queue: Queue | undefined;
  #worker: Worker | undefined;
  readonly #stopping = new AbortController();
  #missed = 0;
  #telling: NodeJS.Timeout | undefined;
  readonly #mayTellAdd = sparing(tellEveryMs);
  readonly #mayTellWorker = sparing(tellEveryMs);

  constructor(redis: RedisLink, logger: Logger) {
    this.#redis = redis;
    this.#logger = logger;
    // Each POST that is under way listens.
    setMaxListeners(0, this.#stopping.signal);
  }

  /** Adds the jobs of lanes that began. Never throws, and never takes long: a sweep finds what is missing. */
  async begun(lanes: readonly BegunLane[]): Promise<void> {
    try {
      await answerWithin(addDeadlineMs, this.add(lanes));
    } catch (error) {
      const level = this.#mayTellAdd() ? "warn" : "debug";
      this.#logger[level]({ err: error }, "webhook job not added");
    }
  }

  /** Adds their jobs, if they are not there. */
  async add(lanes: readonly BegunLane[]): Promise<void> {
    if (lanes.length === 0) return;
    const queue = await this.#open();
    await queue.addBulk(
      lanes.map((lane) => ({
        name: "lane",
        data: lane,
        opts: {
          jobId: `${lane.lane}-${lane.generation}`,
          removeOnComplete: true,
          removeOnFail: true,
          attempts: always,
          backoff: { type: "custom" },
          stackTraceLimit: 0,
        },
      })),
    );
  }

  missed(count: number): void {
    this.#missed += count;
    // What comes right after is told together.
    this.#telling ??= setTimeout(() => this.#tellMissed(), tellMissedMs);
    this.#telling.unref();
  }

  #tellMissed(): void {
    clearTimeout(this.#telling);
    this.#telling = undefined;
    if (this.#missed === 0) return;
    this.#logger.error(
      { events: this.#missed },
      "too much waits for the webhook (WEBHOOK_PENDING_BYTES): these events will not be delivered to it; GET /v1/events has them for EVENTS_SECONDS",
    );
    this.#missed = 0;
  }

  /** Starts this instance's Worker. Throws while Redis is away; again is harmless. */
  async start(run: RunLane): Promise<void> {
    if (this.#worker || this.#stopping.signal.aborted) return;
    await this.#open();
    const root = await this.#backend();
    const worker = new Worker<BegunLane>(
      keys.webhookQueue,
      async ({ data }: Job<BegunLane>) => {
        let delayMs: number | undefined;
        try {
          delayMs = await run(data, this.#stopping.signal);
        } catch (error) {
          this.#logger.debug({ err: error }, "a lane waits for Redis");
          delayMs = againMs;
        }
        if (delayMs !== undefined) throw new ComeAgain(delayMs);
      },
      {
        connection: this.#redis.client,
        prefix: bullPrefix,
        concurrency,
        // A frozen instance may hold the wake-up: look by ourselves now and then.
        drainDelay: 2,
        lockDuration: lockMs,
        stalledInterval,
        maxStalledCount: always,
        runRetryDelay: fetchRetryMs,
        settings: {
          backoffStrategy: (_attempts, _type, error) =>
            error instanceof ComeAgain ? error.delayMs : againMs,
        },
      },
      withBlocking(root, this.#redis),
    );
    worker.on("error", (error) => {
      const level = this.#mayTellWorker() ? "warn" : "debug";
      this.#logger[level]({ err: error }, "webhook worker error");
    });
    this.#worker = worker;
  }

  /** Lets every lane come now: the receiver is back. */
  async promote(): Promise<void> {
    await (await this.#open()).promoteJobs();
  }

  /** What is under way is given up or done, and goes back to the queue. */
  async close(): Promise<void> {
    this.#stopping.abort();
    this.#tellMissed();
    await closeWithin(this.#worker, closeMs);
  }

  #backend(): Promise<RedisQueueBackend> {
    this.#root ??= openRoot(this.#redis, this.#logger, "webhooks", {
      lockDuration: lockMs,
      stalledInterval,
    }).catch((error: unknown) => {
      this.#root = undefined;
      throw error;
    });
    return this.#root;
  }

  async #open(): Promise<Queue> {
    if (this.#queue) return this.#queue;
    const root = await this.#backend();
    // BullMQ's event stream is not used and must not grow.
    await this.#redis.command(
      "HSET",
      `${bullPrefix}:${keys.webhookQueue}:meta`,
      "opts.maxLenEvents",
      0,
    );
    this.#queue ??= new Queue(
      keys.webhookQueue,
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
    this.#queue.on("error", (error) =>
      this.#logger.debug({ err: error }, "webhook queue error"),
    );
    return this.#queue;
  }
}
