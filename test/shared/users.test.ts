/**
 * Pushes to users on a real Redis: to everybody who is there, to the first who comes, exactly once whoever dies in between.
 * For each guard a test that takes it out.
 */
import { BridgeError } from "../../shared/errors.js";
import t, { type Test } from "tap";
import { parseMessageId, userTag } from "../../shared/ids.js";
import { horizonMs, keys } from "../../shared/keys.js";
import { appendFullScript } from "../../shared/log-scripts.js";
import { Receipts } from "../../shared/receipts.js";
import type { Script } from "../../shared/redis.js";
import {
  arriveScript,
  beginScript,
  givenScript,
  recallUserScript,
  settleUserScript,
} from "../../shared/user-scripts.js";
import { Users, type UserAppend } from "../../shared/users.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";
import {
  altered,
  changed,
  connect,
  patience,
  startWorld,
  type Client,
  type World,
} from "../fixtures/world.js";

let users = 0;
/** A user of its own, with everything in its name that could break a key, a hash tag or a path. */
const someone = () => `zoë {}}:* ${++users}`;

const to = (
  userId: string,
  text: string,
  more: Partial<UserAppend> = {},
): UserAppend => ({
  userId,
  body: Buffer.from(text),
  contentType: "text/plain; a=b c",
  binary: false,
  ttlSeconds: 60,
  ...more,
});

const prepareFor = async (world: World, userId: string) =>
  (await world.registry.prepare({ userId })).connectionId;

const receiptsOf = (world: World) =>
  new Receipts(world.redis, world, world.windows.receiptMs);

/** The same users in a process that dies at a step: what it would run there is refused. */
function dying(world: World, at: Script): Users {
  const { redis, registry, log, queues, replies, windows } = world;
  const dead = altered(redis, {
    run: (script, ...rest) =>
      script.name === at.name
        ? Promise.reject(new Error("dead"))
        : redis.run(script, ...rest),
  });
  return new Users({ redis: dead, registry, log, queues, replies }, windows);
}

/** What lies in a connection's log, in order. */
async function logOf(world: World, id: string): Promise<string[]> {
  const { rows } = await world.log.pending(id, {
    limit: 100,
    after: 0,
    previewBytes: 100,
  });
  return rows.map(({ entry }) => String(entry.body));
}

const redis = singleRedis(t);

t.test(
  "everybody who is there gets it, and one receipt tells of all",
  async (t) => {
    const { url } = await redis;
    const [one, two] = [await startWorld(t, url), await startWorld(t, url)];
    const userId = someone();
    const ids = [await prepareFor(one, userId), await prepareFor(one, userId)];
    const away = await prepareFor(one, userId);
    const [a, b] = [
      await connect(t, one, ids[0] ?? ""),
      await connect(t, two, ids[1] ?? ""),
    ];
    const pushed = await one.users.push(to(userId, "hello"));
    t.match(pushed, { status: "queued", recipients: 2, online: 2 });
    await Promise.all([a.receives("hello"), b.receives("hello")]);
    const said = a.socket.said.find(({ type }) => type === "message");
    t.match(said, { id: pushed.messageId, contentType: "text/plain; a=b c" });
    t.same(await logOf(one, away), []);

    const receipts = receiptsOf(two);
    const seen: string[] = [];
    const following = (async () => {
      for await (const { status } of receipts.follow(
        pushed.messageId,
        new AbortController().signal,
      ))
        seen.push(status);
    })();
    await until(() => seen.includes("sent"), patience);
    b.ack();
    await following;
    t.equal(seen.at(-1), "delivered", "one that has it is enough");
    const receipt = await receipts.read(pushed.messageId);
    t.match(receipt, { to: { user: userId }, ack: "client", recipients: 2 });
    t.same(
      receipt.deliveries
        ?.map(({ connection, status }) => `${connection} ${status}`)
        .sort(),
      [`${ids[0]} sent`, `${ids[1]} delivered`].sort(),
    );
    a.ack();
    await until(
      async () =>
        (await receipts.read(pushed.messageId)).deliveries?.every(
          ({ status }) => status === "delivered",
        ),
      patience,
    );

    const states = async () =>
      (await two.registry.ofUser(userId)).map(({ state }) => state).sort();
    t.same(await states(), ["open", "open", "prepared"]);
    await a.connection.onClose(1006);
    await b.connection.onClose(1000);
    t.same(await states(), ["away", "prepared"]);
  },
);

