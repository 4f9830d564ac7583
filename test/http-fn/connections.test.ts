/** Connections through app.inject: prepare, list, inspect, close. */
import t from "tap";
import type {
  Connection,
  ConnectionPage,
  Prepared,
  Problem,
} from "../../shared/api.js";
import { proxiesOf } from "../../shared/proxies.js";
import { setup } from "../fixtures/fake-bridge.js";

const headers = { host: "127.0.0.1:8080" };

t.test("preparing without a body has every default", async (t) => {
  const { app, bridge } = setup(t);
  const response = await app.inject({
    method: "POST",
    url: "/v1/connections",
    headers,
  });
  t.equal(response.statusCode, 201);
  const prepared = response.json<Prepared>();
  t.equal(
    response.headers.location,
    `/v1/connections/${prepared.connectionId}`,
  );
  t.equal(response.headers["cache-control"], "no-store");
  t.equal(prepared.url, `ws://127.0.0.1:8080/ws?token=${prepared.token}`);
  t.match(bridge.connections.get(prepared.connectionId), {
    state: "prepared",
    userId: null,
  });
});

t.test(
  "preparing takes what openapi.yaml says, under any type curl sends",
  async (t) => {
    const { app, bridge } = setup(t);
    const wish = {
      userId: "auth0|42",
      groups: ["news", "room-1"],
      labels: { device: "phone" },
      permissions: ["join:*", "publish:room-1"],
      expiresIn: 60,
    };
    for (const type of [
      "application/json",
      "application/x-www-form-urlencoded",
      undefined,
    ]) {
      const response = await app.inject({
        method: "POST",
        url: "/v1/connections",
        headers: {
          ...headers,
          ...(type !== undefined && { "content-type": type }),
        },
        payload: JSON.stringify(wish),
      });
      t.equal(response.statusCode, 201, response.body);
      const { userId, groups, labels, permissions } = wish;
      t.match(bridge.connections.get(response.json<Prepared>().connectionId), {
        userId,
        groups,
        labels,
        permissions,
      });
    }
  },
);

t.test(
  "the address is the configured one, with /ws when it names no path",
  async (t) => {
    const cases: [
      configured: string,
      headers: Record<string, string>,
      expected: string,
    ][] = [
      ["wss://push.example", headers, "wss://push.example/ws?token="],
      [
        "wss://push.example/socket",
        headers,
        "wss://push.example/socket?token=",
      ],
      ["", { host: "[::1]:9" }, "ws://[::1]:9/ws?token="],
      [
        "",
        { host: "localhost", "x-forwarded-proto": "https" },
        "wss://localhost/ws?token=",
      ],
    ];
    for (const [publicWsUrl, given, expected] of cases) {
      const { app } = setup(t, {
        publicWsUrl,
        proxies: proxiesOf(["127.0.0.1"]),
      });
      const response = await app.inject({
        method: "POST",
        url: "/v1/connections",
        headers: given,
      });
      t.ok(response.json<Prepared>().url.startsWith(expected), expected);
    }
  },
);

t.test("TLS is what a proxy of ours says it is", async (t) => {
  const { app } = setup(t);
  const response = await app.inject({
    method: "POST",
    url: "/v1/connections",
    headers: { ...headers, "x-forwarded-proto": "https" },
  });
  t.match(response.json<Prepared>().url, /^ws:/, "who is none says nothing");
});

t.test("a wrong body is pointed at", async (t) => {
  const cases: [body: string, code: string, pointer?: string][] = [
    ["[]", "invalid_body", "/body"],
    ['"x"', "invalid_body", "/body"],
    ['{"userid":"u"}', "invalid_body", "/body/userid"],
    ['{"userId":7}', "invalid_body", "/body/userId"],
    ['{"userId":""}', "invalid_body", "/body/userId"],
    ['{"userId":"a\\nb"}', "invalid_body", "/body/userId"],
    ['{"userId":"\\ud800"}', "invalid_body", "/body/userId"],
    ['{"groups":["ok","$all"]}', "invalid_body", "/body/groups/1"],
    ['{"groups":["a,b"]}', "invalid_body", "/body/groups/0"],
    ['{"groups":["a","a"]}', "invalid_body", "/body/groups"],
    ['{"labels":{"a":1}}', "invalid_body", "/body/labels/a"],
    ['{"labels":{"__proto__":"x"}}', "invalid_body", "/body/labels/__proto__"],
    ['{"__proto__":{"userId":"x"}}', "invalid_body", "/body/__proto__"],
    ['{"permissions":["admin"]}', "invalid_body", "/body/permissions/0"],
    ['{"expiresIn":0}', "invalid_body", "/body/expiresIn"],
    ['{"expiresIn":604801}', "invalid_body", "/body/expiresIn"],
    ["{", "invalid_json"],
    ["a=b", "invalid_json"],
  ];
  for (const [body, code, pointer] of cases)
    await t.test(body, async (t) => {
      const { app, bridge } = setup(t);
      const response = await app.inject({
        method: "POST",
        url: "/v1/connections",
        headers,
        payload: body,
      });
      t.equal(response.statusCode, 400, response.body);
      const problem = response.json<Problem>();
      t.equal(problem.code, code);
      t.equal(problem.errors?.[0]?.pointer, pointer);
      t.equal(bridge.connections.size, 0);
    });
});

