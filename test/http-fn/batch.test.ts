/** POST /v1/batch on a bridge in memory: results in order and while the body arrives, limits, bad items, callers that go. */
import { once } from "node:events";
import { request, type ClientRequest, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { setImmediate as turn } from "node:timers/promises";
import t, { type Test } from "tap";
import { BATCH_LIMITS } from "../../http-fn/batch.js";
import type { BatchResult, Problem } from "../../shared/api.js";
import { BridgeError } from "../../shared/errors.js";
import { until } from "../../scripts/lab/until.js";
import { contract, setup, type FakeSetup } from "../fixtures/fake-bridge.js";

const NDJSON = "application/x-ndjson";
const checkResult = contract.schema("BatchResult");

function parse(lines: string): BatchResult[] {
  return lines
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const result = JSON.parse(line) as BatchResult;
      checkResult(result, "");
      return result;
    });
}

async function post(
  { app }: FakeSetup,
  payload: string | Buffer,
  type = NDJSON,
  headers: Record<string, string> = {},
) {
  return app.inject({
    method: "POST",
    url: "/v1/batch",
    headers: { host: "localhost", "content-type": type, ...headers },
    payload,
  });
}

const line = (item: object): string => `${JSON.stringify(item)}\n`;

t.test("one result per item, in order, each with its own status", async (t) => {
  const fake = setup(t);
  const to = { connection: fake.bridge.connect() };
  const ended = { connection: fake.bridge.connect() };
  await fake.bridge.close(ended.connection, { code: 4510, reason: "" });
  const response = await post(
    fake,
    [
      line({ to, data: "text" }),
      "{not json\n",
      "\n",
      line({ to, json: { a: [1, null] }, ttl: 7, topic: "score" }),
      line({ to, dataBase64: "AP+A" }),
      line({ to: ended, data: "x" }),
      line({ to: { connection: "c_0000000000000000000000" }, data: "x" }),
      line({ to, data: "x", ttl: -1 }),
      line({ to, data: "x", what: 1 }),
      line({ to, data: "x", json: 1 }),
      line({ to, data: "{", contentType: "application/json" }),
      line({ to, dataBase64: "A?" }),
      line({ to, dataBase64: "/w==", contentType: "text/plain" }),
      line({ to, data: "x", delay: 1, at: "2030-01-01T00:00:00Z" }),
      line({ to, data: "x".repeat(262_145) }),
      line({ to, data: "\ud800" }),
      line({ to, data: "x", contentType: "text/plain; charset=latin1" }),
      line({ to, data: "x", expect: "reply" }),
      // The last line needs no newline.
      JSON.stringify({ to }),
    ].join(""),
  );
  t.equal(response.statusCode, 200);
  t.match(response.headers["content-type"], /^application\/x-ndjson/);
  const results = parse(response.body);
  t.same(
    results.map(({ index }) => index),
    results.map((_, index) => index),
  );
  t.same(
    results.map(({ status, problem }) => problem?.code ?? status),
    [
      202,
      "invalid_json",
      202,
      202,
      "connection_ended",
      "connection_not_found",
      "invalid_body",
      "invalid_body",
      "invalid_body",
      "invalid_json",
      "invalid_body",
      "invalid_utf8",
      "invalid_parameter",
      "payload_too_large",
      "invalid_utf8",
      "unsupported_media_type",
      "invalid_parameter",
      202,
    ],
  );
  t.match(results[16]?.problem?.errors, [
    { pointer: "/body/16/expect", message: /waits for nobody/ },
  ]);
  t.match(results[6]?.problem?.errors, [{ pointer: "/body/6/ttl" }]);
  t.match(results[7]?.problem?.errors, [{ pointer: "/body/7/what" }]);
  t.match(results[12]?.problem?.errors, [{ pointer: "/body/12/at" }]);
  t.match(results[13]?.problem, { limit: 262_144, actual: 262_145 });
  t.match(
    fake.bridge.pushes.map(({ body, contentType, binary }) => [
      String(body),
      contentType,
      binary,
    ]),
    [
      ["text", "text/plain", false],
      ['{"a":[1,null]}', "application/json", false],
      [String(Buffer.from("AP+A", "base64")), "application/octet-stream", true],
      ["", "text/plain", false],
    ],
  );
  t.match(fake.bridge.pushes[1], { ttlSeconds: 7, topic: "score" });
});

