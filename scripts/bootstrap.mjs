// `npm run <verb>` on any clone: installs what is missing, builds what changed, then runs dist/scripts/<verb>.js.
// Plain JavaScript over Node's own modules, because nothing is installed or built yet when it starts.

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { clearInterval, setInterval, setTimeout } from "node:timers";
import { fileURLToPath } from "node:url";

const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const ROOMS = [
  "http-fn",
  "ws-fn",
  "shared",
  "platform",
  "client",
  "console",
  "scripts",
];
const BUILD_INPUTS = [
  "openapi.yaml",
  "package-lock.json",
  "tsconfig.json",
  "tsconfig.build.json",
];
const STAMP = inRoot("dist/.built");
const LOCK = inRoot(".bridge/setup.lock");

/** The holder touches its lock every second; one this old belongs to a process that is gone, even if its id lives on. */
const LOCK_STALE_MS = 15_000;
/** Ctrl-C in a terminal reaches the child by itself; a signal sent to us alone is passed on after this long. */
const FORWARD_DELAY_MS = 500;
/** How often to look whether npm is still there. */
const PARENT_LOOK_MS = 1_000;
/** How much of npm's complaint is shown. */
const NPM_LINES = 12;

const TOOLS = {
  eslint: "eslint/bin/eslint.js",
  "openapi-typescript": "openapi-typescript/bin/cli.js",
  prettier: "prettier/bin/prettier.cjs",
  tsc: "typescript/bin/tsc",
};
const GENERATE = [
  "openapi-typescript",
  "openapi.yaml",
  "--output",
  "shared/api.d.ts",
  "--root-types",
  "--root-types-no-schema-prefix",
];
/** What has not changed since it was right is right. By content: a checkout renews all times. */
const cachedIn = (file) => [
  ...["--cache", "--cache-strategy", "content"],
  ...["--cache-location", file],
];
const CHECKS = [
  ["eslint", ".", ...cachedIn("dist/.eslintcache")],
  ["prettier", "--check", ".", ...cachedIn("dist/.prettiercache")],
  [
    "tsc",
    "--noEmit",
    "--incremental",
    "--tsBuildInfoFile",
    "dist/.check.tsbuildinfo",
  ],
  [...GENERATE, "--check"],
];

/** What one line explains; anything else that is thrown is a mistake of ours and shows its stack. */
class SetupError extends Error {}

const children = new Set(); // those that have the work now
let endedBy; // the signal that asked us to stop

main(process.argv.slice(2)).then(
  (code) => process.exit(code),
  (error) => {
    if (endedBy) process.exit(signalCode(endedBy));
    console.error(error instanceof SetupError ? error.message : error);
    process.exit(1);
  },
);

async function main([verb, ...args]) {
  if (Number(process.versions.node.split(".")[0]) < 20) {
    throw new SetupError(
      `Node 20 or newer is needed; this is ${process.version}.`,
    );
  }
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"])
    process.on(signal, () => onSignal(signal));
  if (process.env.npm_lifecycle_event) endWithParent();

  const known = ["build", "check", "generate"];
  if (!known.includes(verb) && !fs.existsSync(inRoot(`scripts/${verb}.ts`))) {
    throw new SetupError(
      `Unknown verb "${verb ?? ""}": see the scripts in package.json.`,
    );
  }
  await locked(async () => {
    if (!isInstalled()) await install();
    if (verb === "check" || verb === "generate") return;
    if (
      !fs.existsSync(inRoot("shared/api.d.ts")) &&
      fs.existsSync(inRoot("openapi.yaml"))
    ) {
      await generate([]);
    }
    await build();
  });
  if (verb === "build") return 0;
  if (verb === "check") return check();
  if (verb === "generate") return generate(args);
  const script = inRoot(`dist/scripts/${verb}.js`);
  // The channel is how the script learns that this process was killed outright: it sees "disconnect".
  const end = await run(
    process.execPath,
    ["--enable-source-maps", script, ...args],
    {
      stdio: ["inherit", "inherit", "inherit", "ipc"],
    },
  );
  return end.code;
}

// ---- the steps

/** Every package the lock file asks for is there in that version. Times say nothing: a checkout renews them. */
function isInstalled() {
  const wanted = readJson(inRoot("package-lock.json"))?.packages ?? {};
  const found = readJson(inRoot("node_modules/.package-lock.json"))?.packages;
  if (!found) return false;
  return Object.entries(wanted).every(
    ([place, entry]) =>
      place === "" || entry.optional || found[place]?.version === entry.version,
  );
}

