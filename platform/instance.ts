// One instance: one child process of a function, from its request to its end.
//
//   requested → provisioning → initialising → ready ⇄ serving
//                    │              │         ⇅  │       │
//                    │              │      frozen│       │
//                    └──────────────┴────────┴───┴───────┴─▶ recycling → gone
//
// A frozen instance is a stopped process (SIGSTOP), which the next invocation wakes [WS-LIFE-7, WS-LIFE-8].

import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { pause, realClock, type Clock } from "./clock.js";
import type { Deployment } from "./deployment.js";
import type { FunctionDescription } from "./function-description.js";
import { FunctionProcess } from "./function-process.js";
import type { InitFault } from "./init-faults.js";
import { ListenReport, PLATFORM_PORT } from "./listen-report.js";
import type { Log, PrintedLine } from "./logs.js";
import { OwnNetwork } from "./own-network.js";
import { accepts, findFreePort } from "./ports.js";
import type { Reaper } from "./reaper.js";
import { scfEnvironment } from "./scf.js";
import { StartError } from "./start-error.js";
import type { Rules } from "./rules.js";
import { describeExit, type Exit } from "./verdict.js";

export { StartError } from "./start-error.js";

export type InstanceState =
  | "requested"
  | "provisioning"
  | "initialising"
  | "ready"
  | "serving"
  | "frozen"
  | "recycling"
  | "gone";

export interface InstanceOptions {
  readonly description: FunctionDescription;
  /** Started for the stock of prewarmed instances, and not because somebody waits. */
  readonly isProvisioned: boolean;
  /** Makes the function's folder ready to start; rejects with a `StartError`. */
  readonly deploy: () => Promise<Deployment>;
  /** The environment of the process, without what the platform adds. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Where the port shim may write. */
  readonly folder: string;
  readonly network: Rules["network"];
  readonly reaper: Reaper;
  readonly fault?: InitFault | undefined;
  readonly clock: Clock;
  readonly log: Log;
  readonly print: (line: PrintedLine) => void;
}

/** Pause between two looks at whether the process listens; a look costs one refused connection. */
const READY_POLL_MS = 15;

const SHIM = new URL("./port-shim.mjs", import.meta.url);

export class Instance {
  readonly id = randomBytes(4).toString("hex");
  readonly functionName: string;
  readonly startedAt: number;
  /** Resolves when the process listens; rejects with a `StartError`. */
  readonly ready: Promise<void>;
  /** Resolves when the process has ended, however it came to that. */
  readonly exited: Promise<Exit>;
  /** Clock time when its process was started. */
  spawnedAt: number | undefined;
  /** Clock time when its process had started to run the bootstrap. */
  initialisingAt: number | undefined;
  /** Clock time when it became ready. */
  readyAt: number | undefined;
  /** Clock time of its first invocation. */
  firstServedAt: number | undefined;
  /** Clock time of its end. */
  goneAt: number | undefined;
  /** Clock time of its last change of state. */
  stateSince = 0;
  /** Clock time since when it serves nothing. */
  idleSince = 0;
  /** Invocations it has begun to serve. */
  served = 0;
  /** Invocations it serves now. */
  active = 0;
  port = 0;

  readonly #options: InstanceOptions;
  #state: InstanceState = "requested";
  #process: FunctionProcess | undefined;
  #network: OwnNetwork | undefined;
  #resolveExit: (exit: Exit) => void = () => {};

