/**
 * Redis at its memory limit, in the words that all share: what it says then, what we answer, and how a script that makes
 * room gets its writes done all the same.
 */
import { BridgeError } from "./errors.js";

/** Memory comes back as clients ack, which takes round trips, not milliseconds. */
export const retryFullSeconds = 2;

/**
 * The first line of every script that drains (claim, renew, read, report, recall, end). At its memory limit Redis refuses
 * a script's writes, unless it has written already: nobody stops half-way. A delete is never refused and counts
 * as a write even where nothing is there. So these scripts work on a full Redis, whatever else fills it; scripts
 * that take something new (append, schedule, prepare) lack the line and are refused whole. Holds for Redis since 2.6
 * and for Valkey; `#!lua flags=allow-oom` would need Redis 7. `key` is a hash, in Lua.
 */
export const drains = (key = "KEYS[1]"): string =>
  `redis.call('HDEL', ${key}, '')\n`;

/** Whether Redis refused a command for want of memory. Before Redis 7 a script's error wraps the word. */
export function isOutOfMemory(error: unknown): boolean {
  return error instanceof Error && /(?:^| -)OOM\b/.test(error.message);
}

/** Nothing was stored, and nothing will be. `limit` and `actual` in bytes where they are known. */
export function redisFull(
  facts: { limit?: number; actual?: number } = {},
  cause?: unknown,
): BridgeError {
  return new BridgeError(
    "redis_full",
    {
      detail: "Redis has no room for more until clients take what waits",
      hint: "Ask again after Retry-After seconds. Messages that wait are delivered meanwhile; a larger maxmemory, a shorter ttl or a shorter RECEIPT_SECONDS helps for good.",
      ...facts,
      retryAfterSeconds: retryFullSeconds,
    },
    cause,
  );
}
