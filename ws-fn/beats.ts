/**
 * Timers of thousands of connections that need no exact time. Those that are due in the same beat run in one turn of the
 * event loop, so that what they ask of Redis leaves in one write and its answers come in one read.
 */

export class Beats {
  readonly #beatMs: number;
  readonly #due = new Map<number, Set<() => void>>();

  /** `beatMs`: how far apart turns are; much shorter than what is timed by them. */
  constructor(beatMs: number) {
    this.#beatMs = beatMs;
  }

  /** Runs `run` once, after about `ms` and never later; the returned function prevents it. */
  after(ms: number, run: () => void): () => void {
    const beatMs = this.#beatMs;
    const now = performance.now();
    const beat = Math.floor((now + ms) / beatMs);
    let due = this.#due.get(beat);
    if (!due) {
      due = new Set();
      this.#due.set(beat, due);
      // Sockets keep the process alive, not what is due for them.
      setTimeout(
        () => this.#beat(beat),
        Math.max(0, beat * beatMs - now),
      ).unref();
    }
    // One of its own: the same function may be waited for twice.
    const once = () => run();
    due.add(once);
    return () => due.delete(once);
  }

  #beat(beat: number): void {
    const due = this.#due.get(beat);
    this.#due.delete(beat);
    for (const run of due ?? []) run();
  }
}
