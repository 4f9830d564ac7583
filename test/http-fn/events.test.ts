/** The stream of events and the chores before an answer, through app.inject and over a real socket. */
import { once } from "node:events";
import { get, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import t from "tap";
import type { BridgeEvent, EventGap } from "../../shared/api.js";
import { BridgeError } from "../../shared/errors.js";
import type { NewEvent } from "../../shared/events.js";
import { newConnectionId } from "../../shared/ids.js";
import { until } from "../../scripts/lab/until.js";
import { setup, type FakeSetup } from "../fixtures/fake-bridge.js";

const headers = { host: "127.0.0.1" };
const one = newConnectionId();
const other = newConnectionId();

const connected = (id: string, subject = one): NewEvent => ({
  id,
  type: "connected",
  subject,
  timeMs: 1_700_000_000_000,
  data: { userId: null, protocol: "raw" },
});
const undelivered = (id: string, subject = one): NewEvent => ({
  id,
  type: "message.undelivered",
  subject,
  timeMs: 1_700_000_000_000,
  data: { userId: null, count: 3, messages: [] },
});

/** What is there now, line by line. */
async function lines(fake: FakeSetup, query: string, more = {}) {
  const answer = await fake.app.inject({
    url: `/v1/events?wait=0${query}`,
    headers: { ...headers, accept: "application/x-ndjson", ...more },
  });
  t.equal(answer.statusCode, 200);
  return answer.body
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as BridgeEvent | EventGap);
}

t.test(
  "events are read from a position, filtered, in three forms",
  async (t) => {
    const fake = setup(t);
    t.same(await lines(fake, ""), []);
    await fake.bridge.events.append([
      connected("a"),
      undelivered("b"),
      connected("c", other),
    ]);
    t.same(await lines(fake, ""), [], "from now on");
    const all = await lines(fake, "&lastEventId=0");
    t.same(
      all.map(({ id }) => id),
      ["a", "b", "c"],
    );
    const [a] = all;
    const since = { "last-event-id": a?.position };
    const ids = async (query: string, more = {}) =>
      (await lines(fake, query, more)).map(({ id }) => id);
    t.same(await ids("", since), ["b", "c"]);
    t.same(await ids(`&lastEventId=${a?.position}`), ["b", "c"]);
    t.same(await ids(`&lastEventId=0&connection=${other}`), ["c"]);
    t.same(await ids("&lastEventId=0&type=message.undelivered"), ["b"]);
    t.same(await ids("&lastEventId=0&type=message.undelivered,connected"), [
      "a",
      "b",
      "c",
    ]);
    const get = async (accept: string) =>
      (
        await fake.app.inject({
          url: "/v1/events?wait=0&lastEventId=0&type=message.undelivered",
          headers: { ...headers, accept },
        })
      ).body;
    const last = all[2]?.position;
    t.equal(
      await get("*/*"),
      `event: message.undelivered\nid: ${all[1]?.position}\ndata: ${JSON.stringify(all[1])}\n\n` +
        `:\nid: ${last}\n\n`,
      "and the position up to which there was nothing else",
    );
    t.equal(
      await get("text/plain"),
      `2023-11-14T22:13:20.000Z  message.undelivered  ${one}  3\n`,
    );
    t.equal(fake.bridge.following, 0);
  },
);

t.test("what is lost is said", async (t) => {
  const fake = setup(t);
  await fake.bridge.events.append([connected("first")]);
  const [first] = await lines(fake, "&lastEventId=0");
  for (const id of "abcdef") await fake.bridge.events.append([connected(id)]);
  const got = await lines(fake, `&lastEventId=${first?.position}`);
  t.match(got[0], { type: "gap", data: { after: first?.position } });
  t.same(
    got.slice(1).map(({ id }) => id),
    ["b", "c", "d", "e", "f"],
  );
});

t.test("a bad question is 400, an absent Redis 503", async (t) => {
  const fake = setup(t);
  const status = async (query: string) =>
    (await fake.app.inject({ url: `/v1/events${query}`, headers })).statusCode;
  for (const query of [
    "?lastEventId=x",
    "?lastEventId=99999999999999999",
    "?type=gone",
    "?connection=c_1",
    "?wait=-1",
    "?since=1",
  ])
    t.equal(await status(query), 400, query);
  fake.bridge.failure = new BridgeError("redis_unavailable");
  t.equal(await status("?wait=0"), 503);
});

t.test("a stream is live, and ends with its reader", async (t) => {
  const fake = setup(t);
  await fake.app.listen({ host: "127.0.0.1", port: 0 });
  const { port } = fake.app.server.address() as AddressInfo;
  const open = async (query: string) => {
    // No kept connection, which a closing server would wait for.
    const request = get({
      agent: false,
      host: "127.0.0.1",
      port,
      path: `/v1/events${query}`,
    });
    const [response] = (await once(request, "response")) as [IncomingMessage];
    const ended = new Promise((resolve) => response.once("close", resolve));
    const stream = { text: "", request, ended };
    response.on("data", (chunk: Buffer) => (stream.text += chunk.toString()));
    response.on("error", () => undefined);
    return stream;
  };
  const live = await open("");
  await until(() => live.text === ":\nid: 0\n\n");
  await fake.bridge.events.append([connected("live")]);
  const heard = /^event: connected\nid: (\d+)\ndata: .*"live"/m;
  await until(() => heard.test(live.text));
  t.equal(fake.bridge.following, 1);
  live.request.destroy();
  await until(() => fake.bridge.following === 0);

  const brief = await open("?wait=1");
  await brief.ended;
  t.equal(brief.text, `:\nid: ${heard.exec(live.text)?.[1] ?? ""}\n\n`);
});

t.test(
  "chores come before an answer, now and then, and hold nobody up",
  async (t) => {
    const fake = setup(t);
    const list = () => fake.app.inject({ url: "/v1/connections", headers });
    fake.bridge.look = () => new Promise(() => undefined);
    await fake.app.inject({ url: "/healthz", headers });
    t.equal(fake.bridge.looks, 0, "health does not ask Redis");
    const answers = await Promise.all([list(), list(), list()]);
    t.same(
      answers.map(({ statusCode }) => statusCode),
      [200, 200, 200],
    );
    t.equal(fake.bridge.looks, 1, "one look, although it never ends");
    const failing = setup(t);
    failing.bridge.look = () => Promise.reject(new Error("Redis is away"));
    const answer = await failing.app.inject({
      url: "/v1/connections",
      headers,
    });
    t.equal(answer.statusCode, 200);
  },
);