t.test("what waits is for the first who comes, in order", async (t) => {
  const { url } = await redis;
  const world = await startWorld(t, url);
  const userId = someone();
  const pushed = await world.users.push(to(userId, "1"));
  t.match(pushed, { status: "queued", recipients: 0, online: 0 });
  const binary = Buffer.from([0, 255, 10, 13]);
  await world.users.push({
    ...to(userId, ""),
    body: binary,
    binary: true,
    contentType: "image/x",
  });
  await world.users.push(to(userId, "3"));
  const receipts = receiptsOf(world);
  t.match(await receipts.read(pushed.messageId), {
    status: "queued",
    deliveries: [],
    timeline: [{ status: "queued" }],
  });
  const first = await connect(t, world, await prepareFor(world, userId));
  await until(() => first.socket.messages.length === 3, patience);
  t.match(
    first.socket.said.filter(({ type }) => type === "message"),
    [
      { data: "1", id: pushed.messageId },
      { dataBase64: binary.toString("base64"), contentType: "image/x" },
      { data: "3" },
    ],
  );
  const second = await connect(t, world, await prepareFor(world, userId));
  await world.users.push(to(userId, "4"));
  await second.receives("4");
  first.ack();
  await until(
    async () => (await receipts.read(pushed.messageId)).status === "delivered",
    patience,
  );
  t.match(await receipts.read(pushed.messageId), { recipients: 1, online: 0 });
});

t.test("two who come at the same moment share what waits", async (t) => {
  const { url } = await redis;
  const worlds = [await startWorld(t, url), await startWorld(t, url)];
  const [world = worlds[0] as World] = worlds;
  for (let round = 0; round < 5; round++) {
    const userId = someone();
    const texts = ["1", "2", "3", "4", "5"];
    for (const text of texts) await world.users.push(to(userId, text));
    const ids = await Promise.all(worlds.map((one) => prepareFor(one, userId)));
    const clients = await Promise.all(
      worlds.map((one, index) => connect(t, one, ids[index] ?? "")),
    );
    await until(
      () =>
        clients.flatMap(({ socket }) => socket.messages).length >= texts.length,
      patience,
    );
    const got = clients.flatMap(({ socket }) => socket.messages).sort();
    t.same(got, texts);
  }
});

/** A message waits, and a process dies while it gives it to connection `a`. */
async function interrupted(
  t: Test,
  scripts: readonly Script[],
  at: "claimed" | "appended",
) {
  const world = await startWorld(t, (await redis).url, { scripts });
  const userId = someone();
  const tag = userTag(userId);
  const a = await prepareFor(world, userId);
  const pushed = await world.users.push(to(userId, "once"));
  if (at === "claimed")
    await world.redis.run(
      arriveScript,
      [keys.userConnections(tag), keys.userParked(tag), keys.userClaims(tag)],
      [a, horizonMs, 1],
    );
  else
    await t.rejects(dying(world, givenScript).arrive(userId, a), {
      message: "dead",
    });
  return { world, userId, a, pushed };
}

/** Claims are old at once. */
const impatient = (script: Script) =>
  changed(script, "tonumber(since) + 5000 < ms", "true");

