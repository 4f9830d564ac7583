/** What the attacker's process can do: named, so that an order over IPC can choose it. */
import { setTimeout as sleep } from "node:timers/promises";

import { tokenOf, type Target } from "./target.js";
import { Wire, type DialOptions } from "./wire.js";

/** What came of an attack: counts only. */
export type Haul = Record<string, number>;

/** Numbers and words that say how large it is. */
export type Size = Readonly<Record<string, number | string | boolean>>;

export type Weapon<S extends Size = never> = (
  target: Target,
  size: S,
) => Promise<Haul>;

/** What goes to the attacker's process. */
export interface Strike {
  readonly weapon: string;
  readonly target: Target;
  readonly size: Size;
}

/** Runs `work` for 0 … count - 1, so many at a time. */
export async function inTurns(
  count: number,
  atOnce: number,
  work: (index: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  await Promise.all(
    Array.from({ length: Math.min(count, atOnce) }, async () => {
      while (next < count) await work(next++);
    }),
  );
}

/** Sockets of so many users, one each; those that were refused are left out and counted. */
export async function crowd(
  target: Target,
  count: number,
  options: Partial<DialOptions> & { claims?: object; user?: string } = {},
): Promise<{ wires: Wire[]; refused: number }> {
  const wires: Wire[] = [];
  let refused = 0;
  const { claims = {}, user, ...dial } = options;
  await inTurns(count, 20, async (index) => {
    const token = tokenOf(target, {
      sub: user ?? `mallory-${index}`,
      ...claims,
    });
    await Wire.dial({
      port: target.wsPort,
      path: `/ws?token=${token}`,
      ...dial,
    }).then(
      (wire) => void wires.push(wire),
      () => void (refused += 1),
    );
  });
  return { wires, refused };
}

/** Asks until it is so or time is up; says whether it is so. */
export async function soon(
  ask: () => boolean,
  ms: number,
  every = 20,
): Promise<boolean> {
  const deadline = performance.now() + ms;
  while (!ask()) {
    if (performance.now() > deadline) return false;
    await sleep(every);
  }
  return true;
}
