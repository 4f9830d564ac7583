// Which instance serves: a used free one, else a prewarmed one, else a new one, else nobody [WS-LIFE-3..5]; and what
// becomes of it afterwards [WS-LIFE-7..9]. One pool per function; at concurrency 1 no instance ever gets a second
// invocation before the first has ended.

import { realClock, type Clock } from "./clock.js";
import type { FunctionDescription } from "./function-description.js";
import type { Instance } from "./instance.js";
import type { Limits } from "./limits.js";
import type { Log } from "./logs.js";
import { seededRandom } from "./random.js";
import type { Region, Tenant } from "./region.js";
import type { Rules } from "./rules.js";
import { StartError } from "./start-error.js";
import { describeExit, type Exit } from "./verdict.js";

/** Of the rules: what becomes of instances. */
export type PoolRules = Pick<
  Rules,
  | "afterClose"
  | "graceAfterCloseMs"
  | "sigtermGraceMs"
  | "warmTtlSeconds"
  | "seed"
>;

/** Of the machine's limits: patience. */
export type PoolLimits = Pick<
  Limits,
  "queueMs" | "restartMinMs" | "restartMaxMs" | "healthyMs" | "stopGraceMs"
>;

export interface PoolOptions {
  readonly description: FunctionDescription;
  readonly rules: PoolRules;
  readonly limits: PoolLimits;
  /** Instances with room kept ready, whether anybody asks or not. */
  readonly prewarm: number;
  readonly maxInstances: number;
  /** Unused instances kept at most; never fewer than `prewarm`. */
  readonly maxIdle: number;
  /** An instance gets no new invocation before this, after one has ended and it goes on running. */
  readonly settleMs: number;
  readonly region: Region;
  /** Times what the documents time; patience is on the real clock. */
  readonly clock: Clock;
  readonly log: Log;
  /** `isProvisioned`: for the stock, and not because somebody waits. */
  readonly create: (isProvisioned: boolean) => Instance;
  /** An instance has been frozen. */
  readonly onFrozen?: (instance: Instance) => void;
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

export class Pool implements Tenant {
  readonly #options: PoolOptions;
  readonly #concurrency: number;
  /** Everything that is not gone yet. */
  readonly #instances = new Set<Instance>();
  /** Those whose end is our wish. */
  readonly #retired = new WeakSet<Instance>();
  /** Those that finish what they serve and get nothing new. */
  readonly #doomed = new WeakSet<Instance>();
  /** Those that may not have heard of their last invocation's end yet. */
  readonly #resting = new WeakSet<Instance>();
  /** Takes back the timer after which an unused instance stops running. */
  readonly #stayings = new Map<Instance, () => void>();
  readonly #waiters: Waiter[] = [];
  readonly #timers = new Set<() => void>();
  readonly #random: () => number;
  #starting = 0;
  #failures = 0;
  #backingOff = false;
  #sweeping = false;
  #stopping = false;

  constructor(options: PoolOptions) {
    this.#options = options;
    this.#concurrency = options.description.concurrency;
    this.#random = seededRandom(options.rules.seed);
    options.region.join(this);
  }

  list(): Instance[] {
    return [...this.#instances];
  }

  get memoryMb(): number {
    return this.list()
      .filter((instance) => instance.isAlive)
      .reduce((sum, instance) => sum + instance.memoryMb, 0);
  }

  get unusedSince(): number | undefined {
    return this.#unused()[0]?.idleSince;
  }

  giveUpUnused(): void {
    const [longest] = this.#unused();
    if (longest) this.#retire(longest);
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
    this.#enter(instance);
    if (instance.active >= this.#concurrency) this.#fill();
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
        waiter.stopWaiting();
        reject(error);
      };
      if (this.#stopping)
        return giveUp(this.#error(499, "the platform stops."));
      this.#waiters.push(waiter);
      this.#fill();
      // Nobody starts for it: it waits for somebody else's end, but not for long.
      if (this.#starting * this.#concurrency < this.#waiters.length)
        waiter.stopWaiting = this.#later(
          realClock,
          this.#options.limits.queueMs,
          () =>
            giveUp(
              this.#error(
                432,
                `all ${this.#options.maxInstances} instances are taken.`,
              ),
            ),
        );
      signal.addEventListener(
        "abort",
        () => giveUp(this.#error(499, "nobody waits any more.")),
        { once: true },
      );
    });
  }

  /** Takes an instance back; `recycle` when it must not serve again [WS-LIFE-9]. */
  release(instance: Instance, recycle: boolean): void {
    instance.leave();
    if (recycle) this.#doomed.add(instance);
    if (this.#doomed.has(instance)) {
      // A failure of one request does not hurt its neighbours in a shared instance.
      if (instance.active === 0) this.#retire(instance);
      return;
    }
    if (instance.active === 0 && !this.#stopping) this.#staysUnused(instance);
    const { settleMs } = this.#options;
    // A frozen one hears of the old connection's end before it hears of a new one.
    if (settleMs === 0 || instance.state === "frozen")
      return this.#freed(instance);
    this.#resting.add(instance);
    this.#later(realClock, settleMs, () => {
      this.#resting.delete(instance);
      this.#freed(instance);
    });
  }

