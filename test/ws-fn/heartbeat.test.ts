/** The heartbeat: three questions that nobody answered, and the line is given up. */
import t from "tap";
import { Heartbeat } from "../../ws-fn/heartbeat.js";
import { until } from "../../scripts/lab/until.js";

t.test("silence ends it after three pings", async (t) => {
  const calls: string[] = [];
  const heartbeat = new Heartbeat({
    everyMs: 1,
    ping: () => calls.push("ping"),
    terminate: () => calls.push("terminate"),
  });
  t.teardown(() => heartbeat.stop());
  await until(() => calls.includes("terminate"));
  t.same(calls, ["ping", "ping", "ping", "terminate"]);
});

t.test("the third question has half the time for its answer", async (t) => {
  const calls: string[] = [];
  const silent = new Heartbeat({
    everyMs: 200,
    ping: () => calls.push("asked"),
    terminate: () => calls.push("ended"),
  });
  // Beside one that is answered: which of two timers is first no busy machine changes.
  const alive = new Heartbeat({
    everyMs: 200,
    ping: () => {
      calls.push("beat");
      alive.heard();
    },
    terminate: () => undefined,
  });
  t.teardown(() => [silent, alive].forEach((heart) => heart.stop()));
  await until(() => calls.includes("ended"));
  t.equal(calls.filter((call) => call === "beat").length, 3);
});

t.test("any sign of life counts from anew", async (t) => {
  let pings = 0;
  let ended = false;
  const heartbeat = new Heartbeat({
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

t.test("many sockets are asked together", async (t) => {
  let turn = 0;
  const counting = setInterval(() => (turn += 1), 1);
  t.teardown(() => clearInterval(counting));
  const turns = new Set<number>();
  let asked = 0;
  const hearts = Array.from(
    { length: 200 },
    () =>
      new Heartbeat({
        everyMs: 400,
        ping: () => {
          asked += 1;
          turns.add(turn);
        },
        terminate: () => undefined,
      }),
  );
  await until(() => asked >= 200);
  for (const heart of hearts) heart.stop();
  t.ok(turns.size <= 3, `${turns.size} turns for 200 sockets`);
});
