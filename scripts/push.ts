/**
 * `npm run push -- <connectionId> <text>`: pushes one text message and prints the answer. A problem is one line on
 * stderr, `code: detail`, and exit code 1.
 *
 *   --wait <seconds>   wait this long for the message to arrive, and print its receipt
 *
 * BRIDGE_HTTP_URL is the stack's address (default the local one), BRIDGE_API_KEY the key if it asks for one.
 */

import { parseArgs } from "node:util";

import { complain, say } from "../shared/output.js";
import { visible } from "../shared/visible.js";

async function push(
  connectionId: string,
  text: string,
  wait: string | undefined,
): Promise<string> {
  const base = process.env["BRIDGE_HTTP_URL"] ?? "http://127.0.0.1:8080";
  const key = process.env["BRIDGE_API_KEY"];
  const path = `/v1/connections/${encodeURIComponent(connectionId)}/messages`;
  const response = await fetch(new URL(path, base), {
    method: "POST",
    headers: {
      "Content-Type": "text/plain",
      ...(wait === undefined ? {} : { Prefer: `wait=${wait}` }),
      ...(key === undefined ? {} : { Authorization: `Bearer ${key}` }),
    },
    body: text,
  });
  const body = await response.text();
  if (response.ok) return body.trimEnd();
  throw new Error(problemLine(body) ?? `status ${response.status}`);
}

function problemLine(body: string): string | undefined {
  try {
    const { code, detail, title } = JSON.parse(body) as Record<string, string>;
    return code === undefined ? undefined : `${code}: ${detail ?? title}`;
  } catch {
    return undefined;
  }
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    options: { wait: { type: "string" } },
    allowPositionals: true,
  });
  const [connectionId, ...words] = positionals;
  if (connectionId === undefined || words.length === 0) {
    throw new Error("usage: npm run push -- <connectionId> <text> [--wait n]");
  }
  say(await push(connectionId, words.join(" "), values.wait));
}

main().catch((error: Error) => {
  // fetch hides what went wrong ("fetch failed") in the cause.
  const { message, cause } = error;
  complain(
    visible(cause instanceof Error ? `${message}: ${cause.message}` : message),
  );
  process.exitCode = 1;
});
