/** The command line of the attacks. */
import { parseArgs } from "node:util";

import type { Form, Row } from "./row.js";

export const usage = `npm run attacks -- [options]
  --only C1a,H1a   these rows (default: all)
  --long           large attacks at nice 19 one after the other, and the honest's times judged while and 60 s after
  --lanes n        rows side by side (default 2; with --long 1)
  --break          turns off the guard of each row that names one: every one of them has to fail
  --json           JSON instead of the table
  --list           the rows, and what --break turns off`;

export interface Options {
  readonly rows: readonly Row[];
  readonly form: Form;
  readonly lanes: number;
  readonly isBroken: boolean;
  readonly isJson: boolean;
  readonly isList: boolean;
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
      break: { type: "boolean", default: false },
      json: { type: "boolean", default: false },
      list: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) return undefined;
  const lanes = Number(values.lanes ?? (values.long ? 1 : 2));
  if (!Number.isInteger(lanes) || lanes < 1 || lanes > 8)
    throw new Error(`--lanes ${values.lanes}: a whole number from 1 to 8`);
  const named = values.only?.split(",").map((id) => {
    const found = all.find((row) => row.id === id);
    if (found) return found;
    const known = all.map((row) => row.id).join(", ");
    throw new Error(`--only ${id}: unknown; choose from ${known}`);
  });
  const rows = (named ?? all).filter((row) => !values.break || row.guard);
  if (rows.length === 0) throw new Error("--break: no row here has a guard");
  return {
    rows,
    form: values.long ? "long" : "short",
    lanes,
    isBroken: values.break,
    isJson: values.json,
    isList: values.list,
  };
}
