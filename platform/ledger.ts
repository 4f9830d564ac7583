// The running bill: what every function has used since the start. It counts as things begin and end, in a constant
// number of steps, and keeps nothing of an invocation that is over.

import {
  billedFrom,
  costOf,
  gbSeconds,
  money,
  noUsage,
  sum,
  type Usage,
} from "./billing.js";
import { formatDecimal } from "./decimal.js";
import type { Clock } from "./clock.js";
import type { FunctionDescription } from "./function-description.js";
import type {
  Invocation,
  InvocationBill,
  InvocationState,
} from "./invocation.js";
import type { InvocationListener } from "./invocation-book.js";
import type { PriceBook } from "./price-book.js";
import type { Rules } from "./rules.js";

/** The one status whose end the idle timeout decides. */
const IDLE_STATUS = 455;

/** What the ledger asks of an instance. */
export interface BilledInstance {
  readonly id: string;
  readonly functionName: string;
  /** It waits now because its owner ordered it, who pays for that [WS-BILL-7]. */
  readonly isProvisioned?: boolean;
}

/** One instance as the bill sees it. Of invocations that overlap, one is billed: the payer. */
interface Account {
  readonly memoryMb: number;
  readonly tally: Tally;
  readonly instance: BilledInstance | undefined;
  readonly active: Set<Invocation>;
  payer: Invocation | undefined;
  payingSince: number;
  /** Since when it waits at its owner's cost. */
  idleSince: number | undefined;
  /** Its process has ended; the end of what it served comes a moment later. */
  gone: boolean;
}

type Tally = { -readonly [Part in keyof Usage]: Usage[Part] };

export interface LedgerOptions {
  readonly functions: readonly FunctionDescription[];
  readonly entry: Rules["entry"];
  readonly prices: PriceBook;
  readonly clock: Clock;
}

export class Ledger implements InvocationListener {
  readonly startedAt: number;
  readonly #options: LedgerOptions;
  readonly #functions: ReadonlyMap<string, FunctionDescription>;
  readonly #tallies = new Map<string, Tally>();
  readonly #accounts = new Map<string, Account>();

  constructor(options: LedgerOptions) {
    this.#options = options;
    this.startedAt = options.clock.now();
    this.#functions = new Map(options.functions.map((one) => [one.name, one]));
    for (const { name } of options.functions)
      this.#tallies.set(name, { ...noUsage });
  }

  /** An instance can serve from now on. */
  instanceReady(instance: BilledInstance): void {
    const account = this.#account(instance.id, instance.functionName, instance);
    if (account.active.size === 0) startIdle(account, this.#now());
  }

  instanceGone(instance: BilledInstance): void {
    const account = this.#accounts.get(instance.id);
    if (account === undefined) return;
    this.#stopIdle(account, this.#now());
    account.gone = true;
    if (account.active.size === 0) this.#accounts.delete(instance.id);
  }

  begun(): void {}

  stepped(invocation: Invocation, from: InvocationState): void {
    switch (invocation.state) {
      case "dispatched":
        return this.#enter(invocation);
      case "established":
        // What came before belongs to the handshake.
        return this.#restart(invocation);
      case "ended":
        return from === "accepted"
          ? this.#refused(invocation)
          : this.#leave(invocation);
    }
  }

  /** What one function has used until now, or all of them; what runs is counted up to this moment. */
  usage(functionName?: string): Usage {
    let total: Usage = noUsage;
    for (const [name, tally] of this.#tallies)
      if (functionName === undefined || name === functionName)
        total = sum(total, tally);
    const now = this.#now();
    const open: Tally = { ...noUsage };
    for (const account of this.#accounts.values()) {
      const { tally, memoryMb, payer, idleSince } = account;
      if (functionName !== undefined)
        if (tally !== this.#tallies.get(functionName)) continue;
      for (const invocation of account.active) {
        open.invocations++;
        open.responseBytes += invocation.egressBytes;
      }
      if (payer !== undefined) {
        const ms = span(account.payingSince, now);
        open.milliseconds += ms;
        open.megabyteMs += ms * memoryMb;
      }
      if (idleSince !== undefined)
        open.idleMegabyteMs += span(idleSince, now) * memoryMb;
    }
    return sum(total, open);
  }

  /** The bill of one invocation; so far, if it runs. */
  bill(invocation: Invocation): InvocationBill | null {
    const from = billedFrom(invocation);
    const description = this.#functions.get(invocation.functionName);
    if (from === undefined || description === undefined) return null;
    const { memoryMb } = description;
    const now = invocation.endedAt ?? this.#now();
    const billedMs = invocation.billedMs + this.#payingMs(invocation, now);
    const megabyteMs = billedMs * memoryMb;
    const egressBytes = invocation.egressBytes;
    const { prices, entry } = this.#options;
    const cost = costOf(
      { ...noUsage, invocations: 1, megabyteMs, responseBytes: egressBytes },
      prices,
      entry,
    );
    return {
      durationMs: span(from, now),
      billedMs,
      memoryMb,
      gbSeconds: formatDecimal(gbSeconds(megabyteMs)),
      egressBytes,
      cost: money(cost.total),
      currency: prices.currency,
    };
  }

  #payingMs(invocation: Invocation, now: number): number {
    if (invocation.instanceId === null) return 0;
    const account = this.#accounts.get(invocation.instanceId);
    return account?.payer === invocation ? span(account.payingSince, now) : 0;
  }

  #enter(invocation: Invocation): void {
    const { instanceId, functionName } = invocation;
    if (instanceId === null) return;
    const account = this.#account(instanceId, functionName);
    const now = invocation.dispatchedAt ?? this.#now();
    this.#stopIdle(account, now);
    account.active.add(invocation);
    if (account.payer === undefined) pay(account, invocation, now);
  }

  #restart(invocation: Invocation): void {
    const account = this.#accountOf(invocation);
    if (account?.payer === invocation)
      account.payingSince = invocation.establishedAt ?? account.payingSince;
  }

