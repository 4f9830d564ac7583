// The platform's process edge: environment → settings → platform → addresses → signals.

import { fileURLToPath } from "node:url";
import { createLogger } from "../shared/logging.js";
import { parseSettings, type Settings } from "./limits.js";
import { boundedLines } from "./logs.js";
import { Platform, PlatformError } from "./platform.js";

/** One Ctrl-C reaches us several times: from the terminal, and passed on by npm and whatever it started. */
const SAME_SIGNAL_MS = 1_000;

/** The printed example is a nicety: it must not hold up the start for longer. */
const PREPARE_MS = 10_000;

const say = boundedLines(process.stdout);
const complain = boundedLines(process.stderr);

const settings = parseSettings(process.env);
if (Array.isArray(settings)) {
  settings.forEach(complain);
  process.exitCode = 1;
} else {
  await run(settings);
}

async function run({
  gatewayPort,
  limits,
  ws,
  logLevel,
}: Settings): Promise<void> {
  const platform = new Platform({
    httpDirectory: fileURLToPath(new URL("../http-fn", import.meta.url)),
    wsDirectory: fileURLToPath(new URL("../ws-fn", import.meta.url)),
    env: process.env,
    port: gatewayPort,
    limits,
    ws,
    log: createLogger("platform", logLevel),
    print: ({ functionName, instanceId, stream, line }) =>
      (stream === "stdout" ? say : complain)(
        `[${functionName} ${instanceId}] ${line}`,
      ),
  });

  let stopping = false;
  let stoppingSince = 0;
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
    process.on(signal, () => {
      if (stopping) {
        if (Date.now() - stoppingSince < SAME_SIGNAL_MS) return;
        platform.kill();
        process.exit(1);
      }
      stopping = true;
      stoppingSince = Date.now();
      complain("Stopping … (again to stop at once)");
      void platform.close().then(() => process.exit(0));
    });

  try {
    await announce(await platform.start(), platform.token);
  } catch (error) {
    if (stopping) return;
    complain(error instanceof PlatformError ? error.message : String(error));
    process.exitCode = 1;
  }
}

/** Prints the addresses, and a listener and a push that find each other when copied as they are. */
async function announce(port: number, token: string): Promise<void> {
  const origin = `http://127.0.0.1:${port}`;
  say(`page        ${origin}/`);
  say(`WebSocket   ws://127.0.0.1:${port}/ws`);
  say(`watch       ${origin}/_platform/?token=${token}`);
  say(`calls       curl ${origin}/_platform/invocations`);
  say(`logs        curl -N '${origin}/_platform/logs?follow=1'`);
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
  say(`ready ${origin}`);
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
