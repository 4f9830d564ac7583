/** JSON that is cheap to send and dear to read is refused before it is read. */
import t from "tap";
import { BridgeError } from "../../shared/errors.js";
import { JSON_LIMITS, parseJson } from "../../shared/media.js";

/** What becomes of a text: the depth of what was read is not looked at, reading it is what costs. */
function read(text: string): string {
  const parse = JSON.parse;
  let parsed = false;
  JSON.parse = ((given: string) => {
    parsed = true;
    return parse(given) as unknown;
  }) as typeof JSON.parse;
  try {
    parseJson(Buffer.from(text));
    return "taken";
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    return `${error.code} ${error.data.limit ?? ""} ${parsed ? "read" : "not read"}`;
  } finally {
    JSON.parse = parse;
  }
}

const nested = (depth: number, inside = "") =>
  "[".repeat(depth) + inside + "]".repeat(depth);

t.test("depth and number of arrays and objects are bounded", (t) => {
  const { depth, containers } = JSON_LIMITS;
  const tooDeep = `invalid_json ${depth} not read`;
  const tooMany = `invalid_json ${containers} not read`;
  t.equal(read(nested(depth)), "taken");
  t.equal(read(nested(depth + 1)), tooDeep);
  t.equal(read('{"a":'.repeat(depth + 1)), tooDeep);
  t.equal(read("[".repeat(1_048_576)), tooDeep, "it need not be complete");
  t.equal(read(`[${"[],".repeat(containers - 2)}[]]`), "taken");
  t.equal(read(`[${"[],".repeat(containers - 1)}[]]`), tooMany);
  t.end();
});

t.test("what stands in strings does not count", (t) => {
  const brackets = "[{".repeat(JSON_LIMITS.containers);
  t.equal(read(JSON.stringify([brackets])), "taken");
  t.equal(read(JSON.stringify([`"\\" ${brackets} \\\\`])), "taken");
  t.equal(read(JSON.stringify(["\\", [brackets]])), "taken");
  t.equal(
    read(`["\\\\",${"[".repeat(3_000)}`),
    `invalid_json ${JSON_LIMITS.depth} not read`,
    "a string that ends with a backslash ends",
  );
  t.end();
});

t.test("a small text needs no counting, and no limit is met there", (t) => {
  // A text of as many bytes as the depth cannot pass it.
  t.equal(read("[".repeat(JSON_LIMITS.depth)), "invalid_json  read");
  t.end();
});
