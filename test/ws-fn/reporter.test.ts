/** The reporter: few words, none lost, none out of order, none after the end. */
import t from "tap";
import type { Report } from "../../shared/log.js";
import { Reporter } from "../../ws-fn/reporter.js";
import { until } from "../../scripts/lab/until.js";

type Outcome = "ok" | "fenced" | "missing" | Error;

/** A reporter whose Redis answers as the test says, "ok" by default. */
function reporter(
  t: { teardown(stop: () => void): void },
  outcomes: Outcome[] = [],
  owned = true,
) {
  const told: Report[] = [];
  const calls: string[] = [];
  const reports = new Reporter(
    {
      report: (report) => {
        told.push(report);
        const outcome = outcomes.shift() ?? "ok";
        return outcome instanceof Error
          ? Promise.reject(outcome)
          : Promise.resolve(outcome);
      },
      confirm: () => {
        calls.push("confirm");
        return Promise.resolve(owned);
      },
      fenced: () => {
        calls.push("fenced");
        reports.stop();
      },
    },
    "client",
    5,
  );
  t.teardown(() => reports.stop());
  return { reports, told, calls };
}

t.test("an ack goes out at once and takes along what was sent", async (t) => {
  const { reports, told } = reporter(t);
  reports.sent(6, 10);
  reports.sent(7, 20);
  reports.skip(8, "expired", "");
  reports.ack(7);
  await reports.flush();
  t.equal(told.length, 1);
  t.match(told[0], {
    acked: 7,
    ackedTotal: 20,
    ackedBy: "client",
    fates: [{ seq: 8, status: "expired", reason: "" }],
  });
  t.equal(told[0]?.sent.at(-1)?.seq, 7);
});

t.test("what was only sent is told by itself", async (t) => {
  const { reports, told } = reporter(t);
  reports.sent(6, 10);
  await until(() => told.length === 1);
  t.equal(told[0]?.acked, undefined);
});

t.test(
  "an old ack says nothing, and what Redis knows is not told",
  async (t) => {
    const { reports, told } = reporter(t);
    reports.ack(5);
    reports.ack(3);
    await reports.flush();
    t.same(told, []);
    reports.ack(9);
    reports.ack(6);
    await reports.flush();
    t.match(told, [{ acked: 9 }]);
    t.equal(reports.acked, 9);
  },
);

t.test("acks that come during a report are one more report", async (t) => {
  const { reports, told } = reporter(t);
  for (const seq of [6, 7, 8, 9]) reports.ack(seq);
  await reports.flush();
  t.same(
    told.map(({ acked }) => acked),
    [6, 9],
  );
});

t.test("what Redis did not take is told again, in order", async (t) => {
  const { reports, told } = reporter(t, [new Error("away"), new Error("away")]);
  reports.sent(6, 1);
  reports.skip(7, "expired", "");
  reports.ack(6);
  await until(() => told.length === 3);
  for (const report of told) t.match(report, { acked: 6, fates: [{ seq: 7 }] });
  t.equal(told[2]?.sent[0]?.seq, 6);
});

t.test("a registration that is missing is renewed first", async (t) => {
  const { reports, told, calls } = reporter(t, ["missing"]);
  reports.ack(6);
  await reports.flush();
  t.same(calls, ["confirm"]);
  t.same(
    told.map(({ acked }) => acked),
    [6, 6],
  );
});

t.test("one that is not ours any more is left alone", async (t) => {
  const { reports, told, calls } = reporter(t, ["missing"], false);
  reports.ack(6);
  await reports.flush();
  t.same(calls, ["confirm", "fenced"]);
  t.equal(told.length, 1);
});

t.test("the fence ends it", async (t) => {
  const { reports, told, calls } = reporter(t, ["fenced"]);
  reports.ack(6);
  await reports.flush();
  t.same(calls, ["fenced"]);
  reports.ack(7);
  await reports.flush();
  t.equal(told.length, 1);
});
