/**
 * Events of connections: once each, although a connection and the stream lie in different slots and whoever tells may die
 * at any point in between. Each guard is shown by what happens without it.
 */
import t from "tap";
import { Events, appendEventsScript } from "../../shared/events.js";
import { clearMarksScript, Outbox } from "../../shared/outbox.js";
import { Registry } from "../../shared/registry.js";
import { newScheduledId, scheduledMessageId } from "../../shared/ids.js";
import { runCycles } from "../../scripts/lab/cycles.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";
import {
  altered,
  changed,
  patience,
  prepare,
  push,
  startWorld,
  type World,
} from "../fixtures/world.js";

const client = { owner: "instance", protocol: "bridge.v1.json" } as const;
const byBackend = {
  reason: "closed_by_backend",
  code: 4510,
  words: "closed by the backend",
} as const;

/** What the stream has of these connections, oldest first. */
async function eventsOf(world: World, ...ids: string[]) {
  const { events } = await world.events.read(0, 10_000);
  return events
    .map(({ event }) => event)
    .filter(({ subject }) => ids.includes(subject));
}
const types = async (world: World, id: string) =>
  (await eventsOf(world, id)).map(({ type }) => type);

/** Opened, and everybody has heard of that. */
async function opened(world: World): Promise<string> {
  const id = await prepare(world);
  await world.registry.claim(id, client);
  await until(async () => (await types(world, id)).length === 1, patience);
  return id;
}

/** Looks at these connections now, as a sweep does whose time has come. */
const look = (world: World, ...ids: string[]) =>
  Promise.all(ids.map((id) => world.registry.lapse(id)));

t.test("whoever tells may die in between", async (t) => {
  const { url } = await singleRedis(t);
  const world = await startWorld(t, url);
  const dead = async (): Promise<never> => {
    throw new Error("died");
  };

  await t.test("before it appends", async (t) => {
    const id = await opened(world);
    const registry = new Registry(
      world.redis,
      world.windows,
      altered(world.events, { append: dead }),
    );
    t.ok(await registry.end(id, byBackend));
    t.same(await types(world, id), ["connected"]);
    await look(world, id);
    await look(world, id);
    t.same(await types(world, id), ["connected", "disconnected"]);
  });

  await t.test("before it clears the mark", async (t) => {
    const dies = new Registry(
      altered(world.redis, {
        command: (...call) =>
          call[0] === "HDEL" ? dead() : world.redis.command(...call),
        run: (...call) =>
          call[0] === clearMarksScript ? dead() : world.redis.run(...call),
      }),
      world.windows,
      world.events,
    );
    const run = async (finder: World) => {
      const id = await opened(world);
      await dies.end(id, byBackend);
      t.same(await types(world, id), ["connected", "disconnected"]);
      await look(finder, id);
      await look(world, id);
      return types(world, id);
    };
    const careless = await startWorld(t, url, {
      scripts: [changed(appendEventsScript, "if fresh then", "if true then")],
    });
    t.same(
      await run(careless),
      ["connected", "disconnected", "disconnected"],
      "without identities it is told twice",
    );
    t.same(await run(world), ["connected", "disconnected"]);
  });

  await t.test("it stood still, and the identity is forgotten", async (t) => {
    const run = async (guarded: boolean) => {
      const scripts = guarded
        ? []
        : [changed(appendEventsScript, "> tonumber(ARGV[4])", "> 1e15")];
      const slow = await startWorld(t, url, { standstillMs: 20, scripts });
      const id = await opened(slow);
      const events = altered(slow.events, {
        append: async (all: Parameters<Events["append"]>[0], at?: number) => {
          if (all.some(({ type }) => type === "disconnected"))
            // Meanwhile another one tells, clears the mark, and the stream forgets.
            await until(async () => {
              await look(slow, id);
              await slow.events.tidy();
              return (
                (await slow.redis.command(
                  "ZSCORE",
                  "bridge:{events}:identities",
                  `${id}.disconnected`,
                )) === null
              );
            }, patience);
          return slow.events.append(all, at);
        },
      });
      await new Registry(slow.redis, slow.windows, events).end(id, byBackend);
      return (await types(slow, id)).filter((type) => type === "disconnected");
    };
    t.equal((await run(false)).length, 2, "it would tell again");
    t.equal((await run(true)).length, 1);
  });

  await t.test("four at once", async (t) => {
    const worlds = await Promise.all(
      [1, 2, 3].map(() =>
        startWorld(t, url, { leaseMs: 1, resumeMs: 1, keeps: false }),
      ),
    );
    const [dying] = worlds;
    const owner = dying?.instance ?? "";
    const ids = await Promise.all(
      Array.from({ length: 40 }, async () => {
        const id = await prepare(world);
        await dying?.registry.claim(id, { ...client, owner });
        return id;
      }),
    );
    await dying?.registry.live(owner);
    await until(async () => {
      await Promise.all(
        worlds.map((each) => each.registry.sweep(each.sweeping)),
      );
      return (await eventsOf(world, ...ids)).length >= 80;
    }, patience);
    const all = await eventsOf(world, ...ids);
    t.equal(all.length, 80);
    t.equal(new Set(all.map(({ id }) => id)).size, 80);
  });

  await t.test("a mark keeps its connection until it is told", async (t) => {
    const brief = await startWorld(t, url, { endedMs: 1, receiptMs: 1 });
    const id = await opened(brief);
    const outbox = altered(brief.events, { append: dead });
    await new Registry(brief.redis, brief.windows, outbox).end(id, byBackend);
    const there = () => brief.redis.command("EXISTS", `bridge:{${id}}:conn`);
    await until(
      async () =>
        (await brief.redis.command("EXISTS", `bridge:{${id}}:index`)) === 0,
      patience,
    );
    t.equal(await there(), 1);
    await new Outbox(brief.redis, brief.events).tell(id);
    t.same(await types(brief, id), ["connected", "disconnected"]);
    await until(async () => (await there()) === 0, patience);
  });
});

