/** Delivery rule 14: members of a group get all of it in order, or are told that they did not. */
import t, { type Test } from "tap";
import {
  historyScript,
  holdScript,
  publishScript,
} from "../../shared/fanout-scripts.js";
import type { Fanout } from "../../shared/fanout.js";
import { everybody } from "../../shared/keys.js";
import type { Script, Subscriptions } from "../../shared/redis.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";
import { Feeds } from "../../ws-fn/feeds.js";
import {
  altered,
  changed,
  connect,
  patience,
  startWorld,
  type Client,
  type Windows,
  type World,
} from "../fixtures/world.js";

const redis = await singleRedis(t);
let groups = 0;

/** An instance, a group of its own, and what each part may do wrong. */
async function start(
  t: Test,
  {
    scripts = [],
    fanout = () => ({}),
    leaseMs = 3_600_000,
    windowBytes = 0,
    ...windows
  }: Partial<Windows> & {
    scripts?: readonly Script[];
    fanout?: (own: Fanout) => Partial<Fanout>;
    windowBytes?: number;
  } = {},
) {
  const world = await startWorld(t, redis.url, {
    scripts,
    historyMessages: 5,
    ...windows,
  });
  const group = `g${++groups}`;
  /** Bells that do not arrive. */
  const bells = { lost: 0, onSubscribe: () => Promise.resolve() };
  const { subscriptions } = world.redis;
  const deaf: Subscriptions = altered(subscriptions, {
    async subscribe(channel, handler) {
      if (channel.includes(group)) await bells.onSubscribe();
      await subscriptions.subscribe(channel, (payload) => {
        if (!channel.includes(group) || bells.lost === 0) handler(payload);
        else bells.lost -= 1;
      });
    },
  });
  const altering = altered(world.fanout, fanout(world.fanout));
  const feeds = new Feeds({
    fanout: altering,
    redis: { subscriptions: deaf },
    logger: world.deps.logger,
    leaseMs,
    windowBytes,
  });
  t.teardown(() => feeds.close());
  const say = (...texts: string[]) => publish(world, group, texts);
  const enter = async (
    id: string,
    more: { resumeSeq?: number; offsets?: ReadonlyMap<string, number> } = {},
  ) => connect(t, world, id, { ...more, deps: { feeds, fanout: altering } });
  const prepare = async () =>
    (await world.memberships.prepare({ groups: [group] })).connectionId;
  return { world, group, bells, say, enter, prepare };
}

async function publish(world: World, group: string, texts: string[]) {
  for (const text of texts)
    await world.fanout.publish({
      group,
      body: Buffer.from(text),
      contentType: "text/plain",
      binary: false,
      ttlSeconds: 60,
    });
}

const place = (client: Client, group: string) =>
  (
    client.socket.said[0]?.["groups"] as Record<
      string,
      { epoch: string; offset: number; recovered: boolean }
    >
  )[group];

const last = (client: Client) =>
  Number(client.socket.said.findLast(({ offset }) => offset)?.["offset"]);

/** Reads nothing, and says that this is all; counts what it has answered so. */
function blind() {
  const calls = { reads: 0 };
  const fanout = (own: Fanout): Partial<Fanout> => ({
    async read(group) {
      const now = await own.hold(group, [], { spanMs: 1 });
      if (group !== everybody) calls.reads += 1;
      return { ...now, recovered: true, more: false, rows: [] };
    },
  });
  return { calls, fanout };
}

/** The bell of the second of four messages is lost. */
async function lostBell(t: Test, guarded: boolean) {
  const { calls, fanout } = blind();
  const part = await start(t, guarded ? {} : { fanout });
  const client = await part.enter(await part.prepare());
  await part.say("1");
  await client.receives("1");
  part.bells.lost = 1;
  const before = calls.reads;
  await part.say("2", "3");
  if (guarded) await client.receives("1", "2", "3");
  else await until(() => calls.reads > before, patience);
  await part.say("4");
  await until(() => client.socket.messages.includes("4"), patience);
  return client.socket.messages;
}

t.test("a lost bell", async (t) => {
  t.same(await lostBell(t, false), ["1", "4"], "a hole without a word");
  t.same(await lostBell(t, true), ["1", "2", "3", "4"], "is read again");
});

