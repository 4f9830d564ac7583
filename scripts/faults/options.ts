/** The command line of the fault runner. */
import { parseArgs } from "node:util";

import type { Row } from "./row.js";
import type { Form } from "./run.js";
import { soak } from "./rows/soak.js";

export const usage = `npm run faults -- [options]
  --only A1,A3     these rows (default: all)
  --long           the documented durations and counts after the short form; both are printed
  --lanes n        rows side by side (default 3; with --long 2)
  --soak minutes   mixed faults every 30 s for so long, with the shipped defaults, instead of the rows
  --break          turns off the guard of each row that has one: every one of them has to fail
  --list           the rows, and what --break turns off`;

export interface Options {
  readonly rows: readonly Row[];
  readonly forms: readonly Form[];
  readonly lanes: number;
  readonly isBroken: boolean;
  readonly isList: boolean;
  /** 0 without `--soak`. */
  readonly soakMinutes: number;
}

/** Throws an Error with one clear line on a mistake; undefined when only help is wanted. */
export function parseOptions(
  args: string[],
  all: readonly Row[],
): Options | undefined {
  const { values } = parseArgs({
    args,
    options: {
      only: { type: "string" },
      long: { type: "boolean", default: false },
      lanes: { type: "string" },
      soak: { type: "string" },
      break: { type: "boolean", default: false },
      list: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) return undefined;
  const lanes = Number(values.lanes ?? (values.long ? 2 : 3));
  if (!Number.isInteger(lanes) || lanes < 1 || lanes > 16) {
    throw new Error(`--lanes ${values.lanes}: a whole number from 1 to 16`);
  }
  const soakMinutes = Number(values.soak ?? 0);
  if (!(soakMinutes >= 0 && soakMinutes <= 10_080)) {
    throw new Error(`--soak ${values.soak}: minutes, at most a week`);
  }
  if (soakMinutes > 0) all = [soak(soakMinutes)];
  const named = values.only?.split(",").map((id) => {
    const found = all.find((row) => row.id === id);
    if (found) return found;
    const known = all.map((row) => row.id).join(", ");
    throw new Error(`--only ${id}: unknown; choose from ${known}`);
  });
  const chosen = (named ?? all).filter((row) => !values.break || row.guard);
  if (chosen.length === 0) throw new Error("--break: no row here has a guard");
  return {
    rows: chosen,
    forms:
      soakMinutes > 0 ? ["long"] : values.long ? ["short", "long"] : ["short"],
    soakMinutes,
    lanes,
    isBroken: values.break,
    isList: values.list,
  };
}
