/** Goes round many things, some at a time: each has its turn in a while, and no while costs more than its bound. */

/** Steps in which one round is done, where its bound allows that. */
const steps = 10;

export interface Round<T> {
  /** A round of few things takes about so long, milliseconds. */
  everyMs: number;
  /** Visits of one step at most; with more things than ten times this a round takes longer. */
  most: number;
  /** May change between steps. */
  things: { readonly size: number; values(): Iterator<T> };
  visit(some: readonly T[]): Promise<unknown>;
}

/** Starts it; returns what ends it. The next step begins when the last one is done, whether or not it failed. */
export function startRounds<T>(round: Round<T>): () => void {
  const { everyMs, most, things, visit } = round;
  let ended = false;
  let timer: NodeJS.Timeout | undefined;
  let turn = things.values();
  /** Visits that are due; a part of one when there are few things. */
  let due = 0;

  const take = (): T[] => {
    due = Math.min(due + things.size / steps, most, things.size);
    const some: T[] = [];
    for (let fresh = false; due >= 1;) {
      const next = turn.next();
      if (next.done !== true) {
        some.push(next.value);
        due -= 1;
      } else if (fresh) break;
      else {
        turn = things.values();
        fresh = true;
      }
    }
    return some;
  };

  const step = async (): Promise<void> => {
    const some = take();
    if (some.length > 0) await visit(some).catch(() => undefined);
    if (!ended) next();
  };
  const next = () => {
    timer = setTimeout(
      () => void step(),
      (everyMs / steps) * (0.75 + Math.random() / 4),
    );
    timer.unref();
  };
  next();
  return () => {
    ended = true;
    clearTimeout(timer);
  };
}
