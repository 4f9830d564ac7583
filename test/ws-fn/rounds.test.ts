/** Going round many things: each has its turn, no step is larger than its bound, and what fails holds nobody up. */
import t from "tap";
import type { Scope } from "../../scripts/lab/scope.js";
import { until } from "../../scripts/lab/until.js";
import { startRounds } from "../../ws-fn/rounds.js";

const numbers = (count: number) =>
  new Set(Array.from({ length: count }, (_, n) => n));

/** Goes round `things` as fast as timers allow; `steps` is what each step visited. */
function going(
  t: Scope,
  things: Set<number>,
  {
    most = Infinity,
    visit = () => Promise.resolve(),
  }: {
    most?: number;
    visit?: (some: readonly number[]) => Promise<unknown>;
  } = {},
) {
  const steps: (readonly number[])[] = [];
  const end = startRounds({
    everyMs: 10,
    most,
    things,
    visit: (some) => {
      steps.push(some);
      return visit(some);
    },
  });
  t.teardown(end);
  return { steps, end };
}

t.test("each has its turn before anybody has a second", async (t) => {
  const { steps } = going(t, numbers(25));
  await until(() => steps.flat().length >= 75);
  const visits = steps.flat();
  for (let round = 0; round < 3; round += 1)
    t.same(
      visits.slice(round * 25, (round + 1) * 25),
      [...numbers(25)],
      `round ${round}`,
    );
  for (const step of steps)
    t.ok(step.length <= 3, "a tenth of them, and what was left over");
});

t.test("one of few has its turn as well", async (t) => {
  const { steps } = going(t, numbers(2));
  await until(() => steps.flat().length >= 6);
  t.same(steps.flat().slice(0, 6), [0, 1, 0, 1, 0, 1]);
});

t.test(
  "no step is larger than its bound, however many there are",
  async (t) => {
    const { steps } = going(t, numbers(1_000), { most: 4 });
    await until(() => steps.length >= 20);
    t.same(
      steps.map(({ length }) => length).filter((count) => count !== 4),
      [],
    );
    t.same(
      steps.flat(),
      [...numbers(steps.length * 4)],
      "and all go on in turn",
    );
  },
);

t.test("things come and go between steps", async (t) => {
  const things = numbers(20);
  const { steps } = going(t, things);
  await until(() => steps.length >= 1);
  for (let n = 10; n < 20; n += 1) things.delete(n);
  things.add(99);
  const from = steps.length;
  await until(() => steps.slice(from).flat().includes(99));
  t.notOk(
    steps
      .slice(from)
      .flat()
      .some((n) => n >= 10 && n !== 99),
    "who is gone is visited no more",
  );
  things.clear();
  const empty = steps.length;
  things.add(7);
  await until(() => steps.length > empty);
  t.same(steps[empty], [7], "after a while with nobody, too");
});

t.test("a step begins when the one before it is done", async (t) => {
  let finish: () => void = () => undefined;
  let ended = 0;
  const { steps } = going(t, numbers(10), {
    visit: () =>
      new Promise<void>((resolve) => {
        finish = () => {
          ended += 1;
          resolve();
        };
      }),
  });
  for (let step = 1; step <= 3; step += 1) {
    await until(() => steps.length >= step);
    t.equal(steps.length, step);
    t.equal(ended, step - 1);
    finish();
  }
});

t.test("a visit that fails is the end of nothing", async (t) => {
  const { steps } = going(t, numbers(10), {
    visit: () => Promise.reject(new Error("away")),
  });
  await until(() => steps.flat().length >= 20);
  t.same(steps.flat().slice(0, 20), [...numbers(10), ...numbers(10)]);
});

t.test("what has ended visits nobody more", async (t) => {
  let finish: () => void = () => undefined;
  const { steps, end } = going(t, numbers(10), {
    visit: () =>
      new Promise<void>((resolve) => {
        finish = resolve;
      }),
  });
  await until(() => steps.length === 1);
  end();
  finish();
  // Another one that began later goes on for a while.
  const other = going(t, numbers(10));
  await until(() => other.steps.length >= 5);
  t.equal(steps.length, 1);
});
