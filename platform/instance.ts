// One instance: one child process of a function, from its request to its end.
//
//   requested → provisioning → initialising → ready ⇄ serving
//                    │              │           │        │
//                    └──────────────┴── recycling ◀──────┘  → gone
//
// (frozen belongs between ready and serving: a stopped process that the next invocation wakes.)

import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { access } from "node:fs/promises";
import { join } from "node:path";
import { pause, type Clock } from "./clock.js";
import { readLines, type Log, type PrintedLine } from "./logs.js";
import { accepts, findFreePort } from "./ports.js";
import { describeExit, type Exit, type StartFailure } from "./verdict.js";

export type InstanceState =
  | "requested"
  | "provisioning"
  | "initialising"
  | "ready"
  | "serving"
  | "recycling"
  | "gone";

export interface InstanceOptions {
  readonly functionName: string;
  /** Folder with the function's `scf_bootstrap`. */
  readonly directory: string;
  /** The whole environment of the process; `PORT`, `HOST` and `BRIDGE_LOCAL` are added. */
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly initSeconds: number;
  readonly clock: Clock;
  readonly log: Log;
  readonly print: (line: PrintedLine) => void;
}

/** An instance did not become ready; `status` is the platform's code for it. */
export class StartError extends Error {
  readonly status: StartFailure;
  constructor(status: StartFailure, message: string) {
    super(message);
    this.name = "StartError";
    this.status = status;
  }
}

/** Pause between two looks at whether the process listens; a look costs one refused connection. */
const READY_POLL_MS = 15;
/** Lines of stderr kept for the record of an invocation that ends with its process. */
const STDERR_LINES_KEPT = 20;
/** After the exit, its last output may still be in the pipe; a grandchild that holds the pipe must not hold us. */
const LAST_OUTPUT_MS = 250;

type Child = ReturnType<typeof spawnBootstrap>;

