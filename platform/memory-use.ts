// How much memory an instance uses: its process and what that has started, from /proc where there is one.

import { readFileSync } from "node:fs";

/** A look reads a few small files; more often than this the last answer is good enough. */
const FRESH_MS = 1_000;
/** A function with more processes than this is counted up to here. */
const MAX_PROCESSES = 64;

/** Resident memory of a process and its descendants, bytes; 0 where that cannot be known. */
export function residentBytes(pid: number): number {
  const waiting = [pid];
  let kilobytes = 0;
  for (let seen = 0; seen < MAX_PROCESSES; seen++) {
    const next = waiting.pop();
    if (next === undefined) break;
    const status = read(`/proc/${next}/status`);
    kilobytes += Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0);
    const children = read(`/proc/${next}/task/${next}/children`).trim();
    if (children !== "") waiting.push(...children.split(" ").map(Number));
  }
  return kilobytes * 1_024;
}

function read(file: string): string {
  try {
    return readFileSync(file, "latin1");
  } catch {
    return ""; // another system, or a process that has just ended
  }
}

/** Remembers the last answer of a process, also after its end. */
export class MemoryGauge {
  #bytes = 0;
  #askedAt = -Infinity;

  read(pid: number | undefined): number {
    const now = performance.now();
    if (pid === undefined || now - this.#askedAt < FRESH_MS) return this.#bytes;
    this.#askedAt = now;
    this.#bytes = residentBytes(pid) || this.#bytes;
    return this.#bytes;
  }
}
