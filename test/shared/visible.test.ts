/** What may reach a terminal: everything that could steer it, turn what is read, or hide, is made visible. */
import t from "tap";
import { visible, visibleJson, visibleLines } from "../../shared/visible.js";

const hex = (unit: number) => `\\u${unit.toString(16).padStart(4, "0")}`;

t.test("each that steers, turns or hides", async (t) => {
  const ranges: [from: number, to: number][] = [
    [0x00, 0x08],
    [0x0b, 0x0c],
    [0x0e, 0x1f],
    [0x7f, 0x9f],
    [0x061c, 0x061c],
    [0x180e, 0x180e],
    [0x200b, 0x200b],
    [0x200e, 0x200f],
    [0x2028, 0x202e],
    [0x2060, 0x206f],
    [0xd800, 0xdfff],
    [0xfeff, 0xfeff],
    [0xfff9, 0xfffb],
  ];
  for (const [from, to] of ranges)
    for (let unit = from; unit <= to; unit++)
      if (visible(`a${String.fromCharCode(unit)}b`) !== `a${hex(unit)}b`)
        t.fail(hex(unit));
  t.equal(visible("\u{e0041}"), String.raw`\udb40\udc41`, "a tag");
  t.equal(visible("\ud83d"), String.raw`\ud83d`, "half of an emoji");
});

t.test("what people write stays as it is", async (t) => {
  for (const text of [
    "",
    "plain \t text ~",
    "Grüße, 你好, שלום, مرحبا",
    "می\u200cخواهم",
    "👨\u200d👩\u200d👧 ❤\ufe0f",
    String.raw`C:\new`,
  ])
    t.equal(visible(text), text);
});

t.test(
  "line ends: a value stays on its line, our own stay lines",
  async (t) => {
    t.equal(visible("a\r\nb\nc\u0085d"), String.raw`a\r\nb\nc\u0085d`);
    t.equal(visibleLines("a\r\nb\u001b\nc"), "a\\r\nb\\u001b\nc");
  },
);

t.test("JSON stays the same value", async (t) => {
  const value = {
    all: Array.from({ length: 0x3000 }, (_, unit) =>
      String.fromCharCode(unit),
    ).join(""),
    tag: "\u{e0041}\u{1f600}",
    half: "\udc00",
  };
  const text = visibleJson(value);
  t.same(JSON.parse(text), value);
  t.notMatch(text, /\p{Cc}|\u202e|\u2028/u);
});