function spawnBootstrap(
  directory: string,
  env: Record<string, string | undefined>,
) {
  return spawn(join(directory, "scf_bootstrap"), [], {
    cwd: directory,
    env,
    // A group of its own: Ctrl-C in the terminal reaches only the platform, which then ends its children in order.
    detached: true,
    // Nothing is ever written to stdin. Its end tells the function that the platform is gone, even by SIGKILL.
    stdio: ["pipe", "pipe", "pipe"],
  });
}

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
  readonly #stderr: string[] = [];
  #state: InstanceState = "requested";
  #child: Child | undefined;
  #resolveExit: (exit: Exit) => void = () => {};

  constructor(options: InstanceOptions) {
    this.#options = options;
    this.functionName = options.functionName;
    this.startedAt = options.clock.now();
    this.exited = new Promise((resolve) => (this.#resolveExit = resolve));
    this.ready = this.#start();
    this.ready.catch(() => {}); // whoever waits hears it; nobody has to
  }

  get state(): InstanceState {
    return this.#state;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** It can take an invocation now or goes on with one. */
  get isUsable(): boolean {
    return this.#state === "ready" || this.#state === "serving";
  }

  /** An invocation begins here. */
  enter(): void {
    this.served++;
    if (this.active++ === 0) this.#setState("serving");
  }

  /** An invocation ended here. */
  leave(): void {
    if (--this.active > 0) return;
    this.idleSince = this.#options.clock.now();
    if (this.#state === "serving") this.#setState("ready");
  }

  /** Asks the process to end (SIGTERM), makes it end after `graceMs` (SIGKILL). Any time, any number of times. */
  async stop(graceMs: number): Promise<void> {
    if (this.#state === "gone") return;
    const isFirst = this.#state !== "recycling"; // a second SIGTERM may mean "now" to a function
    this.#setState("recycling");
    if (this.#child === undefined) this.#gone(null, null);
    if (isFirst) this.#signal("SIGTERM");
    const cancel = this.#options.clock.setTimer(graceMs, () => this.kill());
    await this.exited;
    cancel();
  }

  /** Ends the process and whatever it started in its group, now. */
  kill(): void {
    if (this.#state !== "gone") this.#setState("recycling");
    this.#signal("SIGKILL");
  }

  #setState(next: InstanceState): void {
    if (next === this.#state) return;
    this.#options.log.debug(
      { functionName: this.functionName, instanceId: this.id, pid: this.pid },
      `instance ${this.#state} -> ${next}`,
    );
    this.stateSince = this.#options.clock.now();
    this.#state = next;
  }

  /** The state as it is now: awaits lie between two reads, which the compiler does not see. */
  #is(state: InstanceState): boolean {
    return this.#state === state;
  }

  async #start(): Promise<void> {
    try {
      this.#setState("provisioning");
      await this.#provision();
      if (!this.#is("provisioning")) throw this.#unwanted();
      await this.#initialise();
      this.readyAt = this.#options.clock.now();
      this.idleSince = this.readyAt;
      this.#setState("ready");
    } catch (error) {
      this.kill();
      if (this.#child === undefined) this.#gone(null, null);
      throw error instanceof StartError
        ? error
        : new StartError(445, `${this.functionName}: ${String(error)}`);
    }
  }

  async #provision(): Promise<void> {
    const bootstrap = join(this.#options.directory, "scf_bootstrap");
    await access(bootstrap, constants.X_OK).catch(() => {
      throw new StartError(
        445,
        `${this.functionName}: ${bootstrap} is missing or not executable.`,
      );
    });
    this.port = await findFreePort();
  }

  async #initialise(): Promise<void> {
    const { clock, initSeconds } = this.#options;
    this.spawnedAt = clock.now();
    const startFailed = this.#spawn();
    this.initialisingAt = clock.now();
    this.#setState("initialising");
    const deadline = clock.now() + initSeconds * 1_000;
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
          `${this.functionName} did not listen on its port within ${initSeconds} s.`,
        );
      await pause(clock, READY_POLL_MS);
    }
    // Somebody else's server on that port would accept as well.
    if (!this.#is("initialising")) throw this.#unwanted();
  }

  /** The returned promise rejects when the bootstrap cannot be executed, and never resolves. */
  #spawn(): Promise<never> {
    const { directory, env } = this.#options;
    const child = spawnBootstrap(directory, {
      ...env,
      PORT: String(this.port),
      HOST: "127.0.0.1",
      BRIDGE_LOCAL: "1",
    });
    this.#child = child;
    child.stdin.on("error", () => {});
    readLines(child.stdout, (line) => this.#printed("stdout", line));
    readLines(child.stderr, (line) => this.#printed("stderr", line));
    child.once("exit", (code, signal) => {
      this.#signal("SIGKILL"); // what the bootstrap left behind in its group
      this.#gone(code, signal);
    });
    const failed = new Promise<never>((_, reject) => {
      child.once("error", (error) => {
        if (child.pid === undefined) this.#gone(null, null);
        const why = `${this.functionName}: its bootstrap cannot be started (${error.message}).`;
        reject(new StartError(445, why));
      });
    });
    failed.catch(() => {});
    return failed;
  }

  #printed(stream: "stdout" | "stderr", line: string): void {
    const { functionName, print } = this.#options;
    print({ functionName, instanceId: this.id, stream, line });
    if (stream === "stdout") return;
    this.#stderr.push(line);
    if (this.#stderr.length > STDERR_LINES_KEPT) this.#stderr.shift();
  }

  #gone(code: number | null, signal: string | null): void {
    if (this.#state === "gone") return;
    this.#setState("gone");
    const done = () =>
      this.#resolveExit({ code, signal, stderr: this.#stderr });
    if (this.#child?.pid === undefined) return done();
    const cancel = this.#options.clock.setTimer(LAST_OUTPUT_MS, done);
    this.#child.once("close", () => {
      cancel();
      done();
    });
  }

  #signal(signal: "SIGTERM" | "SIGKILL"): void {
    const pid = this.#child?.pid;
    if (pid === undefined || this.#state === "gone") return;
    try {
      process.kill(-pid, signal);
    } catch {
      // ESRCH: the whole group has ended already
    }
  }

  #unwanted(): StartError {
    return new StartError(
      499,
      `${this.functionName}: stopped before it was ready.`,
    );
  }
}
