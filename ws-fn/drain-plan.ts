/** When each socket of an instance that goes has to move: one after the other at a rate, or faster when time is short. */

export interface DrainPlan {
  /** One slot per socket, milliseconds from now, each in its own step of the window; in no order. */
  readonly slots: readonly number[];
  /** All slots lie in it. At most the bound, milliseconds. */
  readonly windowMs: number;
  /** What it comes to, sockets per second: the rate, or more where the bound does not leave time for that. */
  readonly ratePerSecond: number;
  /** The rate would take longer than the bound. */
  readonly isHurried: boolean;
}

/**
 * Slots for `sockets` at `ratePerSecond`, within `withinMs`. Evenly apart, because random ones come in clumps of several
 * times the rate; random within their step, because two instances that go together would share every instant else.
 */
export function planDrain(
  sockets: number,
  { ratePerSecond, withinMs }: { ratePerSecond: number; withinMs: number },
  random: () => number = Math.random,
): DrainPlan {
  const wantedMs = (sockets / ratePerSecond) * 1_000;
  const windowMs = Math.min(wantedMs, withinMs);
  const stepMs = sockets > 0 ? windowMs / sockets : 0;
  const slots = Array.from(
    { length: sockets },
    (_, index) => (index + random()) * stepMs,
  );
  // Who came first should not be the one who goes first at every deployment.
  for (let last = slots.length - 1; last > 0; last -= 1) {
    const other = Math.floor(random() * (last + 1));
    [slots[last], slots[other]] = [slots[other] ?? 0, slots[last] ?? 0];
  }
  return {
    slots,
    windowMs,
    ratePerSecond: windowMs < wantedMs ? 1_000 / stepMs : ratePerSecond,
    isHurried: windowMs < wantedMs,
  };
}
