/** What members read of a history is kept for the others: without a hole, within a budget. */
import t from "tap";
import type { GroupEntry, HistoryPage } from "../../shared/fanout.js";
import { Window, Windows } from "../../ws-fn/windows.js";

const epoch = "1";
const rowBytes = 1_000;

/** A message of `rowBytes`, overhead included, after the one before it. */
const row = (offset: number, of = epoch): GroupEntry => ({
  group: "g",
  epoch: of,
  offset,
  prev: offset - 1,
  id: `${offset}`,
  expiresAtMs: Infinity,
  onceOnly: false,
  binary: false,
  contentType: "text/plain",
  selection: undefined,
  from: undefined,
  body: Buffer.alloc(rowBytes - 256),
});

/** All there is after `from` up to `to`, of a history that ends at `end`. */
const page = (from: number, to: number, end = to): HistoryPage => ({
  epoch,
  offset: end,
  recovered: true,
  more: to < end,
  rows: Array.from({ length: to - from }, (_, n) => row(from + n + 1)),
});

const offsets = (window: Window, offset: number, bytes = Infinity) => {
  const found = window.after({ epoch, offset }, bytes);
  return found && [found.rows.map((one) => one.offset).join(" "), found.to];
};

t.test("serves what was read, from any position in it", (t) => {
  const window = new Window(new Windows());
  t.equal(offsets(window, 0), undefined);
  window.add(10, page(10, 14, 20));
  t.same(offsets(window, 10), ["11 12 13 14", 14]);
  t.same(offsets(window, 12), ["13 14", 14]);
  t.same(offsets(window, 10, 1_500), ["11 12", 12], "about as much as asked");
  t.equal(offsets(window, 9), undefined, "before it");
  t.equal(offsets(window, 14), undefined, "nothing after it is known");
  t.equal(window.after({ epoch: "2", offset: 12 }, 1), undefined);
  t.end();
});

t.test("grows at both ends, and begins anew behind a hole", (t) => {
  const all = new Windows();
  const window = new Window(all);
  window.add(10, page(10, 12, 20));
  window.add(12, page(12, 14, 20));
  window.add(8, page(8, 11, 20));
  t.same(offsets(window, 8), ["9 10 11 12 13 14", 14]);
  t.equal(all.bytes, 6 * rowBytes);
  window.heard(row(15));
  window.heard(row(17));
  t.same(offsets(window, 13), ["14 15", 15], "no hole is heard over");
  window.add(17, page(17, 19, 20));
  t.equal(offsets(window, 8), undefined);
  t.same(offsets(window, 17), ["18 19", 19]);
  t.equal(all.bytes, 2 * rowBytes);
  window.add(0, { ...page(0, 3), recovered: false });
  t.same(offsets(window, 17), ["18 19", 19], "what is not all is not kept");
  t.end();
});

t.test("a history that ends without a row is known to end there", (t) => {
  const window = new Window(new Windows());
  window.add(10, { ...page(10, 12), offset: 15 });
  t.same(offsets(window, 12), ["", 15]);
  t.end();
});

t.test("the window that was read from longest ago goes first", (t) => {
  const all = new Windows(5 * rowBytes);
  const [a, b] = [new Window(all), new Window(all)];
  a.add(0, page(0, 2, 9));
  b.add(0, page(0, 2, 9));
  offsets(a, 0);
  b.heard(row(3));
  t.equal(all.bytes, 5 * rowBytes);
  b.heard(row(4));
  t.same(offsets(a, 0), ["1 2", 2]);
  t.equal(offsets(b, 0), undefined, "hearing is not reading");
  t.equal(all.bytes, 2 * rowBytes);
  a.add(2, page(2, 9, 9));
  t.equal(all.bytes, 5 * rowBytes, "one alone keeps its newest rows");
  t.same(offsets(a, 4), ["5 6 7 8 9", 9]);
  t.equal(offsets(a, 3), undefined);
  a.clear();
  t.equal(all.bytes, 0);
  t.end();
});
