/** POST /v1/connections/{connectionId}/messages through app.inject, on a bridge in memory. */
import { request as httpRequest } from "node:http";
import type { AddressInfo } from "node:net";
import t, { type Test } from "tap";
import type { Accepted, Problem, Receipt } from "../../shared/api.js";
import { BridgeError } from "../../shared/errors.js";
import { preferredWait } from "../../http-fn/push.js";
import {
  contract,
  FakeBridge,
  setup,
  type FakeSetup,
} from "../fixtures/fake-bridge.js";
import { until } from "../../scripts/lab/until.js";

interface PostOptions {
  query?: string;
  headers?: Record<string, string>;
  body?: string | Buffer;
}

async function post(
  fake: FakeSetup,
  connectionId: string,
  { query = "", headers = {}, body }: PostOptions,
) {
  return fake.app.inject({
    method: "POST",
    url: `/v1/connections/${connectionId}/messages${query}`,
    headers: { host: "localhost:8080", ...headers },
    ...(body !== undefined && { payload: body }),
  });
}

t.test("a push answers 202 with the address of its receipt", async (t) => {
  const fake = setup(t);
  const to = fake.bridge.connect();
  const response = await post(fake, to, {
    headers: { "content-type": "application/json" },
    body: '{"a": 1}',
  });
  t.equal(response.statusCode, 202);
  const accepted = response.json<Accepted>();
  t.equal(response.headers.location, `/v1/messages/${accepted.id}`);
  t.match(accepted, {
    status: "queued",
    to: { connection: to },
    recipients: 1,
    online: 1,
  });
  const [push] = fake.bridge.pushes;
  t.match(push, {
    contentType: "application/json",
    binary: false,
    ttlSeconds: 3_600,
  });
  t.equal(push?.body.toString(), '{"a": 1}', "the bytes are not re-serialised");
  t.notOk(push && "waitMs" in push);
});

t.test("the content type decides the frame", async (t) => {
  const bytes = Buffer.from([0, 255, 128]);
  const cases: [
    given: string | undefined,
    body: string | Buffer | undefined,
    reported: string,
    binary: boolean,
  ][] = [
    ["text/plain", "hello", "text/plain", false],
    ["text/html; charset=utf-8", "<p>", "text/html; charset=utf-8", false],
    [
      'text/plain; charset="UTF-8"',
      "grüß",
      'text/plain; charset="UTF-8"',
      false,
    ],
    ["application/x-www-form-urlencoded", "hello", "text/plain", false],
    ["application/json", '"\\ud800"', "application/json", false],
    ["application/json", "[1,\n 2 ]", "application/json", false],
    ["Application/JSON", "{}", "Application/JSON", false],
    [
      "application/cloudevents+json",
      "{}",
      "application/cloudevents+json",
      false,
    ],
    ["application/octet-stream", bytes, "application/octet-stream", true],
    ["image/png", bytes, "image/png", true],
    [undefined, bytes, "application/octet-stream", true],
    [undefined, undefined, "application/octet-stream", true],
    ["text/plain", "", "text/plain", false],
    ["text/plain", "\ufeffBOM\0", "text/plain", false],
  ];
  for (const [given, body, reported, binary] of cases)
    await t.test(`${given} becomes ${reported}`, async (t) => {
      const fake = setup(t);
      const response = await post(fake, fake.bridge.connect(), {
        headers: given === undefined ? {} : { "content-type": given },
        ...(body !== undefined && { body }),
      });
      t.equal(response.statusCode, 202, response.body);
      t.match(fake.bridge.pushes[0], { contentType: reported, binary });
      t.same(fake.bridge.pushes[0]?.body, Buffer.from(body ?? ""));
    });
});

