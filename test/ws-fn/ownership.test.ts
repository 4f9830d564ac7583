/** Whether a connection is ours for certain: by the lease of the process, and by what Redis said of it since the last doubt. */
import t from "tap";
import type { Confirmation } from "../../shared/registry.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { Lease, Pulse } from "../../ws-fn/lease.js";
import { Ownership } from "../../ws-fn/ownership.js";

class Stopping extends Pulse {
  stops = 0;
  override get generation(): number {
    return this.stops;
  }
}

const ok: Confirmation = {
  kind: "ok",
  seq: 7,
  groupsVersion: 3,
  restored: false,
};

/** A connection that was just claimed, under a lease that runs; `events` is what it was told. */
async function owned(t: Scope) {
  const pulse = new Stopping();
  t.teardown(() => pulse.close());
  const state = {
    live: true,
    /** What Redis knows of the lease of the process, and of the connection. */
    known: true,
    answer: (): Promise<Confirmation> => Promise.resolve(ok),
  };
  const events: string[] = [];
  const lease = new Lease(pulse, 60_000, () => {
    events.push("lease");
    return Promise.resolve(state.known);
  });
  await lease.renew();
  events.length = 0;
  const ownership = new Ownership(lease, lease.doubt, {
    live: () => state.live,
    ask: (upkeep) => {
      events.push(upkeep ? "ask, with upkeep" : "ask");
      return state.answer();
    },
    confirmed: ({ seq }) => events.push(`confirmed at ${seq}`),
    fenced: () => events.push("fenced"),
    ended: (code, words) => events.push(`ended ${code} ${words}`),
  });
  return { ownership, lease, pulse, state, events };
}

t.test("what was claimed under a lease that runs is ours", async (t) => {
  const { ownership, events } = await owned(t);
  t.equal(ownership.holds, true);
  t.same(events, [], "without a question");
});

t.test("renewals of the lease in time ask nothing of it", async (t) => {
  const { ownership, lease, events } = await owned(t);
  for (let n = 0; n < 3; n += 1) await lease.renew();
  t.equal(ownership.holds, true);
  t.same(events, ["lease", "lease", "lease"]);
});

t.test("after a pause the lease alone does not make it ours", async (t) => {
  const { ownership, lease, pulse, events } = await owned(t);
  pulse.stops += 1;
  t.equal(ownership.holds, false);
  await lease.renew();
  t.equal(lease.holds, true);
  t.equal(ownership.holds, false, "another may have taken it meanwhile");
  t.equal(await ownership.confirm(), true);
  t.equal(ownership.holds, true);
  t.same(events, ["lease", "ask", "confirmed at 7"]);
});

t.test("a confirmation renews a lease that does not run", async (t) => {
  const { ownership, pulse, events } = await owned(t);
  pulse.stops += 1;
  t.equal(await ownership.confirm(), true);
  t.equal(ownership.holds, true);
  t.same(events, ["lease", "ask", "confirmed at 7"], "first the lease");
});

t.test("a lease that Redis had forgotten is a doubt", async (t) => {
  const { ownership, lease, state } = await owned(t);
  state.known = false;
  await lease.renew();
  t.equal(lease.holds, true);
  t.equal(ownership.holds, false);
  t.equal(await ownership.confirm(), true);
  t.equal(ownership.holds, true);
});

t.test("a claim from before a doubt is not certain", async (t) => {
  const { lease, pulse } = await owned(t);
  const certain = lease.doubt;
  pulse.stops += 1;
  await lease.renew();
  const ports = {
    live: () => true,
    ask: () => Promise.resolve(ok),
    confirmed: () => undefined,
    fenced: () => undefined,
    ended: () => undefined,
  };
  t.equal(new Ownership(lease, certain, ports).holds, false);
  t.equal(new Ownership(lease, lease.doubt, ports).holds, true);
});

t.test("an answer that was under way in a pause says nothing", async (t) => {
  const { ownership, lease, pulse, state } = await owned(t);
  let answer: (confirmation: Confirmation) => void = () => undefined;
  state.answer = () =>
    new Promise((resolve) => {
      answer = resolve;
    });
  const confirming = ownership.confirm();
  await new Promise((resolve) => setImmediate(resolve));
  pulse.stops += 1;
  await lease.renew();
  answer(ok);
  await confirming;
  t.equal(ownership.holds, false, "asked before the pause");
  state.answer = () => Promise.resolve(ok);
  await ownership.confirm();
  t.equal(ownership.holds, true);
});

t.test("everybody who asks meanwhile gets the same answer", async (t) => {
  const { ownership, events } = await owned(t);
  const first = ownership.confirm();
  t.equal(ownership.confirm(), first);
  ownership.confirmQuietly();
  await first;
  t.same(events, ["ask", "confirmed at 7"]);
  await ownership.confirm();
  t.same(events.slice(2), ["ask", "confirmed at 7"], "and later a new one");
});

t.test("taken over, or ended, it is told once and not confirmed", async (t) => {
  const { ownership, pulse, state, events } = await owned(t);
  pulse.stops += 1;
  state.answer = () => Promise.resolve({ kind: "fenced" });
  t.equal(await ownership.confirm(), false);
  state.answer = () =>
    Promise.resolve({ kind: "ended", code: 4510, words: "go home" });
  t.equal(await ownership.confirm(), false);
  t.same(events, ["lease", "ask", "fenced", "ask", "ended 4510 go home"]);
  t.equal(ownership.holds, false);
});

t.test("who is not live asks nothing and hears nothing", async (t) => {
  const { ownership, state, events } = await owned(t);
  state.live = false;
  t.equal(await ownership.confirm(), false);
  t.same(events, []);
  state.live = true;
  state.answer = () => {
    state.live = false;
    return Promise.resolve(ok);
  };
  t.equal(await ownership.confirm(), false);
  t.same(events, ["ask"]);
});

t.test("without an answer it is as it was", async (t) => {
  const { ownership, pulse, state } = await owned(t);
  state.answer = () => Promise.reject(new Error("away"));
  await t.rejects(ownership.confirm(), { message: "away" });
  t.equal(ownership.holds, true, "the lease runs on");
  ownership.confirmQuietly();
  pulse.stops += 1;
  await t.rejects(ownership.confirm(), { message: "away" });
  t.equal(ownership.holds, false);
  state.answer = () => Promise.resolve(ok);
  t.equal(await ownership.confirm(), true, "the next question is a new one");
  t.equal(ownership.holds, true);
});

t.test("every six hours what is stored is looked after as well", async (t) => {
  const now = performance.now.bind(performance);
  let later = 0;
  performance.now = () => now() + later;
  t.teardown(() => {
    performance.now = now;
  });
  const { ownership, state, events } = await owned(t);
  const asked = async () => {
    events.length = 0;
    await ownership.confirm().catch(() => undefined);
    return events.filter((event) => event.startsWith("ask"));
  };
  t.same(await asked(), ["ask"]);
  later = 6 * 3_600_000 + 1_000;
  state.answer = () => Promise.reject(new Error("away"));
  t.same(await asked(), ["ask, with upkeep"]);
  state.answer = () => Promise.resolve(ok);
  t.same(await asked(), ["ask, with upkeep"], "until it was done");
  t.same(await asked(), ["ask"]);
});
