// Process edge of the load generator: does what the bench asks over the IPC channel, one order at a time.
import { postBatches, type Batches } from "./batch-load.js";
import type { PhaseResult } from "./book.js";
import { cast, type CastResult } from "./cast-load.js";
import {
  comeBack,
  type Comeback,
  type ComebackResult,
} from "./comeback-load.js";
import { Crowd } from "./crowd.js";
import { post, type Posting } from "./load.js";
import { FIRST_NUMBER } from "./message.js";
import type { Answer } from "./orders.js";
import type { Pushing } from "./pushing.js";
import type { Target } from "./speech.js";

/** What each order asks for, and what it is answered with. */
export interface Orders {
  /** Where to push from now on. */
  aim: [Pushing, null];
  /** Opens clients; answered with the seconds it took. */
  open: [{ targets: Target[]; atOnce: number }, number];
  /** All clients go. */
  close: [null, null];
  post: [Posting, PhaseResult];
  batches: [Batches, PhaseResult];
  cast: [null, CastResult];
  comeBack: [Comeback, ComebackResult];
}

export type Order = {
  [Name in keyof Orders]: { do: Name; with: Orders[Name][0] };
}[keyof Orders];

const crowd = new Crowd();
let pushing: Pushing | undefined;
let nextNumber = FIRST_NUMBER;

process.on("message", (order: Order) => {
  carryOut(order).then(
    (result) => answer({ result }),
    (cause: unknown) => answer({ failed: String(cause) }),
  );
});
// Without the bench there is nobody to work for.
process.on("disconnect", () => process.exit());

async function carryOut(order: Order): Promise<Orders[keyof Orders][1]> {
  switch (order.do) {
    case "aim":
      pushing = order.with;
      return null;
    case "open": {
      const startedAt = performance.now();
      await crowd.open(order.with.targets, order.with.atOnce);
      return (performance.now() - startedAt) / 1_000;
    }
    case "close":
      crowd.close();
      return null;
    case "post":
      return post(crowd, aimed(), take(order.with.messages), order.with);
    case "batches":
      return postBatches(crowd, aimed(), take(order.with.messages), order.with);
    case "cast":
      return cast(crowd, aimed(), take(1));
    case "comeBack":
      return comeBack(crowd, aimed(), take(order.with.messages), order.with);
  }
}

function aimed(): Pushing {
  if (pushing === undefined) throw new Error("told to work before told where");
  return pushing;
}

/** The first of so many numbers that no other phase uses. */
function take(count: number): number {
  const first = nextNumber;
  nextNumber += count;
  return first;
}

function answer(answer: Answer<Orders[keyof Orders][1]>): void {
  process.send?.(answer);
}

console.log("ready");
