/** Where the runner's worlds and rows say how they end: what tap's `t` is to a test. */
import type { Scope } from "../lab/scope.js";

export class RunScope implements Scope {
  readonly #handlers: (() => unknown)[] = [];
  readonly #print: (line: string) => void;
  #closing: Promise<void> | undefined;
  #isPassing = true;

  constructor(print: (line: string) => void) {
    this.#print = print;
  }

  teardown(handler: () => unknown): void {
    // Started while the end was under way: it ends at once.
    if (this.#closing) this.#closing = this.#closing.then(() => end(handler));
    else this.#handlers.push(handler);
  }

  passing(): boolean {
    return this.#isPassing;
  }

  fail(): void {
    this.#isPassing = false;
  }

  comment(...text: unknown[]): void {
    this.#print(text.map(String).join(" "));
  }

  /** Ends everything, the newest first, whatever one of them says. Also when called again. */
  async close(): Promise<void> {
    this.#closing ??= this.#end();
    let last;
    do {
      last = this.#closing;
      await last;
    } while (last !== this.#closing);
  }

  async #end(): Promise<void> {
    for (let next = this.#handlers.pop(); next; next = this.#handlers.pop()) {
      await end(next);
    }
  }
}

async function end(handler: () => unknown): Promise<void> {
  try {
    await handler();
  } catch {
    // Ending goes on: what is left would outlive us.
  }
}
