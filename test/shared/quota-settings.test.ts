/** How quotas are written. */
import t from "tap";
import {
  keyQuotas,
  parseQuotas,
  showQuotas,
  userQuotas,
} from "../../shared/quota-settings.js";

t.test("what is written is what is shown", (t) => {
  for (const text of [
    "",
    "messages=1000/10",
    "messages=off/10",
    "requests=5/1+names=7+bytes=6/604800",
    "stored=fair+scheduled=off",
  ])
    t.equal(showQuotas(parseQuotas(text, keyQuotas)), text);
  t.equal(
    showQuotas(parseQuotas("names=3+bytes=off", keyQuotas)),
    "names=3+bytes=off/10",
    "without seconds: its usual window",
  );
  const all = showQuotas(keyQuotas);
  t.same(parseQuotas(all, keyQuotas), keyQuotas);
  t.end();
});

t.test("a mistake is named", (t) => {
  const mistakes: [string, RegExp][] = [
    ["messages", /"messages" is no quota such as messages=1000\/10/],
    ["messages=", /is no quota such as/],
    ["messages=1e3", /is no quota such as/],
    ["messages=-1", /is no quota such as/],
    ["mesages=1", /no quota "mesages"; there are requests, messages, bytes/],
    ["messages=0", /"messages" needs a limit of 1 to/],
    ["messages=1/0", /"messages" needs a window of 1 to 604800/],
    ["messages=1/604801", /"messages" needs a window/],
    ["messages=1+messages=2", /"messages" is given twice/],
    ["names=1/60", /"names" is of what lives at a time and has no seconds/],
    ["messages=fair", /"messages" cannot be "fair"/],
    ["constructor=1", /no quota "constructor"/],
  ];
  for (const [text, words] of mistakes)
    t.throws(() => parseQuotas(text, keyQuotas), words, text);
  t.throws(() => parseQuotas("stored=1", userQuotas), /no quota "stored"/);
  t.end();
});
