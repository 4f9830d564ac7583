// The table of causes and codes, without a network.

import t from "tap";
import { presets } from "../../platform/rules.js";
import {
  judge,
  mustRecycle,
  statusMessage,
  type Ending,
} from "../../platform/verdict.js";

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

const limited = (
  by: "client" | "server",
  limit: "size" | "bytes" | "messages",
  closeCode: number,
): Ending => ({ cause: "limit", by, limit, allowed: 10, closeCode });

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
      [{ cause: "idle", seconds: 10, closeCode: 1001 }, 455, "platform", 1001],
      [limited("client", "size", 1009), 406, "platform", 1009],
      [limited("server", "size", 1009), 407, "platform", 1009],
      [limited("client", "bytes", 1008), 429, "platform", 1008],
      [limited("server", "messages", 1008), 429, "platform", 1008],
      [{ cause: "answered", status: 401, toUpgrade: true }, 200, "none", null],
      [{ cause: "cancelled" }, 499, "client", null],
    ];
    for (const status of [405, 429, 432, 445, 446, 449, 450, 499, 500] as const)
      rows.push([
        { cause: "not-started", status, reason: "It is so." },
        status,
        "platform",
        null,
      ]);
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
      t.not(verdict.statusMessage, "Unknown");
    }
    t.end();
  },
);

t.test(
  "WS-CLOSE-7: read strictly, 1010 is the client's and 1011 the server's only",
  (t) => {
    const strict = { ...presets.documented, strictCloseDirection: true };
    for (const [ending, status] of [
      [closed("client", 1010), 200],
      [closed("server", 1010), 439],
      [closed("server", 1011), 200],
      [closed("client", 1011), 456],
      [closed("client", 1000), 200],
    ] as const) {
      t.equal(judge(ending, strict).statusCode, status);
      t.equal(judge(ending).statusCode, 200, "the switch is off by default");
    }
    t.match(judge(closed("client", 1011), strict).why, /close with 1000/);
    t.end();
  },
);

t.test("WS-CLOSE-8: read leniently, no code is a success", (t) => {
  const lenient = { ...presets.documented, lenientNoCode: true };
  for (const by of ["client", "server"] as const) {
    const { statusCode, closeCode, why } = judge(closed(by, 1005), lenient);
    t.equal(statusCode, 200);
    t.equal(closeCode, 1005);
    t.match(why, /close with an explicit 1000/, "the way out is told anyway");
  }
  t.end();
});

t.test("the sentence on silence says what does not count", (t) => {
  const idle: Ending = { cause: "idle", seconds: 10 };
  t.match(judge(idle).why, /pings do not count/);
  const all = { ...presets.documented, countControlFrames: true };
  t.notMatch(judge(idle, all).why, /pings/);
  t.end();
});

t.test("WS-CLOSE-10: a process without memory is 434, any other 439", (t) => {
  const exit = (...stderr: string[]) => ({
    code: null,
    signal: "SIGABRT",
    stderr,
  });
  const of = (...stderr: string[]) =>
    judge({ cause: "dropped", by: "server", exit: exit(...stderr) });
  t.equal(
    of("FATAL ERROR: JavaScript heap out of memory", "x").statusCode,
    434,
  );
  t.match(of("JavaScript heap out of memory").why, /raise `memorySize`/);
  t.equal(of("something else").statusCode, 439);
  t.strictSame(of("last words").exit, exit("last words"));
  t.end();
});

t.test("a status nobody knows has no name", (t) => {
  t.equal(statusMessage(999), "Unknown");
  t.end();
});

t.test(
  "WS-LIFE-9: 433, 434 and 439 cost the instance, 455 and 456 do not",
  (t) => {
    for (const code of [433, 434, 439]) t.ok(mustRecycle(code));
    for (const code of [200, 406, 429, 455, 456, 499])
      t.notOk(mustRecycle(code));
    const never = { reuseAfterFailure: false };
    for (const code of [406, 429, 455, 456]) t.ok(mustRecycle(code, never));
    for (const code of [200, 499]) t.notOk(mustRecycle(code, never));
    t.end();
  },
);
