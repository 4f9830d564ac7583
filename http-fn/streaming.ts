/** Answers that go on: their head, their heartbeat, and their pace. */
import { once } from "node:events";
import type { OutgoingHttpHeaders, ServerResponse } from "node:http";
import type { FastifyReply } from "fastify";

/** A comment goes out this often, milliseconds: half of the shortest idle timeout met in proxies (30 s). */
export const HEARTBEAT_MS = 15_000;

/** Takes the answer over and writes its head. */
export function beginStream(
  reply: FastifyReply,
  contentType: string,
): ServerResponse {
  const { raw } = reply.hijack();
  // A caller that left is no error; `live` ends what feeds the stream.
  raw.on("error", () => undefined);
  raw.writeHead(200, {
    ...(reply.getHeaders() as OutgoingHttpHeaders),
    "content-type": contentType,
    "cache-control": "no-store",
    // Asks nginx-like proxies to pass every line on at once.
    "x-accel-buffering": "no",
  });
  return raw;
}

/** Writes at the reader's pace: what it does not take waits where it came from, not in memory. */
export async function writePaced(
  raw: ServerResponse,
  text: string,
  signal: AbortSignal,
): Promise<void> {
  if (raw.write(text) || signal.aborted) return;
  await once(raw, "drain", { signal }).catch(() => undefined);
}
