/** Numbers leave Lua through one function: every script is read for one that goes another way. */
import t from "tap";
import { text } from "../../shared/lua.js";
import { scripts } from "../../shared/stores.js";
import { singleRedis } from "../../scripts/lab/redis.js";

/** The arguments of every call of a command in `lua`, as they are written. */
function* calls(lua: string): Generator<string[]> {
  for (const { index } of lua.matchAll(/redis\.call\(/g)) {
    const args = [""];
    let depth = 1;
    let quote = "";
    for (const char of lua.slice(index + "redis.call(".length)) {
      if (quote !== "") quote = char === quote ? "" : quote;
      else if (char === "'" || char === '"') quote = char;
      else if ("([{".includes(char)) depth += 1;
      else if (")]}".includes(char)) depth -= 1;
      if (depth === 0) break;
      if (char === "," && depth === 1 && quote === "") args.push("");
      else args[args.length - 1] += char;
    }
    yield args.map((arg) => arg.trim());
  }
}

/** What is left of an argument without texts, calls and indexes: there arithmetic shows, and the clock as a number. */
function bare(arg: string): string {
  let rest = arg.replaceAll(/'[^']*'/g, "");
  for (let before = ""; before !== rest;) {
    before = rest;
    rest = rest.replaceAll(/[\w.]*\([^()]*\)|\[[^[\]]*\]/g, "");
  }
  return rest;
}

const isNumber = (arg: string): boolean =>
  !/^-?\d+$/.test(arg) && /[-+*/#%^]|\b(us|ms|math)\b/.test(bare(arg));

t.test("what counts as a number that leaves another way", (t) => {
  for (const arg of [
    "-#row[2][6]",
    "-size",
    "#event + 256",
    "ms",
    "'a' .. ms + tonumber(ARGV[1])",
    "tonumber(ARGV[1]) + 1",
  ])
    t.ok(isNumber(arg), arg);
  for (const arg of [
    "text(-size)",
    "KEYS[i + 1]",
    "'(' .. row[1]",
    "id .. '-0'",
    "100",
    "-1",
    "'n' .. string.match(row[2][2], '(%S+)$')",
  ])
    t.notOk(isNumber(arg), arg);
  t.end();
});

t.test("no script has one", (t) => {
  for (const { name, lua } of scripts) {
    const own = lua.split(text.trim());
    t.ok(own.length <= 2, `${name} knows the function once`);
    t.notMatch(own.join(""), /%\.0f|tostring/, `${name} has no other`);
    for (const args of calls(lua.replaceAll(/--.*/g, "")))
      for (const arg of args)
        t.notOk(isNumber(arg), `${name}: ${args.join(", ")}`);
  }
  t.end();
});

t.test("every whole number comes out as Redis takes it", async (t) => {
  const redis = await singleRedis(t);
  const out = async (lua: string, number: string) =>
    String(await redis.cli("EVAL", `${lua} return text(${number})`, "0"));
  const off = text.replace("n + 0", "n");
  t.equal(await out(off, "-#''"), "-0", "without it");
  for (const [number, words] of [
    ["-#''", "0"],
    ["-1", "-1"],
    ["9007199254740991", "9007199254740991"],
    ["'12'", "12"],
  ] as const)
    t.equal(await out(text, number), words);
});
