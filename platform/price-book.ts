// What things cost: read from a file, so that another region, currency or year is another file and no other program.

import { readFileSync } from "node:fs";
import { parseDecimal, type Decimal } from "./decimal.js";
import type { Rules } from "./rules.js";

export interface PriceBook {
  readonly name: string;
  readonly currency: string;
  readonly asOf: string;
  readonly sources: readonly string[];
  readonly notes: readonly string[];
  readonly perGbSecond: Decimal;
  readonly perTenThousandInvocations: Decimal;
  readonly perProvisionedIdleGbSecond: Decimal;
  /** By the way requests come in [WS-BILL-5]. */
  readonly perResponseGb: Readonly<Record<Rules["entry"], Decimal>>;
}

/** The book that comes with the platform. */
const OWN_BOOK = new URL("./price-book.json", import.meta.url);

/** Reads a price book; throws an error whose message names the file and the entry. */
export function readPriceBook(file: string | URL = OWN_BOOK): PriceBook {
  const book: unknown = JSON.parse(readFileSync(file, "utf8"));
  if (typeof book !== "object" || book === null)
    throw new Error(`${String(file)}: a price book is an object`);
  const entries: Readonly<Record<string, unknown>> = { ...book };
  const wrong = (name: string, wanted: string) =>
    new Error(`${String(file)}: ${name} must be ${wanted}`);

  function text(name: string): string {
    const value = entries[name];
    if (typeof value !== "string") throw wrong(name, "a text");
    return value;
  }
  function texts(name: string): string[] {
    const value = entries[name];
    if (!Array.isArray(value)) throw wrong(name, "a list of texts");
    return value.map(String);
  }
  function price(name: string, value = entries[name]): Decimal {
    const parsed = typeof value === "string" ? parseDecimal(value) : undefined;
    // A JSON number would already have lost what a price list says.
    if (parsed === undefined) throw wrong(name, 'a price such as "0.0000167"');
    return parsed;
  }
  const response: Readonly<Record<string, unknown>> = {
    ...(entries["perResponseGb"] as object | undefined),
  };
  return {
    name: text("name"),
    currency: text("currency"),
    asOf: text("asOf"),
    sources: texts("sources"),
    notes: texts("notes"),
    perGbSecond: price("perGbSecond"),
    perTenThousandInvocations: price("perTenThousandInvocations"),
    perProvisionedIdleGbSecond: price("perProvisionedIdleGbSecond"),
    perResponseGb: {
      apigw: price("perResponseGb.apigw", response["apigw"]),
      "function-url": price(
        "perResponseGb.function-url",
        response["function-url"],
      ),
    },
  };
}
