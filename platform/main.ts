// The platform's process edge: arguments and environment → settings → platform → addresses → signals.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { createLogger } from "../shared/logging.js";
import { parseArguments, type Arguments } from "./arguments.js";
import { timeoutChain } from "./function-rules.js";
import { parseSettings, type Settings } from "./limits.js";
import { boundedLines } from "./logs.js";
import { readPair } from "./pair.js";
import { Platform, PlatformError, type FunctionSetup } from "./platform.js";
import { readProject } from "./project.js";

/** One Ctrl-C reaches us several times: from the terminal, and passed on by npm and whatever it started. */
const SAME_SIGNAL_MS = 1_000;

/** The printed example is a nicety: it must not hold up the start for longer. */
const PREPARE_MS = 10_000;

/** Width of the first column of what is printed. */
const COLUMN = 12;

const say = boundedLines(process.stdout);
const complain = boundedLines(process.stderr);

try {
  await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof PlatformError)) throw error;
  error.message.split("\n").forEach(complain);
  process.exitCode = 1;
}

async function main(args: readonly string[]): Promise<void> {
  const given = orMistakes(parseArguments(args));
  const settings = orMistakes(parseSettings({ ...process.env, ...given.env }));
  const functions = await functionsOf(given, settings);
  for (const { description } of functions)
    say(`${description.name.padEnd(COLUMN)}${timeoutChain(description)}`);
  await run(functions, given, settings);
}

function orMistakes<T extends object>(result: T | string[]): T {
  if (!Array.isArray(result)) return result;
  throw new PlatformError(result.join("\n"));
}

async function functionsOf(
  { folder, protocol, prewarm }: Arguments,
  settings: Settings,
): Promise<readonly FunctionSetup[]> {
  const { env } = process;
  const { rules } = settings;
  const inDist = (name: string) =>
    fileURLToPath(new URL(`../${name}`, import.meta.url));
  const read =
    folder === undefined
      ? readPair(inDist("http-fn"), inDist("ws-fn"), settings, env)
      : readProject(folder, { rules, env, protocol, prewarm });
  const { functions, notes } = orMistakes(await read);
  notes.forEach(say);
  return functions;
}

async function run(
  functions: readonly FunctionSetup[],
  given: Arguments,
  settings: Settings,
): Promise<void> {
  const { gatewayPort, limits, rules, logLevel } = settings;
  const tls = readTls(given);
  const platform = new Platform({
    functions,
    env: process.env,
    port: gatewayPort,
    ...(tls ? { tls } : {}),
    limits,
    rules,
    log: createLogger("platform", logLevel),
    print: ({ functionName, instanceId, stream, line }) =>
      (stream === "stdout" ? say : complain)(
        `[${functionName} ${instanceId}] ${line}`,
      ),
  });

  let stopping = false;
  let stoppingSince = 0;
  const stop = () => {
    if (stopping) {
      if (Date.now() - stoppingSince < SAME_SIGNAL_MS) return;
      platform.kill();
      process.exit(1);
    }
    stopping = true;
    stoppingSince = Date.now();
    complain("Stopping … (again to stop at once)");
    void platform.close().then(() => process.exit(0));
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
    process.on(signal, stop);
  process.on("disconnect", stop); // whoever started us has been killed outright

  try {
    const port = await platform.start();
    if (given.folder === undefined) await announcePair(port);
    else announce(functions, port, tls !== undefined);
    announceOwn(port, platform.token);
    say(`ready http://127.0.0.1:${port}`);
  } catch (error) {
    if (stopping) return;
    throw error;
  }
}

function readTls({ cert, key }: Arguments) {
  if (cert === undefined || key === undefined) return undefined;
  try {
    return { cert: readFileSync(cert), key: readFileSync(key) };
  } catch (error) {
    throw new PlatformError((error as Error).message);
  }
}

/** Prints the address of every function [WS-CONN-1], [WS-CONN-2]. */
function announce(
  functions: readonly FunctionSetup[],
  port: number,
  isSecure: boolean,
): void {
  for (const { description, route } of functions) {
    const name = description.name.padEnd(COLUMN);
    const scheme = description.protocol === "WS" ? "ws" : "http";
    const address = `://127.0.0.1:${port}${route}`;
    say(`${name}${scheme}${address}`);
    if (isSecure) say(`${name}${scheme}s${address}`);
  }
}

/** Where to look at what happens. */
function announceOwn(port: number, token: string): void {
  const own = `http://127.0.0.1:${port}/_platform`;
  say(`watch       ${own}/?token=${token}`);
  say(`calls       curl ${own}/invocations`);
  say(`logs        curl -N '${own}/logs?follow=1'`);
}

/** Prints the addresses, and a listener and a push that find each other when copied as they are. */
async function announcePair(port: number): Promise<void> {
  const origin = `http://127.0.0.1:${port}`;
  say(`page        ${origin}/`);
  say(`WebSocket   ws://127.0.0.1:${port}/ws`);
  const prepared = await prepareConnection(origin);
  if (prepared) {
    const { connectionId, url } = prepared;
    say(`listen      npm run listen -- --url '${url}'`);
    say(
      `push        curl -d hello ${origin}/v1/connections/${connectionId}/messages`,
    );
  } else {
    const key = ' -H "Authorization: Bearer $KEY"';
    say(`prepare     curl${key} -X POST ${origin}/v1/connections`);
  }
}

/** A connection to try things out with; undefined when the function wants a key for it, or has none to give. */
async function prepareConnection(
  origin: string,
): Promise<{ connectionId: string; url: string } | undefined> {
  try {
    const answer = await fetch(`${origin}/v1/connections`, {
      method: "POST",
      signal: AbortSignal.timeout(PREPARE_MS),
    });
    if (answer.status !== 201) return undefined;
    return (await answer.json()) as { connectionId: string; url: string };
  } catch {
    return undefined;
  }
}
