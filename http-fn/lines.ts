/**
 * A body that is read line by line while it arrives (NDJSON): bounded in bytes, in the length of a line and in time, and
 * it stops reading while whoever takes the lines has enough.
 */
import type { IncomingMessage } from "node:http";

export interface LineLimits {
  bytes: number;
  lineBytes: number;
  /** The whole body, milliseconds. */
  withinMs: number;
  /** Silence in between, milliseconds. */
  idleMs: number;
}

/** A line, or how long one was that is longer than it may be. */
export type Line = Buffer | { bytes: number };

/** How it ended: all of it was read, the sender went away, `take` said stop, or a limit was passed. */
export type Ending =
  "complete" | "gone" | "stopped" | "too_many_bytes" | "too_slow";

const NEWLINE = 10;

/**
 * Calls `take` for every line that is not empty. It answers "on", "stop", or a promise to be waited for before more is
 * read. A last line without a newline counts only when the body is complete: nothing half is taken.
 */
export function readLines(
  raw: IncomingMessage,
  take: (line: Line) => "on" | "stop" | Promise<unknown>,
  { bytes, lineBytes, withinMs, idleMs }: LineLimits,
): Promise<Ending> {
  return new Promise((resolve) => {
    let total = 0;
    /** The beginning of the line that is not complete yet. */
    let parts: Buffer[] = [];
    let partBytes = 0;
    let waiting: Promise<unknown> | undefined;
    let over = false;
    let ended = false;
    const late = setTimeout(() => end("too_slow"), withinMs);
    let idle = setTimeout(() => end("too_slow"), idleMs);

    function end(how: Ending): void {
      if (over) return;
      over = true;
      clearTimeout(late);
      clearTimeout(idle);
      raw.off("data", onData);
      raw.off("end", onEnd);
      // What still comes is read and dropped, so that the answer is not lost in a reset.
      raw.resume();
      resolve(how);
    }

    function give(line: Line): void {
      const answer = take(line);
      if (answer === "stop") end("stopped");
      if (typeof answer === "string" || answer === waiting) return;
      waiting = answer;
      raw.pause();
      // Waiting for us is no silence of the sender's.
      clearTimeout(idle);
      void answer.finally(() => {
        waiting = undefined;
        if (over) return;
        idle = setTimeout(() => end("too_slow"), idleMs);
        raw.resume();
      });
    }

    function complete(rest: Buffer): void {
      const length = partBytes + rest.length;
      const line =
        length > lineBytes
          ? { bytes: length }
          : parts.length === 0
            ? rest
            : Buffer.concat([...parts, rest], length);
      parts = [];
      partBytes = 0;
      if (!Buffer.isBuffer(line) || !isBlank(line)) give(line);
    }

    const onData = (chunk: Buffer): void => {
      if (waiting === undefined) idle.refresh();
      total += chunk.length;
      let from = 0;
      while (!over) {
        const at = chunk.indexOf(NEWLINE, from);
        if (at < 0) break;
        complete(chunk.subarray(from, at));
        from = at + 1;
      }
      if (over) return;
      const rest = chunk.subarray(from);
      partBytes += rest.length;
      // Of a line that is too long anyway only the length is kept.
      if (partBytes > lineBytes) parts = [];
      else if (rest.length > 0) parts.push(rest);
      if (total > bytes) end("too_many_bytes");
    };
    const onEnd = (): void => {
      ended = true;
      if (partBytes > 0) complete(Buffer.alloc(0));
      end("complete");
    };
    raw.on("data", onData);
    raw.on("end", onEnd);
    raw.once("error", () => end("gone"));
    raw.once("close", () => {
      if (!ended) end("gone");
    });
  });
}

function isBlank(line: Buffer): boolean {
  for (const byte of line)
    if (byte !== 0x20 && byte !== 0x09 && byte !== 0x0d) return false;
  return true;
}
