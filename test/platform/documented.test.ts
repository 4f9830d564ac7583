// docs/platform.md against the tests: every rule of the documents has a row there, and a test that carries its ID.

import { existsSync, readFileSync } from "node:fs";
import t from "tap";

/** How many rules each family has. */
const families = {
  "WS-BOOT": 5,
  "WS-CONN": 6,
  "WS-LIFE": 10,
  "WS-CLOSE": 16,
  "WS-TIME": 7,
  "WS-LIM": 5,
  "WS-LOG": 2,
  "WS-BILL": 7,
  "SCN-CHAT": 4,
  "SCN-MIX": 3,
};

const rows = readFileSync("docs/platform.md", "utf8")
  .split("\n")
  .filter((line) => /^\| (WS|SCN)-/.test(line))
  .map((line) => line.split("|").map((cell) => cell.trim()));

/** The names of the tests in a file: the strings behind `test(`. */
function namesIn(file: string): string {
  const source = readFileSync(file, "utf8");
  const names = /\btest\(\s*(`[^`]*`|"(?:[^"\\]|\\.)*")/g;
  return [...source.matchAll(names)].map(([, name]) => name).join("\n");
}

for (const [family, count] of Object.entries(families))
  void t.test(`${family}-1 to ${count}: row, rule, source and test`, (t) => {
    for (let number = 1; number <= count; number++) {
      const id = `${family}-${number}`;
      const found = rows.filter(([, cell]) => cell === id);
      t.equal(found.length, 1, `${id} has one row`);
      const [, , rule = "", source = "", tests = ""] = found[0] ?? [];
      t.ok(rule !== "" && source !== "", `${id} says its rule and its source`);
      const files = tests
        .split(",")
        .map((name) => `test/${name.trim()}.test.ts`);
      const carries = files.filter(
        (file) =>
          existsSync(file) && new RegExp(`${id}(?!\\d)`).test(namesIn(file)),
      );
      t.same(carries, files, `${id} is in the name of a test in each of them`);
    }
    t.end();
  });

void t.test("there is no row of a rule that nobody knows", (t) => {
  const known = Object.entries(families).flatMap(([family, count]) =>
    Array.from({ length: count }, (_, at) => `${family}-${at + 1}`),
  );
  t.same(
    rows.map(([, id]) => id).filter((id) => !known.includes(id ?? "")),
    [],
  );
  t.end();
});
