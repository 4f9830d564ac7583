/** Lines that strangers cause: a few in a second, the rest counted. */
import t from "tap";
import { SampledLog, type LeftOut } from "../../shared/sampled-log.js";
import { until } from "../../scripts/lab/until.js";

t.test("so many of a kind, then their number", async (t) => {
  const told: string[] = [];
  const leftOut: LeftOut[] = [];
  const log = new SampledLog({
    perSecond: 3,
    onLeftOut: (counted) => void leftOut.push(counted),
  });
  const say = (kind: string, times: number) => {
    for (let time = 0; time < times; time++)
      log.say(kind, () => told.push(kind));
  };
  say("a", 10);
  say("b", 2);
  t.same(told, ["a", "a", "a", "b", "b"], "each kind has its own count");
  t.same(leftOut, [], "nothing is counted before its second is over");
  await until(() => leftOut.length > 0);
  t.same(leftOut, [{ kind: "a", lines: 7 }]);
  say("a", 1);
  t.equal(told.length, 6, "the next second has its own lines");
  say("a", 4);
  log.flush();
  t.same(leftOut.at(-1), { kind: "a", lines: 2 }, "at the end at once");
  log.flush();
  t.equal(leftOut.length, 2, "and once");
});
