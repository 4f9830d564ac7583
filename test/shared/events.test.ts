/** The stream of events, in memory and on Redis: once each, in order, and never a silent gap; and who follows it. */
import { setMaxListeners } from "node:events";
import t, { type Test } from "tap";
import { EventFeed, type FeedItem } from "../../shared/event-feed.js";
import {
  appendEventsScript,
  type EventPage,
  type NewEvent,
} from "../../shared/events.js";
import { newConnectionId } from "../../shared/ids.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";
import { MemoryEvents, type EventsPart } from "../fixtures/memory-events.js";
import { changed, patience, startWorld } from "../fixtures/world.js";

const subject = newConnectionId();
const event = (id: string): NewEvent => ({
  id,
  type: "connected",
  subject,
  timeMs: 1_700_000_000_123,
  data: { userId: null, protocol: "raw" },
});
const many = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, n) => event(`e${from + n}`));
const ids = ({ events }: EventPage) => events.map(({ event: { id } }) => id);

/** `events` keeps about a hundred. */
async function contract(t: Test, events: EventsPart): Promise<void> {
  t.same(await events.read(0, 10), { events: [], last: 0, gap: false });
  await events.append([event("a"), event("b"), event("a")]);
  await events.append([event("b"), event("c")]);
  const all = await events.read(0, 10);
  t.same(ids(all), ["a", "b", "c"], "once each, in order");
  t.match(all.events[0]?.event, {
    specversion: "1.0",
    id: "a",
    type: "connected",
    source: "urn:push-bridge",
    subject,
    time: "2023-11-14T22:13:20.123Z",
    position: String(all.events[0]?.position),
    data: { userId: null, protocol: "raw" },
  });
  const [first, second, third] = all.events.map(({ position }) => position);
  if (!first || !second || !third) throw new Error("three positions");
  t.ok(first < second && second < third && third === all.last);
  t.same(ids(await events.read(first, 1)), ["b"]);
  t.match(await events.read(third, 10), { events: [], gap: false });

  await events.append(many(0, 400));
  const late = await events.read(second, 1_000);
  t.ok(late.gap, "whoever was away for too long is told");
  t.equal(ids(late).at(-1), "e399");
  const rest = await events.read(late.events[0]?.position ?? 0, 1_000);
  t.notOk(rest.gap, "once, and not again from where it goes on");
  t.equal(rest.events.length, late.events.length - 1);
  t.notOk(
    (await events.read(0, 1)).gap,
    "who wants what there is misses nothing",
  );
  t.ok((await events.read(late.last + 1, 1)).gap, "a history that was lost");
}

t.test("in memory", (t) => contract(t, new MemoryEvents(100)));
t.test("on Redis", async (t) => {
  const redis = await singleRedis(t);
  const world = await startWorld(t, redis.url, { eventsMax: 100 });
  await contract(t, world.events);

  const identities = () => redis.cli("ZCARD", "bridge:{events}:identities");
  const short = await startWorld(t, redis.url, {
    eventsMs: 1,
    standstillMs: 10,
  });
  t.same(
    await short.events.append([event("old")], Date.now() - 60_000),
    "stale",
  );
  // Each time that an identity is said to be settled it is kept a little longer.
  await short.events.tidy(["a", "b", "c", ...many(0, 400).map(({ id }) => id)]);
  await until(async () => {
    await short.events.tidy();
    return (
      (await identities()) === 0 &&
      (await redis.cli("XLEN", "bridge:{events}:stream")) === 0
    );
  }, patience);
  t.match(await world.events.read(5, 10), { events: [], gap: true });

  const careless = await startWorld(t, redis.url, {
    scripts: [changed(appendEventsScript, "if fresh then", "if true then")],
  });
  await careless.events.append([event("x"), event("x")]);
  const { events } = await world.events.read(0, 10);
  t.equal(events.length, 2, "without the identity it would be twice");
});

t.test("what clients say is bounded by its bytes", async (t) => {
  const redis = await singleRedis(t);
  const size = 100_000;
  const limit = 1_000_000;
  const world = await startWorld(t, redis.url, { eventsMaxBytes: limit });
  const say = (n: number): NewEvent => ({
    id: `s${n}`,
    knownMs: 1_000,
    type: "event",
    subject,
    timeMs: 1_700_000_000_123,
    data: {
      userId: null,
      event: "e",
      contentType: "text/plain",
      data: String(n).padEnd(size, "x"),
    },
  });
  const kept = () => redis.cli("XLEN", "bridge:{events}:stream");
  await world.events.append(many(0, 50));
  for (let n = 0; n < 30; n += 1) await world.events.append([say(n)]);
  t.equal(await kept(), 9, "as many as fit");
  const page = await world.events.read(1, 100);
  t.ok(page.gap, "and the reader is told");
  const read = ids(page);
  for (let at = page.events.at(-1)?.position ?? 0; at < page.last;) {
    const next = await world.events.read(at, 100);
    t.notOk(next.gap);
    read.push(...ids(next));
    at = next.events.at(-1)?.position ?? page.last;
  }
  t.same(
    read,
    Array.from({ length: 9 }, (_, n) => `s${21 + n}`),
    "all of it, in pages",
  );
  t.notOk((await world.events.read(page.last, 1)).gap);
  await world.events.append(many(100, 150));
  t.equal(await kept(), 59, "small ones have their room");
  await world.events.append([
    {
      ...say(99),
      data: {
        userId: null,
        event: "e",
        contentType: "text/plain",
        data: "x".repeat(limit),
      },
    },
  ]);
  t.equal(await kept(), 1, "the newest one always");
  t.equal(await redis.cli("PTTL", "bridge:{events}:bytes").then(Boolean), true);

  for (let n = 200; n < 230; n += 1) await world.events.append([say(n)]);
  await redis.cli("DEL", "bridge:{events}:bytes");
  await world.events.append([say(300)]);
  t.equal(await kept(), 9, "what is kept says how much it is");

  const roomy = await startWorld(t, redis.url);
  for (let n = 400; n < 440; n += 1) await roomy.events.append([say(n)]);
  const some = await roomy.events.read(page.last, 1_000);
  t.ok(some.events.length < 30, "a read is bounded by bytes, too");
  const feed = new EventFeed(roomy.events, roomy.redis);
  const leave = new AbortController();
  const seen: string[] = [];
  const { items } = await feed.follow(0, leave.signal);
  for await (const item of items) {
    if (item.kind === "event") seen.push(item.event.id);
    if (item.kind === "idle") break;
  }
  t.equal(seen.length, 49, "and what follows comes in the next one");
  t.equal(seen.at(-1), "s439");

  const boundless = await startWorld(t, redis.url, {
    eventsMaxBytes: limit,
    scripts: [
      changed(
        appendEventsScript,
        "redis.call('XDEL', KEYS[1], oldest[1])",
        "break",
      ),
    ],
  });
  await boundless.events.append([say(500)]);
  t.equal(await kept(), 50, "without the guard it grows");
});

