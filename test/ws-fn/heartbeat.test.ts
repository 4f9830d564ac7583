/** The heartbeat: three questions that nobody answered, and the line is given up. */
import t from "tap";
import { startHeartbeat } from "../../ws-fn/heartbeat.js";
import { until } from "../../scripts/lab/until.js";

t.test("silence ends it after three pings", async (t) => {
  const calls: string[] = [];
  const heartbeat = startHeartbeat({
    everyMs: 1,
    ping: () => calls.push("ping"),
    terminate: () => calls.push("terminate"),
  });
  t.teardown(() => heartbeat.stop());
  await until(() => calls.includes("terminate"));
  t.same(calls, ["ping", "ping", "ping", "terminate"]);
});

t.test("any sign of life counts from anew", async (t) => {
  let pings = 0;
  let ended = false;
  const heartbeat = startHeartbeat({
    everyMs: 1,
    ping: () => {
      pings += 1;
      heartbeat.heard();
    },
    terminate: () => {
      ended = true;
    },
  });
  t.teardown(() => heartbeat.stop());
  await until(() => pings >= 20);
  t.equal(ended, false);
  heartbeat.stop();
  heartbeat.stop();
});