t.test("what is told of a connection", async (t) => {
  const { url } = await singleRedis(t);
  const world = await startWorld(t, url);
  const { registry, log } = world;

  await t.test("once opened, however many sockets it has", async (t) => {
    const id = await opened(world);
    const { epoch } = await registry.claim(id, client);
    await registry.release(id, { epoch, owner: client.owner });
    const again = await registry.claim(id, client);
    await registry.end(id, {
      epoch: again.epoch,
      reason: "client_closed",
      code: 1000,
      words: "closed by the client",
    });
    const all = await eventsOf(world, id);
    t.match(all, [
      { type: "connected", data: { protocol: "bridge.v1.json" } },
      {
        type: "disconnected",
        data: { by: "client", reason: "client_closed", code: 1000 },
      },
    ]);
  });

  await t.test("a prepared one that nobody used", async (t) => {
    const brief = await startWorld(t, url, { preparedMs: 20 });
    const { connectionId, expiresAtMs } = await brief.registry.prepare({
      userId: "ann",
    });
    await until(async () => {
      await look(brief, connectionId);
      return (await types(world, connectionId)).length > 0;
    }, patience);
    const time = new Date(expiresAtMs).toISOString();
    t.match(await eventsOf(world, connectionId), [
      {
        type: "disconnected",
        time,
        data: {
          userId: "ann",
          by: "bridge",
          reason: "never_connected",
          code: null,
          connectedAt: null,
          occurredAt: time,
        },
      },
    ]);
  });

  await t.test("messages given up while it lives", async (t) => {
    const id = await opened(world);
    const { epoch } = await registry.claim(id, client);
    const sent: string[] = [];
    for (const text of ["1", "2", "3"])
      sent.push((await log.append(push(id, text))).messageId);
    const page = await log.read(id, epoch, 0);
    const [one, two, three] = page.kind === "rows" ? page.rows : [];
    if (!one || !two || !three) throw new Error("three messages");
    const fates = [
      { seq: one.seq, status: "expired", reason: "" },
      { seq: two.seq, status: "undeliverable", reason: "poison" },
    ] as const;
    const report = { ackedBy: "client", sent: [], fates: [] } as const;
    await log.report(id, epoch, { ...report, fates: [...fates] });
    t.ok(await registry.tell(id));
    await log.report(id, epoch, {
      ...report,
      fates: [{ seq: three.seq, status: "expired", reason: "" }],
    });
    t.ok(await registry.tell(id));
    const told = (await eventsOf(world, id)).slice(1);
    t.match(told, [
      {
        type: "message.undelivered",
        data: {
          count: 2,
          messages: [
            { id: sent[0], status: "expired", reason: null },
            { id: sent[1], status: "undeliverable", reason: "poison" },
          ],
        },
      },
      {
        type: "message.undelivered",
        data: { count: 1, messages: [{ id: sent[2], status: "expired" }] },
      },
    ]);
  });

  await t.test("a full log that ends is one event of two", async (t) => {
    const id = await opened(world);
    const first = await log.append(push(id, "first"));
    for (let n = 1; n < 1_000; n += 111)
      await Promise.all(
        Array.from({ length: 111 }, () => log.append(push(id, "more"))),
      );
    const scheduledId = newScheduledId();
    await log.schedule(push(id, "later"), scheduledId, Date.now() + 60_000);
    await registry.end(id, byBackend);
    const told = (await eventsOf(world, id)).slice(1);
    t.match(told, [
      { type: "message.undelivered", data: { count: 1_001 } },
      { type: "disconnected", data: { by: "backend", code: 4510 } },
    ]);
    const data = told[0]?.data;
    const named = data && "messages" in data ? data.messages : [];
    t.equal(named.length, 100);
    t.match(named[0], {
      id: first.messageId,
      status: "undeliverable",
      reason: "closed_by_backend",
    });

    const few = await opened(world);
    await log.schedule(push(few, "later"), scheduledId, Date.now() + 60_000);
    const short = await log.append(push(few, "short", { ttlSeconds: 0.001 }));
    await until(() => Date.now() > short.expiresAtMs + 50, patience);
    await registry.end(few, byBackend);
    t.match((await eventsOf(world, few))[1]?.data, {
      count: 2,
      messages: [
        { id: short.messageId, status: "expired", reason: null },
        { id: scheduledMessageId(few, scheduledId), status: "undeliverable" },
      ],
    });
  });
});

t.test("three hundred sessions leave nothing", async (t) => {
  const redis = await singleRedis(t, { config: { appendonly: "no" } });
  const found = await runCycles(redis.url, { count: 300, warmUp: 40 });
  t.match(found, { left: [], disconnected: 300, wrong: 0 });
  t.equal(found.keysAfter, found.keysBefore);
  const grown = found.memoryAfter / found.memoryBefore - 1;
  t.ok(grown < 0.05, `memory grew by ${(100 * grown).toFixed(1)} %`);
});
