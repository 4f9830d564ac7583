/** Quotas of API keys at the door, on a bridge in memory: 429 with the name of the quota, headers, and the others go on. */
import { createHash } from "node:crypto";
import t, { type Test } from "tap";
import { KeyQuotas } from "../../http-fn/key-quotas.js";
import type { Accepted, BatchResult, Problem } from "../../shared/api.js";
import { parseConfig } from "../../shared/config.js";
import type { BridgeError } from "../../shared/errors.js";
import { setup } from "../fixtures/fake-bridge.js";

const sha256 = (text: string) =>
  createHash("sha256").update(text).digest("hex");

/** Two keys: "small" with quotas of its own, and "other" with the usual ones. `post` asks as one of them. */
function start(t: Test, quotas: string) {
  const clock = { ms: 1_000_000_000_000 };
  const { apiKeys, keyQuotas } = parseConfig({
    API_KEYS: `small:admin:${sha256("small")}${quotas && `:${quotas}`},other:admin:${sha256("other")}`,
  });
  const fake = setup(t, {
    apiKeys,
    quotas: new KeyQuotas({ apiKeys, keyQuotas, now: () => clock.ms }),
  });
  const ask = async (
    path: string,
    payload: string | Buffer = "",
    headers: Record<string, string> = {},
    key = "small",
  ) => {
    const response = await fake.app.inject({
      method: "POST",
      url: `/v1/${path}`,
      headers: { authorization: `Bearer ${key}`, ...headers },
      payload,
    });
    return {
      status: response.statusCode,
      headers: response.headers,
      text: response.body,
      quota:
        response.statusCode === 429
          ? response.json<Problem>().quota
          : undefined,
    };
  };
  /** The same request until it is refused, as both keys in turn; how often it was let in, and by which quota it was not. */
  const until429 = async (
    path: string,
    payload: string | Buffer = "",
    headers: Record<string, string> = {},
  ) => {
    for (let count = 0; count < 50; count++) {
      const { status, quota } = await ask(path, payload, headers);
      const other = await ask(path, payload, headers, "other");
      if (other.status >= 300) throw new Error(`other: ${other.text}`);
      if (status === 429) return `${count} ${quota}`;
    }
    return "no end";
  };
  return { ...fake, clock, ask, until429 };
}

const hour = { ttl: "3600" };

t.test("each quota of a key, by its name; another key goes on", async (t) => {
  const rows: [
    quotas: string,
    path: string,
    payload: string,
    headers: Record<string, string>,
    found: string,
  ][] = [
    ["", "groups/g/messages", "x", {}, "no end"],
    ["requests=5/10", "groups/g/messages", "x", {}, "5 requests"],
    ["messages=5/10", "groups/g/messages", "x", {}, "5 messages"],
    ["bytes=100/10", "groups/g/messages", "x".repeat(30), {}, "3 bytes"],
    ["stored=5120", "groups/g/messages", "x".repeat(512), hour, "5 stored"],
    ["stored=24576", "connections", "", {}, "2 stored"],
    ["connects=4/10", "connections", "", {}, "4 connects"],
    ["connections=4", "connections", "", {}, "4 connections"],
    ["scheduled=3", "groups/g/messages", "x", { delay: "60" }, "3 scheduled"],
    [
      "idempotency=3",
      "groups/g/messages",
      "x",
      { "idempotency-key": "k" },
      "3 idempotency",
    ],
    ["idempotency=3", "groups/g/messages", "x", {}, "no end"],
  ];
  for (const [quotas, path, payload, headers, found] of rows) {
    const part = start(t, quotas);
    t.equal(
      await part.until429(path, payload, headers),
      found,
      `${quotas} ${path}`,
    );
  }
});

t.test("a 429 says which, and when to come back", async (t) => {
  const { ask, clock, bridge } = start(t, "messages=10/100");
  for (let i = 0; i < 10; i++) await ask("groups/g/messages", "x");
  const { status, headers, text } = await ask("groups/g/messages", "x");
  t.equal(status, 429);
  t.match(JSON.parse(text), {
    type: "/docs#quota_exceeded",
    code: "quota_exceeded",
    quota: "messages",
    limit: 10,
    retryAfter: 10,
    detail: 'the key "small" has used up its messages: 10 in 100 s',
  });
  t.match(headers, {
    "retry-after": "10",
    "ratelimit-policy": '"messages";q=10;w=100',
    ratelimit: '"messages";r=0;t=100',
  });
  t.equal(bridge.published.length, 10, "nothing was stored");
  clock.ms += 10_000;
  t.equal((await ask("groups/g/messages", "x")).status, 202, "as it said");
  t.equal((await ask("groups/g/messages", "x")).status, 429);
});

t.test("every answer tells what is left", async (t) => {
  const { ask } = start(t, "requests=100/10+messages=10/10+bytes=1000/10");
  const { headers } = await ask("groups/g/messages", "x".repeat(500));
  t.match(headers, {
    "ratelimit-policy":
      '"requests";q=100;w=10, "messages";q=10;w=10, "bytes";q=1000;w=10;qu="content-bytes"',
    ratelimit: '"bytes";r=500;t=5',
  });
  const off = start(t, "requests=off+messages=off+bytes=off");
  const without = await off.ask("groups/g/messages", "x");
  t.notOk(
    "ratelimit" in without.headers || "ratelimit-policy" in without.headers,
  );
  const batch = await ask("batch", '{"to":{"group":"g"},"data":"x"}', {
    "content-type": "application/x-ndjson",
  });
  t.match(batch.headers, { ratelimit: /^"bytes";r=500;t=5$/ });
});

