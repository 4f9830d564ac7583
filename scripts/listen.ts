/**
 * `npm run listen`: connects, prints the connection ID on the first line and then every message on a line of its own.
 * Ctrl-C ends the connection with 1000. Hints and errors go to stderr, so that stdout can be piped.
 *
 *   --url <ws://host/ws>   default BRIDGE_URL, then the local stack
 *   --token <jwt>          default none: anonymous, which a stack without keys allows
 *   --raw                  a plain WebSocket client instead of bridge.v1.json: no resume, no acks
 */

import { parseArgs } from "node:util";
import { WebSocket } from "ws";
import { connect } from "../client/client.js";

/** Prints `line`; control characters are shown, not obeyed, and a message stays on its line. */
function print(line: string): void {
  const visible = (char: string): string =>
    char === "\t" ? char : JSON.stringify(char).slice(1, -1);
  process.stdout.write(`${line.replace(/\p{Cc}/gu, visible)}\n`);
}

function printBytes(bytes: Uint8Array): void {
  const base64 = Buffer.from(bytes).toString("base64");
  print(`[${bytes.length} bytes as base64] ${base64}`);
}

function printAddress(url: string, connectionId: string): void {
  const { origin } = new URL(url.replace(/^ws/, "http"));
  const key = process.env["BRIDGE_API_KEY"]
    ? ' -H "Authorization: Bearer $BRIDGE_API_KEY"'
    : "";
  print(connectionId);
  console.error(
    `push with: curl${key} -d hello ${origin}/v1/connections/${connectionId}/messages`,
  );
}

/** Both listeners return what ends them. */
function listen(url: string, token: string | undefined): () => Promise<void> {
  const bridge = connect(url, {
    token,
    WebSocket,
    onMessage: ({ text, bytes }) => {
      if (bytes === undefined) print(text ?? "");
      else printBytes(bytes);
    },
    onState: (state, previous) => {
      // Here and not after `ready`: the first message may come before a promise is heard.
      if (previous === "connecting" && state === "open") {
        printAddress(url, bridge.connectionId ?? "");
      }
      if (state === "resuming") console.error("resuming …");
      if (previous === "resuming" && state === "open") console.error("resumed");
    },
    onError: (error) => {
      console.error(error.message);
      if (bridge.state === "closed") process.exitCode = 1;
    },
    onLost: ({ what, connectionId }) => {
      console.error("messages may have been lost on the way");
      if (what === "connection") printAddress(url, connectionId);
    },
  });
  return () => bridge.close();
}

function listenRaw(
  url: string,
  token: string | undefined,
): () => Promise<void> {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const socket = new WebSocket(url, { headers });
  let welcomed = false;
  socket.on("message", (data: Buffer, isBinary) => {
    if (welcomed && isBinary) printBytes(data);
    else if (welcomed) print(data.toString());
    else {
      welcomed = true;
      const welcome = JSON.parse(data.toString()) as { connectionId: string };
      printAddress(url, welcome.connectionId);
    }
  });
  socket.on("error", ({ message }) => console.error(message));
  const closed = new Promise<void>((resolve) => {
    socket.on("close", (code, reason) => {
      if (code !== 1000) {
        console.error(`closed with ${code} ${reason.toString()}`.trimEnd());
        process.exitCode = 1;
      }
      resolve();
    });
  });
  return () => {
    socket.close(1000);
    return closed;
  };
}

function main(): void {
  const { values } = parseArgs({
    options: {
      url: { type: "string" },
      token: { type: "string" },
      raw: { type: "boolean", default: false },
    },
  });
  const url =
    values.url ?? process.env["BRIDGE_URL"] ?? "ws://127.0.0.1:8080/ws";
  const end = (values.raw ? listenRaw : listen)(url, values.token);
  const stop = (): void => void end().then(() => process.exit());
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, stop);
  }
  // Whoever reads our lines has gone (`| head -1`).
  process.stdout.on("error", stop);
  // The starter was killed outright; unreferenced, so that an end of our own is not held up by the channel.
  process.on("disconnect", stop);
  process.channel?.unref();
}

try {
  main();
} catch (error) {
  console.error((error as Error).message);
  process.exitCode = 1;
}
