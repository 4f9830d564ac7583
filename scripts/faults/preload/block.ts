/** At SIGUSR2 the event loop stands still until a file is gone, as if a computation held it. */
import { existsSync, writeSync } from "node:fs";

import { blockFile } from "../preloads.js";

/** A runner that died removes nothing, ms. */
const AT_MOST_MS = 60_000;
const LOOK_EVERY_MS = 10;

let times = 0;
process.on("SIGUSR2", () => {
  const file = blockFile(process.pid);
  const clock = new Int32Array(new SharedArrayBuffer(4));
  const until = performance.now() + AT_MOST_MS;
  times += 1;
  // By the system call itself: whatever else a stream would do waits for the event loop.
  writeSync(1, `blocked ${times}\n`);
  while (existsSync(file) && performance.now() < until) {
    Atomics.wait(clock, 0, 0, LOOK_EVERY_MS);
  }
});
