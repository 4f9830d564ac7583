// Answers that go on: the log as it is written, and for the page everything that changes, as server-sent events.
// Both are bounded: who reads too slowly misses lines, is told how many, and never fills our memory.

import type { ServerResponse } from "node:http";
import { visibleJson } from "../shared/visible.js";
import type { Invocation } from "./invocation.js";
import type { LogBook, LogFilter } from "./log-book.js";
import {
  asJson,
  platformLine,
  writeRecord,
  type LogFormat,
  type LogRecord,
} from "./log-record.js";
import {
  viewBill,
  viewInstances,
  viewInvocations,
  viewRules,
  type SeenInstance,
} from "./watch-views.js";
import type { Watch } from "./watch.js";

/** What may wait in a connection for its reader, bytes. */
const MAX_WAITING_BYTES = 1_000_000;
/** Changes are collected for this long: eyes do not see more, and a busy function would send thousands a second. */
const TICK_MS = 250;
/** Every so many ticks memory and bill are looked at although nothing has happened: about once a second. */
const SLOW_TICKS = 4;
/** A comment every so many ticks tells a dead line from a quiet one: about every 15 s. */
const COMMENT_TICKS = 60;
/** Per tick, and in the first picture. */
const MAX_INVOCATIONS = 200;
const MAX_LOG_RECORDS = 300;

/** Sends the log from `filter`'s first record on until the reader leaves. */
export function followLog(
  logs: LogBook,
  filter: LogFilter,
  format: LogFormat,
  past: readonly LogRecord[],
  res: ServerResponse,
): void {
  let dropped = 0;
  function hear(record: LogRecord): void {
    if (res.writableLength > MAX_WAITING_BYTES) {
      dropped++;
      return;
    }
    if (dropped > 0) {
      const message = platformLine.dropped(dropped);
      dropped = 0;
      hear({ ...record, requestId: null, type: "Platform", message });
    }
    res.write(`${writeRecord(record, format)}\n`);
  }
  res.flushHeaders();
  for (const record of past) res.write(`${writeRecord(record, format)}\n`);
  res.once("close", logs.follow(filter, hear));
}

/** The stream of events for pages; it costs nothing while no page is open. */
export class LiveFeed {
  readonly #watch: Watch;
  readonly #instances: () => readonly SeenInstance[];
  readonly #readers = new Set<ServerResponse>();
  /** Those who have missed a tick and need the whole picture again. */
  readonly #behind = new WeakSet<ServerResponse>();
  readonly #changed = new Set<Invocation>();
  #records: LogRecord[] = [];
  #skipped = 0;
  #shown = new Map<string, string>();
  #bill = "";
  #ticks = 0;
  #stop: (() => void) | undefined;

  constructor(watch: Watch, instances: () => readonly SeenInstance[]) {
    this.#watch = watch;
    this.#instances = instances;
  }

  serve(res: ServerResponse): void {
    res.writeHead(200, {
      "Content-Type": "text/event-stream",
      "Cache-Control": "no-store",
    });
    if (this.#readers.size === 0) this.#start();
    // What is not told yet will be in the picture, and must not come again after it.
    else this.#tick();
    this.#readers.add(res);
    res.once("close", () => {
      this.#readers.delete(res);
      if (this.#readers.size === 0) this.#stop?.();
    });
    res.write(this.#picture());
  }

  #start(): void {
    const watch = this.#watch;
    const stops = [
      watch.followInvocations((invocation) => this.#changed.add(invocation)),
      watch.logs.follow({}, (record) => {
        if (this.#records.length < MAX_LOG_RECORDS) this.#records.push(record);
        else this.#skipped++;
      }),
    ];
    const timer = setInterval(() => this.#tick(), TICK_MS);
    timer.unref();
    this.#shown = this.#instanceTexts();
    this.#stop = () => {
      clearInterval(timer);
      for (const stop of stops) stop();
      this.#changed.clear();
      this.#records = [];
      this.#skipped = 0;
    };
  }

  /** Everything, for a page that has just opened or has lost the thread. */
  #picture(): string {
    const watch = this.#watch;
    const invocations = watch.book.all();
    return event("picture", {
      now: watch.clock.now(),
      rules: viewRules(watch),
      instances: viewInstances(watch, this.#instances()),
      invocations: viewInvocations(watch, { limit: MAX_INVOCATIONS }),
      logs: watch.logs.records({}, invocations, MAX_LOG_RECORDS).map(asJson),
      bill: viewBill(watch),
    });
  }

  #tick(): void {
    this.#ticks++;
    const change = this.#change();
    let picture: string | undefined;
    for (const res of this.#readers) {
      if (res.writableLength > MAX_WAITING_BYTES) this.#behind.add(res);
      else if (this.#behind.delete(res)) {
        picture ??= this.#picture();
        res.write(picture);
      } else if (change !== undefined) res.write(change);
      else if (this.#ticks % COMMENT_TICKS === 0) res.write(": still here\n\n");
    }
  }

  /** What is different since the last tick; undefined when nothing is. */
  #change(): string | undefined {
    const watch = this.#watch;
    const instances = this.#instancesChanged();
    if (this.#ticks % SLOW_TICKS === 0)
      for (const invocation of watch.book.running)
        this.#changed.add(invocation); // their counters and costs grow without a step
    // Of thousands in one tick the last ones are enough to look at.
    const invocations = [...this.#changed]
      .slice(-MAX_INVOCATIONS)
      .map((invocation) => watch.record(invocation));
    this.#changed.clear();
    const logs = this.#records.map(asJson);
    this.#records = [];
    const skipped = this.#skipped;
    this.#skipped = 0;
    const bill = this.#billChanged();
    const isQuiet =
      instances === undefined &&
      invocations.length === 0 &&
      logs.length === 0 &&
      bill === undefined;
    if (isQuiet) return undefined;
    const now = watch.clock.now();
    return event("change", {
      now,
      ...instances,
      invocations,
      logs,
      skipped,
      bill,
    });
  }

  #instanceTexts(): Map<string, string> {
    return new Map(
      viewInstances(this.#watch, this.#instances()).map((one) => [
        one.instanceId,
        JSON.stringify(one),
      ]),
    );
  }

  #instancesChanged(): { instances: unknown[]; gone: string[] } | undefined {
    const before = this.#shown;
    this.#shown = this.#instanceTexts();
    const gone = [...before.keys()].filter((id) => !this.#shown.has(id));
    const instances = [...this.#shown]
      .filter(([id, text]) => before.get(id) !== text)
      .map(([, text]): unknown => JSON.parse(text));
    return gone.length + instances.length > 0 ? { instances, gone } : undefined;
  }

  #billChanged(): unknown {
    if (this.#ticks % SLOW_TICKS !== 0) return undefined;
    const bill = viewBill(this.#watch);
    const text = JSON.stringify(bill.total);
    if (text === this.#bill) return undefined;
    this.#bill = text;
    return bill;
  }
}

function event(name: string, data: object): string {
  return `event: ${name}\ndata: ${visibleJson(data)}\n\n`;
}
