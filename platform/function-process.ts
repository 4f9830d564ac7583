// The process of an instance: a started `scf_bootstrap` and whatever it starts in its group; its lines, its end.

import { spawn, type ChildProcess } from "node:child_process";
import { join } from "node:path";
import { realClock } from "./clock.js";
import { readLines } from "./logs.js";
import type { Reaper } from "./reaper.js";
import type { Exit } from "./verdict.js";

export interface FunctionProcessOptions {
  /** With the `scf_bootstrap`; its working directory. */
  readonly directory: string;
  /** The whole environment. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** What is executed in that folder; default: its `scf_bootstrap`. */
  readonly command?: readonly [string, readonly string[]] | undefined;
  readonly reaper: Reaper;
  onLine(stream: "stdout" | "stderr", line: string): void;
  /** It has ended, or never began; its last output may still come. */
  onEnd(): void;
}

type Signal = "SIGTERM" | "SIGKILL" | "SIGSTOP" | "SIGCONT";

/** Lines of stderr kept for the record of an invocation that ends with its process. */
const STDERR_LINES_KEPT = 60;
/** After the exit, its last output may still be in the pipe; a grandchild that holds the pipe must not hold us. */
const LAST_OUTPUT_MS = 250;

export class FunctionProcess {
  readonly pid: number | undefined;
  /** Resolves when it has ended and its last output is there, or it never began. */
  readonly exited: Promise<Exit>;
  /** Rejects when the bootstrap cannot be executed; never resolves. */
  readonly startFailed: Promise<never>;

  readonly #stderr: string[] = [];
  #hasEnded = false;

  constructor(options: FunctionProcessOptions) {
    const bootstrap = join(options.directory, "scf_bootstrap");
    const [command, args] = options.command ?? [bootstrap, []];
    const child = spawn(command, args, {
      cwd: options.directory,
      env: options.env,
      // A group of its own: Ctrl-C in the terminal reaches only the platform, which then ends its children in order.
      detached: true,
      // Nothing is ever written to stdin. Its end tells the function that the platform is gone.
      stdio: ["pipe", "pipe", "pipe"],
    });
    this.pid = child.pid;
    if (child.pid !== undefined) options.reaper.add(child.pid);
    child.stdin.on("error", () => {});
    readLines(child.stdout, (line) => options.onLine("stdout", line));
    readLines(child.stderr, (line) => {
      options.onLine("stderr", line);
      this.#stderr.push(line);
      if (this.#stderr.length > STDERR_LINES_KEPT) this.#stderr.shift();
    });
    this.startFailed = new Promise<never>((_, reject) => {
      child.once("error", (error) => reject(error));
    });
    this.startFailed.catch(() => {});
    this.exited = this.#watch(child, options);
  }

  /** To its whole group. */
  signal(signal: Signal): void {
    if (this.pid === undefined || this.#hasEnded) return;
    try {
      process.kill(-this.pid, signal);
    } catch {
      // ESRCH: the whole group has ended already
    }
  }

  #watch(child: ChildProcess, options: FunctionProcessOptions): Promise<Exit> {
    return new Promise((resolve) => {
      const ended = (code: number | null, signal: string | null) => {
        if (this.#hasEnded) return;
        this.signal("SIGKILL"); // what the bootstrap left behind in its group
        this.#hasEnded = true;
        if (this.pid !== undefined) options.reaper.remove(this.pid);
        options.onEnd();
        const done = () => resolve({ code, signal, stderr: this.#stderr });
        if (this.pid === undefined) return done();
        const cancel = realClock.setTimer(LAST_OUTPUT_MS, done);
        child.once("close", () => {
          cancel();
          done();
        });
      };
      child.once("exit", ended);
      child.once("error", () => {
        if (this.pid === undefined) ended(null, null);
      });
    });
  }
}
