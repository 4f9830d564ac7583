/** The pair on the local platform, at its worst: instances killed or frozen at random, every open point read against us. */
import t from "tap";
import { startPairOnPlatform } from "../../scripts/lab/pair.js";
import { cutsAndFreezes } from "./scenarios/cuts-and-freezes.js";
import { pushOptions } from "./scenarios/push-options.js";

t.test(
  "SCN-MIX-1: HTTP in and WebSocket out, on the platform at its worst",
  async (t) => {
    const pair = await startPairOnPlatform(t, "hostile", {
      SLOW_BYTES: "65536",
    });
    pushOptions(t, pair);
    cutsAndFreezes(t, pair);
  },
);