t.test("whoever dies while giving, it is given once", async (t) => {
  await t.test("claimed only: the same connection gets it", async (t) => {
    const { world, userId, a } = await interrupted(t, [], "claimed");
    t.same(await logOf(world, a), []);
    await world.users.arrive(userId, a);
    await world.users.arrive(userId, a);
    t.same(await logOf(world, a), ["once"]);
  });

  await t.test("a fresh claim is respected by another one", async (t) => {
    const { world, userId, a } = await interrupted(t, [], "claimed");
    const b = await prepareFor(world, userId);
    await world.users.arrive(userId, b);
    t.same(await logOf(world, b), []);
    await world.users.arrive(userId, a);
    t.same(await logOf(world, a), ["once"]);
  });

  await t.test("an old one is finished by whoever comes", async (t) => {
    const { world, userId, a, pushed } = await interrupted(
      t,
      [impatient(arriveScript)],
      "claimed",
    );
    const b = await prepareFor(world, userId);
    await world.users.arrive(userId, b);
    t.same([await logOf(world, a), await logOf(world, b)], [["once"], []]);
    t.match(await receiptsOf(world).read(pushed.messageId), {
      recipients: 1,
      deliveries: [{ connection: a }],
    });
  });

  await t.test("of one that ended without it another gets it", async (t) => {
    const { world, userId, a } = await interrupted(
      t,
      [impatient(arriveScript)],
      "claimed",
    );
    await world.registry.end(a, {
      reason: "closed_by_backend",
      code: 4510,
      words: "",
    });
    const b = await prepareFor(world, userId);
    await world.users.arrive(userId, b);
    t.same(await logOf(world, b), ["once"]);
  });

  await t.test("of one that ended with it nobody else does", async (t) => {
    const { world, userId, a, pushed } = await interrupted(
      t,
      [impatient(arriveScript)],
      "appended",
    );
    await world.registry.end(a, {
      reason: "closed_by_backend",
      code: 4510,
      words: "",
    });
    const b = await prepareFor(world, userId);
    await world.users.arrive(userId, b);
    t.same(await logOf(world, b), []);
    t.match(await receiptsOf(world).read(pushed.messageId), {
      status: "undeliverable",
      reason: "closed_by_backend",
    });
  });

  await t.test("appended only: it is not appended again", async (t) => {
    const { world, userId, a } = await interrupted(t, [], "appended");
    await world.users.arrive(userId, a);
    t.same(await logOf(world, a), ["once"]);
  });

  await t.test("without its identity it would be", async (t) => {
    const forgetful = changed(
      appendFullScript,
      "redis.call('HSET', KEYS[6], ARGV[10], 's:' .. id .. ':' .. waiting)",
    );
    const { world, userId, a } = await interrupted(t, [forgetful], "appended");
    await world.users.arrive(userId, a);
    t.same(await logOf(world, a), ["once", "once"]);
  });

  await t.test("without claims both would get it", async (t) => {
    const greedy = changed(
      arriveScript,
      "if claim then whose",
      "if false then whose",
    );
    const { world, userId, a } = await interrupted(t, [greedy], "appended");
    const b = await prepareFor(world, userId);
    await world.users.arrive(userId, b);
    t.same(
      [await logOf(world, a), await logOf(world, b)],
      [["once"], ["once"]],
    );
  });
});

/** A client comes right after a push found nobody, and before it is parked. */
async function meeting(t: Test, scripts: readonly Script[]) {
  const world = await startWorld(t, (await redis).url, { scripts });
  const { redis: link, registry, log, queues, windows } = world;
  const userId = someone();
  const id = await prepareFor(world, userId);
  let client: Awaited<ReturnType<typeof connect>> | undefined;
  const slow = altered(log, {
    appendForUser: async (...args) => {
      const appended = await log.appendForUser(...args);
      client ??= await connect(t, world, id);
      return appended;
    },
  });
  const users = new Users(
    { redis: link, registry, log: slow, queues, replies: world.replies },
    windows,
  );
  const pushed = await users.push(to(userId, "meet"));
  return { pushed, log: await logOf(world, id) };
}

t.test(
  "who comes between the look and the parking is not missed",
  async (t) => {
    t.match(await meeting(t, []), { pushed: { recipients: 1 }, log: ["meet"] });
    const blind = changed(
      settleUserScript,
      "if tonumber(newest(KEYS[2])) > tonumber(ARGV[5])",
      "if false",
    );
    t.match(
      await meeting(t, [blind]),
      { pushed: { recipients: 0 }, log: [] },
      "without the second look it would wait beside its client",
    );
  },
);

t.test("a push that died half-way is finished by its repetition", async (t) => {
  const { url } = await redis;
  const world = await startWorld(t, url, {
    scripts: [
      changed(beginScript, "if tonumber(busy) > ms then", "if false then"),
    ],
  });
  const userId = someone();
  const [a, b] = [
    await connect(t, world, await prepareFor(world, userId)),
    await connect(t, world, await prepareFor(world, userId)),
  ];
  const push = to(userId, "keyed", {
    idempotency: { key: "k", fingerprint: "f", busyMs: 0 },
  });
  await t.rejects(dying(world, settleUserScript).push(push), {
    message: "dead",
  });
  await Promise.all([a.receives("keyed"), b.receives("keyed")]);
  const again = await world.users.push(push);
  t.match(again, { recipients: 2, replayed: undefined });
  const third = await world.users.push(push);
  t.match(third, { messageId: again.messageId, replayed: null, recipients: 2 });
  t.same([a.socket.messages, b.socket.messages], [["keyed"], ["keyed"]]);
  await t.rejects(
    world.users.push({
      ...push,
      idempotency: { key: "k", fingerprint: "other", busyMs: 0 },
    }),
    { code: "idempotency_mismatch" },
  );
});

