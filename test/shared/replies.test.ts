/** Replies in Redis: the first one stays, nobody hears of one in vain, and a bell that nobody hears only delays. */
import t from "tap";
import { createAsks } from "../../http-fn/redis-asks.js";
import { BridgeError } from "../../shared/errors.js";
import { appendFullScript } from "../../shared/log-scripts.js";
import { Receipts } from "../../shared/receipts.js";
import { replyPlace, replyScript } from "../../shared/replies.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import {
  altered,
  changed,
  connect,
  prepare,
  push,
  startWorld,
  type World,
} from "../fixtures/world.js";

const redis = await singleRedis(t);
const world = await startWorld(t, redis.url);

const placeOf = (id: string) => {
  const at = replyPlace(id);
  if (!at) throw new Error("no place");
  return at;
};

/** A message that asks. */
const ask = async (connectionId: string, more = {}) =>
  world.log.append(
    push(connectionId, "?", { replyMs: 60_000, ttlSeconds: 60, ...more }),
  );

const said = (connectionId: string, text: string) => ({
  connectionId,
  contentType: "text/plain",
  body: Buffer.from(text),
});

t.test("the place is there before anybody has the message", async (t) => {
  const id = await prepare(world);
  const { messageId } = await ask(id);
  const at = placeOf(messageId);
  t.equal(await world.replies.store(at, said(id, "one")), "stored");
  t.equal(await world.replies.store(at, said(id, "one")), "stored", "again");
  t.equal(await world.replies.store(at, said(id, "two")), "answered");
  t.match(await world.replies.read(at), { connectionId: id });
  t.match(await world.replies.close(at), { body: Buffer.from("one") });
});

t.test("made any later, a quick client would find nobody", async (t) => {
  const late = await startWorld(t, redis.url, {
    scripts: [
      changed(appendFullScript, "redis.call('HSET', place, 'keep', ARGV[18])"),
    ],
  });
  const id = await prepare(late);
  const { messageId } = await late.log.append(
    push(id, "?", { replyMs: 60_000 }),
  );
  t.equal(
    await late.replies.store(placeOf(messageId), said(id, "quick")),
    "nobody",
  );
});

t.test("who stops waiting has the reply, or nobody is thanked", async (t) => {
  const id = await prepare(world);
  const { messageId } = await ask(id);
  const at = placeOf(messageId);
  t.equal(await world.replies.close(at), undefined);
  t.equal(await world.replies.store(at, said(id, "late")), "nobody");
  const plain = await world.log.append(push(id, "no question"));
  t.equal(
    await world.replies.store(placeOf(plain.messageId), said(id, "x")),
    "nobody",
  );
});

t.test("nothing of it stays", async (t) => {
  const id = await prepare(world);
  const { messageId } = await ask(id, { replyMs: 1_000 });
  const { tag, place } = placeOf(messageId);
  const left = async () =>
    Number(await redis.cli("PTTL", `bridge:{${tag}}:reply:${place}`));
  t.ok((await left()) > 0 && (await left()) <= 1_000);
  await world.replies.store({ tag, place }, said(id, "one"));
  t.ok((await left()) > 1_000 && (await left()) <= 60_000);
});

async function waitFor(world: World, deaf: boolean) {
  const id = await prepare(world);
  await connect(t, world, id);
  const appended = await world.log.append(push(id, "?", { replyMs: 60_000 }));
  const receipts = new Receipts(world.redis, world, 60_000);
  const { reply } = createAsks(world, receipts);
  const accepted = {
    id: appended.messageId,
    status: "queued" as const,
    to: { connection: id },
    recipients: 1,
    online: 1,
    expiresAt: new Date(appended.expiresAtMs).toISOString(),
    durability: "local" as const,
  };
  const waiting = reply(
    { messageId: appended.messageId, accepted },
    { replyMs: 60_000, hasKey: false },
    new AbortController().signal,
  );
  const answerer = deaf
    ? await startWorld(t, redis.url, {
        scripts: [
          changed(
            replyScript,
            "redis.call('@publish', ARGV[4], 'a ' .. ARGV[5])",
          ),
        ],
      })
    : world;
  await answerer.replies.store(placeOf(appended.messageId), said(id, "heard"));
  return (await waiting).body.toString();
}

t.test("it is heard, and without its bell found all the same", async (t) => {
  t.equal(await waitFor(world, false), "heard");
  t.equal(await waitFor(world, true), "heard");
});

t.test("where nobody can tell, that is what is said", async (t) => {
  const id = await prepare(world);
  const { messageId, expiresAtMs } = await ask(id);
  const away = () => Promise.reject(new BridgeError("redis_unavailable"));
  const replies = altered(world.replies, { read: away, close: away });
  const receipts = new Receipts(world.redis, world, 60_000);
  const { reply } = createAsks({ ...world, replies }, receipts);
  const over = new AbortController();
  const waiting = reply(
    {
      messageId,
      accepted: {
        id: messageId,
        status: "queued",
        to: { connection: id },
        recipients: 1,
        online: 0,
        expiresAt: new Date(expiresAtMs).toISOString(),
        durability: "local",
      },
    },
    { replyMs: 60_000, hasKey: false },
    over.signal,
  );
  over.abort();
  t.match(await waiting.catch((error: unknown) => error), {
    code: "outcome_unknown",
    data: { message: messageId },
  });
});
