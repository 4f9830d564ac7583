// The processes a round consists of: started, watched by their own pid in /proc, and always stopped.
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { endChild, exitOf, tiedToUs } from "../programs.js";
import {
  ensureRedisBinary,
  freePort,
  launchRedis,
  type RedisProcess,
} from "../redis.js";
import { clusterRedis } from "../lab/redis.js";
import type { Scope } from "../lab/scope.js";

/** A process that said that it is ready. */
export interface Running {
  pid: number;
  child: ChildProcess;
  /** What its ready line said. */
  ready: RegExpExecArray;
}

/** A Node process of a round. */
export interface Program {
  name: string;
  /** Arguments of `node`: its own options, the script, the script's. */
  args: string[];
  /** Its whole environment besides the PATH: nothing of the caller's may change what is measured. */
  env?: Record<string, string>;
  /** The line on stdout that says the process is ready. */
  ready: RegExp;
  /** Opens an IPC channel to it. */
  ipc?: boolean;
}

/** One alone, or a Cluster of three. */
export type RedisMasters = 1 | 3;

export interface RoundRedis {
  servers: readonly { pid: number; port: number }[];
  /** Of the first. */
  port: number;
  url: string;
}

/** How long a process may take to get ready. */
const START_TIMEOUT_MS = 20_000;
/** How long a process may take to end by itself before it is killed. */
const STOP_TIMEOUT_MS = 15_000;
/** Characters of stderr kept for the error message of a process that ends. */
const LAST_WORDS = 2_000;
/** Linux counts CPU time in hundredths of a second (USER_HZ). */
const MICROSECONDS_PER_TICK = 10_000;

/** Starts processes, and ends all of them in the reverse order. */
export class Processes {
  readonly #ends: (() => Promise<unknown>)[] = [];
  #isClosed = false;
  #stopped: Promise<void> = Promise.resolve();

  /** Resolves when the process is ready; rejects with its last words when it ends or stays silent instead. */
  async startNode(program: Program): Promise<Running> {
    const { name, args, env = {}, ready, ipc = false } = program;
    const [command, allArgs] = await tiedToUs(process.execPath, args);
    this.#refuseIfClosed();
    const child = spawn(command, allArgs, {
      env: { PATH: process.env["PATH"] ?? "", ...env },
      stdio: ["ignore", "pipe", "pipe", ipc ? "ipc" : "ignore"],
    });
    this.#ends.push(() => endChild(child, "SIGTERM", STOP_TIMEOUT_MS));
    const match = await readyLine(child, ready).catch((cause: unknown) => {
      throw new Error(`${name} did not get ready: ${String(cause)}`);
    });
    if (child.pid === undefined) throw new Error(`${name} has no pid`);
    return { pid: child.pid, child, ready: match };
  }

  /** A Redis of its own, without persistence or with an append-only file synced every second. */
  async startRedis(
    appendOnly: boolean,
    masters: RedisMasters = 1,
  ): Promise<RoundRedis> {
    this.#refuseIfClosed();
    const config = {
      save: "",
      appendonly: appendOnly ? "yes" : "no",
      appendfsync: "everysec",
    };
    if (masters === 3) {
      const scope: Scope = {
        teardown: (end) => void this.#ends.push(async () => await end()),
        passing: () => true,
        comment: () => undefined,
      };
      const cluster = await clusterRedis(scope, { config });
      const { masters: servers, url } = cluster;
      return { servers, port: servers[0]?.port ?? NaN, url };
    }
    const dir = await mkdtemp(join(tmpdir(), "bench-"));
    const launch = async (): Promise<RedisProcess> =>
      launchRedis(await ensureRedisBinary(), {
        dir,
        port: await freePort(),
        args: Object.entries(config).flatMap(([name, value]) => [
          `--${name}`,
          value,
        ]),
      });
    const launched = launch();
    this.#ends.push(async () => {
      await launched.then(
        ({ child }) => endChild(child),
        () => undefined, // it did not start: startRedis says so
      );
      await rm(dir, { recursive: true, force: true });
    });
    const { pid, port } = await launched;
    return { servers: [{ pid, port }], port, url: `redis://127.0.0.1:${port}` };
  }

  /** Ends everything that was started. May be called at any time, twice: the second call waits for the first. */
  stop(): Promise<void> {
    this.#stopped = this.#stopped.then(async () => {
      for (const end of this.#ends.splice(0).reverse()) await end();
    });
    return this.#stopped;
  }

  /** Like stop, and nothing starts any more. */
  close(): Promise<void> {
    this.#isClosed = true;
    return this.stop();
  }

  #refuseIfClosed(): void {
    if (this.#isClosed) throw new Error("stopped");
  }
}

/** CPU time of all threads of a process since it started, user and system. */
export async function cpuMicroseconds(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, "latin1");
  // The name in parentheses may hold spaces: fields are counted after it. utime and stime are fields 14 and 15.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * MICROSECONDS_PER_TICK;
}

/** The same of several processes together. */
export async function cpuOfAll(pids: readonly number[]): Promise<number> {
  const all = await Promise.all(pids.map(cpuMicroseconds));
  return all.reduce((sum, one) => sum + one, 0);
}

/** Resident memory of a process. */
export async function residentBytes(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "latin1");
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) * 1_024;
}

/** The first match in what a child writes; from then on its output is read and dropped, as by a log collector. */
function readyLine(
  child: ChildProcess,
  ready: RegExp,
): Promise<RegExpExecArray> {
  return new Promise((resolve, reject) => {
    let output = "";
    let lastWords = "";
    const timer = setTimeout(
      () => reject(new Error(`no word in time ${output}`)),
      START_TIMEOUT_MS,
    );
    child.stderr?.on("data", (chunk: Buffer) => {
      lastWords = (lastWords + chunk.toString()).slice(-LAST_WORDS);
    });
    const look = (chunk: Buffer): void => {
      output += chunk.toString();
      const match = ready.exec(output);
      if (match === null) return;
      clearTimeout(timer);
      child.stdout?.off("data", look).resume();
      resolve(match);
    };
    child.stdout?.on("data", look);
    void exitOf(child).then(({ code, signal }) => {
      clearTimeout(timer);
      reject(new Error(`ended with ${code ?? signal} ${lastWords || output}`));
    });
  });
}