async function install() {
  say("Installing dependencies (npm ci) …");
  const npm = process.env.npm_execpath; // set when npm runs us: the same npm, whatever the PATH says
  const args = [
    "ci",
    "--include=dev",
    "--no-audit",
    "--no-fund",
    "--loglevel=error",
  ];
  const end = npm
    ? await run(process.execPath, [npm, ...args], { cwd: ROOT, capture: true })
    : await run("npm", args, { cwd: ROOT, capture: true });
  if (end.code === 0) return;
  // npm says what is wrong first and how it is used at great length after that.
  const lines = end.output.trimEnd().split("\n");
  const head = lines.slice(0, NPM_LINES).join("\n");
  throw new SetupError(`npm ci failed (exit code ${end.code}):\n${head}`);
}

async function build() {
  const print = fingerprint(); // taken first: what changes while tsc runs is built the next time
  if (readText(STAMP) === print) return;
  say("Building …");
  fs.rmSync(STAMP, { force: true });
  for (const file of sources()) {
    if (!isCopied(file) || !fs.existsSync(inRoot(file))) continue;
    const target = inRoot("dist", file);
    fs.mkdirSync(path.dirname(target), { recursive: true });
    fs.copyFileSync(inRoot(file), target);
    if (path.basename(file) === "scf_bootstrap") fs.chmodSync(target, 0o755); // the platform executes it
  }
  const end = await tool(["tsc", "-p", "tsconfig.build.json"]);
  if (end.code !== 0)
    throw new SetupError(
      `${end.output.trimEnd()}\nThe build failed: see above.`,
    );
  await readContract();
  fs.writeFileSync(STAMP, print);
}

/** What openapi.yaml says, for whoever starts: reading YAML takes half of a cold start. */
async function readContract() {
  const text = readText(inRoot("openapi.yaml"));
  if (text === undefined) return;
  const { parse } = await import("yaml");
  let document;
  try {
    document = parse(text);
  } catch (error) {
    throw new SetupError(`openapi.yaml: ${error.message}\nThe build failed.`);
  }
  fs.writeFileSync(inRoot("dist/openapi.json"), JSON.stringify(document));
}

async function generate(args) {
  const end = await tool([...GENERATE, ...args]);
  if (end.code !== 0) {
    const hint = args.includes("--check")
      ? "shared/api.d.ts does not match openapi.yaml: run `npm run generate`."
      : "shared/api.d.ts could not be generated from openapi.yaml.";
    throw new SetupError(`${end.output.trimEnd()}\n${hint}`);
  }
  return 0;
}

/** Lint, form, types and generated types; two at a time. All of them run, whatever the first ones say. */
async function check() {
  const waiting = [...CHECKS];
  let failed = 0;
  const worker = async () => {
    for (let next = waiting.shift(); next && !endedBy; next = waiting.shift()) {
      const end = await tool(next);
      const name = `${next[0]}${next.includes("--check") ? " --check" : ""}`;
      if (end.code === 0) {
        say(`ok      ${name}`);
      } else {
        failed += 1;
        say(`${end.output.trimEnd()}\nFAILED  ${name}`);
      }
    }
  };
  await Promise.all([worker(), worker()]);
  return endedBy ? signalCode(endedBy) : Math.min(failed, 1);
}

// ---- what is built

/** Files of the rooms and the other inputs of a build, relative to the root. */
function sources() {
  const files = [...BUILD_INPUTS];
  for (const room of ROOMS.filter((name) => fs.existsSync(inRoot(name)))) {
    for (const entry of fs.readdirSync(inRoot(room), {
      recursive: true,
      withFileTypes: true,
    })) {
      if (entry.isFile()) {
        files.push(
          path.relative(
            ROOT,
            path.join(entry.parentPath ?? entry.path, entry.name),
          ),
        );
      }
    }
  }
  return files.sort();
}

/** Read at run time as it stands: the contract, pages, start files, what is preloaded into functions. */
function isCopied(file) {
  if (BUILD_INPUTS.includes(file)) return file === "openapi.yaml";
  return !/\.(ts|md)$/.test(file) && file !== "scripts/bootstrap.mjs";
}

/** Changes with any name, size or time of a source, so a deleted or an older file counts as a change too. */
function fingerprint() {
  const hash = createHash("sha256");
  for (const file of sources()) {
    const stat = fs.statSync(inRoot(file), { throwIfNoEntry: false });
    if (stat) hash.update(`${file} ${stat.size} ${stat.mtimeMs}\n`);
  }
  return hash.digest("hex");
}

