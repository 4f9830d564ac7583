// How the bench speaks with a process that does what it is told over its IPC channel: one order, one answer.
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";

export type Answer<Result> = { result: Result } | { failed: string };

/** Longest time for one order. */
const ORDER_TIMEOUT_MS = 300_000;

/** Resolves with the result of the order; rejects when it failed, the process ended, or it takes too long. */
export async function carryOut<Result>(
  worker: ChildProcess,
  order: object,
): Promise<Result> {
  const ended = new AbortController();
  const signal = AbortSignal.any([
    ended.signal,
    AbortSignal.timeout(ORDER_TIMEOUT_MS),
  ]);
  const onExit = (code: number | null): void =>
    ended.abort(new Error(`a worker ended with ${code} before its answer`));
  worker.once("exit", onExit);
  try {
    worker.send(order);
    const [answer] = (await once(worker, "message", { signal }).catch(() => {
      throw signal.reason;
    })) as [Answer<Result>];
    if ("failed" in answer) throw new Error(answer.failed);
    return answer.result;
  } finally {
    worker.off("exit", onExit);
  }
}
