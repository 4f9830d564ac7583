/**
 * A delivery run: one BullMQ job covers a burst. It raises the run's flag, so that http-fn adds no more jobs, reads what
 * is in the log, lingers while more keeps coming, and deletes the flag in the same script that looks a last time.
 * A run that finds a quiet connection completes at once.
 */

/** The flag lives 5 s (shared/log.ts); it is renewed this often. */
const renewFlagMs = 1_500;

export interface RunPorts {
  /** Reads and delivers; `begin` raises the flag, `end` deletes it. */
  read(mode: "begin" | "end"): Promise<unknown>;
  /** When something was last delivered, on the monotonic clock. */
  activeAtMs(): number;
  /** False once the connection is not ours any more. */
  live(): boolean;
}

/** Resolves "done", or "again" when the connection went away under it and the job should go back. */
export async function deliveryRun(
  ports: RunPorts,
  lingerMs: number,
  signal: AbortSignal,
): Promise<"done" | "again"> {
  if (!ports.live()) return "again";
  await ports.read("begin");
  let flagAtMs = performance.now();
  for (;;) {
    if (!ports.live()) return "again";
    const now = performance.now();
    const quietFor = now - ports.activeAtMs();
    if (signal.aborted || quietFor >= lingerMs) break;
    if (now - flagAtMs >= renewFlagMs) {
      await ports.read("begin");
      flagAtMs = performance.now();
      continue;
    }
    await pause(Math.min(lingerMs - quietFor, renewFlagMs), signal);
  }
  await ports.read("end");
  return ports.live() ? "done" : "again";
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, Math.max(1, ms));
    signal.addEventListener("abort", end);
  });
}
