// The platform's clocks: scaled, and advanced by hand.

import t from "tap";
import {
  pause,
  realClock,
  scaledClock,
  VirtualClock,
} from "../../platform/clock.js";

t.test(
  "a virtual clock fires in the order of time, chains included, and takes timers back",
  async (t) => {
    const clock = new VirtualClock(1_000);
    const fired: string[] = [];
    const note = (what: string) => () => fired.push(`${what} ${clock.now()}`);
    clock.setTimer(30, note("late"));
    clock.setTimer(10, note("early"));
    clock.setTimer(10, note("early too"));
    const takeBack = clock.setTimer(20, note("never"));
    takeBack();
    void pause(clock, 5).then(() => clock.setTimer(5, note("chained")));
    clock.setTimer(7_200_000, note("two hours"));
    await clock.advance(25);
    t.strictSame(fired, ["early 1010", "early too 1010", "chained 1010"]);
    t.equal(clock.now(), 1_025);
    await clock.advance(7_200_000);
    t.strictSame(fired.slice(3), ["late 1030", "two hours 7201000"]);
    t.equal(clock.waiting, 0);
  },
);

t.test("a scaled clock runs faster by one over the scale", async (t) => {
  const clock = scaledClock(0.001);
  const [real, scaled] = [realClock.now(), clock.now()];
  await pause(clock, 5_000);
  const passed = clock.now() - scaled;
  t.ok(passed >= 4_000, `${passed} platform ms`);
  t.ok((realClock.now() - real) * 1_000 >= passed - 1_000);
});
