/**
 * What a fault is to the runner: a world to break, sizes for both forms, and `inject`, which breaks it, heals it and
 * checks what is its own. The ledger's check at the end is everybody's.
 */
import type { Client } from "./clients.js";
import type { Ledger } from "./ledger.js";
import type { Load, LoadOptions } from "./load.js";
import type { World, WorldSpec } from "./world.js";

export interface Row<Size = unknown> {
  /** As the scoreboard numbers it. */
  readonly id: string;
  readonly title: string;
  /** Rows of an equal world run in the same processes, one after the other; `restore` puts back what they took. */
  readonly world: WorldSpec;
  /** What `inject` gets: the short form shows the fault, the long one has the documented durations and counts. */
  readonly sizes: { readonly short: Size; readonly long: Size };
  /** Most time `inject` and the check together may take, s. Default 90 and 1,800. */
  readonly limitSeconds?: { readonly short: number; readonly long: number };
  /** Everything for this row alone: the next one starts another world. Default false. */
  readonly isAlone?: boolean;
  /**
   * The guard that `--break` turns off, in words, and what that changes in the world. `inject` sees `run.isBroken`. A
   * broken row has to fail.
   */
  readonly guard?: { readonly name: string; readonly world?: WorldSpec };
  inject(run: Run, size: Size): Promise<void>;
}

export interface Run {
  readonly world: World;
  readonly ledger: Ledger;
  readonly isBroken: boolean;
  /** Connections prepared, connected and heard from; client n dials place n, n + 1, … in turn. */
  clients(count: number, options?: ClientsOptions): Promise<Client[]>;
  /** Publishers to these clients; the runner stops them at the latest when `inject` is over. */
  load(clients: readonly Client[], options?: LoadOptions): Load;
  /** So many faults were injected. Default 1. */
  fault(count?: number): void;
  /**
   * The fault is over: from here the bridge could serve. Every client is probed with keyed messages; resolves when each
   * was handed a message again, and takes the times, in seconds, into the recovery figures. `since` if it was over
   * before this call (`performance.now()`).
   */
  healed(clients: readonly Client[], since?: number): Promise<void>;
  /** A check of the row's own. */
  check(isSo: boolean, what: string): void;
  /** This cannot be shown here, and why: the row is neither sound nor wrong. `inject` returns after it. */
  skip(why: string): void;
  /** A figure for the row's line. */
  figure(name: string, value: number | string): void;
}

export interface ClientsOptions {
  /** Where the first of them dials first: 0 (default) or 1. */
  first?: number;
  /** All of them to the same place. Default false: they alternate. */
  together?: boolean;
}

/** Keeps the type of the sizes between `sizes` and `inject`, and forgets it for the list. */
export function row<Size>(one: Row<Size>): Row {
  return one as Row;
}
