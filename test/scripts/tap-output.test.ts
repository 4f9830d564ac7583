import t from "tap";

import { TapOutput } from "../../scripts/tap-output.js";

function shown(text: string) {
  const lines: string[] = [];
  const output = new TapOutput((line) => lines.push(line));
  for (const line of text.split("\n")) output.line(line);
  return { lines, totals: output.totals };
}

t.test("a good file is one line, and what it skipped", async (t) => {
  const { lines, totals } = shown(`TAP version 14
1..1
# Subtest: test/a.test.ts
    # Subtest: it counts
        ok 1 - one
        1..1
    ok 1 - it counts # time=12ms
    # something said on the way
    # Subtest: in a browser
        ok 1 - it shows # SKIP no browser
        1..1
    ok 2 - in a browser # time=2ms
    1..2
ok 1 - test/a.test.ts # time=36.5ms

# { total: 2, pass: 1, skip: 1 }
# time=40ms`);
  t.strictSame(lines, [
    "ok      test/a.test.ts  36.5ms",
    "  skipped: in a browser > it shows no browser",
  ]);
  t.strictSame(totals, { passed: 1, failed: 0, skipped: 1 });
});

t.test("a failure is named with its place, its details once", async (t) => {
  const { lines, totals } = shown(`# Subtest: test/a.test.ts
    # Subtest: outer
        # Subtest: inner
            not ok 1 - should be equal
              ---
              at:
                fileName: test/a.test.ts
              stack: |
                test/a.test.ts:2:127
              diff: |
                --- expected

                -2
                +1
              ...
            
            1..1
        not ok 1 - inner # time=1ms
          ---
          at:
            fileName: test/a.test.ts
          source: |
            t.test("inner")
          ...
        
        1..1
    # last lines of http-fn:
    #   boom
    not ok 1 - outer # time=2ms
    
    1..1
not ok 1 - test/a.test.ts # time=3ms
  ---
  command: /usr/bin/node
  exitCode: 1
  signal: null
  ...

# { total: 1, pass: 0, fail: 1 }`);
  t.strictSame(lines, [
    "FAILED  test/a.test.ts  3ms",
    "  ✖ outer > inner > should be equal",
    "    stack: |",
    "      test/a.test.ts:2:127",
    "    diff: |",
    "      --- expected",
    "      -2",
    "      +1",
    "    # last lines of http-fn:",
    "    #   boom",
    "  exitCode: 1",
  ]);
  t.strictSame(totals, { passed: 0, failed: 1, skipped: 0 });
});

t.test("a run that broke off has no totals", async (t) => {
  t.equal(shown("TAP version 14\n1..2\n# Subtest: a").totals, undefined);
});
