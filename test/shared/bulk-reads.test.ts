/** Large reads take turns within a budget of bytes. */
import { setImmediate as turn } from "node:timers/promises";
import t from "tap";
import {
  BulkReads,
  ByteBudget,
  pageBytesMax,
} from "../../shared/bulk-reads.js";

/** Work that ends when the test says so. */
function works() {
  const going: string[] = [];
  const ends = new Map<string, (error?: Error) => void>();
  const work = (name: string) => () => {
    going.push(name);
    return new Promise<string>((resolve, reject) => {
      ends.set(name, (error) => (error ? reject(error) : resolve(name)));
    });
  };
  const end = async (name: string, error?: Error) => {
    ends.get(name)?.(error);
    await turn();
  };
  return { going, work, end };
}

t.test("who asks first is served first, as far as there is room", async (t) => {
  const budget = new ByteBudget(10);
  const { going, work, end } = works();
  const all = [
    budget.spend(6, work("a")),
    budget.spend(6, work("b")),
    budget.spend(1, work("c")),
  ];
  await turn();
  t.same(going, ["a"], "nobody overtakes, or the large ones would starve");
  await end("a");
  t.same(going, ["a", "b", "c"]);
  await Promise.all([end("b"), end("c")]);
  t.same(await Promise.all(all), ["a", "b", "c"]);
});

t.test("what fails gives its room back", async (t) => {
  const budget = new ByteBudget(10);
  const { going, work, end } = works();
  const failing = budget.spend(10, work("a"));
  void budget.spend(10, work("b"));
  await turn();
  const refused = t.rejects(failing, { message: "no" });
  await end("a", new Error("no"));
  await refused;
  t.same(going, ["a", "b"]);
});

t.test(
  "when Redis is silent nobody waits, and the room stays taken",
  async (t) => {
    const turns = new BulkReads();
    const { going, work, end } = works();
    const all: Promise<unknown>[] = [];
    const count = 40;
    for (let n = 0; n < count; n++)
      all.push(turns.run(pageBytesMax, work(`${n}`)));
    await turn();
    t.equal(going.length, 32, "4 MiB are on their way");
    const refused = Promise.allSettled(all);
    turns.refuse(new Error("away"));
    t.same(
      (await refused).map(({ status }) => status),
      Array.from({ length: count }, () => "rejected"),
    );
    const next = turns.run(1, work("next"));
    await turn();
    t.equal(going.length, 32, "answers may still come");
    await end("0");
    t.equal(going.at(-1), "next", "who gave up before its turn is passed over");
    await end("next");
    t.equal(await next, "next");
  },
);