t.test("options of what waits", async (t) => {
  const { url } = await redis;
  const world = await startWorld(t, url, { maxMessages: 3 });
  const receipts = receiptsOf(world);
  const status = async ({ messageId }: { messageId: string }) =>
    (await receipts.read(messageId)).status;

  await t.test("ttl 0 is for whoever is there", async (t) => {
    const pushed = await world.users.push(
      to(someone(), "x", { ttlSeconds: 0 }),
    );
    t.match(pushed, { status: "undeliverable", recipients: 0 });
    t.match(await receipts.read(pushed.messageId), {
      status: "undeliverable",
      reason: "not_connected",
    });
  });

  await t.test("the newest of a topic wins", async (t) => {
    const userId = someone();
    const old = await world.users.push(to(userId, "1:0", { topic: "score" }));
    await world.users.push(to(userId, "other"));
    await world.users.push(to(userId, "2:0", { topic: "score" }));
    t.equal(await status(old), "replaced");
    const client = await connect(t, world, await prepareFor(world, userId));
    await client.receives("other", "2:0");
  });

  await t.test("too much is refused and leaves nothing", async (t) => {
    const userId = someone();
    for (const text of ["1", "2", "3"])
      await world.users.push(to(userId, text));
    await t.rejects(world.users.push(to(userId, "4")), {
      code: "log_full",
      data: { limit: 3, actual: 3 },
    });
    const all = (await world.redis.command(
      "KEYS",
      `bridge:{${userTag(userId)}}:message:*`,
    )) as string[];
    t.equal(all.length, 3);
  });

  await t.test("what ran out makes room and is not given", async (t) => {
    const userId = someone();
    const short = await world.users.push(to(userId, "1", { ttlSeconds: 0.05 }));
    await world.users.push(to(userId, "2"));
    await world.users.push(to(userId, "3"));
    await until(async () => (await status(short)) === "expired", patience);
    await world.users.push(to(userId, "4"));
    const client = await connect(t, world, await prepareFor(world, userId));
    await client.receives("2", "3", "4");
    const left = await world.redis.command(
      "KEYS",
      `bridge:{${userTag(userId)}}:[pc]*`,
    );
    t.same(left, [keys.userConnections(userTag(userId))], "nothing waits");
  });

  await t.test("recalled, it is given to nobody", async (t) => {
    const userId = someone();
    const pushed = await world.users.push(to(userId, "x"));
    const route = parseMessageId(pushed.messageId);
    if (route?.kind !== "user") throw new Error("no route");
    const { userTag: tag, place } = route;
    t.equal(await world.users.recall(tag, place), "recalled");
    t.equal(await world.users.recall(tag, place), "final");
    t.equal(await status(pushed), "recalled");
    const client = await connect(t, world, await prepareFor(world, userId));
    await world.users.push(to(userId, "y"));
    await client.receives("y");
  });

  await t.test("an empty one is a message like any other", async (t) => {
    const signed = (script: Script) => changed(script, "n + 0", "n");
    const scripts = [recallUserScript, settleUserScript, givenScript];
    for (const isGuarded of [false, true]) {
      const one = isGuarded
        ? world
        : await startWorld(t, (await redis).url, {
            scripts: scripts.map(signed),
          });
      const userId = someone();
      const recalled = await one.users.push(to(userId, ""));
      const route = parseMessageId(recalled.messageId);
      if (route?.kind !== "user") throw new Error("no route");
      const recall = one.users.recall(route.userTag, route.place);
      if (!isGuarded) {
        await t.rejects(recall, "-0 is no number to Redis");
        continue;
      }
      t.equal(await recall, "recalled");
      const topic = { topic: "t" };
      const replaced = await one.users.push(to(userId, "", topic));
      const taken = await one.users.push(to(userId, "", topic));
      t.equal(await status(replaced), "replaced");
      const client = await connect(t, one, await prepareFor(one, userId));
      await client.receives("");
      client.ack();
      await until(async () => (await status(taken)) === "delivered", patience);
    }
  });

  await t.test("scheduled, it is given when due, once", async (t) => {
    const userId = someone();
    const dueAtMs = Date.now() + 3_600_000;
    const push = to(userId, "due", { dueAtMs });
    const pushed = await world.users.push(push);
    t.match(pushed, { status: "scheduled", recipients: 0 });
    t.equal(await status(pushed), "scheduled");
    const taken = await world.users.push(to(userId, "taken", { dueAtMs }));
    const place = (id: string) => {
      const route = parseMessageId(id);
      if (route?.kind !== "user") throw new Error("no route");
      return route;
    };
    const { userTag: tag, place: takenPlace } = place(taken.messageId);
    t.equal(await world.users.recall(tag, takenPlace), "recalled");
    const client = await connect(t, world, await prepareFor(world, userId));
    await world.users.due(to(userId, "taken"), takenPlace);
    const due = to(userId, "due");
    await world.users.due(due, place(pushed.messageId).place);
    await world.users.due(due, place(pushed.messageId).place);
    await client.receives("due");
    t.match(await receipts.read(pushed.messageId), {
      recipients: 1,
      timeline: [{ status: "scheduled" }, { status: "queued" }],
    });
  });
});

