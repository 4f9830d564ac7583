/** Groups through app.inject: what is asked of the bridge, what is refused, and the shape of the answers. */
import t from "tap";
import type { Problem } from "../../shared/api.js";
import { setup } from "../fixtures/fake-bridge.js";

const headers = { host: "127.0.0.1" };

t.test("a message to a group, and to everybody", async (t) => {
  const { app, bridge } = setup(t);
  const member = bridge.connect({ groups: ["room-1"] });
  bridge.connect({ state: "away", groups: ["room-1"] });
  const filter = '{"user":"ann","labels":{"plan":["pro"]},"groups":["x"]}';
  const answer = await app.inject({
    method: "POST",
    url: `/v1/groups/room-1/messages?ttl=7&filter=${encodeURIComponent(filter)}&except=${member}`,
    headers: { ...headers, "content-type": "application/json" },
    payload: "[1]",
  });
  t.equal(answer.statusCode, 202, answer.body);
  t.match(answer.json(), {
    to: { group: "room-1" },
    recipients: null,
    online: 1,
  });
  t.match(answer.headers["location"], /^\/v1\/messages\/m_G/);
  t.match(bridge.published, [
    {
      group: "room-1",
      body: Buffer.from("[1]"),
      contentType: "application/json",
      ttlSeconds: 7,
      selection: {
        user: ["ann"],
        labels: { plan: ["pro"] },
        groups: ["x"],
        except: [member],
      },
    },
  ]);
  const all = await app.inject({
    method: "POST",
    url: "/v1/broadcast?delay=5",
    headers,
    payload: "x",
  });
  t.match(all.json(), {
    status: "scheduled",
    to: { broadcast: true },
    recipients: 2,
  });
  t.match(bridge.published[1], { group: "$all", selection: undefined });
});

t.test("what makes no sense for a group is refused", async (t) => {
  const { app, bridge } = setup(t);
  const url = "/v1/groups/g/messages";
  const cases: [string, Record<string, string>, string, string][] = [
    [`${url}?topic=t`, {}, "unknown_parameter", "/query/topic"],
    [url, { topic: "t" }, "invalid_parameter", "/header/Topic"],
    [`${url}?wait=1`, {}, "unknown_parameter", "/query/wait"],
    [`${url}?durability=disk`, {}, "invalid_parameter", "/query/durability"],
    [`${url}?filter=x`, {}, "invalid_parameter", "/query/filter"],
    [`${url}?filter={}`, {}, "invalid_parameter", "/query/filter"],
    [`${url}?filter={"a":1}`, {}, "invalid_parameter", "/query/filter"],
    [`${url}?filter={"user":[]}`, {}, "invalid_parameter", "/query/filter"],
    [`${url}?filter={"labels":7}`, {}, "invalid_parameter", "/query/filter"],
    [`${url}?except=c_1`, {}, "invalid_parameter", "/query/except"],
    ["/v1/groups/$all/messages", {}, "invalid_parameter", "/path/group"],
    ["/v1/groups/a%20b/messages", {}, "invalid_parameter", "/path/group"],
  ];
  for (const [url, more, code, pointer] of cases) {
    const answer = await app.inject({
      method: "POST",
      url: encodeURI(url).replaceAll("%25", "%"),
      headers: { ...headers, ...more },
      payload: "x",
    });
    const problem = answer.json<Problem>();
    t.match(problem, { code, errors: [{ pointer }] }, url);
  }
  t.same(bridge.published, []);
});

t.test("how safe a publish is, and what it would do", async (t) => {
  const { app, bridge } = setup(t);
  for (const path of ["/v1/groups/g/messages", "/v1/broadcast"]) {
    const ask = async (query: string, more = {}) => {
      const url = `${path}${query}`;
      const answer = await app.inject({
        method: "POST",
        url,
        headers: { ...headers, ...more },
        payload: "x",
      });
      return { status: answer.statusCode, ...answer.json<object>() };
    };
    const safe = { status: "queued", durability: "replica" };
    t.match(await ask("?durability=replica"), safe);
    t.match(await ask("", { durability: "replica" }), safe);
    t.match(bridge.published.at(-1), { durability: "replica" });
    t.match(await ask(""), { durability: "local" });
    const published = bridge.published.length;
    t.match(await ask("?explain=1&ttl=7&durability=replica"), {
      explain: true,
      message: { ttl: 7, durability: "replica" },
    });
    t.equal(bridge.published.length, published, "nothing is sent");
  }
});

t.test("members", async (t) => {
  const { app, bridge } = setup(t);
  const id = bridge.connect();
  const ask = (method: "PUT" | "DELETE" | "GET", url: string) =>
    app.inject({ method, url, headers });
  const put = await ask("PUT", `/v1/groups/g/connections/${id}`);
  t.match(put.json(), { group: "g", connectionId: id });
  const group = await ask("GET", "/v1/groups/g?limit=10");
  t.match(group.json(), { group: "g", recipients: 1, online: 1, next: null });
  const gone = await ask("DELETE", `/v1/groups/g/connections/${id}`);
  t.equal(gone.statusCode, 204);
  t.equal(gone.body, "");
  for (const method of ["PUT", "DELETE"] as const)
    t.equal(
      (await ask(method, "/v1/groups/g/connections/c_none")).json<Problem>()
        .code,
      "connection_not_found",
    );

  const ids = [
    bridge.connect({ userId: "ann b" }),
    bridge.connect({ userId: "ann b", state: "away" }),
  ];
  bridge.connect({ userId: "bob" });
  const user = "/v1/groups/g/users/ann%20b";
  const all = await ask("PUT", user);
  t.same(all.json(), { group: "g", userId: "ann b", connections: 2 });
  const members = (await ask("GET", "/v1/groups/g")).json<{
    items: { connectionId: string }[];
  }>();
  t.same(members.items.map(({ connectionId }) => connectionId).sort(), [
    ...ids.sort(),
  ]);
  t.match((await ask("DELETE", user)).json(), { connections: 2 });
  t.match((await ask("GET", "/v1/groups/g")).json(), { recipients: 0 });
  const nobody = await ask("PUT", "/v1/groups/g/users/nobody");
  t.match(nobody.json(), { connections: 0 });
});
