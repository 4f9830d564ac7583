// What `npm start` can change, and what it says about mistakes.

import t from "tap";
import { defaultLimits, parseSettings } from "../../platform/limits.js";

t.test("without variables the defaults hold", (t) => {
  t.strictSame(parseSettings({}), {
    gatewayPort: 8080,
    limits: defaultLimits,
    ws: { idleSeconds: 600, timeoutSeconds: 7_200 },
    logLevel: "info",
  });
  t.end();
});

t.test(
  "WS-TIME-1, WS-TIME-2: idle is 10 to 7,200 s, execution is not below it",
  (t) => {
    for (const seconds of ["10", "7200"])
      t.match(parseSettings({ WS_IDLE_SECONDS: seconds }), {
        ws: { idleSeconds: Number(seconds) },
      });
    for (const seconds of ["9", "7201", "1.5", "abc"])
      t.match(parseSettings({ WS_IDLE_SECONDS: seconds }), [
        /^WS_IDLE_SECONDS must be a whole number from 10 to 7200/,
      ]);
    t.match(parseSettings({ WS_IDLE_SECONDS: "30", EXECUTION_SECONDS: "30" }), {
      ws: { idleSeconds: 30, timeoutSeconds: 30 },
    });
    t.match(parseSettings({ WS_IDLE_SECONDS: "31", EXECUTION_SECONDS: "30" }), [
      /^EXECUTION_SECONDS \(30\) must not be below WS_IDLE_SECONDS \(31\)/,
    ]);
    t.match(parseSettings({ EXECUTION_SECONDS: "60" }), {
      ws: { idleSeconds: 60, timeoutSeconds: 60 },
    });
    t.end();
  },
);

t.test("every mistake has its own line", (t) => {
  const mistakes = parseSettings({
    GATEWAY_PORT: "65536",
    PREWARM: "-1",
    LOG_LEVEL: "loud",
  });
  t.ok(Array.isArray(mistakes));
  t.equal((mistakes as string[]).length, 3);
  t.end();
});
