/** Who may ask for what, with keys and without. */
import { createHash } from "node:crypto";
import t from "tap";
import type { Problem } from "../../shared/api.js";
import type { ApiKey, Scope } from "../../shared/config.js";
import { METHODS } from "../../http-fn/contract.js";
import { contract, setup } from "../fixtures/fake-bridge.js";

function key(name: string, secret: string, ...scopes: Scope[]): ApiKey {
  return {
    name,
    scopes: new Set(scopes),
    sha256: createHash("sha256").update(secret).digest(),
  };
}

const KEYS = [
  key("pusher", "p-secret", "push"),
  key("reader", "r-secret", "read"),
  key("desk", "c-secret", "connections"),
  key("root", "a-secret", "admin"),
];

const ID = "c_aaaaaaaaaaaaaaaaaaaaaa";
const OPERATIONS: [
  method: "GET" | "HEAD" | "POST" | "PUT" | "DELETE",
  url: string,
  needs: Scope,
][] = [
  ["POST", `/v1/connections/${ID}/messages`, "push"],
  ["POST", "/v1/users/u/messages", "push"],
  ["POST", "/v1/batch", "push"],
  ["DELETE", "/v1/messages/m_1", "push"],
  ["GET", "/v1/messages/m_1", "read"],
  ["GET", "/v1/messages/m_1/events", "read"],
  ["POST", "/v1/connections", "connections"],
  ["DELETE", `/v1/connections/${ID}`, "connections"],
  ["DELETE", "/v1/users/u/connections", "connections"],
  ["DELETE", "/v1/tokens?jti=x", "connections"],
  ["GET", "/v1/connections", "read"],
  ["GET", `/v1/connections/${ID}/messages`, "read"],
  ["GET", "/v1/users/u", "read"],
  ["GET", `/v1/connections/${ID}`, "read"],
  ["HEAD", `/v1/connections/${ID}`, "read"],
  // Who may is told that the parameter is bad, not given a stream without end.
  ["GET", "/v1/events?after=x", "read"],
  ["POST", "/v1/groups/g/messages", "push"],
  ["POST", "/v1/broadcast", "push"],
  ["GET", "/v1/groups/g", "read"],
  ["PUT", `/v1/groups/g/connections/${ID}`, "groups"],
  ["DELETE", `/v1/groups/g/connections/${ID}`, "groups"],
  ["PUT", "/v1/groups/g/users/u", "groups"],
  ["DELETE", "/v1/groups/g/users/u", "groups"],
];
const OPEN = ["/healthz", "/readyz", "/docs", "/openapi.json", "/openapi.yaml"];

t.test("every operation needs its scope, admin has them all", async (t) => {
  const { app } = setup(t, { apiKeys: KEYS });
  for (const [method, url, needs] of OPERATIONS)
    for (const { name, scopes } of KEYS) {
      const { statusCode } = await app.inject({
        method,
        url,
        headers: {
          host: "push.example",
          authorization: `Bearer ${name[0] === "d" ? "c" : name === "root" ? "a" : name[0]}-secret`,
        },
      });
      const allowed = scopes.has(needs) || name === "root";
      t.equal(
        statusCode === 403,
        !allowed,
        `${name}: ${method} ${url} ${statusCode}`,
      );
      t.not(statusCode, 401);
    }
});

t.test(
  "the scopes above are those of openapi.yaml, and no operation is forgotten",
  async (t) => {
    for (const [path, item] of Object.entries(contract.document.paths))
      for (const method of METHODS) {
        const operation = item[method];
        if (operation === undefined || path === "/ws") continue;
        if (operation.security !== undefined) {
          t.equal(operation["x-scope"], undefined, path);
          continue;
        }
        const url = path
          .replace("{connectionId}", ID)
          .replace("{messageId}", "m_1")
          .replace("{userId}", "u")
          .replace("{group}", "g");
        const row = OPERATIONS.find(
          ([verb, where]) =>
            verb === method.toUpperCase() && where.split("?", 1)[0] === url,
        );
        t.equal(row?.[2], operation["x-scope"], `${method} ${path}`);
      }
  },
);

t.test(
  "without a known key the answer is 401 and tells how to authenticate",
  async (t) => {
    const { app, bridge } = setup(t, { apiKeys: KEYS });
    const url = `/v1/connections/${bridge.connect()}/messages`;
    const wrong = [
      undefined,
      "",
      "Bearer",
      "Bearer ",
      "Bearer nope",
      "Basic cC1zZWNyZXQ=",
      "p-secret",
      "Bearer p-secret extra",
    ];
    for (const authorization of wrong) {
      const response = await app.inject({
        method: "POST",
        url,
        headers: { ...(authorization !== undefined && { authorization }) },
        payload: "x",
      });
      t.equal(response.statusCode, 401, String(authorization));
      t.equal(response.json<Problem>().code, "unauthorized");
      t.equal(
        response.headers["www-authenticate"],
        'Bearer realm="push-bridge"',
      );
    }
    const right = await app.inject({
      method: "POST",
      url,
      headers: { authorization: "bearer p-secret" },
      payload: "x",
    });
    t.equal(right.statusCode, 202);
  },
);

