/**
 * `npm run listen`: connects, prints the connection ID on the first line and then every message on a line of its own.
 * Ctrl-C ends the connection with 1000. Hints and errors go to stderr, so that stdout can be piped.
 *
 *   --url <ws://host/ws>   default BRIDGE_URL, then the local stack
 *   --token <jwt>          default none: anonymous, which a stack without keys allows
 *   --user <id>            as this user: asks the stack for a connection of theirs (with BRIDGE_API_KEY where it has keys)
 *   --group <name>         likewise as a member of this group; may be given more than once
 *   --raw                  a plain WebSocket client instead of bridge.v1.json: no resume, no acks
 */

import { parseArgs } from "node:util";
import { WebSocket } from "ws";
import { connect } from "../client/client.js";
import { complain, hint, say } from "../shared/output.js";
import { visible } from "../shared/visible.js";

/** A message stays on its line. */
const print = (line: string): void => say(visible(line));

function printBytes(bytes: Uint8Array): void {
  const base64 = Buffer.from(bytes).toString("base64");
  print(`[${bytes.length} bytes as base64] ${base64}`);
}

/** Who listens: an anonymous connection has neither user nor groups. */
interface Wish {
  user?: string | undefined;
  group?: string[] | undefined;
}

let wish: Wish = {};

const httpOrigin = (url: string): string =>
  new URL(url.replace(/^ws/, "http")).origin;

function printAddress(url: string, connectionId: string): void {
  const key = process.env["BRIDGE_API_KEY"]
    ? ' -H "Authorization: Bearer $BRIDGE_API_KEY"'
    : "";
  print(connectionId);
  const paths = [
    `connections/${connectionId}`,
    ...(wish.user === undefined ? [] : [`users/${inPath(wish.user)}`]),
    ...(wish.group ?? []).map((name) => `groups/${inPath(name)}`),
  ];
  for (const path of paths)
    hint(
      visible(
        `push with: curl${key} -d hello ${httpOrigin(url)}/v1/${path}/messages`,
      ),
    );
}

/** As part of a path that a shell is given: an apostrophe would end what it quotes. */
const inPath = (name: string): string =>
  encodeURIComponent(name).replace(
    /[!'()*]/g,
    (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`,
  );

/** The token of a connection that is made for this listener. */
async function prepare(url: string): Promise<string> {
  const key = process.env["BRIDGE_API_KEY"];
  const answer = await fetch(`${httpOrigin(url)}/v1/connections`, {
    method: "POST",
    headers: {
      "Content-Type": "application/json",
      ...(key === undefined ? {} : { Authorization: `Bearer ${key}` }),
    },
    body: JSON.stringify({ userId: wish.user, groups: wish.group }),
  });
  const body = (await answer.json()) as Record<string, string>;
  if (answer.ok) return body["token"] ?? "";
  throw new Error(`${body["code"]}: ${body["detail"] ?? body["title"]}`);
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
      if (state === "resuming") complain("resuming …");
      if (previous === "resuming" && state === "open") complain("resumed");
    },
    onError: (error) => {
      complain(visible(error.message));
      if (bridge.state === "closed") process.exitCode = 1;
    },
    onLost: ({ what, connectionId }) => {
      complain("messages may have been lost on the way");
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
  socket.on("error", ({ message }) => complain(visible(message)));
  const closed = new Promise<void>((resolve) => {
    socket.on("close", (code, reason) => {
      if (code !== 1000) {
        complain(visible(`closed with ${code} ${reason.toString()}`.trimEnd()));
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

const USAGE =
  "usage: npm run listen -- [--user id] [--group name]… [--url ws://host/ws] [--token jwt] [--raw]";

const OPTIONS = {
  url: { type: "string" },
  token: { type: "string" },
  user: { type: "string" },
  group: { type: "string", multiple: true },
  raw: { type: "boolean", default: false },
  help: { type: "boolean", default: false },
} as const;

async function main(): Promise<void> {
  const { values } = parseArgs({ options: OPTIONS });
  if (values.help) return say(USAGE);
  const url =
    values.url ?? process.env["BRIDGE_URL"] ?? "ws://127.0.0.1:8080/ws";
  wish = { user: values.user, group: values.group };
  const isSomebody = wish.user !== undefined || wish.group !== undefined;
  if (isSomebody && values.token !== undefined)
    throw new Error("a token says already who it is for");
  const token = isSomebody ? await prepare(url) : values.token;
  const end = (values.raw ? listenRaw : listen)(url, token);
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

main().catch((error: Error) => {
  // fetch hides what went wrong ("fetch failed") in the cause.
  const { message, cause } = error;
  complain(
    visible(cause instanceof Error ? `${message}: ${cause.message}` : message),
  );
  if (error instanceof TypeError && "code" in error) hint(USAGE);
  process.exitCode = 1;
});
