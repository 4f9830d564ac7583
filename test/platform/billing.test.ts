// What is billed and what is not, to the last decimal place, on a clock that the test moves.

import t from "tap";
import {
  costOf,
  describeUsage,
  gbSeconds,
  money,
  noUsage,
  project,
  unionMs,
  usageIf,
} from "../../platform/billing.js";
import type { Clock } from "../../platform/clock.js";
import {
  add,
  divide,
  formatDecimal,
  multiply,
  parseDecimal,
  whole,
} from "../../platform/decimal.js";
import { FrameReader } from "../../platform/frames.js";
import type { FunctionDescription } from "../../platform/function-description.js";
import type { Invocation } from "../../platform/invocation.js";
import { InvocationBook } from "../../platform/invocation-book.js";
import { Ledger } from "../../platform/ledger.js";
import { silentLog } from "../../platform/logs.js";
import { readPriceBook } from "../../platform/price-book.js";
import type { Rules } from "../../platform/rules.js";
import type { Ending } from "../../platform/verdict.js";
import { frame, someMask } from "../fixtures/functions/platform.js";
import { describe } from "../fixtures/functions/platform.js";

const prices = readPriceBook();

const describeWs = (more: Partial<FunctionDescription>) =>
  describe("ws", "/nowhere", "WS", more);

/** A book with its ledger over functions, at a time that only the test changes. */
function account(
  functions: FunctionDescription[] = [describeWs({})],
  entry: Rules["entry"] = "function-url",
) {
  let now = 1_000_000;
  const clock: Clock = { now: () => now, setTimer: () => () => {} };
  const ledger = new Ledger({ functions, entry, prices, clock });
  const book = new InvocationBook(100, clock, silentLog, [ledger]);
  function connect(instanceId = "i1", functionName = "ws"): Invocation {
    const invocation = book.begin(functionName);
    invocation.dispatched(instanceId, false);
    invocation.established(now);
    return invocation;
  }
  return {
    book,
    ledger,
    connect,
    wait: (ms: number) => (now += ms),
    now: () => now,
    gbSeconds: () => formatDecimal(gbSeconds(ledger.usage().megabyteMs)),
  };
}

const fine: Ending = { cause: "closed", by: "client", code: 1000 };

t.test(
  "WS-BILL-1, WS-BILL-2: three connections with a thousand messages are three invocations",
  (t) => {
    const { book, ledger, connect } = account();
    const message = frame({ opcode: 1, mask: someMask });
    for (let count = 1; count <= 3; count++) {
      const invocation = connect(`i${count}`);
      const client = new FrameReader();
      const server = new FrameReader();
      invocation.frames = { client, server };
      for (let sent = 0; sent < 1_000; sent++) client.push(message);
      t.equal(client.messages, 1_000);
      t.equal(ledger.usage().invocations, count, "counted while it runs");
      book.end(invocation, fine);
    }
    t.equal(ledger.usage().invocations, 3);
    t.end();
  },
);

t.test(
  "WS-BILL-3: memory times connected time, exactly: 128 MB for an hour are 450 GBs, 256 MB for 1.76 s are 0.44",
  (t) => {
    for (const [memoryMb, ms, expected] of [
      [128, 3_600_000, "450"],
      [256, 1_760, "0.44"],
      [128, 1, "0.000125"],
      [64, 1, "0.0000625"],
    ] as const) {
      const { book, connect, wait, gbSeconds, ledger } = account([
        describeWs({ memoryMb }),
      ]);
      const invocation = connect();
      wait(ms);
      t.equal(gbSeconds(), expected, "so far");
      t.equal(ledger.bill(invocation)?.gbSeconds, expected);
      book.end(invocation, fine);
      wait(5_000_000);
      t.equal(gbSeconds(), expected, "for good");
      t.match(ledger.bill(invocation), {
        durationMs: ms,
        billedMs: ms,
        memoryMb,
        gbSeconds: expected,
      });
    }
    t.equal(
      money(
        costOf({ ...noUsage, megabyteMs: 128 * 3_600_000 }, prices, "apigw")
          .compute,
      ),
      "0.007515",
    );
    t.end();
  },
);

