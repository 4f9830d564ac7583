// Redis for those who have none running: the binary found or installed, and a server of our own on 127.0.0.1.
// `npm start` keeps its data in .bridge/; the tests start theirs with launchRedis in directories of their own.

import { spawn, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  chmodSync,
  linkSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import net from "node:net";
import path from "node:path";

import {
  endChild,
  exitOf,
  findProgram,
  installPackage,
  isAlive,
  SetupError,
  startTime,
  tiedToUs,
} from "./programs.js";
import { ask } from "./resp.js";

/** Longest start in ms: a large append-only file is read before the first answer. */
const READY_MS = 30_000;
const POLL_MS = 20;
/** How much of a server's own log is kept for an error message. */
const OUTPUT_LINES = 40;
/** Longest orderly end in ms: what is still in memory is written first. */
const SHUTDOWN_MS = 10_000;

const REDIS_PACKAGES = {
  "apt-get": "redis-server",
  dnf: "valkey",
  apk: "redis",
  brew: "redis",
};

/** `redis-server` or `valkey-server`, installed when there is none; a SetupError says what to do where that fails. */
export async function ensureRedisBinary(): Promise<string> {
  const find = () => findProgram("redis-server", "valkey-server");
  const found = find();
  if (found) return found;
  const installed = (await installPackage(REDIS_PACKAGES)) ? find() : undefined;
  if (installed) return installed;
  throw new SetupError(
    "No Redis: install redis-server (or valkey-server), or set REDIS_URL to a running one, e.g. REDIS_URL=redis://127.0.0.1:6379.",
  );
}

export interface RedisProcess {
  child: ChildProcess;
  pid: number;
  port: number;
  /** The last lines of the server's log. */
  output: string[];
}

export interface LaunchOptions {
  /** Working directory of the server: its data, and nothing of anybody else's. */
  dir: string;
  port: number;
  /** Of the server, from its configuration file; default none. An argument would show it to everybody (`ps`). */
  password?: string;
  /** Further arguments in redis-server's form, a configuration file first if there is one. */
  args?: readonly string[];
  /** Out of the terminal's process group, so that Ctrl-C reaches it only through us. Default false. */
  ownGroup?: boolean;
}

/** Starts a server on 127.0.0.1 and waits until it answers. Rejects with its last words when it does not. */
export async function launchRedis(
  binary: string,
  options: LaunchOptions,
): Promise<RedisProcess> {
  const [command, args] = await tiedToUs(binary, [
    ...(options.args ?? []),
    ...["--bind", "127.0.0.1"],
    ...["--port", String(options.port)],
    ...["--dir", options.dir],
    ...["--daemonize", "no"],
  ]);
  const child = spawn(command, args, {
    cwd: options.dir,
    detached: options.ownGroup ?? false,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const output: string[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => {
      output.push(...text.split("\n").filter((line) => line.trim() !== ""));
      output.splice(0, output.length - OUTPUT_LINES);
    });
  }
  const exited = exitOf(child).then(() => "exited" as const);
  const deadline = Date.now() + READY_MS;
  for (;;) {
    const state = await Promise.race([exited, isReady(options)]);
    const pid = child.pid;
    if (state === "exited" || pid === undefined) {
      throw new Error(`Redis did not start: ${output.slice(-3).join(" / ")}`);
    }
    if (state) return { child, pid, port: options.port, output };
    if (Date.now() > deadline) {
      await endChild(child);
      throw new Error(`Redis was not ready in time: ${output.at(-1) ?? ""}`);
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

async function isReady({
  port,
  password = "",
}: LaunchOptions): Promise<boolean> {
  // Refused while it starts, "LOADING" while it reads its data.
  return ask({ port, password }, "PING").then(
    () => true,
    () => false,
  );
}

/** Below every common range of ephemeral ports: no outgoing connection can take the port while its server restarts. */
const PORT_RANGE = { first: 20_000, count: 12_000 };

/** A port on 127.0.0.1 that nobody listens on just now. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port =
      PORT_RANGE.first + Math.floor(Math.random() * PORT_RANGE.count);
    if (await canListen(port)) return port;
  }
}

function canListen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = net.createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

export interface OwnRedis {
  /** With its password. */
  url: string;
  port: number;
  password: string;
  pid: number;
  /** Settles when the server ends, asked for or not. */
  exited: Promise<unknown>;
  /** Writes everything, ends the server, lets go of the directory. May be called twice. */
  stop(): Promise<void>;
}

/**
 * A server for this run whose data stays in `dir` (append-only, synced every second). The directory is nobody's but ours
 * (0700), and the server has a password, since any user of this machine can reach its port; it stands in `redis.conf` there.
 * Only one process at a time may use a directory: for a second one this is a SetupError.
 */
export async function startRedis(options: {
  dir: string;
  /** Default 0: a free one. */
  port?: number;
  /** Default: a new one. */
  password?: string;
}): Promise<OwnRedis> {
  const dir = path.resolve(options.dir);
  const binary = await ensureRedisBinary();
  makePrivate(dir);
  const release = lockDirectory(dir);
  const portFile = path.join(dir, "redis.port");
  const configFile = path.join(dir, REDIS_CONFIG);
  try {
    await endLeftOver(dir, portFile);
    const port = options.port || (await freePort());
    // A new one for each run: the last one was just said to whoever listens at the last port.
    const password = options.password ?? randomBytes(32).toString("base64url");
    writePrivately(configFile, `requirepass ${password}\n`);
    const redis = await launchRedis(binary, {
      dir,
      port,
      password,
      ownGroup: true,
      args: [
        configFile,
        ...["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""],
      ],
    });
    writePrivately(portFile, String(port));
    let stopping: Promise<void> | undefined;
    return {
      url: `redis://:${password}@127.0.0.1:${port}`,
      port,
      password,
      pid: redis.pid,
      exited: exitOf(redis.child),
      stop: () =>
        (stopping ??= endChild(redis.child, "SIGTERM", SHUTDOWN_MS).then(() => {
          rmSync(portFile, { force: true });
          release();
        })),
    };
  } catch (error) {
    release();
    if (error instanceof SetupError) throw error;
    throw new SetupError(
      error instanceof Error ? error.message : String(error),
    );
  }
}

const REDIS_CONFIG = "redis.conf";

/** The password of the server whose data is in `dir`; "" where there is none yet. */
export function readPassword(dir: string): string {
  try {
    const text = readFileSync(path.join(dir, REDIS_CONFIG), "utf8");
    return /^requirepass (\S+)$/m.exec(text)?.[1] ?? "";
  } catch {
    return "";
  }
}

/** Makes the directory, or an older one that others could read, nobody's but ours. */
function makePrivate(dir: string): void {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const { mode, uid } = statSync(dir);
  if ((mode & 0o077) === 0) return;
  // A place for everybody, such as /tmp, is not ours to close, and what lies in it is not ours alone.
  if ((mode & 0o1000) !== 0 || (process.getuid && uid !== process.getuid()))
    throw new SetupError(
      `${dir} is a directory of others as well: give BRIDGE_DIR one of your own.`,
    );
  chmodSync(dir, 0o700);
}

/** The mode counts where a file is made: one of an older run goes first. */
function writePrivately(file: string, text: string): void {
  rmSync(file, { force: true });
  writeFileSync(file, text, { mode: 0o600 });
}

/** Takes the directory for this process; gives back what lets it go. */
function lockDirectory(dir: string): () => void {
  const lock = path.join(dir, "start.lock");
  const mine = `${lock}.${process.pid}`;
  writeFileSync(mine, identity(process.pid));
  try {
    if (!link(mine, lock)) {
      const owner = readFileSync(lock, "utf8");
      const pid = Number.parseInt(owner, 10);
      if (isAlive(pid) && identity(pid) === owner) {
        throw new SetupError(
          `Already running: process ${pid} uses ${dir}. Stop it first, or give this one a REDIS_URL of its own.`,
        );
      }
      rmSync(lock, { force: true });
      link(mine, lock);
    }
  } finally {
    rmSync(mine, { force: true });
  }
  return () => rmSync(lock, { force: true });
}

/** A hard link appears at once and with its content: of two that start together, one gets it. */
function link(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EEXIST")
      return false;
    throw error;
  }
}

function identity(pid: number): string {
  return `${pid} ${startTime(pid) ?? ""}`;
}

/** A run that was killed outright may have left its server behind (where tiedToUs cannot help): end it, data intact. */
async function endLeftOver(dir: string, portFile: string): Promise<void> {
  let port: number;
  try {
    port = Number(readFileSync(portFile, "utf8"));
  } catch {
    return;
  }
  // One of an older version has no password, and says so to whoever gives it one: it is asked without.
  const password = readPassword(dir);
  const hasNone = await ask(port, "PING").then(
    () => true,
    () => false,
  );
  const server = hasNone ? port : { port, password };
  const isOurs = await ask(server, "CONFIG", "GET", "dir").then(
    (reply) => Array.isArray(reply) && reply[1] === dir,
    () => false,
  );
  if (isOurs) {
    await ask(server, "SHUTDOWN").catch(() => undefined); // it answers by hanging up
    const deadline = Date.now() + SHUTDOWN_MS;
    while (!(await canListen(port)) && Date.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }
  rmSync(portFile, { force: true });
}
