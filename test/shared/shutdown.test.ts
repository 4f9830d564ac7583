/** Shutdown: every step in order, also after one that failed, within one deadline. */
import t from "tap";
import { runShutdown } from "../../shared/shutdown.js";

function recorder() {
  const errors: unknown[] = [];
  return {
    errors,
    logger: {
      info: () => undefined,
      error: (...words: unknown[]) => errors.push(words),
    },
  };
}

t.test("steps run one after the other", async (t) => {
  const order: string[] = [];
  const { logger, errors } = recorder();
  const step = (name: string) => ({
    name,
    run: async () => {
      order.push(`${name} begins`);
      await Promise.resolve();
      order.push(`${name} ends`);
    },
  });
  t.equal(await runShutdown([step("a"), step("b")], 10_000, logger), true);
  t.same(order, ["a begins", "a ends", "b begins", "b ends"]);
  t.same(errors, []);
});

t.test("a step that fails does not keep the next from running", async (t) => {
  const order: string[] = [];
  const { logger, errors } = recorder();
  const clean = await runShutdown(
    [
      {
        name: "throws",
        run: () => {
          throw new Error("at once");
        },
      },
      { name: "rejects", run: () => Promise.reject(new Error("later")) },
      { name: "last", run: () => order.push("last") },
    ],
    10_000,
    logger,
  );
  t.equal(clean, false);
  t.same(order, ["last"]);
  t.match(errors, [[{ step: "throws" }], [{ step: "rejects" }]]);
});

t.test("a step that never ends ends with the deadline", async (t) => {
  const { logger, errors } = recorder();
  const never = () => new Promise(() => undefined);
  t.equal(await runShutdown([{ name: "a", run: never }], 10, logger), false);
  t.match(errors, [[{ deadlineMs: 10 }]]);
});

t.test("nothing to do is done", async (t) => {
  t.equal(await runShutdown([], 10_000, recorder().logger), true);
});
