// All clients of the load generator: opened together, and what each of them hears goes to whoever counts at the moment.
import { Listener } from "./listener.js";
import { reader, type Target } from "./speech.js";

/** Who counts what arrives. */
export interface Counting {
  /** A message came to the client at this place; its number is undefined when it is damaged. */
  arrived(number: number | undefined, place: number): void;
}

export class Crowd {
  readonly listeners: Listener[] = [];
  /** Sockets that broke, in words. */
  readonly breaks: string[] = [];
  counting: Counting | undefined;
  /** Acks of groups that wait: thousands of clients here share one process, and would write while others still read. */
  held: (() => void)[] | undefined;

  get size(): number {
    return this.listeners.length;
  }

  /** Opens one client for each target, so many at a time; resolves when messages flow to all of them. */
  async open(targets: readonly Target[], atOnce: number): Promise<void> {
    const waiting = targets.values();
    const opener = async (): Promise<void> => {
      for (const target of waiting) await this.#open(target);
    };
    await Promise.all(Array.from({ length: atOnce }, opener));
  }

  #open(target: Target): Promise<void> {
    const place = this.listeners.length;
    const listener = new Listener(target, {
      read: this.#readerOf(target),
      onMessage: (number) => this.counting?.arrived(number, place),
      onGroupAck: (write) => {
        if (this.held) this.held.push(write);
        else write();
      },
      onBreak: (cause) => this.breaks.push(cause),
    });
    this.listeners.push(listener);
    return listener.open();
  }

  /** One for all of a kind, because of what it remembers. */
  readonly #readers = new Map<string, ReturnType<typeof reader>>();
  #readerOf({ speech }: Target): ReturnType<typeof reader> {
    const known = this.#readers.get(speech) ?? reader(speech);
    this.#readers.set(speech, known);
    return known;
  }

  close(): void {
    this.counting = undefined;
    for (const listener of this.listeners.splice(0)) listener.close();
    this.breaks.length = 0;
  }
}
