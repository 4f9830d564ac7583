/** Users, explain and what is pending through HTTP, on a bridge in memory. */
import t from "tap";
import type {
  Accepted,
  BatchResult,
  Explanation,
  PendingPage,
  Presence,
  Problem,
} from "../../shared/api.js";
import { setup, type FakeSetup } from "../fixtures/fake-bridge.js";

const ask = (
  { app }: FakeSetup,
  method: "GET" | "POST" | "DELETE",
  url: string,
  payload?: string,
  headers: Record<string, string> = {},
) =>
  app.inject({
    method,
    url,
    headers: { host: "localhost", ...headers },
    ...(payload === undefined ? {} : { payload }),
  });

/** As long as a user ID may be, and longer encoded than anything else in a path. */
const userId = `zoë/{}%?#${"😀".repeat(119)}`;
const path = `/v1/users/${encodeURIComponent(userId)}`;
const text = { "content-type": "text/plain" };

t.test(
  "a push to a user takes what a push to a connection takes",
  async (t) => {
    const fake = setup(t);
    fake.bridge.connect({ userId });
    fake.bridge.connect({ userId });
    fake.bridge.connect({ userId: "another" });
    const response = await ask(
      fake,
      "POST",
      `${path}/messages?ttl=9&topic=a&delay=5`,
      "hello",
      { ...text, "idempotency-key": "k" },
    );
    t.equal(response.statusCode, 202, response.body);
    const accepted = response.json<Accepted>();
    t.match(accepted, { to: { user: userId }, recipients: 2, online: 2 });
    t.equal(response.headers.location, `/v1/messages/${accepted.id}`);
    t.match(fake.bridge.userPushes, [
      { userId, ttlSeconds: 9, topic: "a", contentType: "text/plain" },
    ]);
    t.ok((fake.bridge.userPushes[0]?.dueAtMs ?? 0) > Date.now());
    const again = await ask(
      fake,
      "POST",
      `${path}/messages?ttl=9&topic=a&delay=5`,
      "hello",
      { ...text, "idempotency-key": "k" },
    );
    t.equal(again.headers["idempotency-replayed"], "true");
    t.equal(fake.bridge.userPushes.length, 1);

    const waiting = ask(fake, "POST", `${path}/messages?wait=20`, "wait", text);
    while (fake.bridge.following === 0) await new Promise(setImmediate);
    fake.bridge.become(
      [...fake.bridge.receipts.keys()].at(-1) ?? "",
      "delivered",
    );
    t.equal((await waiting).statusCode, 200);
  },
);

t.test(
  "what is no user, and what users do not offer, is refused",
  async (t) => {
    const fake = setup(t);
    const cases: [url: string, pointer: string][] = [
      [`/v1/users/${"x".repeat(129)}/messages`, "/path/userId"],
      ["/v1/users/a%0Ab/messages", "/path/userId"],
      [`${path}/messages?durability=disk`, "/query/durability"],
      [`${path}/messages?ttl=-1`, "/query/ttl"],
      [`${path}/messages?delay=1&at=2030-01-01T00:00:00Z`, "/query/at"],
    ];
    for (const [url, pointer] of cases) {
      const response = await ask(fake, "POST", url, "x", text);
      t.equal(response.statusCode, 400, url);
      t.match(response.json<Problem>().errors, [{ pointer }]);
    }
    t.same(fake.bridge.userPushes, []);
    const byDefault = setup(t, { durability: "replica" });
    const response = await ask(
      byDefault,
      "POST",
      `${path}/messages`,
      "x",
      text,
    );
    t.match(response.json(), { durability: "replica" });
  },
);

t.test("a batch goes to users, too", async (t) => {
  const fake = setup(t);
  fake.bridge.connect({ userId });
  const response = await ask(
    fake,
    "POST",
    "/v1/batch",
    JSON.stringify([
      { to: { user: userId }, data: "1" },
      { to: { user: "" }, data: "2" },
      { to: { user: userId }, data: "3", durability: "replica" },
      { to: {}, data: "4" },
    ]),
    { "content-type": "application/json" },
  );
  t.match(response.json<BatchResult[]>(), [
    { status: 202, accepted: { to: { user: userId }, recipients: 1 } },
    { status: 400, problem: { code: "invalid_body" } },
    { status: 202, accepted: { durability: "replica" } },
    { status: 400, problem: { errors: [{ pointer: /^\/body\/3\/to/ }] } },
  ]);
});

