// Faults by rule, for tests: what shall go wrong on which connection, and when. Only the rules and their matching:
// what a fault does to the wire is in session.ts. Never from the environment, so that none is there by accident.

import type { Side } from "./relay.js";

/** Statuses with which the platform itself can refuse a connection. */
export const refusals = [
  402, 405, 429, 432, 434, 438, 444, 445, 446, 447, 449, 450, 500,
] as const;
export type Refusal = (typeof refusals)[number];

interface Where {
  /** Name of the function; default: any. */
  readonly function?: string;
  /** The nth connection to that function since the platform started, from 1; default: each. */
  readonly connection?: number;
}

/** A network as slow as this, both ways. */
interface Slow {
  readonly do: "slow";
  readonly bytesPerSecond?: number;
  /** Each piece arrives this much later. */
  readonly delayMs?: number;
}

/** The client's line, or the one to the function, whose process lives on. */
interface OnLine {
  readonly line?: Side;
}

/** When the upgrade comes. `refuse`: no instance is asked. */
type ConnectFault = Where & { readonly on: "connect" } & (
    { readonly do: "refuse"; readonly status: Refusal } | Slow
  );

/**
 * When the first byte of the nth data message of one side reaches the gateway; each happens once.
 * - `kill` (SIGKILL to the process), `drop` (one line ends at once), `halfOpen` (the client's line goes dead, and
 *   nobody is told): that message does not pass any more.
 * - `freeze`: half of the message passes, then the process is stopped; the rest follows when it runs again.
 * - `slow`: from this message on.
 */
type MessageFault = Where & {
  readonly on: "message";
  readonly from: Side;
  readonly nth: number;
} & (
    | { readonly do: "kill" }
    | ({ readonly do: "drop" } & OnLine)
    | { readonly do: "halfOpen" }
    | {
        readonly do: "freeze";
        /** It runs again after this long; default: not before the connection's end. */
        readonly forMs?: number;
      }
    | Slow
  );

export type Fault = ConnectFault | MessageFault;

/** What a list of faults means for one connection. */
export class ConnectionFaults {
  readonly #faults: readonly Fault[];

  constructor(faults: readonly Fault[]) {
    this.#faults = faults;
  }

  /** The status to refuse it with. */
  get refusal(): Refusal | undefined {
    for (const fault of this.#faults)
      if (fault.do === "refuse") return fault.status;
    return undefined;
  }

  /** How slow it is from its start. */
  get slow(): Slow | undefined {
    for (const fault of this.#faults)
      if (fault.on === "connect" && fault.do === "slow") return fault;
    return undefined;
  }

  /** Some message of that side is waited for. */
  watches(from: Side): boolean {
    return this.#faults.some(
      (fault) => fault.on === "message" && fault.from === from,
    );
  }

  /** What happens at the nth message of that side, in the order of the list. */
  at(from: Side, nth: number): MessageFault[] {
    return this.#faults.filter(
      (fault): fault is MessageFault =>
        fault.on === "message" && fault.from === from && fault.nth === nth,
    );
  }
}

/** All rules; counts the connections of each function. */
export class FaultPlan {
  readonly #faults: readonly Fault[];
  readonly #connections = new Map<string, number>();

  constructor(faults: readonly Fault[] = []) {
    this.#faults = faults;
  }

  /** The rules for a connection that begins now. */
  connection(functionName: string): ConnectionFaults {
    const nth = (this.#connections.get(functionName) ?? 0) + 1;
    this.#connections.set(functionName, nth);
    return new ConnectionFaults(
      this.#faults.filter(
        (fault) =>
          (fault.function ?? functionName) === functionName &&
          (fault.connection ?? nth) === nth,
      ),
    );
  }
}

type Check = (value: unknown) => string | undefined;

const count: Check = (value) =>
  Number.isSafeInteger(value) && Number(value) >= 1
    ? undefined
    : "must be a whole number from 1";
const side: Check = (value) =>
  value === "client" || value === "server"
    ? undefined
    : 'must be "client" or "server"';
const text: Check = (value) =>
  typeof value === "string" && value !== "" ? undefined : "must be a name";
const refusal: Check = (value) =>
  refusals.some((status) => status === value)
    ? undefined
    : `must be one of ${refusals.join(", ")}`;

interface Shape {
  readonly required: Readonly<Record<string, Check>>;
  readonly optional: Readonly<Record<string, Check>>;
}

const slowly = { bytesPerSecond: count, delayMs: count };
const where = { function: text, connection: count };
const message = { from: side, nth: count };

/** What may stand beside `on` and `do`. */
const shapes: Readonly<Record<string, Shape>> = {
  "connect refuse": { required: { status: refusal }, optional: where },
  "connect slow": { required: {}, optional: { ...where, ...slowly } },
  "message kill": { required: message, optional: where },
  "message drop": { required: message, optional: { ...where, line: side } },
  "message halfOpen": { required: message, optional: where },
  "message freeze": {
    required: message,
    optional: { ...where, forMs: count },
  },
  "message slow": { required: message, optional: { ...where, ...slowly } },
};

/** Reads a list of faults, as it stands in a JSON file; throws an Error with one line per mistake. */
export function parseFaults(list: unknown): Fault[] {
  if (!Array.isArray(list)) throw new Error("faults must be a list");
  const mistakes = list.flatMap((fault: unknown, i) =>
    mistakesOf(fault).map((mistake) => `fault ${i + 1}: ${mistake}`),
  );
  if (mistakes.length > 0) throw new Error(mistakes.join("\n"));
  return list as Fault[];
}

function mistakesOf(fault: unknown): string[] {
  if (typeof fault !== "object" || fault === null) return ["is no object"];
  const fields = new Map<string, unknown>(Object.entries(fault));
  const kind = `${String(fields.get("on"))} ${String(fields.get("do"))}`;
  const shape = Object.hasOwn(shapes, kind) ? shapes[kind] : undefined;
  if (shape === undefined)
    return [
      `"on" and "do" must be one of ${Object.keys(shapes).join(", ")}, not "${kind}"`,
    ];
  const mistakes: string[] = [];
  for (const name of Object.keys(shape.required))
    if (!fields.has(name)) mistakes.push(`"${name}" is missing`);
  for (const [name, value] of fields) {
    if (name === "on" || name === "do") continue;
    const check = shape.required[name] ?? shape.optional[name];
    const wrong = check ? check(value) : `is not known for "${kind}"`;
    if (wrong !== undefined) mistakes.push(`"${name}" ${wrong}`);
  }
  if (kind.endsWith(" slow") && !fields.has("bytesPerSecond"))
    if (!fields.has("delayMs"))
      mistakes.push('"bytesPerSecond" or "delayMs" is missing');
  return mistakes;
}
