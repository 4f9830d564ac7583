/**
 * Something that is loaded from elsewhere and kept: loaded at the first use, looked at again in the background when it has
 * been used for a while, and used on when that fails.
 */

export interface KeptOptions {
  /** After this long, milliseconds, the next use begins to load it again. Infinity: never. */
  refreshMs: number;
  /** What could not be loaded again for this long is not used any more, milliseconds. Default: it is used for ever. */
  staleMs?: number;
  /** Loaded at most so often because somebody asks for it, milliseconds. Default 10,000. */
  pauseMs?: number;
  /** It could not be loaded again; what was loaded before is used on. */
  failed?: (error: unknown) => void;
}

export class Kept<T> {
  readonly #load: () => Promise<T>;
  readonly #options: KeptOptions;
  #value: { is: T; loadedAt: number } | undefined;
  #loading: Promise<T> | undefined;
  #triedAt = -Infinity;

  constructor(load: () => Promise<T>, options: KeptOptions) {
    this.#load = load;
    this.#options = options;
  }

  /** What is known without waiting. */
  get now(): T | undefined {
    const { refreshMs, staleMs = Infinity } = this.#options;
    if (!this.#value) return undefined;
    const age = performance.now() - this.#value.loadedAt;
    if (age > refreshMs) this.#refresh();
    return age > staleMs ? undefined : this.#value.is;
  }

  /** What is known, or is loaded now. Throws what loading threw. */
  async get(): Promise<T> {
    return this.now ?? (await this.#begin());
  }

  /** Loads it again, unless that was tried just now: then what is known. */
  async again(): Promise<T> {
    const { pauseMs = 10_000 } = this.#options;
    if (!this.#loading && performance.now() - this.#triedAt < pauseMs)
      return this.get();
    return this.#begin();
  }

  #refresh(): void {
    const { pauseMs = 10_000, refreshMs } = this.#options;
    if (performance.now() - this.#triedAt < Math.min(pauseMs, refreshMs))
      return;
    this.#begin().catch((error: unknown) => this.#options.failed?.(error));
  }

  #begin(): Promise<T> {
    this.#triedAt = performance.now();
    this.#loading ??= this.#load()
      .then((is) => {
        this.#value = { is, loadedAt: performance.now() };
        return is;
      })
      .finally(() => {
        this.#loading = undefined;
      });
    return this.#loading;
  }
}
