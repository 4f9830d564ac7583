// Process edge of the broadcast bench's audience: does what the bench asks over the IPC channel, one order at a time.
import { CastLoad, type CastResult, type Speech } from "./cast-load.js";
import type { Dial } from "./cast-socket.js";
import type { Pushing } from "./load.js";

export type CastOrder =
  | {
      do: "open";
      pushing: Pushing;
      path: string;
      speech: Speech;
      dials: Dial[];
    }
  | { do: "cast" };

let load: CastLoad | undefined;

process.on("message", (order: CastOrder) => {
  carryOut(order).then(
    (result) => process.send?.({ result }),
    (cause: unknown) => process.send?.({ failed: String(cause) }),
  );
});
// Without the bench there is nobody to work for.
process.on("disconnect", () => process.exit());

async function carryOut(order: CastOrder): Promise<CastResult | null> {
  if (order.do === "open") {
    load = new CastLoad(order.pushing, order.path, order.speech);
    await load.open(order.dials);
    return null;
  }
  if (load === undefined) throw new Error("told to cast before told where");
  return load.cast();
}

console.log("ready");
