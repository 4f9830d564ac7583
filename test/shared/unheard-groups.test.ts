/** A message to a group without members costs little: what nobody can ever read is not kept, and nothing else is lost by that. */
import t, { type Test } from "tap";
import { singleRedis } from "../../scripts/lab/redis.js";
import type { Naming, Position } from "../../shared/fanout.js";
import { publishScript } from "../../shared/fanout-scripts.js";
import { BridgeError } from "../../shared/errors.js";
import { groupTag, keys } from "../../shared/keys.js";
import { Receipts } from "../../shared/receipts.js";
import { changed, connect, startWorld, type World } from "../fixtures/world.js";

const redis = await singleRedis(t);
let groups = 0;

async function start(t: Test, guarded = true) {
  const world = await startWorld(t, redis.url, {
    historyMessages: 100,
    scripts: guarded
      ? []
      : [
          changed(
            publishScript,
            "local unheard = redis.call('EXISTS', KEYS[5]) == 0",
            "local unheard = false",
          ),
        ],
  });
  return { world, group: `unheard-${++groups}` };
}

const message = (group: string, text = "", naming?: Naming) => ({
  group,
  body: Buffer.from(text),
  contentType: "text/plain",
  binary: false,
  ttlSeconds: 60,
  ...(naming && { naming }),
});

const say = (world: World, group: string, text = "", naming?: Naming) =>
  world.fanout.publish(message(group, text, naming));

/** The keys of a group, and the bytes of all of them. */
async function costOf(
  group: string,
): Promise<{ keys: string[]; bytes: number }> {
  const found = (await redis.cli(
    "KEYS",
    `bridge:{${groupTag(group)}}:*`,
  )) as string[];
  let bytes = 0;
  for (const key of found)
    bytes += Number(await redis.cli("MEMORY", "USAGE", key, "SAMPLES", "0"));
  return {
    keys: found.map((key) => key.slice(key.lastIndexOf(":") + 1)).sort(),
    bytes,
  };
}

t.test("an empty message to a new name", async (t) => {
  const before = await start(t, false);
  await say(before.world, before.group);
  const full = await costOf(before.group);
  t.same(full.keys, ["facts", "history", "index", "meta"]);
  t.ok(full.bytes > 8_000, `without the guard: ${full.bytes} bytes`);
  const { world, group } = await start(t);
  await say(world, group);
  const small = await costOf(group);
  t.same(small.keys, ["facts"]);
  t.ok(small.bytes < 400, `with it: ${small.bytes} bytes`);
  t.comment(`${full.bytes} → ${small.bytes} bytes`);
  const rest = Number(await redis.cli("PTTL", keys.groupFacts(group)));
  t.ok(rest > 0 && rest <= 120_000, "and it goes by itself");
});

t.test("its receipt is there all the same", async (t) => {
  const { world, group } = await start(t);
  const receipts = new Receipts(
    world.redis,
    { log: world.log, users: world.users, fanout: world.fanout },
    world.windows.receiptMs,
  );
  const ids: string[] = [];
  for (let i = 0; i < 200; i++) ids.push((await say(world, group)).messageId);
  t.equal(new Set(ids).size, 200);
  for (const id of [ids[0], ids[63], ids[64], ids[199]])
    t.match(await receipts.read(id ?? ""), {
      status: "queued",
      to: { group },
      recipients: 0,
      online: 0,
      sent: 0,
    });
  const { bytes } = await costOf(group);
  t.ok(bytes < 200 * 200, `200 of them: ${bytes} bytes`);
});

t.test("a message that is executed twice counts once", async (t) => {
  const { world, group } = await start(t);
  const publish = () =>
    world.redis.run(
      publishScript,
      [
        keys.group(group),
        keys.groupHistory(group),
        keys.groupIndex(group),
        keys.groupFacts(group),
        keys.groupUntil(group),
        keys.groupOnline(group),
        keys.groupScheduled(group),
        keys.group(group),
      ],
      [
        "nonce",
        "x",
        "0 - text/plain",
        60_000,
        "",
        100,
        1e6,
        60_000,
        60_000,
        60_000,
        "-",
        "",
        1,
        "",
        "",
      ],
    );
  const [first, again] = [String(await publish()), String(await publish())];
  const placeOf = (reply: string) => reply.split(" ")[2];
  t.equal(placeOf(again), placeOf(first));
});

