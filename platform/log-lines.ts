// Lines that are kept for whoever looks later: the last ones of each function and of each request, in bounded memory.

import type { Invocation } from "./invocation.js";

/** One line as it was heard. */
export interface KeptLine {
  /** Place in the order of everything that is logged. */
  readonly order: number;
  readonly at: number;
  readonly functionName: string;
  readonly instanceId: string;
  /** `platform` says it about an instance; the other two are what the function printed. */
  readonly from: "platform" | "stdout" | "stderr";
  readonly text: string;
  /** The request it belongs to, as far as that is known. */
  invocation: Invocation | undefined;
}

export interface LineLimits {
  readonly linesPerFunction: number;
  readonly charactersPerFunction: number;
  readonly linesPerRequest: number;
}

interface Slot {
  /** Taken out when its request had too many. */
  line: KeptLine | undefined;
}

/** The lines of one function. */
export class KeptLines {
  readonly #limits: LineLimits;
  readonly #slots = new Queue<Slot>();
  readonly #ofRequest = new WeakMap<Invocation, Queue<Slot>>();
  #lines = 0;
  #characters = 0;

  constructor(limits: LineLimits) {
    this.#limits = limits;
  }

  add(line: KeptLine): void {
    const slot: Slot = { line };
    this.#slots.push(slot);
    this.#lines++;
    this.#characters += line.text.length;
    if (line.invocation !== undefined) this.#assign(slot, line.invocation);
    const { linesPerFunction, charactersPerFunction } = this.#limits;
    while (
      this.#lines > linesPerFunction ||
      this.#characters > charactersPerFunction
    ) {
      const oldest = this.#slots.shift();
      if (oldest === undefined) break;
      this.#drop(oldest);
    }
    // Slots that were emptied in the middle take no room of their own for ever.
    if (this.#slots.length > 2 * this.#lines + 64)
      this.#slots.keepOnly((one) => one.line !== undefined);
  }

  /** The last lines of an instance turn out to belong to this request. */
  assignUnclaimed(instanceId: string, invocation: Invocation): KeptLine[] {
    const found: KeptLine[] = [];
    for (const slot of this.#slots.items()) {
      const { line } = slot;
      if (line?.instanceId !== instanceId || line.invocation) continue;
      if (line.from === "platform") continue;
      line.invocation = invocation;
      this.#assign(slot, invocation);
      found.push(line);
    }
    return found;
  }

  /** Lines of a request that are still here. */
  countOf(invocation: Invocation): number {
    let count = 0;
    for (const slot of this.#ofRequest.get(invocation)?.items() ?? [])
      if (slot.line !== undefined) count++;
    return count;
  }

  /** Oldest first. */
  *all(): Generator<KeptLine> {
    for (const { line } of this.#slots.items()) if (line) yield line;
  }

  #assign(slot: Slot, invocation: Invocation): void {
    invocation.marks.printed++;
    let slots = this.#ofRequest.get(invocation);
    if (slots === undefined) {
      slots = new Queue();
      this.#ofRequest.set(invocation, slots);
    }
    slots.push(slot);
    if (slots.length <= this.#limits.linesPerRequest) return;
    const oldest = slots.shift();
    if (oldest !== undefined) this.#drop(oldest);
  }

  #drop(slot: Slot): void {
    if (slot.line === undefined) return;
    this.#lines--;
    this.#characters -= slot.line.text.length;
    slot.line = undefined;
  }
}

/** First in, first out, without moving the rest at each step. */
class Queue<T> {
  #items: T[] = [];
  #first = 0;

  get length(): number {
    return this.#items.length - this.#first;
  }

  push(item: T): void {
    this.#items.push(item);
  }

  shift(): T | undefined {
    const item = this.#items[this.#first];
    if (this.#first < this.#items.length) this.#first++;
    if (this.#first > 64 && this.#first * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#first);
      this.#first = 0;
    }
    return item;
  }

  *items(): Generator<T> {
    for (let at = this.#first; at < this.#items.length; at++) {
      const item = this.#items[at];
      if (item !== undefined) yield item;
    }
  }

  keepOnly(wanted: (item: T) => boolean): void {
    this.#items = this.#items.slice(this.#first).filter(wanted);
    this.#first = 0;
  }
}
