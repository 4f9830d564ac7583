// What all functions of an account share: memory, and how fast new instances may start.

import type { Clock } from "./clock.js";
import type { Rules } from "./rules.js";

/** One function's instances, as the account sees them. */
export interface Tenant {
  /** Of everything that starts, runs, waits or is frozen, MB. */
  readonly memoryMb: number;
  /** Clock time since when its longest unused on-demand instance serves nobody; undefined when there is none. */
  readonly unusedSince: number | undefined;
  /** Ends that instance. */
  giveUpUnused(): void;
}

const MINUTE_MS = 60_000;

export class Region {
  readonly #rules: Pick<Rules, "memoryQuotaMb" | "startsPerMinute">;
  readonly #clock: Clock;
  readonly #tenants: Tenant[] = [];
  #starts: number[] = [];

  constructor(
    rules: Pick<Rules, "memoryQuotaMb" | "startsPerMinute">,
    clock: Clock,
  ) {
    this.#rules = rules;
    this.#clock = clock;
  }

  join(tenant: Tenant): void {
    this.#tenants.push(tenant);
  }

  /**
   * Whether an instance may start now, and if so it counts: 429 when too many have started within a minute, 432 when
   * there is no memory left for it. Unused instances give way first.
   */
  admit(memoryMb: number): 429 | 432 | undefined {
    const { memoryQuotaMb, startsPerMinute } = this.#rules;
    const now = this.#clock.now();
    this.#starts = this.#starts.filter((at) => at > now - MINUTE_MS);
    if (this.#starts.length >= startsPerMinute) return 429;
    while (this.#usedMb() + memoryMb > memoryQuotaMb) {
      const tenant = this.#longestUnused();
      if (tenant === undefined) return 432;
      tenant.giveUpUnused();
    }
    this.#starts.push(now);
    return undefined;
  }

  #usedMb(): number {
    return this.#tenants.reduce((sum, tenant) => sum + tenant.memoryMb, 0);
  }

  #longestUnused(): Tenant | undefined {
    let found: Tenant | undefined;
    for (const tenant of this.#tenants) {
      const since = tenant.unusedSince;
      if (since !== undefined && since < (found?.unusedSince ?? Infinity))
        found = tenant;
    }
    return found;
  }
}