  constructor(options: InstanceOptions) {
    this.#options = options;
    this.functionName = options.description.name;
    this.startedAt = options.clock.now();
    this.exited = new Promise((resolve) => (this.#resolveExit = resolve));
    this.ready = this.#start();
    this.ready.catch(() => {}); // whoever waits hears it; nobody has to
  }

  get state(): InstanceState {
    return this.#state;
  }

  get pid(): number | undefined {
    return this.#process?.pid;
  }

  get memoryMb(): number {
    return this.#options.description.memoryMb;
  }

  /** Of the prewarmed stock and not used yet: it runs, unused, and that costs [WS-BILL-7]. */
  get isProvisioned(): boolean {
    return this.#options.isProvisioned && this.served === 0;
  }

  /** It was started for the stock; its unused time was from `readyAt` to `firstServedAt` or `goneAt`. */
  get wasProvisioned(): boolean {
    return this.#options.isProvisioned;
  }

  /** It can take an invocation now or goes on with one. */
  get isUsable(): boolean {
    const state = this.#state;
    return state === "ready" || state === "serving" || state === "frozen";
  }

  /** It occupies memory and nobody has ended it. */
  get isAlive(): boolean {
    return this.#state !== "recycling" && this.#state !== "gone";
  }

  /** An invocation begins here. */
  enter(): void {
    this.served++;
    this.firstServedAt ??= this.#options.clock.now();
    if (this.active++ > 0) return;
    if (this.#state === "frozen") this.#process?.signal("SIGCONT");
    this.#setState("serving");
  }

  /** An invocation ended here. */
  leave(): void {
    if (--this.active > 0) return;
    this.idleSince = this.#options.clock.now();
    if (this.#state === "serving") this.#setState("ready");
  }

  /** Stops the process until the next invocation. Only an unused instance can be frozen. */
  freeze(): void {
    if (this.#state !== "ready") return;
    this.#process?.signal("SIGSTOP");
    this.#setState("frozen");
  }

  /**
   * Asks the process to end (SIGTERM), makes it end after `graceMs` of the clock (SIGKILL); without a grace nobody asks.
   * Any time, any number of times.
   */
  async stop(graceMs: number, clock: Clock = realClock): Promise<void> {
    if (this.#state === "gone") return;
    const isFirst = this.#state !== "recycling"; // a second SIGTERM may mean "now" to a function
    this.#setState("recycling");
    if (this.#process === undefined) this.#gone({ ...nothingHappened });
    if (graceMs <= 0) {
      this.kill();
      await this.exited;
      return;
    }
    if (isFirst) {
      this.#process?.signal("SIGTERM");
      this.#process?.signal("SIGCONT"); // a frozen one hears it only when it runs
    }
    const cancel = clock.setTimer(graceMs, () => this.kill());
    await this.exited;
    cancel();
  }

  /** Ends the process and whatever it started in its group, now, frozen or not. */
  kill(): void {
    if (this.#state !== "gone") this.#setState("recycling");
    this.#process?.signal("SIGKILL");
  }

  #setState(next: InstanceState): void {
    if (next === this.#state) return;
    this.#options.log.debug(
      { functionName: this.functionName, instanceId: this.id, pid: this.pid },
      `instance ${this.#state} -> ${next}`,
    );
    this.stateSince = this.#options.clock.now();
    this.#state = next;
    if (next === "gone") this.goneAt = this.#options.clock.now();
  }

  /** The state as it is now: awaits lie between two reads, which the compiler does not see. */
  #is(state: InstanceState): boolean {
    return this.#state === state;
  }

  async #start(): Promise<void> {
    const { clock, folder } = this.#options;
    const report = new ListenReport(join(folder, `listen-${this.id}`));
    try {
      this.#setState("provisioning");
      const deployment = await this.#provision();
      if (!this.#is("provisioning")) throw this.#unwanted();
      await this.#initialise(deployment, report);
      this.readyAt = clock.now();
      this.idleSince = this.readyAt;
      this.#setState("ready");
    } catch (error) {
      this.kill();
      if (this.#process === undefined) this.#gone({ ...nothingHappened });
      throw error instanceof StartError
        ? error
        : new StartError(445, `${this.functionName}: ${String(error)}`);
    } finally {
      report.remove();
    }
  }

  async #provision(): Promise<Deployment> {
    const { fault } = this.#options;
    if (fault?.delayMs !== undefined) await this.#beSlow(fault.delayMs);
    if (fault?.fail !== undefined)
      throw new StartError(
        fault.fail,
        `${this.functionName}: a fault was asked for (${fault.fail}).`,
      );
    const deployment = await this.#options.deploy();
    this.port = await findFreePort();
    return deployment;
  }

  async #beSlow(delayMs: number): Promise<void> {
    const { clock, description } = this.#options;
    const seconds = description.initTimeoutSeconds;
    await pause(clock, Math.min(delayMs, seconds * 1_000));
    if (delayMs >= seconds * 1_000)
      throw new StartError(
        450,
        `${this.functionName}: the platform did not prepare an instance within the init timeout of ${seconds} s.`,
      );
  }

  async #initialise(
    deployment: Deployment,
    report: ListenReport,
  ): Promise<void> {
    const { clock, description } = this.#options;
    const seconds = description.initTimeoutSeconds;
    this.spawnedAt = clock.now();
    const child = this.#spawn(deployment, report);
    this.initialisingAt = clock.now();
    const startFailed = child.startFailed.catch((error: Error) => {
      throw new StartError(
        445,
        `${this.functionName}: its bootstrap cannot be started (${error.message}).`,
      );
    });
    startFailed.catch(() => {}); // the loop below may have its answer already
    this.#setState("initialising");
    const deadline = this.startedAt + seconds * 1_000;
    for (;;) {
      if (await Promise.race([accepts(this.port), startFailed])) break;
      if (this.#is("gone")) {
        const exit = await this.exited;
        throw new StartError(
          405,
          `${this.functionName} ended before it listened (${describeExit(exit)}).`,
        );
      }
      if (!this.#is("initialising")) throw this.#unwanted();
      if (clock.now() >= deadline)
        throw new StartError(
          446,
          `${this.functionName} did not listen on port ${PLATFORM_PORT} within ${seconds} s: ${await report.whatInstead()} [WS-BOOT-2].`,
        );
      await pause(realClock, READY_POLL_MS);
    }
    // Somebody else's server on that port would accept as well.
    if (!this.#is("initialising")) throw this.#unwanted();
  }

  #spawn(deployment: Deployment, report: ListenReport): FunctionProcess {
    const { description, env, reaper, print, network, folder } = this.#options;
    const { directory } = deployment;
    const { functionName, id: instanceId } = this;
    if (network === "own")
      this.#network = new OwnNetwork(
        this.port,
        join(folder, `network-${instanceId}`),
      );
    const child = new FunctionProcess({
      directory,
      command: this.#network?.command,
      env: {
        ...env,
        ...scfEnvironment(description, directory),
        ...(this.#network
          ? { PORT: String(PLATFORM_PORT) }
          : this.#mappedPort(report)),
      },
      reaper,
      onLine: (stream, line) =>
        print({ functionName, instanceId, stream, line }),
      onEnd: () => this.#setState("gone"),
    });
    this.#process = child;
    void child.exited.then((exit) => this.#gone(exit));
    return child;
  }

  /** For a network that is shared: a port of its own, by PORT or, where 9000 is written into a Node program, by the shim. */
  #mappedPort(report: ListenReport): Record<string, string> {
    const { NODE_OPTIONS } = this.#options.env;
    return {
      PORT: String(this.port),
      HOST: "127.0.0.1",
      LOCAL_PLATFORM_PORT: String(this.port),
      LOCAL_PLATFORM_REPORT: report.file,
      NODE_OPTIONS: [NODE_OPTIONS, `--import=${SHIM.href}`]
        .filter((option) => option !== undefined && option !== "")
        .join(" "),
    };
  }

  #gone(exit: Exit): void {
    this.#setState("gone");
    this.#network?.close();
    this.#resolveExit(exit);
  }

  #unwanted(): StartError {
    return new StartError(
      499,
      `${this.functionName}: stopped before it was ready.`,
    );
  }
}

/** The end of an instance that never had a process. */
const nothingHappened: Exit = { code: null, signal: null, stderr: [] };