  #leave(invocation: Invocation): void {
    const account = this.#accountOf(invocation);
    if (account === undefined) return;
    const { tally, memoryMb, active } = account;
    const endedAt = invocation.endedAt ?? this.#now();
    active.delete(invocation);
    tally.invocations++;
    tally.responseBytes += invocation.egressBytes;
    if (invocation.statusCode === IDLE_STATUS) tally.idleEnds++;
    if (account.payer === invocation) {
      const ms = span(account.payingSince, endedAt);
      invocation.billedMs += ms;
      tally.milliseconds += ms;
      tally.megabyteMs += ms * memoryMb;
      const [next] = active;
      account.payer = undefined;
      if (next !== undefined) pay(account, next, endedAt);
    }
    if (active.size > 0) return;
    if (account.gone) this.#accounts.delete(invocation.instanceId ?? "");
    else startIdle(account, endedAt);
  }

  #refused(invocation: Invocation): void {
    const tally = this.#tallies.get(invocation.functionName);
    if (tally !== undefined) tally.refused++;
  }

  #stopIdle(account: Account, now: number): void {
    const { idleSince, tally, memoryMb } = account;
    account.idleSince = undefined;
    if (idleSince === undefined) return;
    tally.idleMegabyteMs += span(idleSince, now) * memoryMb;
  }

  #accountOf(invocation: Invocation): Account | undefined {
    const { instanceId } = invocation;
    return instanceId === null ? undefined : this.#accounts.get(instanceId);
  }

  #account(
    id: string,
    functionName: string,
    instance?: BilledInstance,
  ): Account {
    const known = this.#accounts.get(id);
    if (known !== undefined) return known;
    let tally = this.#tallies.get(functionName);
    if (tally === undefined) {
      tally = { ...noUsage };
      this.#tallies.set(functionName, tally);
    }
    const account: Account = {
      memoryMb: this.#functions.get(functionName)?.memoryMb ?? 0,
      tally,
      instance,
      active: new Set(),
      payer: undefined,
      payingSince: 0,
      idleSince: undefined,
      gone: false,
    };
    this.#accounts.set(id, account);
    return account;
  }

  #now(): number {
    return this.#options.clock.now();
  }
}

function startIdle(account: Account, now: number): void {
  if (account.instance?.isProvisioned === true) account.idleSince = now;
}

/** From now on this one is billed for the instance; not for what came before its own begin. */
function pay(account: Account, invocation: Invocation, now: number): void {
  account.payer = invocation;
  account.payingSince = Math.max(now, billedFrom(invocation) ?? now);
}

/** Whole milliseconds, never negative: a scaled clock counts in fractions, a set one may jump back. */
function span(from: number, to: number): number {
  return Math.max(0, Math.round(to - from));
}
