// Process edge of the load generator: does what the bench asks over the IPC channel, one order at a time.
import type { PhaseResult } from "./book.js";
import { Load, type Pushing, type Target } from "./load.js";
import type { Answer } from "./orders.js";

export type Order =
  | { do: "aim"; pushing: Pushing }
  | { do: "open"; targets: Target[] }
  | { do: "run"; messages: number; publishers: number };

let load: Load | undefined;

process.on("message", (order: Order) => {
  carryOut(order).then(
    (result) => answer({ result }),
    (cause: unknown) => answer({ failed: String(cause) }),
  );
});
// Without the bench there is nobody to work for.
process.on("disconnect", () => process.exit());

async function carryOut(order: Order): Promise<PhaseResult | null> {
  if (order.do === "aim") {
    load = new Load(order.pushing);
  } else if (load === undefined) {
    throw new Error("told to work before told where");
  } else if (order.do === "open") {
    await load.open(order.targets);
  } else {
    return load.run(order.messages, order.publishers);
  }
  return null;
}

function answer(answer: Answer<PhaseResult>): void {
  process.send?.(answer);
}

console.log("ready");