// ---- one set-up at a time

/** Runs `work` while no other process of this folder installs or builds. */
async function locked(work) {
  makePrivate(path.dirname(LOCK));
  const mine = `${LOCK}.${process.pid}`;
  fs.writeFileSync(mine, String(process.pid));
  let told = false;
  try {
    while (!takeLock(mine)) {
      if (endedBy) throw new SetupError("Stopped.");
      if (!told) say("Waiting for another set-up in this folder …");
      told = true;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    // The lock is a hard link to `mine`, so this touches the lock, and never somebody else's.
    const touching = setInterval(
      () => fs.utimesSync(mine, new Date(), new Date()),
      1_000,
    );

    try {
      await work();
    } finally {
      clearInterval(touching);
      if (readText(LOCK) === String(process.pid))
        fs.rmSync(LOCK, { force: true });
    }
  } finally {
    fs.rmSync(mine, { force: true });
  }
  if (endedBy) throw new SetupError("Stopped.");
}

/** What is kept here is nobody's but ours: the data of the local Redis, and its password. An older one was open to all. */
function makePrivate(dir) {
  fs.mkdirSync(dir, { recursive: true, mode: 0o700 });
  if ((fs.statSync(dir).mode & 0o077) === 0) return;
  try {
    fs.chmodSync(dir, 0o700);
  } catch {
    // Another user's. A lock may lie in it; scripts/redis.ts puts no data there.
  }
}

/** A hard link appears at once and with its content, so a lock never stands there without its owner's id. */
function takeLock(mine) {
  try {
    fs.linkSync(mine, LOCK);
    return true;
  } catch (error) {
    if (error.code !== "EEXIST") throw error;
  }
  const stat = fs.statSync(LOCK, { throwIfNoEntry: false });
  const owner = readText(LOCK);
  if (!stat || owner === undefined) return false; // let go this very moment: the next try takes it
  const isStale =
    Date.now() - stat.mtimeMs > LOCK_STALE_MS || !isAlive(Number(owner));
  if (isStale) fs.rmSync(LOCK, { force: true });
  return false;
}

// ---- processes

function tool([name, ...args]) {
  const file = inRoot("node_modules", TOOLS[name]);
  return run(process.execPath, [file, ...args], { cwd: ROOT, capture: true });
}

/** Runs one command to its end: its exit code (128 + n for a signal, as a shell says it) and, captured, its output. */
function run(command, args, { capture = false, ...options }) {
  if (endedBy) throw new SetupError("Stopped.");
  return new Promise((resolve, reject) => {
    const stdio = capture ? ["ignore", "pipe", "pipe"] : "inherit";
    const started = spawn(command, args, { stdio, ...options });
    children.add(started);
    let output = "";
    started.stdout?.on("data", (chunk) => (output += chunk));
    started.stderr?.on("data", (chunk) => (output += chunk));
    started.once("error", (error) => {
      children.delete(started);
      reject(
        new SetupError(`${command} could not be started: ${error.message}`),
      );
    });
    started.once("close", (code, signal) => {
      children.delete(started);

      resolve({ code: signal ? signalCode(signal) : code, output });
    });
  });
}

function onSignal(signal) {
  endedBy = signal;
  const forward = () => children.forEach((child) => child.kill(signal));
  if (signal === "SIGTERM") forward();
  else setTimeout(forward, FORWARD_DELAY_MS).unref();
}

/** npm killed outright passes nothing on; that our parent is another one then is all there is to see. */
function endWithParent() {
  const parent = process.ppid;
  const timer = setInterval(() => {
    if (process.ppid === parent) return;
    clearInterval(timer);
    onSignal("SIGTERM");
  }, PARENT_LOOK_MS);
  timer.unref();
}

function signalCode(signal) {
  return 128 + os.constants.signals[signal];
}

function isAlive(pid) {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return error.code === "EPERM";
  }
}

// ---- small things

function inRoot(...parts) {
  return path.join(ROOT, ...parts);
}

function readText(file) {
  try {
    return fs.readFileSync(file, "utf8");
  } catch {
    return undefined;
  }
}

function readJson(file) {
  const text = readText(file);
  return text === undefined ? undefined : JSON.parse(text);
}

/** To stderr: stdout belongs to the verb. */
function say(line) {
  console.error(line);
}