/** The bell of the last message of a quiet group is lost; then what looks at it has looked a few times. */
async function quietGroup(t: Test, guarded: boolean) {
  let looks = 0;
  const part = await start(t, {
    leaseMs: 300,
    fanout: (own) => ({
      async hold(group, ids, span, known) {
        const now = await own.hold(group, ids, span, known);
        if (known === undefined || known.offset === "lost") return now;
        looks += 1;
        return guarded ? now : { epoch: known.epoch, offset: known.offset };
      },
    }),
  });
  const client = await part.enter(await part.prepare());
  part.bells.lost = 1;
  await part.say("last");
  if (guarded) await client.receives("last");
  else {
    looks = 0;
    await until(() => looks > 6, patience);
  }
  return client.socket.messages;
}

t.test("the last message of a quiet group", async (t) => {
  t.same(await quietGroup(t, false), [], "is not noticed");
  t.same(await quietGroup(t, true), ["last"], "by comparing positions");
});

/** A message is published while the first member's instance subscribes. */
async function duringJoin(t: Test, guarded: boolean) {
  const part = await start(t, guarded ? {} : { fanout: blind().fanout });
  const id = await part.prepare();
  part.bells.onSubscribe = () => part.say("between");
  const client = await part.enter(id);
  await part.say("after");
  await until(() => client.socket.messages.includes("after"), patience);
  return client.socket.messages;
}

t.test("between join and subscription", async (t) => {
  t.same(await duringJoin(t, false), ["after"]);
  t.same(await duringJoin(t, true), ["between", "after"]);
});

/** More is published than the history holds, while a member is away. */
async function tooLong(t: Test, guarded: boolean) {
  const { enter, prepare, say, group } = await start(t, {
    scripts: guarded
      ? []
      : [changed(historyScript, "if after < floor then return out end")],
  });
  const id = await prepare();
  const client = await enter(id);
  await say("0");
  await client.receives("0");
  const offsets = new Map([[group, last(client)]]);
  await client.connection.onClose(1006);
  await say(..."123456789");
  const again = await enter(id, { resumeSeq: 0, offsets });
  await say("next");
  await until(() => again.socket.messages.includes("next"), patience);
  return {
    recovered: place(again, group)?.recovered,
    messages: again.socket.messages.join(" "),
  };
}

t.test("away for longer than the history", async (t) => {
  t.same(
    await tooLong(t, false),
    { recovered: true, messages: "5 6 7 8 9 next" },
    "a part that is called all",
  );
  t.same(await tooLong(t, true), { recovered: false, messages: "next" });
});

/** Redis forgets the group, and goes on. */
async function forgotten(t: Test, guarded: boolean) {
  const { enter, prepare, say, group } = await start(t, {
    scripts: guarded
      ? []
      : [
          changed(
            historyScript,
            "if ARGV[1] ~= '' and ARGV[1] ~= epoch or after < tonumber(epoch) or after > offset then return out end",
          ),
          changed(
            publishScript,
            "local offset = math.max(last + 1, us)",
            "local offset = last + 1",
          ),
        ],
  });
  const id = await prepare();
  const client = await enter(id);
  await say("0");
  await client.receives("0");
  const offsets = new Map([[group, last(client)]]);
  await client.connection.onClose(1006);
  await say("missed");
  for (const part of ["meta", "history", "index"])
    await redis.cli("DEL", `bridge:{g:${group}}:${part}`);
  if (!guarded)
    // Numbers that begin anew, as a counter's would.
    await redis.cli(
      "HSET",
      `bridge:{g:${group}}:meta`,
      "epoch",
      "1",
      "offset",
      "1",
    );
  await say("1");
  const again = await enter(id, { resumeSeq: 0, offsets });
  return place(again, group)?.recovered;
}

t.test("a Redis that forgot the group", async (t) => {
  t.equal(await forgotten(t, false), true, "a silent hole");
  t.equal(await forgotten(t, true), false);
});

