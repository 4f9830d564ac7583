/** Receipts through app.inject: read, follow, recall. */
import t from "tap";
import type { Problem, Receipt } from "../../shared/api.js";
import { BridgeError } from "../../shared/errors.js";
import { messageId } from "../../shared/ids.js";
import { contract, setup, type FakeSetup } from "../fixtures/fake-bridge.js";
import { until } from "../../scripts/lab/until.js";

const headers = { host: "127.0.0.1" };

async function pushed({ bridge }: FakeSetup): Promise<string> {
  const { messageId } = await bridge.push({
    connectionId: bridge.connect(),
    body: Buffer.from("x"),
    contentType: "text/plain",
    binary: false,
    ttlSeconds: 60,
  });
  return messageId;
}

t.test("a receipt is read as JSON or as aligned text", async (t) => {
  const fake = setup(t);
  const id = await pushed(fake);
  fake.bridge.become(id, "undeliverable", "client_closed");
  const json = await fake.app.inject({ url: `/v1/messages/${id}`, headers });
  t.equal(json.statusCode, 200);
  t.equal(json.headers["cache-control"], "no-store");
  t.match(json.json(), {
    id,
    status: "undeliverable",
    reason: "client_closed",
    ack: null,
  });
  const text = await fake.app.inject({
    url: `/v1/messages/${id}`,
    headers: { ...headers, accept: "text/plain" },
  });
  t.match(text.body, /^status {9}undeliverable$/m);
  t.match(text.body, /^to\.connection {2}c_/m);
  t.match(
    text.body,
    /\ntimeline:\nstatus +at\nqueued +\d{4}-.*Z\nundeliverable +\d{4}-.*Z\n$/,
  );
});

t.test("HEAD of a receipt has its head and no body", async (t) => {
  const fake = setup(t);
  const id = await pushed(fake);
  const head = await fake.app.inject({
    method: "HEAD",
    url: `/v1/messages/${id}`,
    headers,
  });
  const get = await fake.app.inject({ url: `/v1/messages/${id}`, headers });
  t.equal(head.statusCode, 200);
  t.equal(head.body, "");
  t.equal(head.headers["content-length"], get.headers["content-length"]);
});

t.test(
  "an unknown message, and what is no message ID, is 404 everywhere",
  async (t) => {
    const fake = setup(t);
    const unknown = messageId(
      "c_aaaaaaaaaaaaaaaaaaaaaa",
      1_700_000_000_000_000,
    );
    for (const id of [
      unknown,
      "m_",
      "x",
      "m_C%7B%7D",
      "c_aaaaaaaaaaaaaaaaaaaaaa",
    ])
      for (const [method, path] of [
        ["GET", ""],
        ["GET", "/events"],
        ["DELETE", ""],
      ] as const) {
        const response = await fake.app.inject({
          method,
          url: `/v1/messages/${id}${path}`,
          headers,
        });
        t.equal(response.statusCode, 404, `${method} ${id}${path}`);
        t.equal(response.json<Problem>().code, "message_not_found");
      }
  },
);

t.test(
  "recall takes back what waits, and says why not otherwise",
  async (t) => {
    const fake = setup(t);
    const url = async (...then: Parameters<typeof fake.bridge.become>[1][]) => {
      const id = await pushed(fake);
      for (const status of then) fake.bridge.become(id, status);
      return `/v1/messages/${id}`;
    };
    const recalled = await fake.app.inject({
      method: "DELETE",
      url: await url(),
      headers,
    });
    t.equal(recalled.statusCode, 200);
    t.match(recalled.json(), {
      status: "recalled",
      timeline: [{}, { status: "recalled" }],
    });

    const sent = await fake.app.inject({
      method: "DELETE",
      url: await url("sent"),
      headers,
    });
    t.match(sent.json(), { status: 409, code: "already_sent" });
    const final = await fake.app.inject({
      method: "DELETE",
      url: await url("sent", "delivered"),
      headers,
    });
    t.match(final.json(), { status: 409, code: "already_final" });
    fake.bridge.recall = () =>
      Promise.reject(new BridgeError("may_have_been_delivered"));
    const unsure = await fake.app.inject({
      method: "DELETE",
      url: await url(),
      headers,
    });
    t.match(unsure.json(), { status: 409, code: "may_have_been_delivered" });
  },
);

t.test(
  "following sends the receipt, every change, and ends at the final one",
  async (t) => {
    const forms: [accept: string | undefined, type: string][] = [
      [undefined, "text/event-stream; charset=utf-8"],
      ["text/event-stream", "text/event-stream; charset=utf-8"],
      ["*/*", "text/event-stream; charset=utf-8"],
      ["application/x-ndjson", "application/x-ndjson; charset=utf-8"],
      ["text/plain", "text/plain; charset=utf-8"],
    ];
    for (const [accept, type] of forms)
      await t.test(`Accept: ${accept}`, async (t) => {
        const fake = setup(t);
        const id = await pushed(fake);
        const answer = fake.app.inject({
          url: `/v1/messages/${id}/events`,
          headers: { ...headers, ...(accept !== undefined && { accept }) },
        });
        await until(() => fake.bridge.following === 1);
        fake.bridge.become(id, "sent");
        await new Promise((resolve) => setImmediate(resolve));
        fake.bridge.become(id, "delivered");
        const response = await answer;
        t.equal(response.statusCode, 200);
        t.equal(response.headers["content-type"], type);
        t.equal(response.headers["cache-control"], "no-store");
        t.equal(fake.bridge.following, 0);
        const words = ["queued", "sent", "delivered"];
        if (type.startsWith("text/plain")) {
          const lines = response.body.split("\n");
          t.match(lines, [
            /Z {2}queued {9}m_/,
            / {2}sent /,
            / {2}delivered .* {2}client$/,
            "",
          ]);
          return;
        }
        const receipts =
          type === "text/event-stream; charset=utf-8"
            ? response.body
                .trimEnd()
                .split("\n\n")
                .map((event, index) => {
                  const [name, count, data = ""] = event.split("\n");
                  t.equal(name, `event: ${words[index]}`);
                  t.equal(count, `id: ${index + 1}`);
                  return data.replace("data: ", "");
                })
            : response.body.trimEnd().split("\n");
        t.equal(receipts.length, 3);
        for (const [index, line] of receipts.entries()) {
          t.equal((JSON.parse(line) as Receipt).status, words[index]);
          t.same(
            contract.checkAnswer({
              method: "GET",
              path: "/v1/messages/{messageId}",
              status: 200,
              contentType: "application/json",
              body: line,
            }),
            [],
          );
        }
      });
  },
);

t.test(
  "a final receipt that was seen answers 204, so that an EventSource stops",
  async (t) => {
    const fake = setup(t);
    const id = await pushed(fake);
    const url = `/v1/messages/${id}/events`;
    fake.bridge.become(id, "delivered");
    const seen = await fake.app.inject({
      url,
      headers: { ...headers, "last-event-id": "2" },
    });
    t.equal(seen.statusCode, 204);
    t.equal(fake.bridge.following, 0);
    const unseen = await fake.app.inject({
      url,
      headers: { ...headers, "last-event-id": "1" },
    });
    t.equal(unseen.statusCode, 200);
    t.match(unseen.body, /^event: delivered\nid: 2\n/);
  },
);

t.test("following cannot be asked for with HEAD", async (t) => {
  const fake = setup(t);
  const response = await fake.app.inject({
    method: "HEAD",
    url: `/v1/messages/${await pushed(fake)}/events`,
    headers,
  });
  t.equal(response.statusCode, 405);
  t.equal(response.headers.allow, "GET");
});
