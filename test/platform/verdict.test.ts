// The table of causes and codes, without a network.

import t from "tap";
import { judge, mustRecycle, type Ending } from "../../platform/verdict.js";

type Row = [
  ending: Ending,
  statusCode: number,
  closeInitiator: string,
  closeCode: number | null,
];

const closed = (by: "client" | "server", code: number): Ending => ({
  cause: "closed",
  by,
  code,
});

t.test(
  "WS-CLOSE-1 to 10: the first cause decides status, initiator and code",
  (t) => {
    const rows: Row[] = [
      [closed("client", 1000), 200, "client", 1000],
      [closed("server", 1000), 200, "server", 1000],
      [closed("client", 1010), 200, "client", 1010],
      [closed("server", 1010), 200, "server", 1010],
      [closed("client", 1011), 200, "client", 1011],
      [closed("server", 1011), 200, "server", 1011],
      [closed("client", 1005), 456, "client", 1005],
      [closed("server", 1005), 439, "server", 1005],
      [{ cause: "dropped", by: "client" }, 456, "client", 1006],
      [{ cause: "dropped", by: "server" }, 439, "server", 1006],
      [{ cause: "idle", seconds: 10 }, 455, "platform", 1006],
      [{ cause: "execution", seconds: 10 }, 433, "platform", 1006],
      [{ cause: "cancelled" }, 499, "client", null],
    ];
    for (const code of [1001, 1002, 1008, 1009, 1012, 3000, 4000, 4999])
      rows.push(
        [closed("client", code), 456, "client", code],
        [closed("server", code), 439, "server", code],
      );
    for (const [ending, statusCode, closeInitiator, closeCode] of rows) {
      const verdict = judge(ending);
      t.match(
        verdict,
        { statusCode, closeInitiator, closeCode },
        JSON.stringify(ending),
      );
      t.match(verdict.why, /^[A-Z].*\.$/, "one plain sentence");
    }
    t.end();
  },
);

t.test(
  "WS-LIFE-9: 433, 434 and 439 cost the instance, 455 and 456 by the switch",
  (t) => {
    for (const reuse of [true, false]) {
      for (const code of [433, 434, 439]) t.ok(mustRecycle(code, reuse));
      for (const code of [200, 499]) t.notOk(mustRecycle(code, reuse));
      for (const code of [455, 456]) t.equal(mustRecycle(code, reuse), !reuse);
    }
    t.end();
  },
);
