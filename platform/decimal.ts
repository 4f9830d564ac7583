// Exact decimal numbers for what is billed: sums of thousandths of a millionth must come out as a person adds them.

/** `digits` / 10^`scale`. */
export interface Decimal {
  readonly digits: bigint;
  readonly scale: number;
}

export const zero: Decimal = { digits: 0n, scale: 0 };

export function whole(value: number | bigint): Decimal {
  return { digits: BigInt(value), scale: 0 };
}

/** Reads `0.0000167`; undefined when it is no such number. */
export function parseDecimal(text: string): Decimal | undefined {
  const match = /^(\d+)(?:\.(\d+))?$/.exec(text);
  if (match === null) return undefined;
  const [, integer = "", fraction = ""] = match;
  return { digits: BigInt(integer + fraction), scale: fraction.length };
}

export function multiply(a: Decimal, b: Decimal): Decimal {
  return { digits: a.digits * b.digits, scale: a.scale + b.scale };
}

export function add(a: Decimal, b: Decimal): Decimal {
  const scale = Math.max(a.scale, b.scale);
  return { digits: digitsAt(a, scale) + digitsAt(b, scale), scale };
}

/** The quotient to `places` decimal places, rounded half up. */
export function divide(a: Decimal, by: bigint, places: number): Decimal {
  const digits = a.digits * 10n ** BigInt(places);
  const divisor = by * 10n ** BigInt(a.scale);
  return { digits: (digits + divisor / 2n) / divisor, scale: places };
}

/** Without zeros at the end; longer ones are rounded half up to `places` decimal places. */
export function formatDecimal(value: Decimal, places = value.scale): string {
  const { digits, scale } =
    value.scale > places ? divide(value, 1n, places) : value;
  const text = digits.toString().padStart(scale + 1, "0");
  const at = text.length - scale;
  const fraction = text.slice(at).replace(/0+$/, "");
  return fraction === ""
    ? text.slice(0, at)
    : `${text.slice(0, at)}.${fraction}`;
}

function digitsAt(value: Decimal, scale: number): bigint {
  return value.digits * 10n ** BigInt(scale - value.scale);
}