t.test("a body that is not what its type says is refused", async (t) => {
  const cases: [
    type: string,
    body: string | Buffer,
    status: number,
    code: string,
  ][] = [
    ["text/plain", Buffer.from([0x61, 0xff]), 400, "invalid_utf8"],
    [
      "application/json",
      Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22]),
      400,
      "invalid_utf8",
    ],
    [
      "application/x-www-form-urlencoded",
      Buffer.from([0xc0, 0x80]),
      400,
      "invalid_utf8",
    ],
    ["application/json", "{", 400, "invalid_json"],
    ["application/json", "", 400, "invalid_json"],
    ["application/json", '\ufeff{"a":1}', 400, "invalid_json"],
    ["application/vnd.x+json; a=b", "nope", 400, "invalid_json"],
    ["application/json", "[".repeat(100_000), 400, "invalid_json"],
    ["text/plain; charset=iso-8859-1", "x", 415, "unsupported_media_type"],
    ["application/json; charset=utf-16", "{}", 415, "unsupported_media_type"],
    ["nonsense", "x", 415, "unsupported_media_type"],
    ["text/plain, application/json", "x", 415, "unsupported_media_type"],
    [`text/plain; a=${"b".repeat(300)}`, "x", 415, "unsupported_media_type"],
  ];
  for (const [type, body, status, code] of cases)
    await t.test(`${type.slice(0, 40)}: ${code}`, async (t) => {
      const fake = setup(t);
      const response = await post(fake, fake.bridge.connect(), {
        headers: { "content-type": type },
        body,
      });
      t.equal(response.statusCode, status, response.body);
      t.equal(response.json<Problem>().code, code);
      t.equal(fake.bridge.pushes.length, 0);
    });
});

t.test("a content encoding is refused, identity is none", async (t) => {
  const fake = setup(t);
  const to = fake.bridge.connect();
  const zipped = await post(fake, to, {
    headers: { "content-encoding": "gzip" },
    body: "x",
  });
  t.match(zipped.json(), { code: "unsupported_media_type" });
  const plain = await post(fake, to, {
    headers: { "content-encoding": "identity" },
    body: "x",
  });
  t.equal(plain.statusCode, 202);
});

t.test(
  "262,144 bytes pass, one more is 413 with limit and actual",
  async (t) => {
    const fake = setup(t);
    const to = fake.bridge.connect();
    t.equal(
      (await post(fake, to, { body: Buffer.alloc(262_144) })).statusCode,
      202,
    );
    const response = await post(fake, to, { body: Buffer.alloc(262_145) });
    t.equal(response.statusCode, 413);
    t.match(response.json(), {
      code: "payload_too_large",
      limit: 262_144,
      actual: 262_145,
    });
  },
);

t.test("options arrive from headers and from the query alike", async (t) => {
  const at = new Date(Date.now() + 60_000).toISOString();
  const cases: [PostOptions, object][] = [
    [{ headers: { ttl: "5" } }, { ttlSeconds: 5 }],
    [{ query: "?ttl=0" }, { ttlSeconds: 0 }],
    [{ query: "?ttl=604800" }, { ttlSeconds: 604_800 }],
    [{ headers: { ttl: "5" }, query: "?ttl=5" }, { ttlSeconds: 5 }],
    [{ headers: { topic: "a-Z_09" } }, { topic: "a-Z_09" }],
    [{ query: "?topic=news" }, { topic: "news" }],
    [{ query: `?at=${at}` }, { dueAtMs: Date.parse(at) }],
    [{ headers: { at } }, { dueAtMs: Date.parse(at) }],
    [{ query: "?at=2020-01-01T00:00:00Z" }, { dueAtMs: undefined }],
    [{ query: "?delay=0" }, { dueAtMs: undefined }],
    [{ query: "?delay=1.5" }, { dueAtMs: Number }],
    [{ headers: { delay: "3" } }, { dueAtMs: Number }],
    [
      { query: "?idempotencyKey=k" },
      { idempotency: { key: String, fingerprint: String } },
    ],
    [{ headers: { prefer: "respond-async" } }, { waitMs: undefined }],
    [{ headers: { prefer: "wait=0" } }, { waitMs: undefined }],
  ];
  for (const [options, expected] of cases)
    await t.test(JSON.stringify(options), async (t) => {
      const fake = setup(t);
      const response = await post(fake, fake.bridge.connect(), {
        ...options,
        body: "x",
      });
      t.equal(response.statusCode, 202, response.body);
      t.match(fake.bridge.pushes[0], expected);
    });
});