/** Redis goes back to before the second message, which one member has and another, who is away, does not. */
async function wentBack(t: Test, guarded: boolean) {
  const { enter, prepare, say, group, world } = await start(t, {
    leaseMs: 300,
    scripts: guarded
      ? []
      : [changed(holdScript, "if ARGV[4] == epoch and", "if false and")],
  });
  const [here, away] = [await prepare(), await prepare()];
  const stays = await enter(here);
  const leaves = await enter(away);
  await say("1");
  await Promise.all([stays.receives("1"), leaves.receives("1")]);
  const at = last(leaves);
  await leaves.connection.onClose(1006);
  await say("2");
  await stays.receives("1", "2");
  const meta = `bridge:{g:${group}}:meta`;
  const before = await redis.cli("HGET", meta, "epoch");
  await redis.cli("HSET", meta, "offset", String(at));
  await redis.cli("XDEL", `bridge:{g:${group}}:history`, `${last(stays)}-0`);
  if (guarded)
    await until(
      async () => (await redis.cli("HGET", meta, "epoch")) !== before,
      patience,
    );
  else await world.fanout.hold(group, [], { spanMs: 1 });
  const again = await enter(away, {
    resumeSeq: 0,
    offsets: new Map([[group, at]]),
  });
  if (guarded)
    await until(
      () => stays.socket.said.some(({ recovered }) => recovered === false),
      { ...patience, message: "who was there hears of it, too" },
    );
  return place(again, group)?.recovered;
}

t.test("a replica that lagged", async (t) => {
  t.equal(await wentBack(t, false), true, "a silent hole");
  t.equal(await wentBack(t, true), false, "a new epoch");
});

t.test("without offsets a client comes back to its acks", async (t) => {
  const { enter, prepare, say, group } = await start(t);
  const id = await prepare();
  await say("0");
  const client = await enter(id);
  await say("1", "2");
  await client.receives("0", "1", "2");
  t.notOk(client.socket.said.some(({ redelivered }) => redelivered === true));
  const [, , first] = client.socket.said;
  client.connection.onMessage(
    Buffer.from(
      JSON.stringify({ type: "ack", groups: { [group]: first?.["offset"] } }),
    ),
    false,
  );
  await client.connection.onClose(1006);
  const again = await enter(id);
  await again.receives("2");
  t.match(again.socket.said.at(-1), { data: "2", redelivered: true });
  t.match(place(again, group), { recovered: true, offset: first?.["offset"] });
});

/** The client had two messages and acked neither; a third one came while it was away. */
async function beforeItsAck(t: Test, guarded: boolean) {
  const { enter, prepare, say, group } = await start(t);
  const id = await prepare();
  const client = await enter(id);
  await say("1", "2");
  await client.receives("1", "2");
  const offsets = new Map([[group, last(client)]]);
  await client.connection.onClose(1006);
  await say("3");
  const again = await enter(id, guarded ? { resumeSeq: 0, offsets } : {});
  await until(() => again.socket.messages.includes("3"), patience);
  return again.socket.said
    .filter(({ type }) => type === "message")
    .map(({ data, redelivered }) => [data, redelivered]);
}

t.test("a cut before the first ack", async (t) => {
  t.same(
    await beforeItsAck(t, false),
    [
      ["1", true],
      ["2", true],
      ["3", true],
    ],
    "without offsets: again, and marked",
  );
  t.same(await beforeItsAck(t, true), [["3", false]], "what it has not got");
});

t.test("who published is known from the history, too", async (t) => {
  const { world, group } = await start(t);
  const begin = await world.fanout.hold(group, ["c_member"], {
    spanMs: 60_000,
  });
  const writers = [
    undefined,
    { userId: null },
    { userId: "u" },
    { userId: "- 1 ü\u{1f600}%20" },
  ];
  for (const from of writers)
    await world.fanout.publish({
      ...{ group, body: Buffer.from("x"), binary: false, ttlSeconds: 60 },
      contentType: "text/plain; charset=utf-8",
      ...(from && { from }),
    });
  const { rows } = await world.fanout.read(group, begin);
  t.same(
    rows.map(({ from }) => from),
    writers,
  );
  t.same(
    [...new Set(rows.map(({ contentType }) => contentType))],
    ["text/plain; charset=utf-8"],
  );
});

t.test("a member that does not read costs no memory", async (t) => {
  const { enter, prepare, say, group } = await start(t);
  const client = await enter(await prepare());
  const { socket } = client;
  socket.bufferedBytes = 2_000_000;
  await say("1", "2");
  socket.bufferedBytes = 0;
  await client.receives("1", "2");
  socket.bufferedBytes = 2_000_000;
  await say(..."3456789");
  socket.bufferedBytes = 0;
  await until(() => socket.said.some(({ type }) => type === "group"), patience);
  t.match(socket.said.at(-1), { type: "group", group, recovered: false });
  await say("next");
  await client.receives("1", "2", "next");
});

