import t from "tap";
import { isoTimes } from "../../shared/time.js";

t.test("a time reads as Date would write it", (t) => {
  const iso = isoTimes();
  for (const ms of [
    0, 1, 999, 1_000, 1_795_403_507_357, 1_795_403_507_005, 1_795_403_506_999,
    4_102_444_800_000, -1,
  ])
    t.equal(iso(ms), new Date(ms).toISOString());
  t.end();
});