t.test(
  "a member that is away gets it; one that comes later does not",
  async (t) => {
    const { world, group } = await start(t);
    await say(world, group, "before");
    const { connectionId } = await world.memberships.prepare({
      groups: [group],
    });
    await say(world, group, "prepared");
    const client = await connect(t, world, connectionId);
    await client.receives("prepared");
    await client.connection.onClose(1006);
    await say(world, group, "away");
    const again = await connect(t, world, connectionId, {
      resumeSeq: 0,
      offsets: new Map([
        [
          group,
          Number(
            client.socket.said.findLast(({ offset }) => offset)?.["offset"],
          ),
        ],
      ]),
    });
    await again.receives("away");
  },
);

t.test(
  "a history has no hole: who was there before the last member left is told",
  async (t) => {
    const { world, group } = await start(t);
    const hold = () => world.fanout.hold(group, ["c_one"], { spanMs: 60_000 });
    const begin: Position = await hold();
    await say(world, group, "1");
    await world.fanout.leave(group, ["c_one"], 0);
    await say(world, group, "2");
    const back = await hold();
    t.equal(back.epoch, begin.epoch);
    await say(world, group, "3");
    t.match(await world.fanout.read(group, begin), {
      recovered: false,
      rows: [],
    });
    const { recovered, rows } = await world.fanout.read(group, back);
    t.same([recovered, rows.map(({ body }) => String(body))], [true, ["3"]]);
  },
);

t.test(
  "only names that nobody knows count, and they may be refused",
  async (t) => {
    const { world, group } = await start(t);
    const counts = { began: 0 };
    const naming = (allowed: boolean): Naming => ({
      allowed,
      began: () => void (counts.began += 1),
      refused: () => new BridgeError("quota_exceeded"),
    });
    const refused = { code: "quota_exceeded" };
    await t.rejects(say(world, group, "x", naming(false)), refused);
    await t.rejects(
      world.fanout.schedule(
        message(group, "x", naming(false)),
        "00000000000",
        Date.now() + 60_000,
      ),
      refused,
    );
    await t.rejects(
      world.fanout.hold(group, ["c_one"], {
        spanMs: 60_000,
        isNew: true,
        naming: naming(false),
      }),
      refused,
    );
    t.same(
      [(await costOf(group)).keys, counts.began],
      [[], 0],
      "nothing is left",
    );
    await say(world, group, "x", naming(true));
    t.equal(counts.began, 1);
    await say(world, group, "x", naming(true));
    await say(world, group, "x", naming(false));
    t.equal(counts.began, 1, "a known one does not count");
    const other = `${group}-joined`;
    await world.fanout.hold(other, ["c_one"], {
      spanMs: 60_000,
      isNew: true,
      naming: naming(true),
    });
    await say(world, other, "x", naming(false));
    await world.fanout.hold(other, ["c_two"], {
      spanMs: 60_000,
      isNew: true,
      naming: naming(false),
    });
    t.equal(counts.began, 2);
  },
);

t.test("a full Redis refuses it whole", async (t) => {
  const { world, group } = await start(t);
  const known = `${group}-known`;
  await world.fanout.hold(known, ["c_one"], { spanMs: 60_000 });
  await world.fanout.leave(known, ["c_one"], 0);
  const before = await costOf(known);
  await redis.cli("CONFIG", "SET", "maxmemory", "1");
  t.teardown(() => redis.cli("CONFIG", "SET", "maxmemory", "0"));
  for (const name of [group, known])
    await t.rejects(say(world, name), { code: "redis_full" });
  t.same((await costOf(group)).keys, []);
  t.same(await costOf(known), before);
});