t.test("presence, and signing out", async (t) => {
  const fake = setup(t);
  const nobody = await ask(fake, "GET", path);
  t.match(nobody.json<Presence>(), { userId, online: false, connections: [] });
  const ids = [
    fake.bridge.connect({ userId }),
    fake.bridge.connect({ userId, state: "away" }),
    fake.bridge.connect({ userId, state: "prepared" }),
  ];
  const there = (await ask(fake, "GET", path)).json<Presence>();
  t.match(there, { online: true, open: 1, away: 1, prepared: 1 });
  t.equal(there.connections.length, 3);
  const table = await ask(fake, "GET", path, undefined, {
    accept: "text/plain",
  });
  t.match(table.body, /^userId +zoë.*\nonline +true\nopen +1\n/);

  const out = await ask(
    fake,
    "DELETE",
    `${path}/connections?code=4501&reason=bye`,
  );
  t.same(out.json<{ ended: string[] }>().ended.sort(), ids.sort());
  t.match(fake.bridge.closes, [
    { code: 4501, reason: "bye" },
    { code: 4501 },
    { code: 4501 },
  ]);
  t.match((await ask(fake, "DELETE", `${path}/connections`)).json(), {
    ended: [],
  });
  const bad = await ask(fake, "DELETE", `${path}/connections?code=1006`);
  t.equal(bad.statusCode, 400);
});

t.test("explain answers instead of pushing", async (t) => {
  const fake = setup(t);
  const connection = fake.bridge.connect();
  const url = `/v1/connections/${connection}/messages?explain=1`;
  const single = await ask(fake, "POST", `${url}&wait=5`, "hello", text);
  t.equal(single.statusCode, 200);
  t.match(single.json<Explanation>(), {
    explain: true,
    to: { connection },
    message: { contentType: "text/plain", bytes: 5 },
  });
  const toUser = await ask(
    fake,
    "POST",
    `${path}/messages?explain=1`,
    "x",
    text,
  );
  t.match(toUser.json<Explanation>(), { to: { user: userId } });
  const batch = await ask(
    fake,
    "POST",
    "/v1/batch?explain=1",
    JSON.stringify([{ to: { connection } }, { to: { user: userId } }]),
    { "content-type": "application/json" },
  );
  t.match(batch.json<BatchResult[]>(), [
    { status: 200, explanation: { to: { connection } } },
    { status: 200, explanation: { to: { user: userId } } },
  ]);
  t.equal(
    (await ask(fake, "POST", `${url}`, "\xff", { "content-type": "x" }))
      .statusCode,
    415,
    "what is wrong with the request is told as ever",
  );
  t.same([fake.bridge.pushes, fake.bridge.userPushes], [[], []]);
});

t.test("what is pending, a page at a time", async (t) => {
  const fake = setup(t);
  const connection = fake.bridge.connect();
  const url = `/v1/connections/${connection}/messages`;
  for (const body of ["one", "two", "three"])
    await ask(fake, "POST", url, body, text);
  const first = (
    await ask(fake, "GET", `${url}?limit=2&preview=2`)
  ).json<PendingPage>();
  t.match(first.items, [{ preview: "on", bytes: 3 }, { preview: "tw" }]);
  const rest = await ask(fake, "GET", `${url}?cursor=${first.next ?? ""}`);
  t.match(rest.json<PendingPage>(), { items: [{ preview: null }], next: null });
  for (const query of ["limit=0", "cursor=x", "preview=1025"])
    t.equal((await ask(fake, "GET", `${url}?${query}`)).statusCode, 400);
  t.equal(
    (await ask(fake, "GET", "/v1/connections/c_x/messages")).statusCode,
    404,
  );
});