t.test(
  "a key in the query is an unknown parameter, not a credential",
  async (t) => {
    const { app } = setup(t, { apiKeys: KEYS });
    const response = await app.inject({
      url: "/v1/connections?token=r-secret",
    });
    t.equal(response.statusCode, 401);
  },
);

t.test("no secret reaches the log", async (t) => {
  const { app, log } = setup(t, { apiKeys: KEYS });
  for (const authorization of ["Bearer r-secret", "Bearer canary"])
    await app.inject({
      url: "/v1/connections?token=canary&x=1",
      headers: { authorization },
    });
  t.equal(log.length, 2);
  t.notMatch(JSON.stringify(log), /canary|secret/);
});

t.test(
  "operations for everybody need no key, and any host will do where there are keys",
  async (t) => {
    const { app } = setup(t, { apiKeys: KEYS });
    for (const url of OPEN)
      t.equal(
        (await app.inject({ url, headers: { host: "push.example" } }))
          .statusCode,
        200,
        url,
      );
  },
);

t.test(
  "two API keys do not share idempotency keys, two keys of one name do",
  async (t) => {
    const twins = [
      key("a", "one", "push"),
      key("a", "two", "push"),
      key("b", "three", "push"),
    ];
    const { app, bridge } = setup(t, { apiKeys: twins });
    const url = `/v1/connections/${bridge.connect()}/messages`;
    const replayed = async (secret: string) => {
      const headers = {
        authorization: `Bearer ${secret}`,
        "idempotency-key": "k",
      };
      return (await app.inject({ method: "POST", url, headers, payload: "x" }))
        .headers["idempotency-replayed"];
    };
    t.equal(await replayed("one"), undefined);
    t.equal(await replayed("two"), "true", "rotation keeps the scope");
    t.equal(await replayed("three"), undefined);
  },
);

t.test(
  "without keys only loopback hosts are answered, on every path",
  async (t) => {
    const { app } = setup(t);
    const status = async (host: string, url: string) =>
      (await app.inject({ url, headers: { host } })).json<Problem>().code;
    const good = [
      "localhost",
      "LOCALHOST:1",
      "127.0.0.1",
      "127.0.0.1:8080",
      "[::1]",
      "[::1]:9000",
    ];
    const bad = [
      "evil.example",
      "localhost.evil.example",
      "127.0.0.1.evil.example",
      "127.0.0.2",
      "localhost:80@evil",
      "[::2]",
      "0.0.0.0",
    ];
    for (const url of [
      "/v1/connections",
      "/healthz",
      "/openapi.json",
      "/nothing-here",
    ]) {
      for (const host of good)
        t.not(await status(host, url), "forbidden_host", `${host} ${url}`);
      for (const host of bad)
        t.equal(await status(host, url), "forbidden_host", `${host} ${url}`);
    }
  },
);

t.test("without keys cross-site browser requests are refused", async (t) => {
  const { app, bridge } = setup(t, { allowedOrigins: ["https://app.example"] });
  const url = `/v1/connections/${bridge.connect()}/messages`;
  const cases: [headers: Record<string, string>, allowed: boolean][] = [
    [{}, true],
    [{ "sec-fetch-mode": "cors" }, true],
    [{ "sec-fetch-site": "none" }, true],
    [
      { "sec-fetch-site": "same-origin", origin: "http://localhost:8080" },
      true,
    ],
    [{ "sec-fetch-site": "same-origin" }, true],
    [{ "sec-fetch-site": "cross-site" }, false],
    [{ "sec-fetch-site": "same-site" }, false],
    [{ origin: "https://evil.example" }, false],
    [{ origin: "http://localhost.evil.example" }, false],
    [{ origin: "http://localhost:8080@evil.example" }, false],
    [{ origin: "ftp://localhost" }, false],
    [{ origin: "null" }, false],
    [{ origin: "https://app.example:444" }, false],
    [{ origin: "http://app.example" }, false],
    [{ origin: "https://app.example" }, true],
    [{ "sec-fetch-site": "cross-site", origin: "https://app.example" }, true],
    [{ "sec-fetch-site": "same-site", origin: "http://127.0.0.1:3000" }, true],
  ];
  for (const [given, allowed] of cases) {
    const response = await app.inject({
      method: "POST",
      url,
      headers: { host: "localhost:8080", ...given },
      payload: "x",
    });
    t.equal(response.statusCode, allowed ? 202 : 403, JSON.stringify(given));
    if (!allowed)
      t.match(response.json(), { code: "forbidden_origin", hint: String });
    t.equal(response.headers["access-control-allow-origin"], undefined);
  }
  for (const path of OPEN) {
    const headers = { host: "localhost:8080", "sec-fetch-site": "cross-site" };
    t.equal(
      (await app.inject({ url: path, headers })).statusCode,
      200,
      `${path} can be linked to`,
    );
  }
});

t.test(
  "with keys the origin does not matter, because a browser adds no key by itself",
  async (t) => {
    const { app } = setup(t, { apiKeys: KEYS });
    const headers = {
      origin: "https://evil.example",
      authorization: "Bearer r-secret",
    };
    const response = await app.inject({ url: "/v1/connections", headers });
    t.equal(response.statusCode, 200);
    t.equal(response.headers["access-control-allow-origin"], undefined);
  },
);
