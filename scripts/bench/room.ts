// Whether this machine can hold so many sockets: figures of refused sockets would be none.
import { readFile } from "node:fs/promises";

/** Files a process needs besides its sockets. */
const OTHER_FILES = 100;
/** What a socket takes in all processes together, rounded up. */
const SOCKET_BYTES = 200_000;

/** Throws when there is no room. */
export async function checkRoom(sockets: number): Promise<void> {
  const limits = await readFile("/proc/self/limits", "latin1");
  const files = Number(/^Max open files +(\d+)/m.exec(limits)?.[1] ?? Infinity);
  if (files < sockets + OTHER_FILES)
    throw new Error(
      `${sockets} sockets need "ulimit -n" of ${sockets + OTHER_FILES} or more; it is ${files}`,
    );
  const memory = await readFile("/proc/meminfo", "latin1");
  const free = Number(/^MemAvailable: +(\d+) kB/m.exec(memory)?.[1]) * 1_024;
  if (free < sockets * SOCKET_BYTES)
    throw new Error(
      `${sockets} sockets need about ${Math.ceil((sockets * SOCKET_BYTES) / 1e6)} MB; ${Math.floor(free / 1e6)} MB are free`,
    );
}