t.test(
  "WS-BILL-3: it counts from the establishment, and without one from the hand-over; not from the request",
  (t) => {
    const { book, ledger, wait, now } = account();
    const established = book.begin("ws");
    wait(7_000); // an instance has to start
    established.dispatched("i1", true);
    wait(300); // the function thinks about the upgrade
    established.established(now());
    wait(1_000);
    book.end(established, fine);
    t.equal(ledger.usage().milliseconds, 1_000);
    const refused = book.begin("ws");
    wait(7_000);
    refused.dispatched("i2", true);
    wait(20);
    book.end(refused, { cause: "answered", status: 401, toUpgrade: true });
    t.equal(ledger.bill(refused)?.durationMs, 20);
    t.equal(ledger.usage().milliseconds, 1_020);
    t.end();
  },
);

t.test("WS-BILL-4: ten silent minutes cost as much as ten busy ones", (t) => {
  const [silent, busy] = [true, false].map((isSilent) => {
    const { book, connect, wait, ledger } = account();
    const invocation = connect();
    const client = new FrameReader();
    invocation.frames = { client, server: new FrameReader() };
    for (let second = 0; second < 600; second++) {
      wait(1_000);
      if (!isSilent) client.push(frame({ opcode: 1, mask: someMask }));
    }
    book.end(invocation, fine);
    return ledger.bill(invocation);
  });
  t.strictSame(silent, busy);
  t.equal(silent?.gbSeconds, "75");
  t.end();
});

t.test(
  "WS-BILL-5: what was sent is counted apart and priced by the way in; what a function fetches cannot be seen",
  (t) => {
    for (const [entry, cost] of [
      ["function-url", "0.12"],
      ["apigw", "0"],
    ] as const) {
      const { book, ledger } = account(undefined, entry);
      const invocation = book.begin("ws");
      invocation.dispatched("i1", false);
      invocation.answerBytes = 2 ** 30;
      book.end(invocation, {
        cause: "answered",
        status: 200,
        toUpgrade: false,
      });
      const shown = describeUsage(ledger.usage(), prices, entry);
      t.strictSame(shown.egress, { response: 2 ** 30, external: null });
      t.equal(shown.cost.response, cost);
      t.equal(ledger.bill(invocation)?.egressBytes, 2 ** 30);
    }
    t.end();
  },
);

t.test(
  "WS-BILL-6: what was executed is billed however it ended, what was refused before is not",
  (t) => {
    const failures: Ending[] = [
      { cause: "execution", seconds: 1 },
      { cause: "dropped", by: "server" },
      { cause: "idle", seconds: 1 },
      { cause: "dropped", by: "client" },
    ];
    for (const ending of failures) {
      const { book, connect, wait, ledger } = account();
      const invocation = connect();
      wait(1_000);
      const { statusCode } = book.end(invocation, ending);
      t.not(statusCode, 200);
      t.match(ledger.usage(), {
        invocations: 1,
        refused: 0,
        milliseconds: 1_000,
      });
    }
    const { book, ledger, wait } = account();
    for (const status of [405, 432, 445, 446] as const) {
      const invocation = book.begin("ws");
      wait(1_000);
      book.end(invocation, { cause: "not-started", status, reason: "no" });
      t.equal(ledger.bill(invocation), null, `${status} is free`);
    }
    t.match(ledger.usage(), { invocations: 0, refused: 4, milliseconds: 0 });
    t.equal(costOf(ledger.usage(), prices, "apigw").total.digits, 0n);
    t.end();
  },
);

t.test(
  "WS-BILL-7: an instance between two connections is free, a provisioned one that waits is billed at its own price",
  (t) => {
    for (const provisioned of [false, true]) {
      const { book, connect, wait, ledger } = account();
      const instance = {
        id: "i1",
        functionName: "ws",
        isProvisioned: provisioned,
      };
      ledger.instanceReady(instance);
      wait(600_000);
      const invocation = connect("i1");
      wait(1_000);
      book.end(invocation, fine);
      wait(400_000);
      const waited = provisioned ? 1_000_000 : 0;
      t.match(ledger.usage(), {
        milliseconds: 1_000,
        idleMegabyteMs: 128 * waited,
      });
      ledger.instanceGone(instance);
      wait(600_000);
      t.equal(ledger.usage().idleMegabyteMs, 128 * waited, "gone");
      const { cost } = describeUsage(ledger.usage(), prices, "apigw");
      t.equal(cost.provisionedIdle, provisioned ? "0.00105875" : "0");
    }
    t.end();
  },
);

