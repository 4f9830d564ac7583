/** What explain says of a push on a real Redis, and that nothing in it changes. */
import t from "tap";
import type { Config } from "../../shared/config.js";
import { createExplain } from "../../http-fn/explain.js";
import type { Publish, Push, UserPush } from "../../http-fn/bridge.js";
import type { BridgeError } from "../../shared/errors.js";
import { redisFull } from "../../shared/full.js";
import { keys } from "../../shared/keys.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";
import {
  connect,
  patience,
  push,
  startWorld,
  type World,
} from "../fixtures/world.js";

const message = {
  body: Buffer.from("hello"),
  contentType: "text/plain",
  binary: false,
  ttlSeconds: 60,
};
const toUser = (userId: string, more: Partial<UserPush> = {}): UserPush => ({
  ...message,
  userId,
  ...more,
});
const to = (connectionId: string, more: Partial<Push> = {}): Push => ({
  ...message,
  connectionId,
  ...more,
});

/**
 * Everything that is in Redis, byte for byte, but for what is tidied in the background. A renewed lease would show, so worlds here
 * have long ones.
 */
async function everything({ redis }: World): Promise<string[]> {
  const all = (await redis.command("KEYS", "*")) as string[];
  const dumps = await Promise.all(
    all
      .filter((key) => key !== keys.eventIdentities)
      .sort()
      .map(async (key) => `${key} ${String(await redis.command("DUMP", key))}`),
  );
  return dumps;
}

t.test("a push explained", async (t) => {
  const { url } = await singleRedis(t);
  const world = await startWorld(t, url, { maxMessages: 2 });
  let noRoom: BridgeError | undefined;
  const admit = () => (noRoom ? Promise.reject(noRoom) : undefined);
  const config = { logMaxMessages: 2, logMaxBytes: 1_000_000 } as Config;
  const explain = createExplain(world, config, admit);
  const { connectionId: id } = await world.registry.prepare({ userId: "u" });
  const { connectionId: prepared } = await world.registry.prepare({
    userId: "u",
  });
  await connect(t, world, id);
  const { connectionId: raw } = await world.registry.prepare({});
  await connect(t, world, raw, { protocol: "raw" });
  const { connectionId: full } = await world.registry.prepare({});
  const key = { key: "k", fingerprint: "f", busyMs: 0 };
  await world.log.append(push(full, "1", { idempotency: key }));
  await world.log.append(push(full, "2"));
  const { connectionId: ended } = await world.registry.prepare({});
  await world.registry.end(ended, {
    reason: "closed_by_backend",
    code: 4510,
    words: "",
  });
  await world.users.push({ ...message, userId: "absent" });
  await world.users.push({
    ...message,
    userId: "absent",
    idempotency: { ...key, busyMs: 60_000 },
  });
  const before = await everything(world);

  t.match(await explain(to(id)), {
    status: 202,
    outcome: "queued",
    problem: null,
    online: 1,
    idempotency: "none",
    recipients: [
      { connection: id, state: "open", instance: world.instance, pending: 0 },
    ],
    message: { bytes: 5, ttl: 60, durability: "local" },
    limits: { messages: 2 },
  });
  t.match(await explain(to(prepared, { ttlSeconds: 0 })), {
    outcome: "undeliverable",
    online: 0,
  });
  t.match(await explain(to(prepared, { dueAtMs: Date.now() + 1_000 })), {
    outcome: "scheduled",
  });
  t.match(await explain(to(full)), {
    status: 429,
    outcome: null,
    problem: { code: "log_full", limit: 2, actual: 2 },
    recipients: [{ pending: 2, problem: { code: "log_full" } }],
  });
  t.match(await explain(to(full, { idempotency: key })), {
    status: 202,
    idempotency: "replay",
  });
  t.match(
    await explain(to(full, { idempotency: { ...key, fingerprint: "g" } })),
    { status: 422, idempotency: "mismatch" },
  );
  t.match(await explain(to(id, { idempotency: key })), { idempotency: "new" });
  t.match(await explain(to(ended)), {
    status: 410,
    problem: { code: "connection_ended" },
    recipients: [],
  });
  t.match(await explain(to("c_0000000000000000000000")), { status: 404 });
  t.match(await explain(to(id, { durability: "replica" })), {
    status: 503,
    problem: { code: "no_replica" },
  });

  noRoom = redisFull();
  for (const push of [to(id), toUser("u")])
    t.match(await explain(push), {
      status: 503,
      problem: { code: "redis_full" },
    });
  noRoom = undefined;
  const asks = { replyMs: 10_000 };
  t.match(await explain(to(id, asks)), {
    status: 200,
    outcome: "queued",
    recipients: [{ connection: id, canReply: true }],
  });
  t.match(await explain(to(prepared, asks)), {
    status: 200,
    recipients: [{ canReply: null }],
  });
  t.match(await explain(to(raw, asks)), {
    status: 409,
    outcome: null,
    problem: { code: "reply_impossible" },
    recipients: [{ canReply: false }],
  });
  t.match(await explain(to(prepared, { ...asks, ttlSeconds: 0 })), {
    status: 409,
    problem: { code: "reply_impossible", reason: "not_connected" },
  });
  t.notOk("canReply" in ((await explain(to(id))).recipients[0] ?? {}));

  t.match(await explain(toUser("u")), {
    status: 202,
    parked: false,
    online: 1,
    recipients: [{ connection: id }],
  });
  t.match(await explain(toUser("nobody")), {
    status: 202,
    parked: true,
    recipients: [],
  });
  t.match(await explain(toUser("absent")), {
    status: 429,
    parked: false,
    problem: { code: "log_full" },
  });
  t.match(await explain(toUser("absent", { idempotency: key })), {
    status: 409,
    idempotency: "in_progress",
  });
  t.same(await everything(world), before, "nothing was stored or changed");
});

