/** Names that others choose: what is none is refused everywhere, in words that help, and never becomes another request. */
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import t from "tap";
import type { Problem } from "../../shared/api.js";
import { isGroupName, isUserId } from "../../shared/ids.js";
import { setup } from "../fixtures/fake-bridge.js";

const headers = { host: "127.0.0.1", "content-type": "application/json" };

t.test(
  "a group or user called .. cannot be, because its path would be another one",
  async (t) => {
    // What any client of the WHATWG URL makes of it, encoded or not: the harm that there would be.
    const seen: string[] = [];
    const server = createServer((request, response) => {
      seen.push(`${request.method} ${request.url}`);
      response.end();
    }).listen(0, "127.0.0.1");
    t.teardown(() => void server.close());
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    const member = `/v1/groups/${encodeURIComponent("..")}/connections/c_1`;
    await fetch(`http://127.0.0.1:${port}${member}`, { method: "DELETE" });
    t.same(seen, ["DELETE /v1/connections/c_1"], "it would end the connection");

    const { app, bridge } = setup(t);
    for (const name of [".", ".."]) {
      t.notOk(isGroupName(name) || isUserId(name));
      for (const wish of [{ groups: [name] }, { userId: name }]) {
        const answer = await app.inject({
          method: "POST",
          url: "/v1/connections",
          headers,
          payload: wish,
        });
        t.equal(answer.statusCode, 400, JSON.stringify(wish));
      }
      for (const to of [{ group: name }, { user: name }]) {
        const answer = await app.inject({
          method: "POST",
          url: "/v1/batch",
          headers,
          payload: [{ to, data: "x" }],
        });
        t.match(answer.json(), [{ status: 400 }], JSON.stringify(to));
      }
    }
    t.equal(bridge.connections.size, 0);
    t.same(bridge.published, []);
    for (const name of ["...", ".a", "a..b", "..a"])
      t.ok(isGroupName(name) && isUserId(name), name);
  },
);

t.test("hostile names are names, or 400, and nothing else", async (t) => {
  const { app } = setup(t);
  const names = [
    ["%00", 400],
    ["%0D%0Ax-injected:1", 400],
    ["%ED%A0%80", 400],
    ["%ff", 400],
    ["%", 400],
    ["%2F", 200],
    ["%252e%252e", 200],
    ["%F0%9F%92%A9", 200],
    ["%E2%80%AEabc", 200],
    ["__proto__", 200],
    ["constructor", 200],
    ["$all", 200],
    ["*", 200],
    [`${"%F0%9F%92%A9".repeat(128)}`, 200],
    [`${"%F0%9F%92%A9".repeat(129)}`, 400],
    ["x".repeat(129), 400],
    ["x".repeat(5_000), 404],
    ["", 400],
  ] as const;
  for (const [name, status] of names) {
    const user = await app.inject({ url: `/v1/users/${name}`, headers });
    t.equal(user.statusCode, status, `user ${name.slice(0, 40)}`);
    // Of a group only letters, digits and a few signs.
    const group = await app.inject({ url: `/v1/groups/${name}`, headers });
    const isName = isGroupName(decode(name));
    const wanted = isName ? 200 : status === 404 ? 404 : 400;
    t.equal(group.statusCode, wanted, `group ${name.slice(0, 40)}`);
  }
});

function decode(name: string): string {
  try {
    return decodeURIComponent(name);
  } catch {
    return "";
  }
}

t.test("what is wrong is said in words, not as a pattern", async (t) => {
  const { app } = setup(t);
  const get = async (url: string) =>
    (await app.inject({ url, headers })).json<Problem>().detail;
  const post = async (url: string, payload: unknown) =>
    (
      await app.inject({
        method: "POST",
        url,
        headers,
        payload: JSON.stringify(payload),
      })
    ).json<Problem>().detail;
  const item = async (item: object) => {
    const answer = await app.inject({
      method: "POST",
      url: "/v1/batch",
      headers,
      payload: [item],
    });
    const [result] = answer.json<{ problem: Problem }[]>();
    return result?.problem.detail;
  };
  const cases: [said: string | undefined, words: string][] = [
    [
      await get("/v1/events?type=foo"),
      "/query/type must be connected, disconnected, message.undelivered or event, several separated by commas",
    ],
    [
      await get("/v1/events?lastEventId=abc"),
      "/query/lastEventId must be the id of an event, or 0",
    ],
    [
      await get("/v1/groups/a%20b"),
      "/path/group must be a group's name: 1 to 128 letters, digits and _ . ~ @ + = -",
    ],
    [
      await post("/v1/connections", { permissions: ["shout:all"] }),
      "/body/permissions/0 must be join:<group> or publish:<group>, * for every group",
    ],
    [
      await post("/v1/groups/g/messages?except=c_1", "x"),
      "/query/except must be 1 to 100 connection IDs separated by commas",
    ],
    [
      await item({ to: { broadcast: false } }),
      "/body/0/to/broadcast must be one of true",
    ],
    [
      await item({ to: { group: "$all" } }),
      "/body/0/to/group must be a group's name: letters, digits and _ . ~ @ + = -",
    ],
    [
      await item({ to: { user: "u", group: "g" } }),
      '/body/0/to must be one of {"connection": …}, {"user": …}, {"group": …} and {"broadcast": true}',
    ],
    [
      await item({ to: { connection: "c_1" } }),
      "/body/0/to/connection must be a connection ID, as POST /v1/connections gives it",
    ],
    [
      await item({ to: { user: "u" }, data: "a", json: 1 }),
      "/body/0 give one of data, dataBase64 and json, not two",
    ],
    [
      await get("/v1/groups/g?cursor=zzz"),
      "/query/cursor must be the next of the page before",
    ],
    [
      await get("/v1/connections?cursor=zzz"),
      "/query/cursor must be the next of the page before",
    ],
    [
      await get("/v1/groups/g?limit=1&limit=2"),
      "/query/limit is given more than once",
    ],
    [
      await item({ to: { user: "u" }, dataBase64: "!" }),
      "/body/0/dataBase64 is no base64",
    ],
  ];
  for (const [said, words] of cases) t.equal(said, words);
});
