/** What connections tell of themselves: many at once in one append, an end without waiting, each of it once. */
import t from "tap";
import type { Events, NewEvent } from "../../shared/events.js";
import { keys } from "../../shared/keys.js";
import { Outbox, type Happened } from "../../shared/outbox.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { until } from "../../scripts/lab/until.js";
import {
  altered,
  patience,
  prepare,
  startWorld,
  type World,
} from "../fixtures/world.js";

const redis = await singleRedis(t);

/** An outbox; `appends` is what each append carried. */
async function outboxes(t: Scope, append?: Events["append"]) {
  const world = await startWorld(t, redis.url);
  const appends: string[][] = [];
  const note = (events: readonly NewEvent[]) =>
    appends.push(events.map(({ id }) => id));
  const events = altered(world.events, {
    append: (...call: Parameters<Events["append"]>) => {
      note(call[0]);
      return append ? append(...call) : world.events.append(...call);
    },
  });
  const outbox = new Outbox(world.redis, events);
  t.teardown(() => outbox.flush());
  return { world, outbox, appends };
}

/** A connection with a mark, as the script that opens it or ends it leaves one. */
async function marked(
  world: World,
  kind: "opened" | "ended",
): Promise<Happened> {
  const connectionId = await prepare(world);
  const nowMs = Date.now();
  const opened = kind === "opened" ? `${nowMs} raw` : "";
  const ended = kind === "ended" ? `${nowMs} client_closed 1000 bye` : "";
  await redis.cli(
    ...["HSET", keys.connection(connectionId)],
    ...(kind === "opened" ? ["evOpen", opened] : ["evEnd", ended]),
  );
  return {
    connectionId,
    opened,
    ended,
    userId: "",
    connected: "",
    nowMs,
    keepMs: 60_000,
  };
}

const several = (world: World, kind: "opened" | "ended", count: number) =>
  Promise.all(Array.from({ length: count }, () => marked(world, kind)));

/** The types of the events of a connection, in the order of the stream. */
async function told(world: World, { connectionId }: Happened) {
  const { events } = await world.events.read(0, 1_000);
  return events
    .filter(({ event }) => event.subject === connectionId)
    .map(({ event }) => event.type);
}

const marks = async ({ connectionId }: Happened) =>
  (
    (await redis.cli(
      ...["HMGET", keys.connection(connectionId), "evOpen", "evEnd"],
    )) as (string | null)[]
  ).filter((mark) => mark !== null);

t.test("the openings of many are one append", async (t) => {
  const { world, outbox, appends } = await outboxes(t);
  const all = await several(world, "opened", 20);
  const outcomes = await Promise.all(all.map((one) => outbox.happened(one)));
  t.ok(outcomes.every((outcome) => outcome));
  t.same(appends, [all.map(({ connectionId }) => `${connectionId}.connected`)]);
  for (const one of all) {
    t.same(await told(world, one), ["connected"]);
    t.same(await marks(one), [], "nothing is left to tell");
  }
});

t.test("a hundred wait for nobody more", async (t) => {
  const { world, outbox, appends } = await outboxes(t);
  const all = await several(world, "opened", 230);
  await Promise.all(all.map((one) => outbox.happened(one)));
  t.same(
    appends.map(({ length }) => length),
    [100, 100, 30],
  );
});

t.test("an end takes along what waits, and waits for nobody", async (t) => {
  const { world, outbox, appends } = await outboxes(t);
  const opened = await marked(world, "opened");
  const ended = await marked(world, "ended");
  const first = outbox.happened(opened);
  const last = outbox.happened(ended);
  // The end of the turn; the window of the first is longer.
  await new Promise((resolve) => setImmediate(resolve));
  t.same(appends, [
    [`${opened.connectionId}.connected`, `${ended.connectionId}.disconnected`],
  ]);
  t.same(await Promise.all([first, last]), [true, true]);
  t.equal(appends.length, 1, "the window that was begun tells nothing more");
  const rest = Number(
    await redis.cli("PTTL", keys.connection(ended.connectionId)),
  );
  t.ok(rest > 0 && rest <= 60_000, "it goes when its time is over");
});

t.test("opened and ended since, both are told, in their order", async (t) => {
  const { world, outbox } = await outboxes(t);
  const one = await marked(world, "opened");
  const ended = `${one.nowMs} client_closed 1000 bye`;
  await redis.cli(
    ...["HSET", keys.connection(one.connectionId), "evEnd", ended],
  );
  await Promise.all([outbox.happened(one), outbox.happened({ ...one, ended })]);
  t.same(await told(world, one), ["connected", "disconnected"]);
  t.same(await marks(one), []);
});

t.test("whoever tells it, and however often, it is told once", async (t) => {
  const one = await outboxes(t);
  const other = await outboxes(t);
  const opened = await several(one.world, "opened", 3);
  const ended = await several(one.world, "ended", 3);
  const all = [...opened, ...ended];
  await Promise.all([
    ...all.map((what) => one.outbox.happened(what)),
    ...all.map((what) => other.outbox.happened(what)),
    ...all.map(({ connectionId }) => other.outbox.tell(connectionId)),
  ]);
  await one.outbox.flush();
  await other.outbox.flush();
  await Promise.all(all.map((what) => one.outbox.happened(what)));
  for (const what of opened) t.same(await told(one.world, what), ["connected"]);
  for (const what of ended)
    t.same(await told(one.world, what), ["disconnected"]);
});

t.test("what cannot be told leaves its mark", async (t) => {
  const failing = await outboxes(t, () => Promise.reject(new Error("away")));
  const all = await several(failing.world, "opened", 2);
  const outcomes = await Promise.allSettled(
    all.map((one) => failing.outbox.happened(one)),
  );
  t.same(
    outcomes.map(({ status }) => status),
    ["rejected", "rejected"],
  );
  const { outbox, world } = await outboxes(t);
  for (const one of all) {
    t.equal((await marks(one)).length, 1);
    t.equal(await outbox.tell(one.connectionId), true);
    t.same(await told(world, one), ["connected"]);
    t.same(await marks(one), []);
  }
});

t.test("who stood still in between looks again", async (t) => {
  const { world, outbox } = await outboxes(t);
  const one = await marked(world, "opened");
  const long = one.nowMs - world.windows.standstillMs - 1_000;
  t.equal(await outbox.happened({ ...one, nowMs: long }), false);
  t.same(await told(world, one), []);
  t.equal((await marks(one)).length, 1);
  t.equal(await outbox.tell(one.connectionId), true);
  t.same(await told(world, one), ["connected"]);
});

t.test("what waits can be told at once", async (t) => {
  const { world, outbox, appends } = await outboxes(t);
  const [one, two] = await several(world, "opened", 2);
  if (!one || !two) throw new Error("two were asked for");
  outbox.hurry();
  t.same(appends, [], "there was nothing");
  const first = outbox.happened(one);
  outbox.hurry();
  t.equal(appends.length, 1);
  const second = outbox.happened(two);
  await outbox.flush();
  t.equal(appends.length, 2);
  t.same(await Promise.all([first, second]), [true, true]);
  await until(async () => (await told(world, two)).length === 1, patience);
});