t.test(
  "presence is true after an instance died, and stale entries go",
  async (t) => {
    const { url } = await redis;
    const world = await startWorld(t, url, {
      leaseMs: 400,
      resumeMs: 300,
      endedMs: 100,
      receiptMs: 100,
    });
    const userId = someone();
    const id = await prepareFor(world, userId);
    // A sweep that dies before it clears up: what it ends stays in the user's list.
    const quiet = {
      ...world.sweeping,
      remove: () => Promise.reject(new BridgeError("internal")),
    };
    // Of a process that nobody hears of again.
    const dead = await startWorld(t, url, { leaseMs: 400, keeps: false });
    await dead.registry.claim(id, { owner: dead.instance, protocol: "raw" });
    await dead.registry.live(dead.instance);
    const states = async () => {
      await world.registry.sweep(quiet).catch(() => undefined);
      return (await world.registry.ofUser(userId, true)).map(
        ({ state }) => state,
      );
    };
    t.same(await states(), ["open"]);
    await until(async () => (await states())[0] === "away", patience);
    await until(async () => (await states()).length === 0, patience);
    const list = keys.userConnections(userTag(userId));
    t.equal(await world.redis.command("ZCARD", list), 1, "stale, and harmless");
    t.match(await world.users.push(to(userId, "x")), { recipients: 0 });
    t.same(await world.registry.ofUser(userId), []);
    t.equal(await world.redis.command("EXISTS", list), 0);
  },
);

t.test(
  "pushes that do not wait for one another keep their order",
  async (t) => {
    const { url } = await singleRedis(t);
    const world = await startWorld(t, url);
    const userId = someone();
    /** As a batch does it: the next one starts as soon as this one cannot be overtaken any more. */
    const pushAll = async (from: number, total: number) => {
      const pushed: Promise<unknown>[] = [];
      let early = 0;
      for (let n = from; n < from + total; n++) {
        let settled = false;
        await new Promise<void>((resolve) => {
          const one = world.users
            .push(to(userId, `${n}`), () => {
              if (!settled) early += 1;
              resolve();
            })
            .finally(() => {
              settled = true;
              resolve();
            });
          pushed.push(one);
        });
      }
      await Promise.all(pushed);
      return early;
    };
    t.equal(
      await pushAll(0, 5),
      0,
      "with nobody there each waits for the last",
    );
    const clients: Client[] = [];
    const arriving = (async () => {
      for (let n = 0; n < 3; n++)
        clients.push(await connect(t, world, await prepareFor(world, userId)));
    })();
    await pushAll(5, 100);
    await arriving;
    t.equal(await pushAll(105, 50), 50, "with somebody there none does");
    let first = 0;
    for (const { socket } of clients) {
      const got = () => socket.messages.map(Number);
      await until(() => got().at(-1) === 154, patience);
      t.same(
        got(),
        [...got()].sort((a, b) => a - b),
        "in order, wherever it began",
      );
      first += got().filter((n) => n < 5).length;
    }
    t.equal(first, 5, "what waited came to one of them");
  },
);
