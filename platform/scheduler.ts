// Which instance serves: a used free one, else a prewarmed one, else a new one, else nobody [WS-LIFE-3..5].
// One pool per function; at concurrency 1 no instance ever gets a second invocation before the first has ended.

import type { Clock } from "./clock.js";
import type { Instance } from "./instance.js";
import { StartError } from "./instance.js";
import type { Log } from "./logs.js";
import { describeExit, type Exit } from "./verdict.js";

export interface PoolOptions {
  readonly functionName: string;
  /** Invocations one instance takes at the same time. */
  readonly concurrency: number;
  /** Instances with room kept ready, whether anybody asks or not. */
  readonly prewarm: number;
  readonly maxInstances: number;
  /** Unused instances kept at most; never fewer than `prewarm`. */
  readonly maxIdle: number;
  readonly warmTtlSeconds: number;
  readonly settleMs: number;
  readonly queueMs: number;
  readonly recycleGraceMs: number;
  readonly restartMinMs: number;
  readonly restartMaxMs: number;
  readonly healthyMs: number;
  readonly clock: Clock;
  readonly log: Log;
  readonly create: () => Instance;
}

/** An instance for one invocation; it goes back with `release`. */
export interface Grant {
  readonly instance: Instance;
  /** The invocation had to wait for a process to start. */
  readonly coldStart: boolean;
}

interface Waiter {
  resolve(grant: Grant): void;
  reject(error: StartError): void;
  stopWaiting(): void;
}

export class Pool {
  readonly #options: PoolOptions;
  /** Everything that is not gone yet. */
  readonly #instances = new Set<Instance>();
  /** Those whose end is our wish. */
  readonly #retired = new WeakSet<Instance>();
  readonly #waiters: Waiter[] = [];
  readonly #timers = new Set<() => void>();
  #starting = 0;
  #failures = 0;
  #backingOff = false;
  #sweeping = false;
  #stopping = false;

  constructor(options: PoolOptions) {
    this.#options = options;
  }

  /** Some instance is up, though perhaps fully taken. */
  get isUp(): boolean {
    for (const instance of this.#instances) {
      if (instance.isUsable) return true;
    }
    return false;
  }

