/**
 * What http-fn does for all before it answers, so that connections end and events come with no ws-fn awake: a look at
 * what is due, at most once a second in a process, for at most 5 ms. What is not done by then goes on beside the
 * request; if the instance is frozen in between, the next look by anybody finds the same.
 */

/** An answer waits no longer than this for chores, milliseconds. */
export const CHORES_MS = 5;
/** Between two looks of a process, milliseconds. */
const EVERY_MS = 1_000;

export interface Chores {
  /** Whether it is time for a look. Costs nothing. */
  due(): boolean;
  /** Looks; resolves when that is done or 5 ms are over. Never throws. */
  run(): Promise<void>;
}

/** `look` begins with nothing more once `withinMs` are over. */
export function createChores(
  look: (withinMs: number) => Promise<unknown>,
): Chores {
  let nextAt = 0;
  let looking: Promise<unknown> | undefined;
  return {
    due: () => performance.now() >= nextAt,
    async run() {
      nextAt = performance.now() + EVERY_MS;
      // One that still waits for Redis is not joined by others.
      if (looking !== undefined) return;
      looking = look(CHORES_MS)
        .catch(() => undefined)
        .finally(() => {
          looking = undefined;
        });
      let timer: NodeJS.Timeout | undefined;
      await Promise.race([
        looking,
        new Promise((resolve) => {
          timer = setTimeout(resolve, CHORES_MS);
        }),
      ]);
      clearTimeout(timer);
    },
  };
}
