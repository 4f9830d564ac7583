/** What a push may ask for, with the built processes. */
import t from "tap";
import { startPair } from "../../scripts/lab/pair.js";
import { pushOptions } from "./scenarios/push-options.js";

t.test("what a push may ask for", async (t) => {
  pushOptions(t, await startPair(t, { SLOW_BYTES: "65536" }));
});
