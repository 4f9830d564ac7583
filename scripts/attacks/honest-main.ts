// Process edge of the honest: a backend that pushes in a steady rhythm to clients that ack, each push timed from its POST
// to its handover. What a good backend and the client library do, they do.
import { Honest, type HonestOrder } from "./honest-load.js";

let honest: Honest | undefined;

process.on("message", (order: HonestOrder) => {
  carryOut(order).then(
    (result) => process.send?.({ result }),
    (cause: unknown) => process.send?.({ failed: String(cause) }),
  );
});
process.on("disconnect", () => process.exit());

async function carryOut(order: HonestOrder): Promise<unknown> {
  if (order.do === "open") {
    honest = await Honest.open(order.target, order.clients, order.perSecond);
    return null;
  }
  if (!honest) throw new Error("not open");
  if (order.do === "settle") return honest.settle();
  honest.begin(order.phase);
  return null;
}

console.log("ready");
