// Process edge of the attacker: does one thing, says what came of it over the IPC channel, and stays until it is ended, so
// that its sockets end with it and not before.
import { setPriority } from "node:os";

import { weaponOf } from "./weapons.js";
import type { Strike } from "./weapon.js";

setPriority(Number(process.env["NICE"] ?? 19));
process.on("message", ({ weapon, target, size }: Strike) => {
  Promise.resolve()
    .then(() => weaponOf(weapon)(target, size))
    .then(
      (result) => process.send?.({ result }),
      (cause: unknown) => process.send?.({ failed: String(cause) }),
    );
});
// Without the runner there is nobody to work for.
process.on("disconnect", () => process.exit());

console.log("ready");
