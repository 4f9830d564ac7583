/** The app as a whole: documents, errors of every kind, text answers, and that openapi.yaml is kept. */
import t from "tap";
import { parse } from "yaml";
import type { Problem } from "../../shared/api.js";
import { accepts, toBridgeError } from "../../http-fn/answer.js";
import { BridgeError } from "../../shared/errors.js";
import { METHODS, type OperationId } from "../../http-fn/contract.js";
import { proxiesOf } from "../../shared/proxies.js";
import { contract, setup } from "../fixtures/fake-bridge.js";

const headers = { host: "localhost" };
const assets = {
  page: { contentType: "text/html; charset=utf-8", text: "<!doctype html>" },
  pageScript: { contentType: "text/javascript; charset=utf-8", text: "page()" },
  clientScript: {
    contentType: "text/javascript; charset=utf-8",
    text: "client()",
  },
};

t.test(
  "every operation of openapi.yaml that is ours has a route, and answers as it says",
  async (t) => {
    const { app } = setup(t, { assets });
    for (const [path, item] of Object.entries(contract.document.paths))
      for (const method of METHODS) {
        if (item[method] === undefined || path === "/ws") continue;
        const url = path.replaceAll(/\{(\w+)\}/g, ":$1");
        t.ok(
          app.hasRoute({ method: method.toUpperCase() as "GET", url }),
          `${method} ${path}`,
        );
      }
  },
);

t.test("health does not ask the bridge, readiness does", async (t) => {
  const { app, bridge } = setup(t);
  bridge.failure = new BridgeError("redis_unavailable");
  t.same((await app.inject({ url: "/healthz", headers })).json(), {
    status: "ok",
  });
  const away = await app.inject({ url: "/readyz", headers });
  t.equal(away.statusCode, 503);
  t.equal(away.headers["retry-after"], "1");
  bridge.failure = undefined;
  t.same((await app.inject({ url: "/readyz", headers })).json(), {
    status: "ready",
  });
});

t.test("openapi.yaml is served as it is and as JSON", async (t) => {
  const { app } = setup(t);
  const yaml = await app.inject({ url: "/openapi.yaml", headers });
  t.equal(yaml.headers["content-type"], "application/yaml; charset=utf-8");
  const json = await app.inject({ url: "/openapi.json", headers });
  t.same(json.json(), parse(yaml.body));
});