t.test(
  "JSON nested too deeply is 400, and its neighbours are taken",
  async (t) => {
    const fake = setup(t);
    const deep = (depth: number) =>
      `{"to":{"user":"u"},"json":${"[".repeat(depth)}${"]".repeat(depth)}}\n`;
    const response = await post(
      fake,
      deep(2_047) + deep(2_048) + deep(200_000) + deep(1),
    );
    t.match(parse(response.body), [
      { status: 202 },
      { status: 400, problem: { code: "invalid_json", limit: 2_048 } },
      { status: 400, problem: { code: "invalid_json", limit: 2_048 } },
      { status: 202 },
    ]);
  },
);

t.test("nobody waits while a megabyte of brackets is refused", async (t) => {
  const fake = setup(t);
  const to = { connection: fake.bridge.connect() };
  /** Times that the event loop would have been blocked: texts with many brackets that were read. */
  let blocks = 0;
  const { parse } = JSON;
  JSON.parse = ((text: string) => {
    if (text.includes("[".repeat(4_096))) blocks += 1;
    return parse(text) as unknown;
  }) as typeof JSON.parse;
  t.teardown(() => {
    JSON.parse = parse;
  });
  const brackets = "[".repeat(262_144);
  const types = ["application/json", NDJSON];
  for (const type of types) {
    const { statusCode, body } = await post(fake, brackets.repeat(2), type);
    t.match(body, "invalid_json", `${type} ${statusCode}`);
  }
  for (const url of [
    `/v1/connections/${to.connection}/messages`,
    "/v1/connections",
  ])
    t.equal(
      (
        await fake.app.inject({
          method: "POST",
          url,
          headers: { host: "localhost", "content-type": "application/json" },
          payload: brackets,
        })
      ).statusCode,
      400,
    );
  t.equal(blocks, 0);
});

t.test("a JSON array, and the forms of the answer", async (t) => {
  const fake = setup(t);
  const to = { connection: fake.bridge.connect() };
  const items = JSON.stringify([{ to, data: "1" }, 2, { to, data: "3" }]);
  const array = await post(fake, items, "application/json; charset=utf-8");
  t.match(array.json<BatchResult[]>(), [
    { index: 0, status: 202 },
    { index: 1, status: 400, problem: { code: "invalid_body" } },
    { index: 2, status: 202 },
  ]);
  contract.schema("BatchResults")(array.json(), "");
  t.equal((await post(fake, "[]", "application/json")).body, "[]\n");
  t.equal((await post(fake, "")).body, "");
  const lines = await post(fake, items, "application/json", { accept: NDJSON });
  t.equal(parse(lines.body).length, 3);
  const json = await post(fake, line({ to }), NDJSON, {
    accept: "application/json",
  });
  t.equal(json.json<BatchResult[]>().length, 1);
  const text = await post(fake, items, "application/json", {
    accept: "text/plain",
  });
  t.match(
    text.body,
    /^ {4}0 {2}202 {2}queued {9}m_\w+\n {4}1 {2}400 {2}invalid_body .*\n.*\n$/,
  );
});

t.test("what is no batch is refused as a whole", async (t) => {
  const fake = setup(t);
  const cases: [body: string, type: string, status: number, code: string][] = [
    ["{}", "application/json", 400, "invalid_body"],
    ["[", "application/json", 400, "invalid_json"],
    ["", "application/json", 400, "invalid_json"],
    ["[]", "text/plain", 415, "unsupported_media_type"],
    [
      JSON.stringify(Array(BATCH_LIMITS.items + 1).fill(0)),
      "application/json",
      413,
      "payload_too_large",
    ],
    [
      " ".repeat(BATCH_LIMITS.bytes + 1),
      "application/json",
      413,
      "payload_too_large",
    ],
  ];
  for (const [body, type, status, code] of cases) {
    const response = await post(fake, body, type);
    t.equal(response.statusCode, status);
    t.equal(response.json<Problem>().code, code);
  }
  t.same(fake.bridge.pushes, []);
});

t.test("an item with a key is the same request as its push", async (t) => {
  const fake = setup(t);
  const connection = fake.bridge.connect();
  const single = await fake.app.inject({
    method: "POST",
    url: `/v1/connections/${connection}/messages?ttl=9`,
    headers: {
      host: "localhost",
      "content-type": "text/plain",
      "idempotency-key": "k",
    },
    payload: "once",
  });
  const item = { to: { connection }, ttl: 9, idempotencyKey: "k" };
  const [again, other] = parse(
    (
      await post(
        fake,
        line({ ...item, data: "once" }) + line({ ...item, data: "twice" }),
      )
    ).body,
  );
  t.match(again, { status: 202, replayed: true, accepted: single.json() });
  t.match(other, { status: 422, problem: { code: "idempotency_mismatch" } });
  t.equal(fake.bridge.pushes.length, 1);
});