/** Somebody says what there is room for, and more; what is left of what others said before. */
async function flood(t: Test, eventsShare: number) {
  const redis = await singleRedis(t);
  const options = { eventsMax: 1_000, eventsMaxBytes: 1_000_000, eventsShare };
  const [one, other] = [
    await startWorld(t, redis.url, options),
    await startWorld(t, redis.url, options),
  ];
  let count = 0;
  const said = (userId: string | null, data = ""): NewEvent => ({
    id: `said${++count}`,
    knownMs: 60_000,
    type: "event",
    // On another connection each time.
    subject: `c_${String(count).padStart(22, "0")}`,
    timeMs: Date.now(),
    data: { userId, event: "e", contentType: "text/plain", data },
  });
  const honest = Array.from({ length: 50 }, (_, n) => said(`user${n}`));
  for (const event of honest) await one.events.append([event]);
  const words = new Set<string>();
  for (let n = 0; n < 200; n += 1)
    for (const { events } of [one, other])
      words.add(
        await events.append(
          Array.from({ length: 16 }, () => said("mallory", "x".repeat(500))),
        ),
      );
  const again = honest[0];
  const repeat = again && (await one.events.append([again]));
  const { events } = await one.events.read(0, 10_000);
  const kept = new Set(events.map(({ event: { id } }) => id));
  return {
    words,
    repeat,
    lost: honest.filter(({ id }) => !kept.has(id)).length,
    others: await other.events.append([said("ann")]),
    keys: await redis.cli("ZCARD", "bridge:{events}:shares"),
  };
}

t.test("one client pushes out nobody's events", async (t) => {
  const off = await flood(t, 0);
  t.same([...off.words], ["ok"]);
  t.equal(off.lost, 50, "without its share it takes all there is");
  const on = await flood(t, 0.1);
  t.same([...on.words], ["ok", "often"], "whichever connection and process");
  t.equal(on.lost, 0);
  t.equal(on.repeat, "ok", "what is stored already is no more");
  t.equal(on.others, "ok");
});

t.test("fifty followers cost one reader", async (t) => {
  const redis = await singleRedis(t);
  const { events, redis: link } = await startWorld(t, redis.url);
  let reads = 0;
  const feed = new EventFeed(
    {
      read: (after, count) => {
        reads += 1;
        return events.read(after, count);
      },
    },
    link,
  );
  await events.append([event("before")]);
  const leave = new AbortController();
  setMaxListeners(0, leave.signal);
  const got: string[][] = [];
  const done = Promise.all(
    Array.from({ length: 50 }, async (_, n) => {
      const seen: string[] = [];
      got.push(seen);
      const { items } = await feed.follow(
        n === 0 ? 0 : undefined,
        leave.signal,
      );
      for await (const item of items)
        if (item.kind === "event") seen.push(item.event.id);
    }),
  );
  await until(() => got[0]?.length === 1, patience);
  for (let n = 0; n < 20; n += 1) await events.append([event(`n${n}`)]);
  await until(() => got.every((seen) => seen.includes("n19")), patience);
  t.ok(reads < 100, `${reads} reads for 50 followers of 20 events`);
  const expected = Array.from({ length: 20 }, (_, n) => `n${n}`);
  t.same(got[0], ["before", ...expected]);
  t.ok(got.slice(1).every((seen) => seen.join() === expected.join()));
  leave.abort();
  await done;
  t.equal(link.subscriptions.size, 0, "the last one turns the light off");

  const after = new AbortController();
  const ahead = await feed.follow(Number.MAX_SAFE_INTEGER - 9, after.signal);
  const items: FeedItem[] = [];
  for await (const item of ahead.items) {
    items.push(item);
    if (item.kind === "idle") await events.append([event("next")]);
    if (item.kind === "event") break;
  }
  t.match(items, [
    { kind: "gap" },
    { kind: "idle" },
    { event: { id: "next" } },
  ]);
});
