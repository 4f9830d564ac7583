/** One request to the webhook: what it says, where it never goes, and what is made of any answer. */
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { Webhook } from "standardwebhooks";
import t from "tap";
import { certificate, key } from "../../fixtures/self-signed.js";
import type { Scope } from "../../../scripts/lab/scope.js";
import { startReceiver } from "../../../scripts/lab/webhook-receiver.js";
import {
  headerValue,
  WebhookSender,
  type Post,
  type SenderOptions,
} from "../../../ws-fn/webhooks/sender.js";

const secrets = [Buffer.alloc(32, 1), Buffer.alloc(24, 2)];
const whsec = (secret: Buffer) => `whsec_${secret.toString("base64")}`;

function sender(
  t: Pick<Scope, "teardown">,
  url: string,
  options: Partial<SenderOptions> = {},
): WebhookSender {
  const made = new WebhookSender({
    url: new URL(url),
    secrets,
    origin: "bridge.example",
    allow: [],
    local: true,
    timeoutMs: 10_000,
    ...options,
  });
  t.teardown(() => made.close());
  return made;
}

const event: Post = {
  id: "c_1.connected",
  type: "connected",
  subject: "c_1",
  timeMs: Date.UTC(2026, 10, 26),
  contentType: "application/json",
  body: '{"userId":"Zoë"}',
  extensions: { userid: "Zoë 100%", connectionid: "c_1", ref: null },
};

t.test("a CloudEvent in binary mode, signed", async (t) => {
  const receiver = await startReceiver(t);
  const sent = await sender(t, `${receiver.url}?a=b`).post(event);
  t.match(sent, { kind: "answer", status: 204, truncated: false });
  const [post] = receiver.posts;
  if (!post) throw new Error("nothing was heard");
  t.equal(post.path, "/hooks?a=b");
  t.match(post.headers, {
    "content-type": "application/json",
    "ce-specversion": "1.0",
    "ce-id": "c_1.connected",
    "ce-type": "connected",
    "ce-source": "urn:push-bridge",
    "ce-subject": "c_1",
    "ce-time": "2026-11-26T00:00:00.000Z",
    "ce-userid": "Zo%C3%AB%20100%25",
    "ce-connectionid": "c_1",
    "webhook-id": "c_1_connected",
    "webhook-request-origin": "bridge.example",
  });
  t.notOk("ce-ref" in post.headers);
  t.equal(post.body.toString(), event.body);

  await t.test("the reference library accepts either secret", async (t) => {
    for (const secret of secrets)
      t.same(new Webhook(whsec(secret)).verify(post.body, post.headers), {
        userId: "Zoë",
      });
    const other = new Webhook(whsec(Buffer.alloc(32, 3)));
    t.throws(() => other.verify(post.body, post.headers), /signature/);
    const [first] = secrets.map((secret) => new Webhook(whsec(secret)));
    t.throws(() => first?.verify(`${post.body} `, post.headers), /signature/);
    const moved = { ...post.headers, "webhook-id": "c_1_disconnected" };
    t.throws(() => first?.verify(post.body, moved), /signature/);
  });

  await t.test(
    "during a rotation the receiver may know one only",
    async (t) => {
      const [old, next] = secrets as [Buffer, Buffer];
      await sender(t, receiver.url, { secrets: [next] }).post(event);
      const last = receiver.posts.at(-1);
      if (!last) throw new Error("nothing was heard");
      t.ok(new Webhook(whsec(next)).verify(last.body, last.headers));
      t.throws(() => new Webhook(whsec(old)).verify(last.body, last.headers));
    },
  );

  await t.test("a body of bytes stays as it is", async (t) => {
    const body = Buffer.from([0, 255, 46, 10]);
    await sender(t, receiver.url).post({
      ...event,
      body,
      contentType: "application/octet-stream",
    });
    t.same(receiver.posts.at(-1)?.body, body);
  });
});

t.test("attribute values are encoded as the binding says", async (t) => {
  t.equal(
    headerValue('a b"c%d€\u{1F600}\n~!'),
    "a%20b%22c%25d%E2%82%AC%F0%9F%98%80%0A~!",
  );
  t.equal(headerValue("\u{D800}"), "%EF%BF%BD", "half a character");
});

t.test("permission is asked for by OPTIONS", async (t) => {
  const receiver = await startReceiver(t);
  const sent = await sender(t, receiver.url).ask();
  t.match(sent, { status: 200, headers: { "webhook-allowed-origin": "*" } });
  t.match(receiver.asked, [
    { path: "/hooks", headers: { "webhook-request-origin": "bridge.example" } },
  ]);
});

