// The load of the resume row: every client is cut at once and comes back in a slot of its own, while messages go on.
import { setTimeout as sleep } from "node:timers/promises";
import type { PhaseResult } from "./book.js";
import type { Crowd } from "./crowd.js";
import type { Listener } from "./listener.js";
import { post } from "./load.js";
import type { Pushing } from "./pushing.js";

export interface Comeback {
  messages: number;
  publishers: number;
  perSecond: number;
  /** A client comes back at a random moment between these two after the cut, and after a failure again. */
  slotMs: readonly [from: number, to: number];
  /** Messages go on for this long before the cut and after the last one is back. */
  aroundMs: number;
}

export interface ComebackResult extends PhaseResult {
  /** From the cut until messages flow to the last one that came, milliseconds. */
  lastMs: number;
  /** Clients that did not come back in time. */
  missing: number;
  /** When the last slot was. */
  lastSlotMs: number;
  /** Messages that came again on the wire and were dropped by the client. */
  repeats: number;
  /** Attempts that failed. */
  failures: number;
}

/** Who is not back after this long has given up. */
const PATIENCE_MS = 30_000;

export async function comeBack(
  crowd: Crowd,
  pushing: Pushing,
  first: number,
  { slotMs, aroundMs, ...posting }: Comeback,
): Promise<ComebackResult> {
  const end = new AbortController();
  const posted = post(crowd, pushing, first, posting, end.signal);
  // Its failure is told by whoever awaits it, which comes a little later.
  posted.catch(() => undefined);
  await sleep(aroundMs);
  for (const listener of crowd.listeners) listener.repeats = 0;
  const cutAt = performance.now();
  const deadline = cutAt + PATIENCE_MS;
  let lastSlotMs = 0;
  let lastMs = 0;
  let failures = 0;
  let missing = 0;
  const slot = (): number =>
    slotMs[0] + Math.random() * (slotMs[1] - slotMs[0]);
  const back = async (listener: Listener): Promise<void> => {
    const firstSlotMs = slot();
    lastSlotMs = Math.max(lastSlotMs, firstSlotMs);
    await sleep(firstSlotMs);
    while (
      !(await succeeds(
        listener.open(Math.max(1, deadline - performance.now())),
      ))
    ) {
      failures++;
      if (performance.now() >= deadline) {
        missing++;
        return;
      }
      await sleep(slot());
    }
    lastMs = performance.now() - cutAt;
  };
  for (const listener of crowd.listeners) listener.cut();
  await Promise.all(crowd.listeners.map(back));
  await sleep(aroundMs);
  end.abort();
  const result = await posted;
  if (missing > 0) result.faults.push(`${missing} did not come back`);
  const repeats = crowd.listeners.reduce(
    (sum, { repeats }) => sum + repeats,
    0,
  );
  return { ...result, lastMs, missing, lastSlotMs, repeats, failures };
}

function succeeds(attempt: Promise<void>): Promise<boolean> {
  return attempt.then(
    () => true,
    () => false,
  );
}
