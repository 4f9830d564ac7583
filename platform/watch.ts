// Everything the platform knows of what happens in it, in one place: invocations, log and bill, and who follows them.

import type { Clock } from "./clock.js";
import type { FunctionDescription } from "./function-description.js";
import type { Instance } from "./instance.js";
import type { InvocationRecord } from "./invocation.js";
import type { Invocation } from "./invocation.js";
import { InvocationBook, type InvocationListener } from "./invocation-book.js";
import { Ledger } from "./ledger.js";
import { LogBook } from "./log-book.js";
import type { Log, PrintedLine } from "./logs.js";
import { readPriceBook, type PriceBook } from "./price-book.js";
import type { Rules } from "./rules.js";

export interface WatchOptions {
  readonly functions: readonly FunctionDescription[];
  readonly rules: Rules;
  /** Ended invocations remembered, per function. */
  readonly invocationsKept: number;
  /** Default: the one that comes with the platform. */
  readonly priceBookFile?: string | undefined;
  readonly clock: Clock;
  readonly log: Log;
}

export class Watch {
  readonly functions: readonly FunctionDescription[];
  readonly rules: Rules;
  readonly clock: Clock;
  readonly prices: PriceBook;
  readonly book: InvocationBook;
  readonly logs: LogBook;
  readonly ledger: Ledger;
  readonly #followers = new Set<(invocation: Invocation) => void>();

  constructor(options: WatchOptions) {
    const { functions, rules, invocationsKept, clock, log } = options;
    this.functions = functions;
    this.rules = rules;
    this.clock = clock;
    this.prices = readPriceBook(options.priceBookFile);
    this.logs = new LogBook({ functions, clock });
    this.ledger = new Ledger({
      functions,
      entry: rules.entry,
      prices: this.prices,
      clock,
    });
    const changes: InvocationListener = {
      begun: (invocation) => this.#changed(invocation),
      stepped: (invocation) => this.#changed(invocation),
    };
    this.book = new InvocationBook(invocationsKept, clock, log, [
      this.ledger,
      this.logs,
      changes,
    ]);
  }

  /** To be told of each instance as soon as there is one. Returns it. */
  instance<T extends Instance>(instance: T): T {
    this.logs.instanceCreated(instance);
    instance.ready.then(
      () => {
        this.ledger.instanceReady(instance);
        this.logs.instanceReady(instance);
      },
      () => {}, // it has no readiness to bill
    );
    void instance.exited.then(() => {
      this.ledger.instanceGone(instance);
      this.logs.instanceGone(instance);
    });
    return instance;
  }

  printed(line: PrintedLine): void {
    this.logs.printed(line);
  }

  record(invocation: Invocation): InvocationRecord {
    const bill = this.ledger.bill(invocation);
    return invocation.record(this.rules.maxMessageBytes, bill);
  }

  /** Calls `hear` at each change of an invocation; the returned function ends that. */
  followInvocations(hear: (invocation: Invocation) => void): () => void {
    this.#followers.add(hear);
    return () => this.#followers.delete(hear);
  }

  #changed(invocation: Invocation): void {
    for (const hear of this.#followers) hear(invocation);
  }
}
