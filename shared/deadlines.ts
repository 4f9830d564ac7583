/**
 * How long an answer is waited for: time counts only while this process runs. A process that stood still (starved of
 * CPU, or frozen and thawed) finds its timers due before it has read a socket; the answer may lie there already. So time
 * is counted in short steps, a standstill of any length is one of them, and sockets are read once more before the verdict.
 *
 * One timer serves all commands of a process: thousands of them a second cost a place in a list each.
 */

/** Between two looks at the commands that wait. */
const stepMs = 50;
/** However late a look comes, no more than this has been waited. */
const stepMsMost = 2 * stepMs;

/** How much of the time since it was last asked this process ran, in milliseconds. */
function runningTime(): () => number {
  let last = performance.now();
  return () => {
    const now = performance.now();
    const step = Math.min(now - last, stepMsMost);
    last = now;
    return step;
  };
}

/** Calls `then` after `ms` in which this process ran, with its sockets read. Returns what calls it off. */
export function afterRunning(ms: number, then: () => void): () => void {
  const step = runningTime();
  let left = ms;
  let verdict: NodeJS.Immediate | undefined;
  const timer = setInterval(() => {
    left -= step();
    if (left > 0) return;
    clearInterval(timer);
    verdict = setImmediate(then);
  }, stepMs);
  return () => {
    clearInterval(timer);
    clearImmediate(verdict);
  };
}

/** An answer that did not come. */
export class Silence extends Error {
  override readonly name = "Silence";
}

/** The answer. Throws Silence after `ms` in which this process ran. */
export async function answerWithin<T>(
  ms: number,
  answer: Promise<T>,
): Promise<T> {
  let callOff = () => {};
  try {
    return await Promise.race([
      answer,
      new Promise<never>((_, reject) => {
        callOff = afterRunning(ms, () =>
          reject(new Silence(`no answer in ${ms} ms`)),
        );
      }),
    ]);
  } finally {
    callOff();
  }
}

/** What a command of ioredis tells of itself. */
export interface Waiting {
  readonly isSettled: boolean;
  reject(error: Error): void;
}

/** The commands that wait for Redis, oldest first; each is rejected after `patienceMs`, or one step less. */
export class Deadlines {
  readonly #patienceMs: number;
  readonly #error: () => Error;
  /** From `#first` on; answered ones leave from the front. */
  #waiting: (Waiting | undefined)[] = [];
  /** When each began to wait, by `#now`. */
  #since: number[] = [];
  #first = 0;
  /** Moves with each step, and while something waits only. */
  #now = 0;
  #timer: NodeJS.Timeout | undefined;

  /** `error` is what a command is rejected with. */
  constructor(patienceMs: number, error: () => Error) {
    this.#patienceMs = patienceMs;
    this.#error = error;
  }

  /** Twice is as good as once: the first counts. */
  add(command: Waiting): void {
    this.#forgetAnswered();
    this.#waiting.push(command);
    this.#since.push(this.#now);
    if (!this.#timer) this.#start();
  }

  #start(): void {
    const step = runningTime();
    this.#timer = setInterval(() => {
      this.#now += step();
      this.#forgetAnswered();
      if (this.#waiting.length === 0) {
        clearInterval(this.#timer);
        this.#timer = undefined;
        return;
      }
      const late = this.#now - this.#patienceMs;
      // Timers come before the sockets in a turn of the event loop, and this comes after them.
      if (this.#oldestSince() <= late) setImmediate(() => this.#giveUp(late));
    }, stepMs);
  }

  #oldestSince(): number {
    return this.#since[this.#first] ?? Infinity;
  }

  #giveUp(late: number): void {
    this.#forgetAnswered();
    while (this.#oldestSince() <= late) {
      const command = this.#waiting[this.#first];
      this.#forgetOldest();
      if (command?.isSettled === false) command.reject(this.#error());
    }
  }

  #forgetAnswered(): void {
    while (this.#waiting[this.#first]?.isSettled) this.#forgetOldest();
  }

  /** Its memory is free at once, the places in the lists now and then. */
  #forgetOldest(): void {
    this.#waiting[this.#first] = undefined;
    this.#first += 1;
    if (this.#first === this.#waiting.length) {
      this.#waiting = [];
      this.#since = [];
      this.#first = 0;
    } else if (this.#first >= 4_096 && 2 * this.#first > this.#waiting.length) {
      this.#waiting.splice(0, this.#first);
      this.#since.splice(0, this.#first);
      this.#first = 0;
    }
  }
}