t.test("in a batch each item by itself", async (t) => {
  const { ask } = start(t, "messages=2/10");
  const items = JSON.stringify(
    Array.from({ length: 4 }, () => ({ to: { group: "g" }, data: "x" })),
  );
  const { text } = await ask("batch", items, {
    "content-type": "application/json",
  });
  t.match(JSON.parse(text) as BatchResult[], [
    { status: 202 },
    { status: 202 },
    { status: 429, problem: { quota: "messages", retryAfter: 5 } },
    { status: 429, problem: { quota: "messages" } },
  ]);
});

t.test("what is only asked, and health, cost nothing of it", async (t) => {
  const { ask, app } = start(t, "messages=1/10+requests=10/10");
  for (let i = 0; i < 3; i++)
    t.equal((await ask("groups/g/messages?explain=1", "x")).status, 200);
  for (let i = 0; i < 20; i++)
    t.equal((await app.inject({ url: "/healthz" })).statusCode, 200);
  t.equal((await ask("groups/g/messages", "x")).status, 202);
});

/** A message of 512 bytes, so that with what it takes besides it counts 1,024. */
const message = (ttlSeconds = 3_600) => ({
  connectionId: "c_000000000000000000000",
  body: Buffer.alloc(512),
  contentType: "text/plain",
  binary: false,
  ttlSeconds,
});

/** "alice" and "bob", who share what `limit` and `used` say of Redis's memory; bytes. */
function sharing(names = ["alice", "bob"], stored = "") {
  const { apiKeys } = parseConfig({
    API_KEYS: names
      .map((name) => `${name}:push:${sha256(name)}${stored}`)
      .join(","),
  });
  const clock = { ms: 1_000_000_000_000 };
  const memory = { fullness: { markBytes: 20_480, share: 0 } };
  const quotas = new KeyQuotas({ apiKeys, memory, now: () => clock.ms });
  /** How many messages are taken, up to 50, and by which quota the next was not. */
  const taken = (name: string, online = 0): string => {
    for (let count = 0; count < 50; count++)
      try {
        const push = message();
        const counted = quotas.admit(name, push);
        quotas.accepted(name, push, counted, {
          online,
          status: "queued",
        } as Accepted);
      } catch (error) {
        return `${count} ${(error as BridgeError).data.quota?.name}`;
      }
    return "50";
  };
  return { clock, memory, quotas, taken };
}

t.test("memory that runs short is shared out among the keys", (t) => {
  const { memory, taken, clock } = sharing();
  t.equal(taken("alice"), "50", "while there is room nobody is refused");
  memory.fullness.share = 0.5;
  t.equal(taken("alice"), "0 stored", "what was stored before counts, too");
  t.equal(taken("bob"), "10 stored", "half of the mark for each of two");
  clock.ms += 720_000;
  t.equal(taken("alice"), "1 stored", "a tenth of two hours later");
  memory.fullness.share = 0.4;
  t.equal(taken("alice"), "50");
  t.end();
});

t.test("what a client takes at once does not count for hours", (t) => {
  const { memory, taken, clock } = sharing();
  memory.fullness.share = 0.5;
  t.equal(taken("alice", 1), "10 stored");
  t.equal(taken("bob", 0), "10 stored");
  clock.ms += 60_000;
  t.equal(taken("alice", 1), "10 stored", "a minute later");
  t.equal(taken("bob", 1), "0 stored", "of clients that are not there it does");
  t.end();
});

t.test("what was not counted is not given back", (t) => {
  const { memory, taken } = sharing();
  t.equal(taken("alice", 0), "50");
  // Were it, these would take back what the others count.
  t.equal(taken("alice", 1), "50");
  memory.fullness.share = 0.5;
  t.equal(taken("alice", 1), "0 stored");
  t.end();
});

t.test("one key alone shares with nobody; a limit of its own is one", (t) => {
  const alone = sharing(["alice"]);
  alone.memory.fullness.share = 0.99;
  t.equal(alone.taken("alice"), "50");
  const own = sharing(["alice", "bob"], ":stored=5120");
  t.equal(own.taken("alice"), "5 stored");
  const off = sharing(["alice", "bob"], ":stored=off");
  off.memory.fullness.share = 0.99;
  t.equal(off.taken("alice"), "50");
  t.end();
});

t.test("by default nobody who only works meets a quota", (t) => {
  // On a clock that stands: what one bridge on a busy machine takes in five seconds or more.
  const { apiKeys } = parseConfig({});
  const quotas = new KeyQuotas({ apiKeys, now: () => 1_000_000_000_000 });
  const reply = { header: () => reply };
  const small = message();
  t.doesNotThrow(() => {
    for (let i = 0; i < 100_000; i++) {
      quotas.enter("", reply as never);
      quotas.admit("", { ...small, dueAtMs: Date.now() + 86_400_000 });
    }
    for (let i = 0; i < 20_000; i++) quotas.connect("", {});
  });
  t.end();
});