t.test("bad and unknown options are named", async (t) => {
  const cases: [PostOptions, code: string, pointer: string][] = [
    [{ query: "?ttl=-1" }, "invalid_parameter", "/query/ttl"],
    [{ query: "?ttl=604801" }, "invalid_parameter", "/query/ttl"],
    [{ query: "?ttl=1.5" }, "invalid_parameter", "/query/ttl"],
    [{ query: "?ttl=" }, "invalid_parameter", "/query/ttl"],
    [{ query: "?ttl=0x10" }, "invalid_parameter", "/query/ttl"],
    [{ query: "?ttl=1&ttl=2" }, "invalid_parameter", "/query/ttl"],
    [{ headers: { ttl: "soon" } }, "invalid_parameter", "/header/TTL"],
    [
      { headers: { ttl: "5" }, query: "?ttl=6" },
      "invalid_parameter",
      "/query/ttl",
    ],
    [{ headers: { topic: "a b" } }, "invalid_parameter", "/header/Topic"],
    [
      { query: `?topic=${"a".repeat(33)}` },
      "invalid_parameter",
      "/query/topic",
    ],
    [{ query: "?topic=" }, "invalid_parameter", "/query/topic"],
    [{ query: "?delay=-1" }, "invalid_parameter", "/query/delay"],
    [{ query: "?delay=604801" }, "invalid_parameter", "/query/delay"],
    [
      { query: "?delay=1&at=2030-01-01T00:00:00Z" },
      "invalid_parameter",
      "/query/at",
    ],
    [{ query: "?at=tomorrow" }, "invalid_parameter", "/query/at"],
    [{ query: "?at=2999-01-01T00:00:00Z" }, "invalid_parameter", "/query/at"],
    [
      { query: `?idempotencyKey=${"k".repeat(256)}` },
      "invalid_parameter",
      "/query/idempotencyKey",
    ],
    [
      { query: "?idempotencyKey=%00" },
      "invalid_parameter",
      "/query/idempotencyKey",
    ],
    [{ query: "?wait=61" }, "invalid_parameter", "/query/wait"],
    [
      { query: "?wait=5", headers: { prefer: "wait=6" } },
      "invalid_parameter",
      "/query/wait",
    ],
    [{ query: "?tll=5" }, "unknown_parameter", "/query/tll"],
    [{ query: "?__proto__=5" }, "unknown_parameter", "/query/__proto__"],
    [{ query: "?constructor=5" }, "unknown_parameter", "/query/constructor"],
    [{ query: "?a~/b=1" }, "unknown_parameter", "/query/a~0~1b"],
  ];
  for (const [options, code, pointer] of cases)
    await t.test(JSON.stringify(options).slice(0, 60), async (t) => {
      const fake = setup(t);
      const response = await post(fake, fake.bridge.connect(), {
        ...options,
        body: "x",
      });
      t.equal(response.statusCode, 400, response.body);
      t.match(response.json(), {
        code,
        errors: [{ pointer, message: String }],
      });
      t.equal(fake.bridge.pushes.length, 0);
    });
});

t.test(
  "several mistakes are named together, one mistake with its limit",
  async (t) => {
    const fake = setup(t);
    const to = fake.bridge.connect();
    const both = await post(fake, to, { query: "?ttl=x&nope=1&topic=%20" });
    t.equal(both.json<Problem>().errors?.length, 3);
    const one = await post(fake, to, { query: "?ttl=604801" });
    t.match(one.json(), { limit: 604_800, actual: 604_801 });
  },
);

t.test("Prefer is read as RFC 7240 says", async (t) => {
  const cases: [string, number | undefined][] = [
    ["wait=5", 5],
    ["respond-async, wait=5", 5],
    ["Wait = 5", 5],
    ['wait="5"', 5],
    ["wait=5; strict", 5],
    ['wait="5', undefined],
    [`wait=${" ".repeat(8_000)}x`, undefined],
    ["wait=5, wait=6", 5],
    ["wait=120", 60],
    ["wait=soon", undefined],
    ["wait", undefined],
    ["waiting=5", undefined],
    ["respond-async; wait=5", undefined],
    ["", undefined],
  ];
  for (const [prefer, seconds] of cases)
    t.equal(preferredWait(prefer), seconds, prefer);
});

t.test(
  "with wait the answer is 200 with the receipt as soon as it is final",
  async (t) => {
    const fake = setup(t);
    const to = fake.bridge.connect();
    const answer = post(fake, to, {
      headers: { prefer: "wait=30" },
      body: "x",
    });
    await until(() => fake.bridge.following === 1);
    const [id = ""] = fake.bridge.receipts.keys();
    fake.bridge.become(id, "sent");
    fake.bridge.become(id, "delivered");
    const response = await answer;
    t.equal(response.statusCode, 200);
    t.equal(response.headers["preference-applied"], "wait=30");
    t.equal(response.headers.location, `/v1/messages/${id}`);
    const receipt = response.json<Receipt>();
    t.match(receipt, { id, status: "delivered", ack: "client" });
    t.same(
      receipt.timeline.map(({ status }) => status),
      ["queued", "sent", "delivered"],
    );
    t.equal(fake.bridge.pushes[0]?.waitMs, 30_000);
    await until(() => fake.bridge.following === 0);
  },
);

