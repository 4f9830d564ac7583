/** Results that wait for the webhook: told once, by a bell or without, and never later than a client's patience. */
import t from "tap";
import type { EventAnswer } from "../../shared/answers.js";
import { until } from "../../scripts/lab/until.js";
import { bridgeSpeaker } from "../../ws-fn/bridge-v1.js";
import { Results } from "../../ws-fn/results.js";

const answer = (more: Partial<EventAnswer> = {}): EventAnswer => ({
  kind: "answered",
  status: 200,
  contentType: "text/plain",
  body: Buffer.from("yes"),
  truncated: false,
  ...more,
});

function setup(patienceMs = 60_000) {
  const stored = new Map<string, EventAnswer>();
  const told: Record<string, unknown>[] = [];
  let failures = 0;
  const results = new Results(
    {
      read: async (_, id) => {
        if (failures-- > 0) throw new Error("away");
        return stored.get(id);
      },
    },
    {
      connectionId: "c",
      patienceMs,
      speaker: bridgeSpeaker(),
      write: (frame) => {
        told.push(JSON.parse(String(frame?.data)) as never);
      },
    },
  );
  t.teardown(() => results.stop());
  return {
    stored,
    told,
    results,
    fail: (times: number) => {
      failures = times;
    },
  };
}

t.test("an answer is told once", async (t) => {
  const { results, stored, told } = setup();
  results.wait("e", "1");
  await results.look("e");
  t.same(told, []);
  stored.set("e", answer());
  await Promise.all([results.look("e"), results.look("e")]);
  await results.look("e");
  t.same(told, [
    {
      type: "result",
      ref: "1",
      ok: true,
      contentType: "text/plain",
      data: "yes",
    },
  ]);
});

t.test("an answer of a time before this socket is told", async () => {
  const { results, stored, told } = setup();
  stored.set("e", answer());
  results.wait("e", "1");
  await until(() => told.length === 1);
});

t.test("without a bell it is found all the same", async (t) => {
  const { results, stored, told, fail } = setup();
  results.wait("e", "1");
  await results.look("e");
  fail(1);
  await results.look("e");
  stored.set("e", answer({ kind: "refused", status: 403 }));
  await until(() => told.length === 1);
  t.match(told, [
    {
      ok: false,
      error: { code: "event_refused", detail: /403/ },
      data: "yes",
    },
  ]);
});

t.test("who cannot wait so long is told that it will come", async (t) => {
  const { results, stored, told } = setup(10_000);
  const later = (ms: number) =>
    answer({ kind: "later", status: 0, body: Buffer.from(String(ms)) });
  stored.set("soon", later(100));
  stored.set("late", later(20_000));
  stored.set("never", answer({ kind: "given_up", status: 0 }));
  for (const id of ["soon", "late", "never"]) results.wait(id, id);
  await until(() => told.length === 2);
  t.match(told, [
    { ref: "late", ok: false, error: { code: "event_pending" } },
    { ref: "never", ok: false, error: { code: "event_undelivered" } },
  ]);
  const hasty = setup(0);
  hasty.results.wait("e", "1");
  await until(() => hasty.told.length === 1);
  t.match(hasty.told, [{ error: { code: "event_pending" } }]);
  results.stop();
  results.wait("more", "2");
  stored.set("more", answer());
  await results.look("more");
  t.equal(told.length, 2, "nobody is told after the end");
});
