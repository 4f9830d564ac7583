/** The pair on the local platform, by the documents: an instance for each socket, frozen as it closes. */
import t from "tap";
import { startPairOnPlatform } from "../../scripts/lab/pair.js";
import { cutsAndFreezes } from "./scenarios/cuts-and-freezes.js";
import { pushOptions } from "./scenarios/push-options.js";

t.test(
  "SCN-MIX-1: HTTP in and WebSocket out, on the platform as documented",
  async (t) => {
    const pair = await startPairOnPlatform(t, "documented", {
      SLOW_BYTES: "65536",
    });
    pushOptions(t, pair);
    cutsAndFreezes(t, pair);
  },
);
