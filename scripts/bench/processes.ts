// The processes a round consists of: started, watched by their own pid in /proc, and always stopped.
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A process that said that it is ready. */
export interface Running {
  readonly name: string;
  readonly pid: number;
  readonly child: ChildProcess;
  /** What its ready line said. */
  readonly ready: RegExpExecArray;
}

export interface Program {
  name: string;
  command: string;
  args: string[];
  env?: Record<string, string>;
  /** The line on stdout that says the process is ready. */
  ready: RegExp;
  /** Opens an IPC channel to it. */
  ipc?: boolean;
}

const START_TIMEOUT_MS = 20_000;
/** How long a process may take to end by itself before it is killed. */
const STOP_TIMEOUT_MS = 10_000;
/** Linux counts CPU time in hundredths of a second (USER_HZ). */
const MICROSECONDS_PER_TICK = 10_000;

/** Starts processes and ends them all, in reverse order. */
export class Processes {
  readonly #children = new Set<ChildProcess>();
  #directory: Promise<string> | undefined;

  /** Resolves when the process is ready; rejects with its last words when it ends or stays silent instead. */
  async start(program: Program): Promise<Running> {
    const { name, command, args, env = {}, ready, ipc = false } = program;
    const child = spawn(command, args, {
      // Nothing of the caller's environment but what finds programs: the defaults are measured.
      env: { PATH: process.env["PATH"] ?? "", ...env },
      stdio: ["ignore", "pipe", "pipe", ipc ? "ipc" : "ignore"],
    });
    this.#children.add(child);
    child.once("exit", () => this.#children.delete(child));
    let output = "";
    let lastWords = "";
    child.stderr?.on("data", (chunk: Buffer) => {
      lastWords = (lastWords + chunk.toString()).slice(-2_000);
    });
    const readyLine = new Promise<RegExpExecArray>((resolve, reject) => {
      const fail = (what: string): void => {
        clearTimeout(timer);
        reject(new Error(`${name} ${what}\n${lastWords || output}`));
      };
      const timer = setTimeout(
        () => fail("did not get ready in time"),
        START_TIMEOUT_MS,
      );
      const look = (chunk: Buffer): void => {
        output += chunk.toString();
        const match = ready.exec(output);
        if (match === null) return;
        clearTimeout(timer);
        child.stdout?.off("data", look).resume(); // like a log collector, which reads and does no more
        resolve(match);
      };
      child.stdout?.on("data", look);
      child.once("error", (cause) => {
        this.#children.delete(child);
        fail(`cannot start: ${cause.message}`);
      });
      child.once("exit", (code, signal) => fail(`ended: ${code ?? signal}`));
    });
    const match = await readyLine;
    if (child.pid === undefined) throw new Error(`${name} has no pid`);
    return { name, pid: child.pid, child, ready: match };
  }

  /** A directory of this round for data files; `stop` removes it. */
  directory(): Promise<string> {
    this.#directory ??= mkdtemp(join(tmpdir(), "bench-"));
    return this.#directory;
  }

  /** Ends everything that was started and still runs. May be called at any time, twice. */
  async stop(): Promise<void> {
    for (const child of [...this.#children].reverse()) {
      const gone = once(child, "exit");
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), STOP_TIMEOUT_MS);
      await gone;
      clearTimeout(timer);
    }
    const directory = await this.#directory;
    if (directory !== undefined) await rm(directory, { recursive: true });
    this.#directory = undefined;
  }
}

/** A redis-server of its own, without persistence or with an append-only file synced every second. */
export async function startRedis(
  processes: Processes,
  appendOnly: boolean,
): Promise<Running & { url: string }> {
  const port = await freePort();
  const directory = await processes.directory();
  const settings: [string, string][] = [
    ["--bind", "127.0.0.1"],
    ["--port", String(port)],
    ["--dir", directory],
    ["--save", ""],
    ["--appendonly", appendOnly ? "yes" : "no"],
    ["--appendfsync", "everysec"],
  ];
  const running = await processes.start({
    name: "redis-server",
    command: "redis-server",
    args: settings.flat(),
    ready: /Ready to accept connections/,
  });
  return { ...running, url: `redis://127.0.0.1:${port}` };
}

/** CPU time of all threads of a process since it started, user and system. */
export async function cpuMicroseconds(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, "latin1");
  // The name in parentheses may hold spaces: fields are counted after it. utime and stime are fields 14 and 15.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * MICROSECONDS_PER_TICK;
}

/** Resident memory of a process. */
export async function residentBytes(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "latin1");
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) * 1_024;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}