t.test(
  "with wait the answer is 202 with the current status when the time is up",
  async (t) => {
    const fake = setup(t);
    const answer = post(fake, fake.bridge.connect(), {
      query: "?wait=1",
      body: "x",
    });
    await until(() => fake.bridge.following === 1);
    const [id = ""] = fake.bridge.receipts.keys();
    fake.bridge.become(id, "sent");
    const response = await answer;
    t.equal(response.statusCode, 202);
    t.equal(response.headers["preference-applied"], "wait=1");
    t.match(response.json(), { id, status: "sent" });
  },
);

t.test("a message that is final at once is not waited for", async (t) => {
  const fake = setup(t);
  const to = fake.bridge.connect({ state: "away" });
  const response = await post(fake, to, { query: "?wait=60&ttl=0", body: "x" });
  t.equal(response.statusCode, 200);
  t.match(response.json(), {
    status: "undeliverable",
    reason: "not_connected",
  });
});

t.test(
  "ttl 0 without a wait and without a client is 202 undeliverable",
  async (t) => {
    const fake = setup(t);
    const response = await post(fake, fake.bridge.connect({ state: "away" }), {
      query: "?ttl=0",
      body: "x",
    });
    t.equal(response.statusCode, 202);
    t.match(response.json(), { status: "undeliverable", online: 0 });
  },
);

t.test(
  "when following fails the accepted message is still answered 202",
  async (t) => {
    const fake = setup(t);
    fake.bridge.follow = (id, signal) => {
      // An empty bridge knows no message: the first `next` fails.
      return new FakeBridge().follow(id, signal);
    };
    const response = await post(fake, fake.bridge.connect(), {
      query: "?wait=5",
      body: "x",
    });
    t.equal(response.statusCode, 202);
    t.match(response.json(), { status: "queued" });
  },
);

t.test("closing the app ends a wait with 202", async (t) => {
  const fake = setup(t);
  const answer = post(fake, fake.bridge.connect(), {
    query: "?wait=60",
    body: "x",
  });
  await until(() => fake.bridge.following === 1);
  await fake.app.close();
  t.equal((await answer).statusCode, 202);
});

t.test("a caller that leaves ends its wait", async (t) => {
  const fake = setup(t);
  const to = fake.bridge.connect();
  await fake.app.listen({ port: 0, host: "127.0.0.1" });
  const { port } = fake.app.server.address() as AddressInfo;
  const request = httpRequest({
    port,
    host: "127.0.0.1",
    method: "POST",
    path: `/v1/connections/${to}/messages?wait=60`,
  });
  request.on("error", () => undefined);
  request.end("x");
  await until(() => fake.bridge.following === 1);
  request.destroy();
  await until(() => fake.bridge.following === 0);
});

