// Faults as rules: which apply to which connection, and what is wrong with a list that cannot be read.

import t from "tap";
import { FaultPlan, parseFaults } from "../../platform/faults.js";

t.test("a fault meets its function, its connection and its message", (t) => {
  const plan = new FaultPlan(
    parseFaults([
      { on: "connect", do: "refuse", status: 449, connection: 2 },
      { on: "message", from: "client", nth: 3, do: "kill" },
      { on: "message", from: "client", nth: 3, do: "drop", function: "other" },
      { on: "connect", do: "slow", delayMs: 5, connection: 1 },
    ]),
  );
  const first = plan.connection("ws-fn");
  t.equal(first.refusal, undefined);
  t.match(first.slow, { delayMs: 5 });
  t.ok(first.watches("client"));
  t.notOk(first.watches("server"));
  t.match(first.at("client", 3), [{ do: "kill" }]);
  t.strictSame(first.at("client", 2), []);
  t.strictSame(first.at("server", 3), []);
  const second = plan.connection("ws-fn");
  t.equal(second.refusal, 449);
  t.equal(second.slow, undefined);
  const other = plan.connection("other");
  t.equal(other.refusal, undefined, "each function counts for itself");
  t.equal(other.at("client", 3).length, 2, "in the order of the list");
  t.strictSame(new FaultPlan().connection("ws-fn").at("client", 1), []);
  t.end();
});

t.test("every mistake in a list has its line", (t) => {
  const mistakes: [fault: unknown, line: RegExp][] = [
    [7, /^fault 1: is no object$/],
    [{ on: "message", do: "explode" }, /must be one of connect refuse/],
    [{ on: "toString", do: "" }, /must be one of/],
    [{ on: "connect", do: "refuse" }, /"status" is missing/],
    [{ on: "connect", do: "refuse", status: 200 }, /"status" must be one of/],
    [{ on: "connect", do: "slow" }, /"bytesPerSecond" or "delayMs" is missing/],
    [
      { on: "message", do: "kill", from: "me", nth: 1 },
      /"from" must be "client" or "server"/,
    ],
    [
      { on: "message", do: "kill", from: "client", nth: 0 },
      /"nth" must be a whole number from 1/,
    ],
    [
      { on: "message", do: "kill", from: "client", nth: 1, forMs: 5 },
      /"forMs" is not known for "message kill"/,
    ],
    [{ on: "connect", do: "slow", delayMs: 1, function: "" }, /must be a name/],
  ];
  for (const [fault, line] of mistakes)
    t.throws(() => parseFaults([fault]), { message: line });
  t.throws(() => parseFaults({}), { message: "faults must be a list" });
  t.throws(() => parseFaults([1, 2]), { message: /fault 1.*\nfault 2/ });
  t.strictSame(parseFaults([]), []);
  t.end();
});
