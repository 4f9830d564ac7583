/**
 * What members that are behind read of their group's history, kept for the others: Redis gives each byte of it to this
 * process about once, however many members read it and however slowly. A window is a part of a history without a hole; it
 * grows at both ends, and with what the feed hears while somebody reads from it. All windows of a process share one
 * budget; the one that was not read from for longest goes first.
 */
import type { GroupEntry, HistoryPage, Position } from "../shared/fanout.js";

/** Bytes of all windows of a process. */
const budgetBytes = 33_554_432;
/** One that nobody has read from for so long is kept no more, milliseconds. */
const unreadMs = 5_000;
/** What a row takes beside its body, about. */
const overheadBytes = 256;

const sizeOf = ({ body }: GroupEntry): number => body.length + overheadBytes;

/** Of one group; see Windows. */
export class Window {
  readonly #all: Windows;
  #epoch = "";
  /** Its rows are all there is after `#from` up to `#to`. */
  #from = 0;
  #to = 0;
  #rows: GroupEntry[] = [];
  #bytes = 0;
  #readAtMs = -Infinity;

  constructor(all: Windows) {
    this.#all = all;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** What follows a position, about `bytes` of it; undefined when it is not here. */
  after(
    { epoch, offset }: Position,
    bytes: number,
  ): { rows: GroupEntry[]; to: number } | undefined {
    if (epoch !== this.#epoch || offset < this.#from || offset >= this.#to)
      return undefined;
    this.#used();
    const first = this.#indexAfter(offset);
    let end = first;
    for (let size = 0; end < this.#rows.length && size < bytes; end += 1)
      size += sizeOf(this.#rows[end] as GroupEntry);
    const rows = this.#rows.slice(first, end);
    return {
      rows,
      to: end < this.#rows.length ? (rows.at(-1)?.offset ?? offset) : this.#to,
    };
  }

  /** Where the first row above an offset is; rows are in order. */
  #indexAfter(offset: number): number {
    let low = 0;
    let high = this.#rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#rows[middle]?.offset ?? 0) > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** A page was read: all there is after `from`. */
  add(from: number, page: HistoryPage): void {
    if (!page.recovered) return;
    const { epoch, rows } = page;
    const to = page.more ? (rows.at(-1)?.offset ?? from) : page.offset;
    const touches =
      epoch === this.#epoch && from <= this.#to && to >= this.#from;
    if (!touches) {
      this.#count(-this.#bytes);
      this.#epoch = epoch;
      this.#from = from;
      this.#to = from;
      this.#rows = [];
    }
    if (from < this.#from) {
      const before = rows.filter(({ offset }) => offset <= this.#from);
      this.#rows.unshift(...before);
      this.#from = from;
      this.#count(sum(before));
    }
    if (to > this.#to) {
      const behind = rows.filter(({ offset }) => offset > this.#to);
      this.#rows.push(...behind);
      this.#to = to;
      this.#count(sum(behind));
    }
    this.#used();
  }

  #used(): void {
    this.#readAtMs = performance.now();
    this.#all.used(this);
  }

  /** The feed heard a message: it is kept while somebody reads here. */
  heard(entry: GroupEntry): void {
    if (this.#rows.length === 0) return;
    if (entry.epoch !== this.#epoch || entry.prev !== this.#to) return;
    if (performance.now() - this.#readAtMs > unreadMs) return this.clear();
    this.#rows.push(entry);
    this.#to = entry.offset;
    this.#count(sizeOf(entry));
    this.#all.bound();
  }

  #count(bytes: number): void {
    this.#bytes += bytes;
    this.#all.count(bytes);
  }

  /** Oldest rows, until so many bytes are left. */
  trim(bytes: number): void {
    let count = 0;
    let freed = 0;
    while (this.#bytes - freed > bytes && count < this.#rows.length) {
      const row = this.#rows[count] as GroupEntry;
      freed += sizeOf(row);
      this.#from = row.offset;
      count += 1;
    }
    this.#rows.splice(0, count);
    this.#count(-freed);
  }

  /** Keeps nothing. */
  clear(): void {
    this.trim(0);
    this.#from = this.#to;
    this.#all.forget(this);
  }
}

const sum = (rows: readonly GroupEntry[]): number =>
  rows.reduce((all, row) => all + sizeOf(row), 0);

/** All windows of a process. */
export class Windows {
  readonly #most: number;
  /** Those that hold something, the one read from last at the end. */
  readonly #used = new Set<Window>();
  #bytes = 0;

  constructor(most = budgetBytes) {
    this.#most = most;
  }

  get bytes(): number {
    return this.#bytes;
  }

  count(bytes: number): void {
    this.#bytes += bytes;
  }

  /** It was read from last. */
  used(window: Window): void {
    this.#used.delete(window);
    if (window.bytes > 0) this.#used.add(window);
    this.bound();
  }

  /** Frees what is over the budget. */
  bound(): void {
    for (const oldest of this.#used) {
      if (this.#bytes <= this.#most) return;
      // The last one keeps its newest rows.
      if (this.#used.size > 1) oldest.clear();
      else oldest.trim(this.#most);
    }
  }

  forget(window: Window): void {
    this.#used.delete(window);
  }
}