t.test("idempotency", async (t) => {
  const again = {
    headers: { "idempotency-key": "k1", "content-type": "text/plain" },
    body: "x",
  };

  await t.test(
    "the same request again gets the first answer again",
    async (t) => {
      const fake = setup(t);
      const to = fake.bridge.connect();
      const first = await post(fake, to, again);
      const second = await post(fake, to, again);
      t.equal(second.statusCode, 202);
      t.equal(first.headers["idempotency-replayed"], undefined);
      t.equal(second.headers["idempotency-replayed"], "true");
      t.equal(second.headers.location, first.headers.location);
      t.equal(second.body, first.body);
      t.equal(fake.bridge.pushes.length, 1);
    },
  );

  await t.test("another request with the key is 422", async (t) => {
    const others: PostOptions[] = [
      { ...again, body: "y" },
      { ...again, query: "?ttl=1" },
      { ...again, query: "?topic=a" },
      { ...again, query: "?delay=1" },
      { ...again, headers: { ...again.headers, "content-type": "text/html" } },
    ];
    for (const other of others) {
      const fake = setup(t);
      const to = fake.bridge.connect();
      await post(fake, to, again);
      const response = await post(fake, to, other);
      t.equal(response.statusCode, 422);
      t.equal(response.json<Problem>().code, "idempotency_mismatch");
    }
  });

  await t.test(
    "header or query, wait or not: still the same request",
    async (t) => {
      const fake = setup(t);
      const to = fake.bridge.connect();
      await post(fake, to, {
        ...again,
        headers: { ...again.headers, ttl: "60" },
      });
      const response = await post(fake, to, {
        ...again,
        query: "?ttl=60&wait=1",
      });
      t.equal(response.headers["idempotency-replayed"], "true");
    },
  );

  await t.test("another target has its own keys", async (t) => {
    const fake = setup(t);
    await post(fake, fake.bridge.connect(), again);
    const response = await post(fake, fake.bridge.connect(), again);
    t.equal(response.statusCode, 202);
    t.equal(fake.bridge.pushes.length, 2);
  });

  await t.test(
    "while the first waits the second is 409, afterwards it gets the waited answer",
    async (t) => {
      const fake = setup(t);
      const to = fake.bridge.connect();
      const waiting = post(fake, to, { ...again, query: "?wait=30" });
      await until(() => fake.bridge.following === 1);
      const early = await post(fake, to, again);
      t.equal(early.statusCode, 409);
      t.equal(early.json<Problem>().code, "idempotency_in_progress");
      t.equal(early.headers["retry-after"], "1");
      const [id = ""] = fake.bridge.receipts.keys();
      fake.bridge.become(id, "delivered");
      const first = await waiting;
      const late = await post(fake, to, again);
      t.equal(late.statusCode, 200);
      t.equal(late.body, first.body);
      t.equal(late.headers["idempotency-replayed"], "true");
      const text = await post(fake, to, {
        ...again,
        headers: { ...again.headers, accept: "text/plain" },
      });
      t.match(text.body, /^status +delivered$/m);
    },
  );
});

t.test("what the bridge refuses is answered with its status", async (t) => {
  const cases: [BridgeError | Error, status: number, expected: object][] = [
    [
      new BridgeError("connection_not_found"),
      404,
      { code: "connection_not_found" },
    ],
    [
      new BridgeError("connection_ended", {
        endedAt: "2026-01-01T00:00:00.000Z",
        reason: "client_closed",
      }),
      410,
      {
        code: "connection_ended",
        endedAt: "2026-01-01T00:00:00.000Z",
        reason: "client_closed",
      },
    ],
    [
      new BridgeError("log_full", { limit: 10_000, actual: 10_000 }),
      429,
      { code: "log_full", limit: 10_000 },
    ],
    [new BridgeError("redis_unavailable"), 503, { code: "redis_unavailable" }],
    [new BridgeError("outcome_unknown"), 503, { code: "outcome_unknown" }],
    [
      new Error("ERR script line 7 of redis at 10.0.0.1"),
      500,
      { code: "internal" },
    ],
  ];
  for (const [failure, status, expected] of cases)
    await t.test(failure.message, async (t) => {
      const fake = setup(t);
      fake.bridge.failure = failure;
      const response = await post(fake, fake.bridge.connect(), { body: "x" });
      t.equal(response.statusCode, status);
      t.equal(
        response.headers["content-type"],
        "application/problem+json; charset=utf-8",
      );
      t.match(response.json(), {
        ...expected,
        status,
        type: String,
        title: String,
        instance: String,
      });
      t.equal(
        response.headers["retry-after"],
        status === 503 ? "1" : undefined,
      );
      t.notMatch(
        response.body,
        "redis at",
        "texts of other systems stay inside",
      );
      const [line] = fake.log;
      t.equal(
        line?.level,
        status === 500 ? "error" : status > 500 ? "warn" : "info",
      );
      t.match(line?.fields, {
        requestId: response.json<Problem>().instance,
        route: "/v1/connections/:connectionId/messages",
        status,
        code: response.json<Problem>().code,
      });
    });
});

t.test("what is no connection ID is an unknown connection", async (t) => {
  const fake = setup(t);
  for (const id of [
    "c_",
    "m_1",
    "c_%7B%7Dxxxxxxxxxxxxxxxxxxxx",
    "x".repeat(200),
    "c_aaaaaaaaaaaaaaaaaaaaaa:x",
  ]) {
    const response = await post(fake, id, { body: "x" });
    t.equal(response.statusCode, 404, id);
    t.equal(response.json<Problem>().code, "connection_not_found");
  }
});

