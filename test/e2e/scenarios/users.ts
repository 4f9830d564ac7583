/** Users, batches, explain and what is pending, through HTTP and real sockets on two instances. */
import type { Test } from "tap";
import type {
  Accepted,
  BatchResult,
  Explanation,
  PendingPage,
  Prepared,
  Presence,
  Receipt,
} from "../../../shared/api.js";
import {
  startApplication,
  type Application,
} from "../../../scripts/lab/application.js";
import type { Backend } from "../../../scripts/lab/backend.js";
import { until } from "../../../scripts/lab/until.js";

const BATCH = 300;
const text = { "content-type": "text/plain" };

/** `to`: the addresses of two instances of ws-fn. */
export async function usersAndBatches(
  t: Test,
  backend: Backend,
  to: readonly [string, string],
): Promise<void> {
  const userId = `zoë}{/?${Math.random()}`;
  const path = `/v1/users/${encodeURIComponent(userId)}`;
  const push = async (body: string, query = "") => {
    const answer = await backend.ask("POST", `${path}/messages${query}`, {
      body,
      headers: text,
    });
    return { ...answer, accepted: answer.json<Accepted>() };
  };
  const presence = async () =>
    (await backend.ask("GET", path)).json<Presence>();

  // Nobody is there.
  const parked = await push("parked");
  t.match(parked.accepted, { to: { user: userId }, recipients: 0, online: 0 });
  const explained = await backend.ask("POST", `${path}/messages?explain=1`, {
    body: "never",
    headers: text,
  });
  t.match(explained.json<Explanation>(), { status: 202, parked: true });
  const recalled = await push("recalled");
  const recall = await backend.ask(
    "DELETE",
    `/v1/messages/${recalled.accepted.id}`,
  );
  t.match(recall.json<Receipt>(), { status: "recalled" });

  // Two come at the same moment, one to each instance.
  const tokens = await Promise.all(
    to.map(async () => {
      const prepared = await backend.ask("POST", "/v1/connections", {
        body: JSON.stringify({ userId }),
        headers: { "content-type": "application/json" },
      });
      return prepared.json<Prepared>();
    }),
  );
  t.match(await presence(), { online: false, prepared: 2 });
  const [a, b] = tokens.map(({ token }, index) =>
    startApplication(t, { token, to: () => to[index] ?? "" }),
  ) as [Application, Application];
  await until(() => a.messages.length + b.messages.length === 1, {
    ms: 20_000,
    message: "one of them got what waited",
  });
  const waited = await push("to both", "?wait=20");
  t.equal(waited.status, 200, waited.text);
  t.match(waited.json<Receipt>(), { status: "delivered", recipients: 2 });
  const both = () => [...a.texts, ...b.texts].sort().join();
  await until(() => both() === "parked,to both,to both", {
    ms: 20_000,
    message: "both got it, and what waited one of them",
  });
  await until(
    async () => {
      const { deliveries } = await backend.receipt(waited.accepted.id);
      return (
        deliveries?.length === 2 &&
        deliveries.every(({ status }) => status === "delivered")
      );
    },
    { ms: 20_000, message: "the receipt says so of both" },
  );
  t.equal((await backend.receipt(parked.accepted.id)).status, "delivered");
  const now = await presence();
  t.match(now, { online: true, open: 2 });
  t.equal(new Set(now.connections.map(({ instance }) => instance)).size, 2);

  await push("due", "?delay=0.3");
  await a.has(a.messages.length + 1);
  t.equal(a.texts.at(-1), "due");

  // All that the user has in a group, which a batch can reach.
  const group = `room-${userId.length}${Math.random()}`;
  const room = `/v1/groups/${group}`;
  const here = `${room}/users/${encodeURIComponent(userId)}`;
  t.match((await backend.ask("PUT", here)).json(), { connections: 2 });
  const grouped = await backend.ask("POST", "/v1/batch", {
    body: JSON.stringify([{ to: { group }, data: "to the group" }]),
    headers: { "content-type": "application/json" },
  });
  t.match(grouped.json(), [
    { status: 202, accepted: { to: { group }, recipients: 2, online: 2 } },
  ]);
  await until(
    () => [a, b].every(({ texts }) => texts.includes("to the group")),
    { ms: 20_000, message: "both got it" },
  );
  // Only for one of them, and what that would do.
  const [one = "", other = ""] = tokens.map(({ connectionId }) => connectionId);
  const selected = await backend.ask(
    "POST",
    `${room}/messages?explain=1&except=${other}`,
    { body: "never", headers: text },
  );
  t.match(selected.json<Explanation>(), {
    to: { group },
    status: 202,
    online: 1,
    recipients: [{ connection: one, state: "open" }],
    members: { total: 2, looked: 2, matched: 1, instances: { length: 1 } },
  });
  const wide = await backend.ask("POST", "/v1/batch?explain=1", {
    body: JSON.stringify([{ to: { group }, filter: { user: userId } }]),
    headers: { "content-type": "application/json" },
  });
  t.match(wide.json(), [
    { explanation: { members: { matched: 2, instances: { length: 2 } } } },
  ]);
  const some = await backend.ask("POST", "/v1/batch", {
    body: JSON.stringify([
      { to: { group }, data: "one only", except: [other] },
      { to: { group }, data: "nobody", filter: { user: "somebody else" } },
      { to: { group }, data: "both", filter: { user: userId } },
    ]),
    headers: { "content-type": "application/json" },
  });
  t.match(
    some.json(),
    Array.from({ length: 3 }, () => ({ accepted: { recipients: null } })),
  );
  await until(() => [a, b].every(({ texts }) => texts.at(-1) === "both"), {
    ms: 20_000,
    message: "both got the last one",
  });
  t.ok(a.texts.includes("one only"));
  t.notOk(b.texts.includes("one only"));
  t.notOk([...a.texts, ...b.texts].includes("nobody"));
  t.match((await backend.ask("DELETE", here)).json(), { connections: 2 });
  t.match((await backend.ask("GET", room)).json(), { recipients: 0 });

  // A batch to the user and to each of its connections, in the order of the batch.
  const [first = "", second = ""] = tokens.map(
    ({ connectionId }) => connectionId,
  );
  const targets = [
    { user: userId },
    { connection: first },
    { connection: second },
  ];
  const lines = Array.from({ length: BATCH }, (_, index) =>
    JSON.stringify({ to: targets[index % 3], data: `batch ${index}` }),
  );
  lines.splice(BATCH / 2, 0, '{"to":{"connection":"c_0"}}');
  const batch = await backend.ask("POST", "/v1/batch", {
    body: lines.join("\n"),
    headers: { "content-type": "application/x-ndjson" },
  });
  const results = batch.text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as BatchResult);
  t.equal(results.filter(({ status }) => status === 202).length, BATCH);
  t.equal(results[BATCH / 2]?.status, 400);
  for (const [application, own] of [
    [a, 1],
    [b, 2],
  ] as const) {
    const got = () =>
      application.texts
        .filter((one) => one?.startsWith("batch"))
        .map((one) => Number(one?.slice(6)));
    await until(() => got().length === (BATCH / 3) * 2, {
      ms: 20_000,
      message: "every item has arrived",
    });
    for (const target of [0, own])
      t.same(
        got().filter((index) => index % 3 === target),
        Array.from({ length: BATCH / 3 }, (_, index) => index * 3 + target),
        "in the order of the batch",
      );
  }

  const idle = await backend.prepare();
  await backend.accepted(idle.connectionId, "grüße");
  const later = await backend.accepted(idle.connectionId, "later");
  const pending = await backend.ask(
    "GET",
    `/v1/connections/${idle.connectionId}/messages?limit=1&preview=4`,
  );
  const page = pending.json<PendingPage>();
  // Four bytes end inside the third character's second half.
  t.match(page.items, [{ status: "queued", bytes: 7, preview: "grü" }]);
  const next = await backend.ask(
    "GET",
    `/v1/connections/${idle.connectionId}/messages?cursor=${page.next ?? ""}`,
  );
  t.match(next.json<PendingPage>(), { items: [{ id: later.id }], next: null });

  const out = await backend.ask("DELETE", `${path}/connections`);
  t.same(out.json<{ ended: string[] }>().ended.sort(), [first, second].sort());
  await until(() => [a, b].every(({ bridge }) => bridge.state === "closed"), {
    ms: 20_000,
    message: "both were told to go for good",
  });
  t.match(await presence(), { online: false, connections: [] });
}