t.test(
  "WS-BILL-3: invocations that overlap in an instance are billed once, whatever their order",
  (t) => {
    let seed = 7;
    const random = (below: number) => {
      seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
      return seed % below;
    };
    const http = describeWs({
      name: "http",
      protocol: "HTTP",
      concurrency: 100,
    });
    for (let round = 0; round < 50; round++) {
      const { book, ledger, wait, now } = account([http]);
      const intervals = new Map<string, [number, number][]>();
      const all: Invocation[] = [];
      const running: { invocation: Invocation; id: string; from: number }[] =
        [];
      for (let step = 0; step < 60; step++) {
        wait(random(20));
        if (running.length === 0 || random(2) === 0) {
          const invocation = book.begin("http");
          const id = `i${random(2)}`;
          invocation.dispatched(id, false);
          all.push(invocation);
          running.push({ invocation, id, from: now() });
        } else {
          const [one] = running.splice(random(running.length), 1);
          if (one === undefined) continue;
          book.end(one.invocation, {
            cause: "answered",
            status: 200,
            toUpgrade: false,
          });
          const known = intervals.get(one.id) ?? [];
          intervals.set(one.id, [...known, [one.from, now()]]);
        }
      }
      for (const { id, from } of running)
        intervals.set(id, [...(intervals.get(id) ?? []), [from, now()]]);
      const expected = [...intervals.values()].reduce(
        (sum, one) => sum + unionMs(one),
        0,
      );
      const single = all.reduce(
        (sum, one) => sum + (ledger.bill(one)?.billedMs ?? 0),
        0,
      );
      if (ledger.usage().milliseconds !== expected || single !== expected)
        t.fail(
          `round ${round}: ${ledger.usage().milliseconds}, ${single}, not ${expected}`,
        );
    }
    t.equal(
      unionMs([
        [5, 8],
        [0, 10],
        [20, 21],
        [9, 12],
      ]),
      13,
    );
    t.end();
  },
);

t.test(
  "another memory size and another idle timeout, over the same traffic",
  (t) => {
    const { book, connect, wait, ledger } = account();
    const silent = connect("i1");
    wait(700_000);
    book.end(silent, { cause: "idle", seconds: 600 });
    const other = connect("i2");
    wait(100_000);
    book.end(other, fine);
    const usage = ledger.usage("ws");
    const now = { memoryMb: 128, idleSeconds: 600 };
    t.equal(usageIf(usage, now, {}).megabyteMs, usage.megabyteMs);
    t.equal(
      usageIf(usage, now, { memoryMb: 256 }).megabyteMs,
      2 * usage.megabyteMs,
    );
    t.equal(
      usageIf(usage, now, { idleSeconds: 60 }).milliseconds,
      800_000 - 540_000,
    );
    t.strictSame(project(whole(2), 1_800_000), {
      hour: "4",
      day: "96",
      month: "2880",
    });
    t.end();
  },
);

t.test(
  "decimal numbers are exact, and rounded only where they are shown",
  (t) => {
    const number = (text: string) => parseDecimal(text) ?? whole(-1);
    t.equal(formatDecimal(add(number("0.1"), number("0.2"))), "0.3");
    t.equal(
      formatDecimal(multiply(number("0.0000167"), number("450"))),
      "0.007515",
    );
    t.equal(formatDecimal(divide(number("2"), 3n, 4)), "0.6667");
    t.equal(formatDecimal(number("1.005"), 2), "1.01");
    t.equal(formatDecimal(number("120.00")), "120");
    for (const text of ["", "-1", "1e3", ".5", "1."])
      t.equal(parseDecimal(text), undefined, text);
    t.end();
  },
);

t.test(
  "a price book is another file; a bad one says which entry is wrong",
  (t) => {
    t.equal(prices.currency, "USD");
    t.ok(prices.sources.length > 0);
    const own = {
      name: "own",
      currency: "RMB",
      asOf: "2026",
      sources: [],
      notes: [],
      perGbSecond: "1",
      perTenThousandInvocations: "10000",
      perProvisionedIdleGbSecond: "0.5",
      perResponseGb: { apigw: "0", "function-url": "0" },
    };
    const file = `${t.testdir({ "book.json": JSON.stringify(own), "bad.json": JSON.stringify({ ...own, perGbSecond: 0.1 }) })}`;
    const book = readPriceBook(`${file}/book.json`);
    const usage = { ...noUsage, invocations: 1, megabyteMs: 1_024_000 };
    t.equal(money(costOf(usage, book, "apigw").total), "2");
    t.throws(
      () => readPriceBook(`${file}/bad.json`),
      /bad\.json: perGbSecond must be a price/,
    );
    t.end();
  },
);