/** Members whose sockets take little at a time read the same history. How many times each byte of it came from Redis. */
async function slowMembers(t: Test, guarded: boolean): Promise<number> {
  const { world, group, enter, prepare } = await start(t, {
    historyBytes: 16_000_000,
    historyMessages: 1_000,
    ...(guarded ? { windowBytes: 33_554_432 } : {}),
  });
  const ids = await Promise.all(Array.from({ length: 20 }, prepare));
  const clients = await Promise.all(ids.map((id) => enter(id)));
  for (const { socket } of clients) {
    socket.bufferedBytes = 2_000_000;
    const { send } = socket;
    socket.send = (frame, taken) => {
      socket.bufferedBytes += frame.data.length;
      send.call(socket, frame, taken);
    };
  }
  // Too large for a bell.
  const text = "x".repeat(100_000);
  const count = 30;
  const given = async () =>
    Number(
      /total_net_output_bytes:(\d+)/.exec(
        String(await redis.cli("INFO", "stats")),
      )?.[1],
    );
  const before = await given();
  await publish(
    world,
    group,
    Array.from({ length: count }, () => text),
  );
  let next = 0;
  await until(() => {
    // One after the other, so that no two ask at the same time.
    (clients[next++ % clients.length] as Client).socket.bufferedBytes = 0;
    return clients.every(({ socket }) => socket.messages.length === count);
  }, patience);
  return ((await given()) - before) / (count * text.length);
}

t.test("members that take little at a time", async (t) => {
  const without = await slowMembers(t, false);
  t.ok(without > 10, `each reads all of it: ${without.toFixed(1)} times`);
  const times = await slowMembers(t, true);
  t.ok(times < 4, `it is read for all of them: ${times.toFixed(1)} times`);
});

/** A client that was let in late names a position from before. */
async function beforeItWas(t: Test, group?: string) {
  const { world, group: own, enter, prepare } = await start(t);
  const name = group ?? own;
  const { epoch } = await world.fanout.hold(name, [], { spanMs: 1 });
  await publish(world, name, ["not for you"]);
  const id = await prepare();
  await publish(world, name, ["1"]);
  const offsets = new Map([[name, Number(epoch)]]);
  const client = await enter(id, { offsets });
  await publish(world, name, ["2"]);
  await until(() => client.socket.messages.includes("2"), patience);
  return { said: client.socket.messages, at: place(client, name) };
}

t.test("what was said before it was a member", async (t) => {
  for (const group of [undefined, everybody]) {
    const { said, at } = await beforeItWas(t, group);
    t.same(said, ["1", "2"], "is not said to it, whatever it names");
    t.match(at, { recovered: false }, "and it hears so");
  }
});

/** Redis commands, those inside scripts included, for twenty messages and the acks of all members. */
async function cost(t: Test, members: number): Promise<number> {
  const { enter, prepare, say, group } = await start(t);
  const ids = await Promise.all(Array.from({ length: members }, prepare));
  const clients = await Promise.all(ids.map((id) => enter(id)));
  const processed = async () =>
    Number(
      /total_commands_processed:(\d+)/.exec(
        String(await redis.cli("INFO", "stats")),
      )?.[1],
    );
  const before = await processed();
  for (let n = 0; n < 20; n++) {
    await say(`${n}`);
    await until(
      () => clients.every(({ socket }) => socket.messages.length === n + 1),
      patience,
    );
    for (const client of clients)
      client.connection.onMessage(
        Buffer.from(
          JSON.stringify({ type: "ack", groups: { [group]: last(client) } }),
        ),
        false,
      );
  }
  const after = await processed();
  t.same(clients.map(({ socket }) => socket.closedWith).filter(Boolean), []);
  return after - before;
}

t.test("a publish costs the same for one member and for many", async (t) => {
  const one = await cost(t, 1);
  const many = await cost(t, 60);
  t.comment(`20 messages: ${one} commands for 1 member, ${many} for 60`);
  // One command for each member and message would be 1,200 more.
  t.ok(many < one + 400, `${many} for 60, ${one} for 1`);
});