  /**
   * Somebody at the page wants this instance replaced. What it serves gets an orderly end, whatever the platform itself
   * would give it: SIGTERM and patience, as when everything stops.
   */
  recycle(instance: Instance): void {
    this.#retired.add(instance);
    const { stopGraceMs } = this.#options.limits;
    void instance.stop(instance.active > 0 ? stopGraceMs : 0, realClock);
  }

  /** Ends every instance: SIGTERM, after `graceMs` SIGKILL; frozen ones have nothing to say. Nothing starts any more. */
  async stop(graceMs: number): Promise<void> {
    this.#stopping = true;
    for (const cancel of this.#timers) cancel();
    this.#timers.clear();
    for (const waiter of this.#waiters.splice(0))
      waiter.reject(this.#error(499, "the platform stops."));
    await Promise.all(
      this.list().map((instance) => {
        this.#retired.add(instance);
        return instance.stop(instance.state === "frozen" ? 0 : graceMs);
      }),
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
    return (
      instance.isUsable &&
      instance.active < this.#concurrency &&
      !this.#doomed.has(instance)
    );
  }

  /** The fullest with room, and among unused ones one that has served: the fresh ones stay fresh. */
  #best(): Instance | undefined {
    let best: Instance | undefined;
    for (const instance of this.#instances) {
      if (!this.#hasRoom(instance) || this.#resting.has(instance)) continue;
      if (
        best === undefined ||
        instance.active > best.active ||
        (instance.active === best.active && best.served === 0)
      )
        best = instance;
    }
    return best;
  }

  #enter(instance: Instance): void {
    this.#stayings.get(instance)?.();
    instance.enter();
  }

  /** Starts what waiting invocations need, and in the background what the prewarmed stock lacks. */
  #fill(): void {
    if (this.#stopping) return;
    const { prewarm, maxInstances } = this.#options;
    const waiting = () => Math.ceil(this.#waiters.length / this.#concurrency);
    while (this.#starting < waiting() && this.#instances.size < maxInstances) {
      const refused = this.#startOne(false);
      if (refused) this.#refuseRest(refused);
    }
    if (this.#backingOff) return;
    let ready = 0;
    for (const instance of this.#instances)
      if (this.#hasRoom(instance)) ready++;
    while (
      ready + this.#starting - waiting() < prewarm &&
      this.#instances.size < maxInstances
    )
      if (this.#startOne(true)) return;
  }

  /** Nobody will start for those who wait beyond what starts already: they hear it at once. */
  #refuseRest(error: StartError): void {
    const served = this.#starting * this.#concurrency;
    for (const waiter of this.#waiters.splice(served)) {
      waiter.stopWaiting();
      waiter.reject(error);
    }
  }

  /** Returns why none may start. */
  #startOne(isProvisioned: boolean): StartError | undefined {
    const { region, description, create } = this.#options;
    const refused = region.admit(description.memoryMb);
    if (refused !== undefined)
      return this.#error(
        refused,
        refused === 429
          ? "too many instances have started within a minute."
          : "the instances together would have more memory than the account's quota.",
      );
    const instance = create(isProvisioned);
    this.#instances.add(instance);
    this.#starting++;
    instance.ready.then(
      () => {
        this.#starting--;
        this.#freed(instance);
        if (instance.active === 0 && !instance.isProvisioned)
          this.#staysUnused(instance);
      },
      (error: StartError) => {
        this.#starting--;
        this.#startFailed(error);
      },
    );
    void instance.exited.then((exit) => {
      this.#instances.delete(instance);
      this.#stayings.get(instance)?.();
      if (!this.#retired.has(instance)) this.#died(instance, exit);
      this.#fill();
    });
    return undefined;
  }

  /** Whoever waited for this start hears of it; nobody tries again for them [WS-LIFE-10]. */
  #startFailed(error: StartError): void {
    for (let i = 0; i < this.#concurrency; i++) {
      if (this.#waiters.length <= this.#starting * this.#concurrency) return;
      this.#serveWaiter((waiter) => waiter.reject(error));
    }
  }

  #died(instance: Instance, exit: Exit): void {
    const { clock, limits, log } = this.#options;
    const lived =
      instance.readyAt === undefined ? 0 : clock.now() - instance.readyAt;
    this.#failures = lived >= limits.healthyMs ? 0 : this.#failures + 1;
    const pauseMs = Math.min(
      limits.restartMinMs * 2 ** Math.max(0, this.#failures - 1),
      limits.restartMaxMs,
    );
    log.warn(
      { functionName: instance.functionName, instanceId: instance.id, pauseMs },
      `instance ended by itself (${describeExit(exit)})`,
    );
    if (this.#stopping || this.#backingOff) return;
    this.#backingOff = true;
    this.#later(realClock, pauseMs, () => {
      this.#backingOff = false;
      this.#fill();
    });
  }

  /** An instance has room again: for those who wait, else it is kept for a while. */
  #freed(instance: Instance): void {
    const coldStart = instance.served === 0;
    let taken = false;
    while (this.#hasRoom(instance) && this.#waiters.length > 0) {
      taken = true;
      this.#serveWaiter((waiter) => {
        this.#enter(instance);
        waiter.resolve({ instance, coldStart });
      });
    }
    if (taken) return this.#fill();
    if (!this.#hasRoom(instance) || instance.active > 0 || this.#stopping)
      return;
    const { maxIdle, prewarm } = this.#options;
    if (this.#idle().length > Math.max(maxIdle, prewarm))
      this.#retire(instance);
    this.#sweepLater();
  }

  /** It serves nobody any more: it stops running, at once or after the grace that nobody promises [WS-LIFE-7]. */
  #staysUnused(instance: Instance): void {
    const { clock, rules } = this.#options;
    if (rules.graceAfterCloseMs === 0) return this.#stopRunning(instance);
    this.#stayings.get(instance)?.();
    const cancel = this.#later(clock, rules.graceAfterCloseMs, () => {
      this.#stayings.delete(instance);
      this.#stopRunning(instance);
    });
    this.#stayings.set(instance, () => {
      this.#stayings.delete(instance);
      cancel();
    });
  }