t.test("invalid UTF-8 is refused before it is parsed", async (t) => {
  const { app } = setup(t);
  const payload = Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d]);
  const response = await app.inject({
    method: "POST",
    url: "/v1/connections",
    headers,
    payload,
  });
  t.equal(response.json<Problem>().code, "invalid_utf8");
});

t.test("the list is filtered and comes in pages", async (t) => {
  const { app, bridge } = setup(t);
  const a = bridge.connect({ userId: "u1", groups: ["g"] });
  const b = bridge.connect({
    userId: "u1",
    state: "away",
    expiresAt: "2026-01-01T00:00:00.000Z",
  });
  const c = bridge.connect({ userId: "u2", groups: ["g"] });
  const list = async (query: string) => {
    const response = await app.inject({
      url: `/v1/connections${query}`,
      headers,
    });
    t.equal(response.statusCode, 200, response.body);
    const { items, next } = response.json<ConnectionPage>();
    return { ids: items.map(({ connectionId }) => connectionId), next };
  };
  t.same(await list(""), { ids: [a, b, c], next: null });
  t.same(await list("?user=u1"), { ids: [a, b], next: null });
  t.same(await list("?group=g"), { ids: [a, c], next: null });
  t.same(await list("?user=u1&state=away"), { ids: [b], next: null });
  const first = await list("?limit=2");
  t.same(first.ids, [a, b]);
  t.same(await list(`?limit=2&cursor=${first.next}`), { ids: [c], next: null });
  const text = await app.inject({
    url: "/v1/connections",
    headers: { ...headers, accept: "text/plain" },
  });
  t.match(text.body, /^items:\nconnectionId +state/m);
  t.ok(text.body.endsWith("\n"));
});

t.test("bad list parameters are 400", async (t) => {
  const { app } = setup(t);
  for (const query of [
    "?limit=0",
    "?limit=1001",
    "?limit=a",
    "?state=ended",
    "?user=",
    "?group=$all",
    "?users=u",
  ]) {
    const response = await app.inject({
      url: `/v1/connections${query}`,
      headers,
    });
    t.equal(response.statusCode, 400, query);
    t.equal(response.json<Problem>().errors?.length, 1);
  }
});

t.test("a connection is inspected and probed", async (t) => {
  const { app, bridge } = setup(t);
  const id = bridge.connect({ userId: "u1", labels: { a: "b" } });
  const response = await app.inject({ url: `/v1/connections/${id}`, headers });
  t.equal(response.statusCode, 200);
  t.match(response.json<Connection>(), {
    connectionId: id,
    state: "open",
    userId: "u1",
    labels: { a: "b" },
  });
  const probe = await app.inject({
    method: "HEAD",
    url: `/v1/connections/${id}`,
    headers,
  });
  t.equal(probe.statusCode, 200);
  t.equal(probe.body, "");
});

t.test(
  "an unknown connection is 404, an ended one 410 with when and why",
  async (t) => {
    const { app, bridge } = setup(t);
    const ended = bridge.connect({
      state: "ended",
      endedAt: "2026-01-01T00:00:00.000Z",
      reason: "resume_expired",
    });
    for (const method of ["GET", "HEAD", "DELETE"] as const) {
      for (const id of ["c_aaaaaaaaaaaaaaaaaaaaaa", "c_short", "m_1"]) {
        const response = await app.inject({
          method,
          url: `/v1/connections/${id}`,
          headers,
        });
        t.equal(response.statusCode, 404, `${method} ${id}`);
        if (method !== "HEAD")
          t.equal(response.json<Problem>().code, "connection_not_found");
      }
      const response = await app.inject({
        method,
        url: `/v1/connections/${ended}`,
        headers,
      });
      t.equal(response.statusCode, 410, method);
      if (method === "HEAD") continue;
      t.match(response.json(), {
        code: "connection_ended",
        endedAt: "2026-01-01T00:00:00.000Z",
        reason: "resume_expired",
      });
    }
  },
);

t.test("closing says code and reason, 4510 by default", async (t) => {
  const { app, bridge } = setup(t);
  const cases: [query: string, code: number, reason: string][] = [
    ["", 4510, "closed by the backend"],
    ["?code=1000", 1000, "closed by the backend"],
    ["?code=4001&reason=bye%20now", 4001, "bye now"],
  ];
  for (const [query, code, reason] of cases) {
    const connectionId = bridge.connect();
    const response = await app.inject({
      method: "DELETE",
      url: `/v1/connections/${connectionId}${query}`,
      headers,
    });
    t.equal(response.statusCode, 200);
    t.match(response.json(), {
      connectionId,
      state: "ended",
      reason: "closed_by_backend",
    });
    t.same(bridge.closes.at(-1), { connectionId, code, reason });
  }
});

t.test("a close code or reason that cannot be sent is 400", async (t) => {
  const { app, bridge } = setup(t);
  const id = bridge.connect();
  for (const query of [
    "?code=1005",
    "?code=1006",
    "?code=3000",
    "?code=5000",
    "?code=x",
    `?reason=${"x".repeat(124)}`,
    `?reason=${encodeURIComponent("ü".repeat(62))}`,
  ]) {
    const response = await app.inject({
      method: "DELETE",
      url: `/v1/connections/${id}${query}`,
      headers,
    });
    t.equal(response.statusCode, 400, query);
    t.equal(response.json<Problem>().code, "invalid_parameter");
  }
  t.equal(bridge.closes.length, 0);
});
