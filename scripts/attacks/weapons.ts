/** Every weapon by its name. */
import type { Haul, Size } from "./weapon.js";
import type { Target } from "./target.js";
import * as readers from "./weapons/readers.js";
import * as requests from "./weapons/requests.js";
import * as senders from "./weapons/senders.js";

export const weapons = { ...readers, ...requests, ...senders };
export type WeaponName = keyof typeof weapons;

/** Throws where there is no weapon of that name. */
export function weaponOf(
  name: string,
): (target: Target, size: Size) => Promise<Haul> {
  const found = (weapons as Record<string, unknown>)[name];
  if (typeof found !== "function") throw new Error(`No weapon ${name}`);
  return found as (target: Target, size: Size) => Promise<Haul>;
}