t.test(
  "items for one target keep their order, whatever each waits for",
  async (t) => {
    const fake = setup(t);
    const slow = { connection: fake.bridge.connect() };
    const other = { connection: fake.bridge.connect() };
    let release: () => void = () => undefined;
    fake.bridge.beforeIssue = ({ durability }) =>
      durability
        ? new Promise((resolve) => {
            release = resolve;
          })
        : Promise.resolve();
    const answer = post(
      fake,
      line({ to: slow, data: "1", durability: "replica" }) +
        line({ to: slow, data: "2" }) +
        line({ to: other, data: "3" }) +
        line({ to: slow, data: "4" }),
    );
    await until(() => fake.bridge.pushes.length === 1);
    await turn();
    t.equal(String(fake.bridge.pushes[0]?.body), "3", "the other one went on");
    release();
    t.equal(parse((await answer).body).length, 4);
    t.same(
      fake.bridge.pushes.map(({ body }) => String(body)),
      ["3", "1", "2", "4"],
    );
  },
);

t.test("items to groups and to everybody", async (t) => {
  const fake = setup(t);
  const someone = fake.bridge.connect({ groups: ["room"] });
  const group = { group: "room" };
  const items =
    line({ to: group, data: "1", ttl: 7, durability: "local" }) +
    line({ to: { broadcast: true }, json: [2] }) +
    line({ to: group, data: "3", delay: 9 }) +
    line({ to: group, topic: "t" }) +
    line({ to: group, durability: "replica" }) +
    line({ to: { group: "$all" } }) +
    line({ to: group, filter: { user: "ann" }, except: [someone] }) +
    line({ to: { broadcast: true }, filter: { labels: { a: ["b"] } } }) +
    line({ to: group, filter: {} }) +
    line({ to: group, except: ["c_1"] }) +
    line({ to: { connection: someone }, filter: { user: "ann" } }) +
    line({ to: { user: "ann" }, except: [someone] });
  t.match(parse((await post(fake, items)).body), [
    { status: 202, accepted: { to: group, recipients: 1, status: "queued" } },
    { status: 202, accepted: { to: { broadcast: true }, recipients: 1 } },
    { status: 202, accepted: { to: group, status: "scheduled" } },
    { status: 400, problem: { errors: [{ pointer: "/body/3/topic" }] } },
    { status: 202, accepted: { durability: "replica" } },
    { status: 400 },
    { status: 202, accepted: { recipients: null } },
    { status: 202, accepted: { recipients: null } },
    { status: 400, problem: { errors: [{ pointer: "/body/8/filter" }] } },
    { status: 400, problem: { errors: [{ pointer: "/body/9/except/0" }] } },
    { status: 400, problem: { errors: [{ pointer: "/body/10/filter" }] } },
    { status: 400, problem: { errors: [{ pointer: "/body/11/except" }] } },
  ]);
  t.match(fake.bridge.published, [
    { group: "room", body: Buffer.from("1"), ttlSeconds: 7 },
    { group: "$all", contentType: "application/json" },
    { group: "room", dueAtMs: Number },
    { group: "room", durability: "replica" },
    { group: "room", selection: { user: ["ann"], except: [someone] } },
    { group: "$all", selection: { labels: { a: ["b"] } } },
  ]);
  const selection = {
    filter: { user: "ann", groups: ["a", "b"] },
    except: [someone, fake.bridge.connect()],
  };
  const item = line({
    to: group,
    data: "x",
    ttl: 9,
    idempotencyKey: "k",
    ...selection,
  });
  await post(fake, item);
  await fake.app.inject({
    method: "POST",
    url: `/v1/groups/room/messages?${new URLSearchParams({
      ttl: "9",
      filter: JSON.stringify(selection.filter),
      except: selection.except.join(","),
    }).toString()}`,
    headers: {
      host: "localhost",
      "content-type": "text/plain",
      "idempotency-key": "k",
    },
    payload: "x",
  });
  const [batched, single] = fake.bridge.published.slice(-2);
  t.ok(single?.idempotency);
  t.same(batched?.idempotency, single?.idempotency, "the same request");
  t.same(batched?.selection, single?.selection);
  const explained = await fake.app.inject({
    method: "POST",
    url: "/v1/batch?explain=1",
    headers: { host: "localhost", "content-type": NDJSON },
    payload: line({ to: group }),
  });
  t.match(parse(explained.body), [{ status: 200, explanation: { to: group } }]);
});

t.test("Redis away is told for each item", async (t) => {
  const fake = setup(t);
  const to = { connection: fake.bridge.connect() };
  fake.bridge.failure = new BridgeError("redis_unavailable");
  t.match(parse((await post(fake, line({ to }) + line({ to }))).body), [
    { status: 503, problem: { code: "redis_unavailable" } },
    { status: 503, problem: { code: "redis_unavailable" } },
  ]);
});