t.test("the limit in the code is the one of openapi.yaml", async (t: Test) => {
  const { MessageBody } = contract.document.components.schemas;
  t.match(MessageBody, { "x-max-bytes": 262_144 });
});

t.test("durability is asked for by header, query or default", async (t) => {
  const fake = setup(t);
  const strict = setup(t, { durability: "replica" });
  const said = async (
    where: FakeSetup,
    options: Omit<PostOptions, "body"> = {},
  ) => {
    const to = where.bridge.connect();
    const answer = await post(where, to, { body: "x", ...options });
    t.equal(answer.statusCode, 202);
    return answer.json<Accepted>().durability;
  };
  t.equal(await said(fake), "local");
  t.equal(await said(fake, { query: "?durability=replica" }), "replica");
  t.equal(await said(fake, { headers: { durability: "replica" } }), "replica");
  t.equal(await said(strict), "replica");
  t.equal(await said(strict, { query: "?durability=local" }), "local");
  const to = fake.bridge.connect();
  const bad = await post(fake, to, { query: "?durability=eternal", body: "x" });
  t.equal(bad.statusCode, 400);
  t.equal(bad.json<Problem>().code, "invalid_parameter");
  const key = { "idempotency-key": "k" };
  await post(fake, to, { headers: key, body: "x" });
  const other = await post(fake, to, {
    headers: { ...key, durability: "replica" },
    body: "x",
  });
  t.equal(other.statusCode, 422, "it is another request");
});

t.test("expect=reply answers with the reply", async (t) => {
  const fake = setup(t);
  const to = fake.bridge.connect();
  const asking = post(fake, to, {
    query: "?expect=reply",
    headers: { "content-type": "text/plain" },
    body: "?",
  });
  await until(() => fake.bridge.following === 1);
  const [push] = fake.bridge.pushes;
  t.ok(push?.replyMs !== undefined && push.replyMs > 10_000);
  t.notOk(push && "waitMs" in push);
  const [id = ""] = fake.bridge.receipts.keys();
  const body = Buffer.from([123, 0, 255]);
  fake.bridge.replied(id, {
    connectionId: to,
    contentType: "application/json",
    body,
  });
  const response = await asking;
  t.equal(response.statusCode, 200);
  t.ok(response.rawPayload.equals(body));
  t.match(response.headers, {
    "content-type": "application/json",
    location: `/v1/messages/${id}`,
    "preference-applied": "wait=10",
    "reply-connection": to,
    "x-content-type-options": "nosniff",
  });
});

t.test("no reply in time is 504 with the message's address", async (t) => {
  const fake = setup(t);
  const response = await post(fake, fake.bridge.connect(), {
    query: "?expect=reply&wait=1",
    headers: { accept: "text/plain" },
  });
  const [id = ""] = fake.bridge.receipts.keys();
  t.equal(response.statusCode, 504);
  t.equal(response.headers.location, `/v1/messages/${id}`);
  t.match(response.body, /reply_timeout/);
  t.match(response.body, id);
});

t.test("expect is refused where nobody waits", async (t) => {
  const fake = setup(t);
  const to = fake.bridge.connect();
  const cases: [url: string, code: string, words: RegExp][] = [
    [`connections/${to}/messages?expect=receipt`, "invalid_parameter", /reply/],
    [
      `connections/${to}/messages?expect=reply&delay=5`,
      "invalid_parameter",
      /excludes delay/,
    ],
    [
      `connections/${to}/messages?expect=reply&wait=0`,
      "invalid_parameter",
      /at least 1/,
    ],
    ["groups/g/messages?expect=reply", "unknown_parameter", /expect/],
    ["broadcast?expect=reply", "unknown_parameter", /expect/],
    ["batch?expect=reply", "unknown_parameter", /expect/],
  ];
  for (const [url, code, words] of cases) {
    const response = await fake.app.inject({
      method: "POST",
      url: `/v1/${url}`,
      headers: { host: "localhost:8080" },
    });
    t.equal(response.statusCode, 400, url);
    t.match(response.json<Problem>(), { code, detail: words });
  }
  t.equal(fake.bridge.pushes.length, 0);
});