t.test("what the other side does is an outcome", async (t) => {
  const receiver = await startReceiver(t);
  const target = await startReceiver(t);
  const to = sender(t, receiver.url);

  await t.test("statuses and bodies", async (t) => {
    receiver.onPost = () => ({
      status: 422,
      headers: { "content-type": "text/plain", "retry-after": "7" },
      body: "no",
    });
    t.match(await to.post(event), {
      kind: "answer",
      status: 422,
      contentType: "text/plain",
      headers: { "retry-after": "7" },
      body: Buffer.from("no"),
    });
  });

  await t.test("a redirect is not followed", async (t) => {
    for (const status of [301, 302, 303, 307, 308, 304]) {
      receiver.onPost = () => ({ status, headers: { location: target.url } });
      t.match(await to.post(event), { failure: "redirect" }, String(status));
    }
    t.equal(target.sockets, 0, "the target never hears a byte");
  });

  await t.test("an endless answer", async (t) => {
    receiver.onPost = () => ({ status: 200, body: Buffer.alloc(300_000, 1) });
    const sent = await to.post(event);
    t.match(sent, { kind: "answer", status: 200, truncated: true });
    t.equal(sent.kind === "answer" && sent.body.length, 262_144);
    receiver.onPost = () => ({ status: 200, body: Buffer.alloc(262_144, 1) });
    t.match(await to.post(event), { truncated: false });
  });

  await t.test("no answer, half an answer", async (t) => {
    receiver.onPost = () => "hang";
    const short = { ...event, timeoutMs: 50 };
    t.match(await to.post(short), { failure: "timeout" });
    receiver.onPost = () => "cut";
    t.match(await to.post(event), { failure: "network" });
    receiver.onPost = () => ({
      status: 200,
      headers: { "content-length": "100" },
      body: "half",
    });
    t.match(await to.post(short), { kind: "failure" });
    const controller = new AbortController();
    receiver.onPost = () => {
      controller.abort();
      return "hang";
    };
    const { signal } = controller;
    t.match(await to.post({ ...event, signal }), { failure: "aborted" });
    t.match(await to.post({ ...event, signal }), { failure: "aborted" });
  });

  await t.test("what is no HTTP", async (t) => {
    const server = createServer((socket) => {
      socket.on("error", () => undefined);
      socket.end("SSH-2.0-OpenSSH\r\n");
    });
    await new Promise<void>((resolve) =>
      server.listen(0, "127.0.0.1", resolve),
    );
    t.teardown(() => void server.close());
    const { port } = server.address() as AddressInfo;
    const plain = await sender(t, `http://127.0.0.1:${port}/`).post(event);
    t.match(plain, { failure: "network" });
    const secure = await sender(t, `https://127.0.0.1:${port}/`).post(event);
    t.match(secure, { failure: "tls" });
  });

  await t.test(
    "a kept socket that the receiver closed meanwhile",
    async (t) => {
      receiver.onPost = () => ({});
      await to.post(event);
      const before = receiver.posts.length;
      await receiver.down();
      await receiver.up();
      t.match(await to.post(event), { status: 204 });
      t.equal(receiver.posts.length, before + 1);
    },
  );

  await t.test("nobody listens", async (t) => {
    await receiver.down();
    t.match(await to.post(event), {
      failure: "network",
      reason: /ECONNREFUSED/,
    });
  });
});

t.test("who it is has to be proven by a certificate", async (t) => {
  const tls = { cert: certificate, key };
  const receiver = await startReceiver(t, { tls });
  const to = (name: string, options: Partial<SenderOptions> = {}) =>
    sender(t, `https://${name}:${receiver.port}/`, {
      resolve: async () => [{ address: "127.0.0.1", family: 4 }],
      ...options,
    });
  const known = { ca: certificate };
  t.match(await to("hooks.example", known).post(event), { status: 204 });
  t.match(await to("hooks.example").post(event), { failure: "tls" });
  t.match(await to("other.example", known).post(event), {
    failure: "tls",
    reason: /hooks\.example/,
  });
  t.equal(receiver.posts.length, 1);
  t.equal(receiver.posts[0]?.headers["host"], `hooks.example:${receiver.port}`);
});

t.test("it never connects to what is not permitted", async (t) => {
  const receiver = await startReceiver(t);
  const { port } = receiver;
  const refused = async (
    host: string,
    {
      scheme = "http",
      ...options
    }: Partial<SenderOptions> & { scheme?: string } = {},
  ) => {
    const to = sender(t, `${scheme}://${host}:${port}/hooks`, {
      local: false,
      ...options,
    });
    t.match(await to.post(event), { failure: "address" }, host);
    t.match(await to.ask(), { failure: "address" }, host);
  };
  for (const host of [
    "127.0.0.1",
    "2130706433",
    "0x7f000001",
    "127.1",
    "0.0.0.0",
    "[::1]",
    "[::ffff:127.0.0.1]",
    // Resolved by the system.
    "localhost",
  ])
    await refused(host);
  await refused("localhost", { scheme: "https" });
  await refused("localhost", { allow: ["10.0.0.0/8"] });
  await refused("rebound.example", {
    resolve: async () => [{ address: "127.0.0.1", family: 4 }],
  });
  await refused("mixed.example", {
    resolve: async () => [
      { address: "203.0.114.1", family: 4 },
      { address: "127.0.0.1", family: 4 },
    ],
  });
  t.equal(receiver.sockets, 0);

  await t.test(
    "the name is resolved once, for look and connection",
    async (t) => {
      const answers = ["127.0.0.1", "10.0.0.1"];
      let asked = 0;
      const to = sender(t, `http://rebound.example:${port}/hooks`, {
        resolve: async () => [{ address: answers[asked++] ?? "", family: 4 }],
      });
      t.match(await to.post(event), { status: 204 });
      t.equal(asked, 1);
      t.equal(
        receiver.posts.at(-1)?.headers["host"],
        `rebound.example:${port}`,
      );
    },
  );

  t.match(
    await sender(t, "http://no-such-name.invalid/").post(event),
    { failure: "name" },
    "a name without address",
  );
});
