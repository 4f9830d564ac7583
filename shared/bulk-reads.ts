/**
 * Reads that may be large: logs, histories, the stream of events. They have a connection of their own, so that a page of them
 * never makes a command wait; a budget of bytes that may be on their way to this process, so that any number of readers
 * takes turns; and no vote on whether Redis answers: a page that takes long says how much was asked for.
 */

/** Bytes of one page, about: what exceeds it by one message is still sent. */
export const pageBytesMax = 131_072;
/** Bytes that may be on their way at the same time. */
const budgetBytes = 4_194_304;

/** Lua: rows may be of any size, so a look copies about as many as there is room for, by what those so far took. */
export const paged = `
local function few(rows, size, most)
  if rows == 0 then return 2 end
  return math.max(1, math.min(32, math.floor((most - size) / (size / rows + 1))))
end
`;

/** First come, first served. */
export class ByteBudget {
  readonly #waiting: { bytes: number; go(): void }[] = [];
  #left: number;

  constructor(bytes: number) {
    this.#left = bytes;
  }

  /** Waits for room, does the work, and gives the room back when the work has settled. */
  async spend<T>(bytes: number, work: () => Promise<T>): Promise<T> {
    if (this.#waiting.length > 0 || bytes > this.#left)
      await new Promise<void>((go) => this.#waiting.push({ bytes, go }));
    else this.#left -= bytes;
    try {
      return await work();
    } finally {
      this.#left += bytes;
      this.#next();
    }
  }

  #next(): void {
    for (;;) {
      const [first] = this.#waiting;
      if (!first || first.bytes > this.#left) return;
      this.#waiting.shift();
      this.#left -= first.bytes;
      first.go();
    }
  }
}

/** The large reads of one process. */
export class BulkReads {
  readonly #budget = new ByteBudget(budgetBytes);
  /** Reads whose callers wait; they are refused when Redis is silent, whenever their answers come. */
  readonly #refusals = new Set<(error: Error) => void>();

  /** `send` sends it; `bytes` of answer are asked for. Its room is taken until the answer is here, or will not come. */
  run<T>(bytes: number, send: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#refusals.add(reject);
      const settled = () => this.#refusals.delete(reject);
      void this.#budget
        .spend(Math.min(bytes, pageBytesMax), async () => {
          // Refused while it waited.
          if (this.#refusals.has(reject)) resolve(await send());
        })
        .catch(reject)
        .finally(settled);
    });
  }

  /** Redis is silent: all that wait are refused. */
  refuse(error: Error): void {
    for (const reject of this.#refusals) reject(error);
    this.#refusals.clear();
  }
}