t.test("pages may load nothing from elsewhere", async (t) => {
  const { app } = setup(t, { assets });
  for (const url of ["/", "/docs", "/page.js", "/client.js"]) {
    const response = await app.inject({ url, headers });
    t.equal(response.statusCode, 200, url);
    t.match(response.headers, {
      "content-security-policy": /default-src 'none'/,
      "x-content-type-options": "nosniff",
    });
    // A browser imports a module of another origin only where that origin allows it.
    t.equal(
      response.headers["access-control-allow-origin"],
      url === "/client.js" ? "*" : undefined,
      url,
    );
    t.notMatch(response.body, /(src|href)="(https?:)?\/\//);
  }
});

t.test("who forgets /messages is reminded of it", async (t) => {
  const { app } = setup(t);
  for (const [url, hint] of [
    ["/v1/users/ann", "Messages go to …/messages."],
    ["/v1/groups/room?ttl=1", "Messages go to …/messages."],
    ["/v1/connections/c_0000000000000000000000", "Messages go to …/messages."],
    ["/v1/messages/m_1", undefined],
  ] as const) {
    const answer = await app.inject({
      method: "POST",
      url,
      headers,
      payload: "x",
    });
    t.equal(answer.statusCode, 405, url);
    t.equal(answer.json<Problem>().hint, hint, url);
  }
});

t.test(
  "an unknown path is a 404 problem, an unknown method 405 with Allow",
  async (t) => {
    const { app, bridge } = setup(t);
    const id = bridge.connect();
    const cases: [
      method: string,
      url: string,
      status: number,
      allow?: string,
    ][] = [
      ["GET", "/v1/user/u1", 404],
      ["POST", "/v1/batches", 404],
      ["GET", "/v1/connections/a/b/c", 404],
      ["GET", "/ws", 404],
      ["GET", `/v1/messages/${"x".repeat(1_600)}`, 404],
      ["GET", "/v1/messages/%ff", 400],
      ["PUT", `/v1/connections/${id}`, 405, "GET, HEAD, DELETE"],
      ["PUT", `/v1/connections/${id}/messages`, 405, "GET, HEAD, POST"],
      ["GET", "/v1/users/u1/connections", 405, "DELETE"],
      ["DELETE", "/v1/connections?x=1", 405, "GET, HEAD, POST"],
      ["POST", "/v1/messages/m_1", 405, "GET, HEAD, DELETE"],
      ["OPTIONS", "/healthz", 405, "GET, HEAD"],
      ["PATCH", "/docs", 405, "GET, HEAD"],
    ];
    for (const [method, url, status, allow] of cases) {
      const response = await app.inject({
        method: method as "GET",
        url,
        headers,
        payload: "",
      });
      t.equal(response.statusCode, status, `${method} ${url.slice(0, 40)}`);
      t.equal(response.headers.allow, allow);
      const { code } = response.json<Problem>();
      t.equal(
        code,
        { 400: "bad_request", 404: "not_found", 405: "method_not_allowed" }[
          status
        ],
      );
    }
  },
);

t.test(
  "Accept: text/plain gives errors as text too, a JSON type beside it does not",
  async (t) => {
    const { app } = setup(t);
    const cases: [accept: string, text: boolean][] = [
      ["text/plain", true],
      ["Text/Plain; q=0.9, */*", true],
      ["text/plain, application/json", false],
      ["text/plain, application/problem+json", false],
      ["text/plain;q=0", false],
      ["application/json;q=0, text/plain", true],
      ["text/*", false],
      ["text/html", false],
      ["", false],
    ];
    for (const [accept, text] of cases) {
      const response = await app.inject({
        url: "/nothing",
        headers: { ...headers, accept },
      });
      t.equal(response.statusCode, 404);
      if (text) {
        t.equal(
          response.headers["content-type"],
          "text/plain; charset=utf-8",
          accept,
        );
        t.match(response.body, /^code {6}not_found$/m);
        t.ok(response.body.endsWith("\n"));
      } else
        t.equal(
          response.headers["content-type"],
          "application/problem+json; charset=utf-8",
          accept,
        );
    }
    t.ok(accepts("a/b, Application/X-NDJSON;q=1", "application/x-ndjson"));
  },
);

t.test(
  "what fastify throws becomes an error of the contract, what nobody foresaw internal",
  async (t) => {
    const cases: [unknown, string][] = [
      [new BridgeError("log_full"), "log_full"],
      [Object.assign(new Error("x"), { statusCode: 400 }), "bad_request"],
      [Object.assign(new Error("x"), { statusCode: 503 }), "internal"],
      [new TypeError("x"), "internal"],
      ["text", "internal"],
      [undefined, "internal"],
    ];
    for (const [thrown, code] of cases)
      t.equal(toBridgeError(thrown).code, code);
  },
);

t.test("the platform's request ID is the one in problem and log", async (t) => {
  const { app, log } = setup(t, { proxies: proxiesOf(["127.0.0.0/8"]) });
  const id = "0a1b2c3d-0000-4000-8000-000000000000";
  const response = await app.inject({
    url: "/nothing",
    headers: { ...headers, "x-scf-request-id": id },
  });
  t.equal(response.json<Problem>().instance, id);
  t.match(log, [
    {
      level: "info",
      fields: { requestId: id, code: "not_found", status: 404 },
    },
  ]);
  const odd = await app.inject({
    url: "/nothing",
    headers: { ...headers, "x-scf-request-id": "a-b" },
  });
  t.not(odd.json<Problem>().instance, "a-b");
  const stranger = await setup(t).app.inject({
    url: "/nothing",
    headers: { ...headers, "x-scf-request-id": id },
  });
  t.not(stranger.json<Problem>().instance, id, "who is no proxy of ours");
});

t.test(
  "every answer says nosniff, and HSTS where the line is TLS",
  async (t) => {
    const answers = async (publicWsUrl: string) => {
      const { app, bridge } = setup(t, { assets, publicWsUrl });
      const id = bridge.connect();
      const all = [];
      for (const url of [
        ...["/", "/docs", "/healthz", "/nothing", "/%", "/v1/connections"],
        `/v1/connections/${id}`,
        `/v1/connections/${"x".repeat(2_000)}`,
        "/v1/events?wait=0",
      ])
        all.push(await app.inject({ url, headers }));
      for (const [method, url, payload] of [
        ["POST", `/v1/connections/${id}/messages`, "hello"],
        ["PUT", `/v1/groups/g/connections/${id}`, ""],
        ["PATCH", "/v1/connections", ""],
        ["POST", "/v1/batch", `[{"to":{"connection":"${id}"},"data":"x"}]`],
      ] as const)
        all.push(
          await app.inject({
            method,
            url,
            payload,
            headers: { ...headers, "content-type": "application/json" },
          }),
        );
      return all;
    };
    const cases: [publicWsUrl: string, isSecure: boolean][] = [
      ["", false],
      ["ws://push.example", false],
      ["wss://push.example", true],
    ];
    for (const [publicWsUrl, isSecure] of cases)
      for (const answer of await answers(publicWsUrl)) {
        const { method, url } = answer.raw.req as {
          method?: string;
          url?: string;
        };
        const what = `${method} ${url?.slice(0, 40)} ${answer.statusCode}`;
        t.equal(answer.headers["x-content-type-options"], "nosniff", what);
        t.equal(
          answer.headers["strict-transport-security"],
          isSecure ? "max-age=31536000" : undefined,
          what,
        );
      }
  },
);

t.test("an answer in text or JSON steers no terminal", async (t) => {
  // No user ID may look so, which openapi.yaml says as well; texts from elsewhere may.
  const { app, bridge } = setup(t, { checkAnswers: false });
  const odd = "a\u001b[2J\u009b31m\u202e\u2066\ufeff\u2028b\r\nc\td";
  const id = bridge.connect({ userId: odd });
  const url = `/v1/connections/${id}`;
  for (const accept of ["text/plain", "application/json"]) {
    const { body } = await app.inject({ url, headers: { ...headers, accept } });
    t.notMatch(body, /[^\n\x20-\x7e]/, accept);
    if (accept === "text/plain")
      t.match(
        body,
        String.raw`a\u001b[2J\u009b31m\u202e\u2066\ufeff\u2028b\r\nc\td`,
      );
    else t.equal((JSON.parse(body) as { userId: string }).userId, odd);
  }
});

t.test("an answer that openapi.yaml does not know is caught", async (t) => {
  const { app, bridge, log } = setup(t);
  const id = bridge.connect({ instance: 7 as unknown as string });
  const response = await app.inject({ url: `/v1/connections/${id}`, headers });
  t.equal(response.statusCode, 500);
  t.match(
    String(log[0]?.fields["err"]),
    /answer breaks openapi.yaml: .*\/instance/,
  );
});

t.test("the check knows statuses, types, bodies and fields", async (t) => {
  const base = {
    method: "GET",
    path: "/healthz",
    status: 200,
    contentType: "application/json; charset=utf-8",
    body: '{"status":"ok"}',
  };
  t.same(contract.checkAnswer(base), []);
  t.equal(contract.checkAnswer({ ...base, status: 201 }).length, 1);
  t.equal(
    contract.checkAnswer({ ...base, contentType: "text/html" }).length,
    1,
  );
  t.equal(
    contract.checkAnswer({ ...base, body: '{"status":"ok","secret":1}' })
      .length,
    1,
  );
  t.equal(contract.checkAnswer({ ...base, method: "HEAD" }).length, 1);
  const events = {
    ...base,
    path: "/v1/messages/{messageId}/events",
    status: 204,
  };
  t.same(contract.checkAnswer({ ...events, body: "" }), []);
  t.equal(contract.checkAnswer({ ...events, body: "x" }).length, 1);
  t.equal(
    contract.checkAnswer({
      ...base,
      path: undefined,
      status: 404,
      contentType: "text/html",
    }).length,
    1,
  );
});

t.test(
  "an operation that openapi.yaml does not have cannot be routed",
  async (t) => {
    t.throws(
      () => contract.operation("nonsense" as OperationId),
      /no operation nonsense/,
    );
  },
);

t.test(
  "no header and no parameter of the full length makes a pattern slow",
  async (t) => {
    const { app, bridge } = setup(t);
    const to = `/v1/connections/${bridge.connect()}/messages`;
    const fillers = [" ", ";", ",", "=", "0", "\t", "a/", ";q=0."];
    const starts = {
      accept: "text/plain;",
      prefer: "wait=",
      at: "2030-01-01T00:00:00",
      "content-type": "application/json;charset=",
      origin: "http://localhost",
      authorization: "Bearer ",
    };
    for (const [name, start] of Object.entries(starts))
      for (const filler of fillers) {
        const value = `${start}${filler.repeat(7_000 / filler.length)}\u00ff`;
        const before = process.cpuUsage();
        await app.inject({
          method: "POST",
          url: to,
          headers: { ...headers, [name]: value },
          payload: "x",
        });
        const { user } = process.cpuUsage(before);
        // CPU, not time: a quadratic pattern takes whole seconds here, the machine's load none.
        t.ok(
          user < 1_000_000,
          `${name} full of ${JSON.stringify(filler)}: ${user} µs`,
        );
      }
  },
);