  #stopRunning(instance: Instance): void {
    if (this.#afterClose() === "kill") return this.#retire(instance);
    instance.freeze();
    if (instance.state === "frozen") this.#options.onFrozen?.(instance);
  }

  /** The rule is about connections; instances of HTTP functions are frozen. */
  #afterClose(): "freeze" | "kill" {
    const { description, rules } = this.#options;
    if (description.protocol === "HTTP") return "freeze";
    if (rules.afterClose !== "random") return rules.afterClose;
    return this.#random() < 0.5 ? "kill" : "freeze";
  }

  /** One timer for all: it ends the instance that has been unused longest when its time is over, and looks again. */
  #sweepLater(): void {
    const { clock, rules } = this.#options;
    if (this.#sweeping) return;
    const [oldest] = this.#unused();
    if (oldest === undefined) return;
    const left = oldest.idleSince + rules.warmTtlSeconds * 1_000 - clock.now();
    if (left <= 0) {
      this.#retire(oldest);
      return this.#sweepLater();
    }
    this.#sweeping = true;
    this.#later(clock, left, () => {
      this.#sweeping = false;
      this.#sweepLater();
    });
  }

  #idle(): Instance[] {
    return this.list().filter(
      (instance) => this.#hasRoom(instance) && instance.active === 0,
    );
  }

  /** Unused ones that may be ended, the longest unused first; the prewarmed stock is kept [WS-BILL-7]. */
  #unused(): Instance[] {
    return this.#idle()
      .filter((instance) => !instance.isProvisioned)
      .sort((a, b) => a.idleSince - b.idleSince);
  }

  #serveWaiter(serve: (waiter: Waiter) => void): void {
    const waiter = this.#waiters.shift();
    if (waiter === undefined) return;
    waiter.stopWaiting();
    serve(waiter);
  }

  #retire(instance: Instance): void {
    const { rules, clock } = this.#options;
    this.#retired.add(instance);
    void instance.stop(rules.sigtermGraceMs, clock);
  }

  /** A timer that dies with the pool; the returned function takes it back. */
  #later(clock: Clock, ms: number, fire: () => void): () => void {
    const cancelTimer = clock.setTimer(ms, () => {
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

  #error(status: 429 | 432 | 499, why: string): StartError {
    return new StartError(status, `${this.#options.description.name}: ${why}`);
  }
}
