/** The poison rule: a message that kills every page it is sent to is given up, and nothing else ever is. */
import t from "tap";
import { keys } from "../../shared/keys.js";
import { accuse, accuseScript, poisonSockets } from "../../shared/poison.js";
import type { Script } from "../../shared/redis.js";
import { Receipts } from "../../shared/receipts.js";
import { claimScript } from "../../shared/registry-scripts.js";
import { singleRedis, type TestRedis } from "../../scripts/lab/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { until } from "../../scripts/lab/until.js";
import {
  changed,
  connect,
  patience,
  prepare,
  push,
  startWorld,
  type Client,
  type World,
} from "../fixtures/world.js";

const redis = await singleRedis(t);

const never = changed(
  accuseScript,
  `if alone < ${poisonSockets} then`,
  "if true then",
);
const careless = changed(claimScript, "c[15] or ''", "''");
const unforgetting = changed(
  accuseScript,
  "if seq ~= first then ends, alone = 0, 0 end",
  "if not ends then ends, alone = 0, 0 end",
);

const start = (t: Scope, scripts: readonly Script[]) =>
  startWorld(t, redis.url, { scripts });

const given = async (server: TestRedis, id: string) =>
  (await server.cli("ZRANGE", keys.fates(id), "0", "-1")) as string[];

/** What a page does with one message: it lives on and acks, or its socket is gone before it could. */
type Page = (text: string, nth: number) => "ack" | "die";

/** Acks as a client does. */
function ack({ connection, socket }: Client, nth: number): void {
  const { seq } =
    socket.said.filter(({ type }) => type === "message")[nth] ?? {};
  const frame = JSON.stringify({ type: "ack", seq });
  connection.onMessage(Buffer.from(frame), false);
}

/** A page is loaded anew: no seq, everything unacked comes again. It ends when it dies, or `seen` is all there is. */
async function visit(
  t: Scope,
  world: World,
  id: string,
  page: Page,
  seen: Set<string>,
  all: number,
): Promise<void> {
  const client = await connect(t, world, id);
  let read = 0;
  await until(
    () => {
      for (; read < client.socket.messages.length; read += 1) {
        const text = client.socket.messages[read] ?? "";
        if (page(text, read) === "die") return true;
        seen.add(text);
        ack(client, read);
      }
      return seen.size >= all;
    },
    { ...patience, every: 2 },
  );
  await client.connection.onClose(1006);
}

/** Three messages, the second of which kills. What arrives in twice the sockets that the rule needs. */
async function deadly(t: Scope, scripts: readonly Script[]) {
  const world = await start(t, scripts);
  const id = await prepare(world);
  const pushed = [];
  for (const text of ["good", "bad", "after"])
    pushed.push(await world.log.append(push(id, text)));
  const seen = new Set<string>();
  let sockets = 0;
  for (; sockets < 2 * poisonSockets && !seen.has("after"); sockets += 1)
    await visit(
      t,
      world,
      id,
      (text) => (text === "bad" ? "die" : "ack"),
      seen,
      2,
    );
  const { receiptMs } = world.windows;
  const receipts = new Receipts(world.redis, world, receiptMs);
  const receipt = await receipts.read(pushed[1]?.messageId ?? "");
  const { status, reason } = receipt;
  return { seen: [...seen], sockets, status, reason };
}

t.test("a message that kills its page", async (t) => {
  t.match(
    await deadly(t, [never]),
    { seen: ["good"], status: "sent" },
    "stops its connection when nobody counts",
  );
  t.match(
    await deadly(t, [careless]),
    { seen: ["good"], status: "sent" },
    "is not known for it when more is sent with it",
  );
  const { sockets, ...outcome } = await deadly(t, []);
  t.same(outcome, {
    seen: ["good", "after"],
    status: "undeliverable",
    reason: "poison",
  });
  t.ok(sockets >= poisonSockets, `given up after ${sockets} sockets`);
});

/** Every socket acks what the one before it got, gets one more, and is cut before it can ack that. */
async function alwaysTooEarly(t: Scope, scripts: readonly Script[]) {
  const world = await start(t, scripts);
  const id = await prepare(world);
  for (let n = 0; n <= poisonSockets + 5; n += 1) {
    await world.log.append(push(id, `${n}`));
    await visit(
      t,
      world,
      id,
      (text) => (text === `${n}` ? "die" : "ack"),
      new Set(),
      Infinity,
    );
  }
  return (await given(redis, id)).length;
}

t.test("sockets that are cut soon, with acks getting on", async (t) => {
  t.ok(
    (await alwaysTooEarly(t, [unforgetting])) > 0,
    "accuse the innocent when progress is not looked at",
  );
  t.equal(await alwaysTooEarly(t, []), 0, "accuse nobody");
});

t.test("a bad line loses nothing", async (t) => {
  const world = await start(t, []);
  const id = await prepare(world);
  const seen = new Set<string>();
  // The same line in every run; two of three sockets are gone before a thing is acked.
  let state = 7;
  const random = () => (state = (state * 48_271) % 2_147_483_647) / 2 ** 31;
  const total = 60;
  for (let n = 0; n < total; n += 1) {
    await world.log.append(push(id, `${n}`));
    const survives = random() < 1 / 3 ? 1 + Math.floor(random() * 3) : 0;
    await visit(
      t,
      world,
      id,
      (_, nth) => (nth < survives ? "ack" : "die"),
      seen,
      n + 1,
    );
  }
  await visit(t, world, id, () => "ack", seen, total);
  t.equal(seen.size, total);
  t.same(await given(redis, id), []);
});

t.test("what is no sign of poison", async (t) => {
  const world = await start(t, []);
  const id = await prepare(world);
  await world.log.append(push(id, "x"));
  const { epoch, seq } = await world.registry.claim(id, {
    owner: "test",
    protocol: "bridge.v1.json",
  });
  const ended = (soon: boolean, by = epoch) =>
    accuse(world.redis, id, by, { sent: seq, soon });
  const suspect = () => redis.cli("HGET", keys.connection(id), "suspect");
  for (let n = 1; n < poisonSockets; n += 1) await ended(true);
  t.equal(await suspect(), `${seq} ${poisonSockets - 1} ${poisonSockets - 1}`);
  t.equal(await ended(true, epoch - 1), undefined, "a former owner's word");
  t.equal(await ended(false), undefined, "a socket that lived on");
  t.equal(await suspect(), null, "which clears the suspicion");
  for (let n = 1; n < poisonSockets; n += 1) await ended(true);
  t.equal(await ended(true), seq, "twenty in a row are one");
  t.equal((await given(redis, id)).length, 1);

  const other = await prepare(world);
  await world.log.append(push(other, "x"));
  for (let n = 0; n < poisonSockets + 5; n += 1) {
    const client = await connect(t, world, other);
    await client.receives("x");
    // Sent away by us: what it got last has nothing to do with it.
    client.connection.drain(0);
    await client.connection.onClose(1006);
  }
  t.same(await given(redis, other), [], "nor is a move that we asked for");
});
