// What invocations cost, as pure functions over whole numbers: milliseconds, megabytes and bytes are added up exactly,
// and turned into GB-seconds and money only when somebody asks [WS-BILL-1..7].

import {
  add,
  divide,
  formatDecimal,
  multiply,
  whole,
  zero,
  type Decimal,
} from "./decimal.js";
import type { PriceBook } from "./price-book.js";
import type { Rules } from "./rules.js";

/** What was used: of one invocation, of a function, of all. Sums of two are sums of their parts. */
export interface Usage {
  /** Invocations that were executed, however they ended [WS-BILL-1, WS-BILL-6]. */
  readonly invocations: number;
  /** Refused before anything was executed: free [WS-BILL-6]. */
  readonly refused: number;
  /** Billed time; the overlapping time of invocations in one instance counts once. */
  readonly milliseconds: number;
  /** Configured memory × billed time. */
  readonly megabyteMs: number;
  /** Configured memory × the time in which provisioned instances waited [WS-BILL-7]. */
  readonly idleMegabyteMs: number;
  /** What was sent to the clients: bodies, and the payload of WebSocket messages [WS-BILL-5]. */
  readonly responseBytes: number;
  /** Connections that the idle timeout ended. */
  readonly idleEnds: number;
}

export const noUsage: Usage = Object.freeze({
  invocations: 0,
  refused: 0,
  milliseconds: 0,
  megabyteMs: 0,
  idleMegabyteMs: 0,
  responseBytes: 0,
  idleEnds: 0,
});

export function sum(a: Usage, b: Usage): Usage {
  return {
    invocations: a.invocations + b.invocations,
    refused: a.refused + b.refused,
    milliseconds: a.milliseconds + b.milliseconds,
    megabyteMs: a.megabyteMs + b.megabyteMs,
    idleMegabyteMs: a.idleMegabyteMs + b.idleMegabyteMs,
    responseBytes: a.responseBytes + b.responseBytes,
    idleEnds: a.idleEnds + b.idleEnds,
  };
}

/**
 * From when on an invocation is billed: a connection from its establishment [WS-BILL-3], anything else that was
 * executed from its hand-over to the instance. The start of a process is not billed: no document says that it is.
 */
export function billedFrom(facts: {
  readonly dispatchedAt: number | undefined;
  readonly establishedAt: number | undefined;
}): number | undefined {
  return facts.establishedAt ?? facts.dispatchedAt;
}

/** The time covered by any of the intervals `[from, to]`. */
export function unionMs(
  intervals: readonly (readonly [number, number])[],
): number {
  let covered = 0;
  let end = -Infinity;
  for (const [from, to] of [...intervals].sort((a, b) => a[0] - b[0])) {
    covered += Math.max(0, to - Math.max(from, end));
    end = Math.max(end, to);
  }
  return covered;
}

/** 1 GBs = 1024 MB × 1000 ms = 2^13 · 5^3 MB·ms: thirteen decimal places hold every quotient. */
export function gbSeconds(megabyteMs: number): Decimal {
  return { digits: BigInt(Math.round(megabyteMs)) * 9_765_625n, scale: 13 };
}

/** 1 GB = 2^30 bytes; a quotient by 2^30 has 30 places. */
function gigabytes(bytes: number): Decimal {
  return { digits: BigInt(bytes) * 5n ** 30n, scale: 30 };
}

export interface Cost {
  readonly compute: Decimal;
  readonly invocations: Decimal;
  readonly provisionedIdle: Decimal;
  readonly response: Decimal;
  readonly total: Decimal;
}

export function costOf(
  usage: Usage,
  book: PriceBook,
  entry: Rules["entry"],
): Cost {
  const compute = multiply(gbSeconds(usage.megabyteMs), book.perGbSecond);
  const invocations = multiply(
    { digits: BigInt(usage.invocations), scale: 4 },
    book.perTenThousandInvocations,
  );
  const provisionedIdle = multiply(
    gbSeconds(usage.idleMegabyteMs),
    book.perProvisionedIdleGbSecond,
  );
  const response = multiply(
    gigabytes(usage.responseBytes),
    book.perResponseGb[entry],
  );
  const total = [compute, invocations, provisionedIdle, response].reduce(
    add,
    zero,
  );
  return { compute, invocations, provisionedIdle, response, total };
}

/** Places of money that are shown: one connection of a second costs some millionths. */
const MONEY_PLACES = 10;

export function money(amount: Decimal): string {
  return formatDecimal(amount, MONEY_PLACES);
}

/** What `GET /_platform/billing` shows of a usage. */
export function describeUsage(
  usage: Usage,
  book: PriceBook,
  entry: Rules["entry"],
) {
  const cost = costOf(usage, book, entry);
  return {
    invocations: usage.invocations,
    notBilled: usage.refused,
    durationMs: usage.milliseconds,
    gbSeconds: formatDecimal(gbSeconds(usage.megabyteMs)),
    provisionedIdleGbSeconds: formatDecimal(gbSeconds(usage.idleMegabyteMs)),
    // What the function itself sends to the internet cannot be seen from here [WS-BILL-5].
    egress: { response: usage.responseBytes, external: null },
    cost: {
      compute: money(cost.compute),
      invocations: money(cost.invocations),
      provisionedIdle: money(cost.provisionedIdle),
      response: money(cost.response),
      total: money(cost.total),
    },
  };
}

const HOUR_MS = 3_600_000n;

/** What it costs by the hour, the day and 30 days when all goes on as it did for `elapsedMs`. */
export function project(total: Decimal, elapsedMs: number) {
  const elapsed = BigInt(Math.max(1, Math.round(elapsedMs)));
  const per = (hours: bigint) =>
    money(
      divide(multiply(total, whole(hours * HOUR_MS)), elapsed, MONEY_PLACES),
    );
  return { hour: per(1n), day: per(24n), month: per(720n) };
}

/** Another choice of what a function's owner can set. */
export interface WhatIf {
  readonly memoryMb?: number;
  readonly idleSeconds?: number;
}

/**
 * The same traffic under other settings. Memory changes the price of every millisecond. An idle timeout changes
 * the connections that it ended: each would have ended so much sooner or later; of the others nobody can know it.
 */
export function usageIf(
  usage: Usage,
  now: { readonly memoryMb: number; readonly idleSeconds: number },
  { memoryMb = now.memoryMb, idleSeconds = now.idleSeconds }: WhatIf,
): Usage {
  const shift = usage.idleEnds * (idleSeconds - now.idleSeconds) * 1_000;
  const milliseconds = Math.max(0, usage.milliseconds + shift);
  const idleMs = usage.idleMegabyteMs / now.memoryMb;
  return {
    ...usage,
    milliseconds,
    megabyteMs: milliseconds * memoryMb,
    idleMegabyteMs: idleMs * memoryMb,
  };
}