  list(): Instance[] {
    return [...this.#instances];
  }

  /** Starts the prewarmed instances; resolves with the first one ready, rejects with its `StartError`. */
  async start(): Promise<void> {
    this.#fill();
    const [first] = this.#instances;
    await first?.ready;
  }

  /** An instance with room at once, or undefined. */
  take(): Instance | undefined {
    if (this.#stopping) return undefined;
    const instance = this.#best();
    if (instance === undefined) return undefined;
    instance.enter();
    if (instance.active >= this.#options.concurrency) this.#fill();
    return instance;
  }

  /** Waits for an instance with room; rejects with a `StartError` when none comes or the signal says so. */
  acquire(signal: AbortSignal): Promise<Grant> {
    const instance = this.take();
    if (instance) return Promise.resolve({ instance, coldStart: false });
    return new Promise((resolve, reject) => {
      const waiter: Waiter = { resolve, reject, stopWaiting: () => {} };
      const giveUp = (error: StartError) => {
        const at = this.#waiters.indexOf(waiter);
        if (at >= 0) this.#waiters.splice(at, 1);
        reject(error);
      };
      if (this.#stopping)
        return giveUp(this.#error(499, "the platform stops."));
      this.#waiters.push(waiter);
      this.#fill();
      if (this.#starting < this.#waiters.length)
        waiter.stopWaiting = this.#later(this.#options.queueMs, () =>
          giveUp(
            this.#error(
              432,
              `all ${this.#options.maxInstances} instances are taken.`,
            ),
          ),
        );
      signal.addEventListener(
        "abort",
        () => {
          waiter.stopWaiting();
          giveUp(this.#error(499, "nobody waits any more."));
        },
        { once: true },
      );
    });
  }

  /** Takes an instance back; `recycle` when it must not serve again [WS-LIFE-9]. */
  release(instance: Instance, recycle: boolean): void {
    const { settleMs } = this.#options;
    if (recycle || settleMs === 0 || this.#stopping) {
      instance.leave();
      if (recycle) this.#retire(instance);
      else this.#freed(instance);
    } else {
      this.#later(settleMs, () => {
        instance.leave();
        this.#freed(instance);
      });
    }
  }

  /** Somebody at the page wants this instance replaced; whatever it serves goes through its orderly end. */
  recycle(instance: Instance): void {
    this.#retire(instance);
  }

  /** Ends every instance: SIGTERM, after `graceMs` SIGKILL. Nothing starts any more. */
  async stop(graceMs: number): Promise<void> {
    this.#stopping = true;
    for (const cancel of this.#timers) cancel();
    this.#timers.clear();
    for (const waiter of this.#waiters.splice(0))
      waiter.reject(this.#error(499, "the platform stops."));
    await Promise.all(
      this.list().map((instance) => this.#end(instance, graceMs)),
    );
  }

  /** Ends every instance now. */
  kill(): void {
    this.#stopping = true;
    for (const instance of this.#instances) {
      this.#retired.add(instance);
      instance.kill();
    }
  }

  #hasRoom(instance: Instance): boolean {
    return instance.isUsable && instance.active < this.#options.concurrency;
  }

  /** The fullest with room, and among unused ones one that has served: the fresh ones stay fresh. */
  #best(): Instance | undefined {
    let best: Instance | undefined;
    for (const instance of this.#instances) {
      if (!this.#hasRoom(instance)) continue;
      if (
        best === undefined ||
        instance.active > best.active ||
        (instance.active === best.active && best.served === 0)
      )
        best = instance;
    }
    return best;
  }

  /** Starts what waiting invocations need, and in the background what the prewarmed stock lacks. */
  #fill(): void {
    if (this.#stopping) return;
    const { prewarm, maxInstances } = this.#options;
    let room = 0;
    for (const instance of this.#instances) if (this.#hasRoom(instance)) room++;
    const wanted =
      this.#waiters.length + (this.#backingOff ? 0 : prewarm - room);
    while (this.#starting < wanted && this.#instances.size < maxInstances)
      this.#startOne();
  }

  #startOne(): void {
    const instance = this.#options.create();
    this.#instances.add(instance);
    this.#starting++;
    instance.ready.then(
      () => {
        this.#starting--;
        this.#freed(instance);
      },
      (error: StartError) => {
        this.#starting--;
        this.#serveWaiter((waiter) => waiter.reject(error));
      },
    );
    void instance.exited.then((exit) => {
      this.#instances.delete(instance);
      if (!this.#retired.has(instance)) this.#died(instance, exit);
      this.#fill();
    });
  }

  #died(instance: Instance, exit: Exit): void {
    const { clock, healthyMs, restartMinMs, restartMaxMs, log } = this.#options;
    const lived =
      instance.readyAt === undefined ? 0 : clock.now() - instance.readyAt;
    this.#failures = lived >= healthyMs ? 0 : this.#failures + 1;
    const pauseMs = Math.min(
      restartMinMs * 2 ** Math.max(0, this.#failures - 1),
      restartMaxMs,
    );
    log.warn(
      { functionName: instance.functionName, instanceId: instance.id, pauseMs },
      `instance ended by itself (${describeExit(exit)})`,
    );
    if (this.#stopping || this.#backingOff) return;
    this.#backingOff = true;
    this.#later(pauseMs, () => {
      this.#backingOff = false;
      this.#fill();
    });
  }

  /** An instance has room again: for whoever waits, else it stays for a while. */
  #freed(instance: Instance): void {
    if (!this.#hasRoom(instance)) return;
    const coldStart = instance.served === 0;
    const taken = this.#serveWaiter((waiter) => {
      instance.enter();
      waiter.resolve({ instance, coldStart });
    });
    if (taken) return this.#fill();
    if (instance.active > 0 || this.#stopping) return;
    const { maxIdle, prewarm } = this.#options;
    if (this.#idle().length > Math.max(maxIdle, prewarm))
      this.#retire(instance);
    this.#sweepLater();
  }

  /** One timer for all: it ends the instance that has been unused longest when its time is over, and looks again. */
  #sweepLater(): void {
    const { clock, prewarm, warmTtlSeconds } = this.#options;
    if (this.#sweeping) return;
    const idle = this.#idle().sort((a, b) => a.idleSince - b.idleSince);
    const [oldest] = idle;
    if (oldest === undefined || idle.length <= prewarm) return;
    const left = oldest.idleSince + warmTtlSeconds * 1_000 - clock.now();
    if (left <= 0) {
      this.#retire(oldest);
      return this.#sweepLater();
    }
    this.#sweeping = true;
    this.#later(left, () => {
      this.#sweeping = false;
      this.#sweepLater();
    });
  }

  #idle(): Instance[] {
    return this.list().filter(
      (instance) => this.#hasRoom(instance) && instance.active === 0,
    );
  }

  #serveWaiter(serve: (waiter: Waiter) => void): boolean {
    const waiter = this.#waiters.shift();
    if (waiter === undefined) return false;
    waiter.stopWaiting();
    serve(waiter);
    return true;
  }

  #retire(instance: Instance): void {
    void this.#end(instance, this.#options.recycleGraceMs);
  }

  #end(instance: Instance, graceMs: number): Promise<void> {
    this.#retired.add(instance);
    return instance.stop(graceMs);
  }

  /** A timer that dies with the pool; the returned function takes it back. */
  #later(ms: number, fire: () => void): () => void {
    const cancelTimer = this.#options.clock.setTimer(ms, () => {
      this.#timers.delete(cancel);
      fire();
    });
    const cancel = () => {
      this.#timers.delete(cancel);
      cancelTimer();
    };
    this.#timers.add(cancel);
    return cancel;
  }

  #error(status: 432 | 499, why: string): StartError {
    return new StartError(status, `${this.#options.functionName}: ${why}`);
  }
}
