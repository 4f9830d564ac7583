// Programs that are not ours: finding them, installing them with the system's package manager, and starting them so
// that they do not outlive whoever started them.

import { execFile, type ChildProcess } from "node:child_process";
import { accessSync, constants, readFileSync } from "node:fs";
import path from "node:path";

import { hint } from "../shared/output.js";

/** A mistake in the surroundings (nothing installed, port taken, bad value) that its one line explains fully. */
export class SetupError extends Error {}

/** The full path of the first of `names` that is an executable on the PATH. */
export function findProgram(...names: string[]): string | undefined {
  const dirs = (process.env["PATH"] ?? "").split(path.delimiter);
  for (const name of names) {
    for (const dir of dirs.filter((entry) => entry !== "")) {
      const file = path.join(dir, name);
      if (isExecutable(file)) return file;
    }
  }
  return undefined;
}

/** What a program's package is called by each package manager; left out where there is none. */
export interface PackageNames {
  "apt-get"?: string;
  dnf?: string;
  apk?: string;
  brew?: string;
}

const INSTALL: Record<keyof PackageNames, (name: string) => string[]> = {
  "apt-get": (name) => ["install", "-y", "--no-install-recommends", name],
  dnf: (name) => ["install", "-y", name],
  apk: (name) => ["add", name],
  brew: (name) => ["install", name],
};

/** Longest wait for a package manager: a slow mirror is normal, a hung one must not hold `npm start` for ever. */
const INSTALL_TIMEOUT_MS = 300_000;

/**
 * Installs a package, as root or through `sudo -n`, after saying so in one line on stderr. False where there is no
 * package manager, no right to use it, or the installation fails.
 */
export async function installPackage(names: PackageNames): Promise<boolean> {
  const manager = managers(names).find((name) => findProgram(name));
  const packageName = manager && names[manager];
  if (!manager || !packageName) return false;
  const prefix = await privilege(manager);
  if (!prefix) return false;
  hint(`Installing ${packageName} (${manager}) …`);
  const install = [...prefix, manager, ...INSTALL[manager](packageName)];
  if (await succeeds(install)) return true;
  if (manager !== "apt-get") return false;
  // A fresh container has no package lists yet.
  await succeeds([...prefix, manager, "update"]);
  return succeeds(install);
}

function managers(names: PackageNames): (keyof PackageNames)[] {
  const all: (keyof PackageNames)[] = ["apt-get", "dnf", "apk", "brew"];
  return all.filter((name) => names[name] !== undefined);
}

/** What goes before the package manager; undefined when we may not use it. Homebrew refuses root and needs none. */
async function privilege(manager: string): Promise<string[] | undefined> {
  if (manager === "brew" || process.getuid?.() === 0) return [];
  return (await succeeds(["sudo", "-n", "true"])) ? ["sudo", "-n"] : undefined;
}

function succeeds([command, ...args]: string[]): Promise<boolean> {
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  return new Promise((resolve) => {
    execFile(
      command ?? "",
      args,
      { env, timeout: INSTALL_TIMEOUT_MS, maxBuffer: 64 * 1024 * 1024 },
      (error) => resolve(error === null),
    );
  });
}

let canTie: Promise<boolean> | undefined;

/**
 * The same command, ended by SIGTERM when this process dies without a word (util-linux `setpriv`, Linux only;
 * elsewhere the command as it is). It is replaced by the command, so the process id stays the child's.
 */
export async function tiedToUs(
  command: string,
  args: readonly string[],
): Promise<[string, string[]]> {
  canTie ??= succeeds(["setpriv", "--pdeathsig", "TERM", "true"]);
  if (!(await canTie)) return [command, [...args]];
  return ["setpriv", ["--pdeathsig", "TERM", command, ...args]];
}

/** Whether a process of this id runs, ours or not. One that has ended and only waits to be collected does not. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return error instanceof Error && "code" in error && error.code === "EPERM";
  }
  return procFields(pid)?.[0] !== "Z";
}

/**
 * When a process started, in the kernel's ticks; undefined where there is no /proc. Process ids come round again, the
 * pair of both does not.
 */
export function startTime(pid: number): string | undefined {
  return procFields(pid)?.[19];
}

/** The fields of /proc/<pid>/stat from the third ("state") on: the ones before are in parentheses and may hold anything. */
function procFields(pid: number): string[] | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  } catch {
    return undefined;
  }
}

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

/** How a child ended; also when it ended before anybody asked. */
export function exitOf(child: ChildProcess): Promise<Exit> {
  if (child.exitCode !== null || child.signalCode !== null) {
    return Promise.resolve({
      code: child.exitCode,
      signal: child.signalCode,
    });
  }
  return new Promise((resolve) => {
    child.once("exit", (code, signal) => resolve({ code, signal }));
    // It never started: there is nothing to wait for.
    child.once("error", () => resolve({ code: null, signal: null }));
  });
}

/** Default patience with a child that was asked to end, in ms: more than a clean end takes, less than a user's. */
const END_DEADLINE_MS = 5_000;

/** Asks a child to end, frozen ones too, and kills it when it has not done so in time. */
export async function endChild(
  child: ChildProcess,
  signal: NodeJS.Signals = "SIGTERM",
  deadlineMs: number = END_DEADLINE_MS,
): Promise<Exit> {
  const exit = exitOf(child);
  child.kill(signal);
  child.kill("SIGCONT"); // a stopped process takes no other signal than SIGKILL
  const timer = setTimeout(() => child.kill("SIGKILL"), deadlineMs);
  try {
    return await exit;
  } finally {
    clearTimeout(timer);
  }
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
