/**
 * What an attack is to the runner: a world, sizes for both forms, and `attack`, which strikes and judges what is its own.
 * That nothing of the honest is lost and that nothing goes on after the attacker is everybody's.
 */
import type { Scope } from "../lab/scope.js";
import type { Target } from "./target.js";
import type { WeaponName } from "./weapons.js";
import type { Haul, Size } from "./weapon.js";
import type { World, WorldSpec } from "./world.js";

export type Form = "short" | "long";

export interface Row<S = unknown> {
  /** As the issue numbers it; a letter behind it for one of several. */
  readonly id: string;
  readonly title: string;
  /** Rows of an equal world follow one another in it. */
  readonly world?: WorldSpec;
  /** The short form shows the guard; the long one shows how the honest fare. */
  readonly sizes: { readonly short: S; readonly long: S };
  /** What `--break` turns off: settings of both functions. A broken row has to fail. */
  readonly guard?: {
    readonly name: string;
    readonly env: Readonly<Record<string, string>>;
  };
  attack(run: Run, size: S): Promise<void>;
}

/** What a strike did, from its order until its last word. */
export interface Struck {
  readonly haul: Haul;
  /** Bytes that Redis wrote to anybody. */
  readonly redisOut: number;
  /** By which Redis' memory grew. */
  readonly redisGrowth: number;
  /** By which both functions grew. */
  readonly rssGrowth: number;
  /** CPU time of each function, ms, less what it took before in that time. */
  readonly httpCpuMs: number;
  readonly wsCpuMs: number;
  /** Lines that both functions wrote, up to what is kept of them. */
  readonly logLines: number;
}

export interface Run {
  readonly world: World;
  readonly target: Target;
  readonly form: Form;
  /** One attack in a process of its own beside the honest; it is killed after its last word. */
  strike<S extends Size>(weapon: WeaponName, size: S): Promise<Struck>;
  /** A check of the row's own. */
  check(isSo: boolean, what: string): void;
  /** `name` with its figure on the row's line; wrong when it is above `most`. */
  atMost(name: string, value: number, most: number): void;
  /** A figure for the row's line. */
  figure(name: string, value: number | string): void;
  /** Ends with the row. */
  readonly scope: Scope;
}

/** Keeps the type of the sizes between `sizes` and `attack`, and forgets it for the list. */
export function row<S>(one: Row<S>): Row {
  return one as Row;
}

export const MB = 1_000_000;