t.test("a publish explained", async (t) => {
  const { url } = await singleRedis(t);
  const world = await startWorld(t, url, {
    maxMessages: 1,
    historyMs: 30_000,
  });
  const config = { groupHistoryMessages: 7, groupHistoryBytes: 8 } as Config;
  let noRoom: BridgeError | undefined;
  const admit = () => (noRoom ? Promise.reject(noRoom) : undefined);
  const explain = createExplain(world, config, admit);
  const group = (more: Partial<Publish> = {}): Publish => ({
    ...message,
    group: "room",
    ...more,
  });
  const member = async (userId: string, open: boolean) => {
    const { connectionId } = await world.memberships.prepare({
      userId,
      groups: ["room"],
      labels: { plan: open ? "pro" : "free" },
    });
    if (open) await connect(t, world, connectionId);
    return connectionId;
  };
  const ids = [
    await member("ann", true),
    await member("bob", true),
    await member("bob", false),
  ];
  const [, bob = "", away = ""] = ids;
  const { connectionId: outside } = await world.memberships.prepare({});
  const key = { key: "k", fingerprint: "f" };
  const { position } = await world.fanout.publish(group({ idempotency: key }));
  const offset = position?.offset ?? 0;
  await until(async () => {
    const facts = await world.fanout.facts("room", { offset });
    return facts?.kind === "facts" && facts.sent === 2;
  }, patience);
  await world.fanout.schedule(group(), "00000000001", Date.now() + 60_000);
  const before = await everything(world);

  const all = await explain(group());
  t.match(all, {
    to: { group: "room" },
    status: 202,
    outcome: "queued",
    online: 2,
    parked: false,
    idempotency: "none",
    members: {
      total: 3,
      looked: 3,
      matched: 3,
      instances: [{ instance: world.instance, online: 2 }],
    },
    message: { ttl: 60, topic: null, durability: "local" },
    limits: { messages: 7, bytes: 8 },
  });
  const shown = (one: typeof all) =>
    one.recipients.map(({ connection }) => connection).sort();
  t.same(shown(all), [...ids].sort());
  const lives = Date.parse(all.message.expiresAt) - Date.now();
  t.ok(lives <= 30_000, "no longer than the history keeps it");
  const bobs = await explain(
    group({ selection: { user: ["bob"], except: [bob] } }),
  );
  t.match(bobs, {
    online: 0,
    members: { total: 3, looked: 3, matched: 1, instances: [] },
  });
  t.same(shown(bobs), [away]);
  t.match(
    await explain(
      group({ ttlSeconds: 0, selection: { labels: { plan: ["free"] } } }),
    ),
    { outcome: "undeliverable", status: 202 },
  );
  const everyone = await explain(group({ group: "$all" }));
  t.match(everyone, { to: { broadcast: true }, members: { total: 4 } });
  t.ok(shown(everyone).includes(outside));
  t.match(
    await explain(group({ group: "$all", selection: { groups: ["room"] } })),
    { members: { total: 4, matched: 3 }, recipients: { length: 3 } },
  );
  t.match(await explain(group({ group: "nobody" })), {
    status: 202,
    members: { total: 0 },
    recipients: [],
  });

  t.match(await explain(group({ durability: "replica" })), {
    status: 503,
    problem: { code: "no_replica" },
  });
  t.match(await explain(group({ dueAtMs: Date.now() + 1_000 })), {
    status: 429,
    problem: { code: "log_full", limit: 1, actual: 1 },
  });
  t.match(await explain(group({ idempotency: key })), {
    status: 202,
    idempotency: "replay",
  });
  t.match(await explain(group({ idempotency: { ...key, fingerprint: "g" } })), {
    status: 422,
    idempotency: "mismatch",
  });
  t.match(await explain(group({ idempotency: { ...key, key: "l" } })), {
    idempotency: "new",
  });
  noRoom = redisFull({ limit: 1, actual: 2 });
  t.match(await explain(group()), {
    status: 503,
    problem: { code: "redis_full" },
    members: { total: 3 },
  });
  t.match(await explain(group({ idempotency: key })), {
    status: 202,
    idempotency: "replay",
  });
  noRoom = undefined;
  t.same(await everything(world), before, "nothing was stored or changed");
});
