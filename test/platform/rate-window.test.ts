// What passed in a second, with a hand-made time.

import t from "tap";
import { RateWindow } from "../../platform/rate-window.js";

t.test("WS-LIM-3: a sliding window knows any second", (t) => {
  const window = new RateWindow("sliding");
  for (let i = 0; i < 10; i++) window.add(1_900 + i * 10, 1);
  t.equal(window.sum(2_100), 10, "a new second of the clock changes nothing");
  t.equal(window.msUntilRoom(2_100, 1, 10), 800, "when the first is forgotten");
  t.equal(window.msUntilRoom(2_100, 3, 10), 820);
  t.equal(window.msUntilRoom(2_100, 1, 11), 0);
  t.equal(window.msUntilRoom(2_100, 99, 10), 890, "when nothing is left");
  t.equal(window.sum(2_899), 10);
  t.equal(window.sum(2_900), 9);
  t.equal(window.sum(2_990), 0);
  t.equal(window.peak, 10);
  t.end();
});

t.test("WS-LIM-3: a fixed window knows the clock's seconds only", (t) => {
  const window = new RateWindow("fixed");
  window.add(1_999, 10);
  t.equal(window.sum(1_999), 10);
  t.equal(window.msUntilRoom(1_999, 1, 10), 1);
  t.equal(window.sum(2_000), 0);
  window.add(2_000, 10);
  t.equal(window.sum(2_999), 10);
  t.equal(window.peak, 10);
  t.end();
});

t.test(
  "a window holds a whole second of milliseconds, and forgets them",
  (t) => {
    const window = new RateWindow("sliding");
    let now = 5;
    for (; now < 3_005; now++) window.add(now, 2);
    t.equal(window.sum(now - 1), 2_000);
    t.equal(window.peak, 2_000);
    window.add(now - 1, 1);
    t.equal(window.sum(now - 1), 2_001, "twice in a millisecond");
    t.equal(window.sum(now + 2_000), 0);
    t.end();
  },
);

t.test("a clock that steps back neither adds room nor takes it", (t) => {
  const window = new RateWindow("sliding");
  window.add(10_000, 5);
  window.add(3_000, 5);
  t.equal(window.sum(3_000), 10);
  t.equal(window.msUntilRoom(3_000, 1, 10), 1_000);
  t.equal(window.sum(11_000), 0);
  t.end();
});