t.test("past a limit the answer says what was taken", async (t) => {
  const fake = setup(t);
  const to = { connection: fake.bridge.connect() };
  const { items, bytes, itemBytes } = BATCH_LIMITS;
  const many = parse((await post(fake, line({ to }).repeat(items + 3))).body);
  t.equal(many.length, items + 1);
  t.equal(fake.bridge.pushes.length, items);
  t.match(many.at(-1), {
    index: items,
    status: 413,
    rest: true,
    problem: { code: "payload_too_large", limit: items },
  });

  const fits = line({ to, data: "x".repeat(250_000) });
  const taken = Math.floor(bytes / fits.length);
  const large = parse((await post(fake, fits.repeat(taken + 2))).body);
  const last = large.at(-1);
  t.match(last, { status: 413, rest: true, problem: { limit: bytes } });
  t.equal(fake.bridge.pushes.length - items, last?.index, "all before it were");

  const before = fake.bridge.pushes.length;
  const long = parse(
    (
      await post(
        fake,
        line({ to, data: "x".repeat(itemBytes) }) + line({ to, data: "next" }),
      )
    ).body,
  );
  t.match(long, [
    { status: 413, problem: { code: "payload_too_large", limit: itemBytes } },
    { status: 202 },
  ]);
  t.equal(fake.bridge.pushes.length, before + 1);
});

interface Upload {
  sending: ClientRequest;
  /** Everything that was answered so far. */
  text(): string;
  ended: Promise<unknown>;
}

/** A batch that is sent piece by piece. */
async function upload(t: Test, { app }: FakeSetup): Promise<Upload> {
  await app.listen({ host: "127.0.0.1", port: 0 });
  const { port } = app.server.address() as AddressInfo;
  const sending = request({
    port,
    host: "127.0.0.1",
    method: "POST",
    path: "/v1/batch",
    headers: { "content-type": NDJSON },
  });
  t.teardown(() => sending.destroy());
  sending.on("error", () => undefined);
  sending.flushHeaders();
  const [response] = (await once(sending, "response")) as [IncomingMessage];
  let text = "";
  response.setEncoding("utf8");
  response.on("data", (chunk: string) => (text += chunk));
  response.on("error", () => undefined);
  const ended = new Promise((resolve) => response.once("end", resolve));
  return { sending, text: () => text, ended };
}

t.test("results flow while the body is still arriving", async (t) => {
  const fake = setup(t);
  const to = { connection: fake.bridge.connect() };
  const { sending, text, ended } = await upload(t, fake);
  for (let count = 1; count <= 3; count++) {
    const whole = line({ to, data: `n ${count} ü` });
    const bytes = Buffer.from(whole);
    // In two pieces, the second of which begins inside a character.
    sending.write(bytes.subarray(0, bytes.length - 4));
    await turn();
    sending.write(bytes.subarray(bytes.length - 4));
    await until(() => text().endsWith("\n") && parse(text()).length === count);
  }
  sending.end();
  await ended;
  t.equal(String(fake.bridge.pushes.at(-1)?.body), "n 3 ü");
});

t.test(
  "of a caller that goes away whole lines count and half ones do not",
  async (t) => {
    const fake = setup(t);
    const to = { connection: fake.bridge.connect() };
    const { sending, text } = await upload(t, fake);
    sending.write(line({ to, data: "1" }));
    await until(() => parse(text()).length === 1);
    const half = JSON.stringify({ to, data: "3" });
    sending.write(line({ to, data: "2" }) + half);
    await until(() => fake.bridge.pushes.length === 2);
    sending.destroy();
    await until(async () => {
      const count = await new Promise<number>((resolve) =>
        fake.app.server.getConnections((_, open) => resolve(open)),
      );
      return count === 0;
    });
    t.equal(
      fake.bridge.pushes.length,
      2,
      "a complete object without its newline may be half of one",
    );
  },
);

t.test(
  "a caller that says nothing for too long is told where it stands",
  async (t) => {
    const fake = setup(t, { timeouts: { batchIdleMs: 200 } });
    const to = { connection: fake.bridge.connect() };
    const { sending, text, ended } = await upload(t, fake);
    sending.write(line({ to, data: "1" }) + '{"to"');
    await ended;
    t.match(parse(text()), [
      { index: 0, status: 202 },
      {
        index: 1,
        status: 408,
        rest: true,
        problem: { code: "request_timeout" },
      },
    ]);
  },
);
