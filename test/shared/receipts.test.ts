/** Receipts that are followed while Redis goes away under them: never a hang. */
import { EventEmitter } from "node:events";
import t from "tap";
import { messageId, newConnectionId } from "../../shared/ids.js";
import type { Fanout } from "../../shared/fanout.js";
import type { Fact, Log } from "../../shared/log.js";
import { Receipts } from "../../shared/receipts.js";
import type { RedisLink } from "../../shared/redis.js";
import type { Users } from "../../shared/users.js";

const never = new Promise<never>(() => undefined);

/** A log that knows one queued message, and subscriptions that are never acknowledged. */
function receiptsOf(facts: () => Promise<Fact>): Receipts {
  const subscriptions = Object.assign(new EventEmitter(), {
    subscribe: () => never,
    unsubscribe: () => Promise.resolve(),
  });
  return new Receipts(
    { subscriptions } as unknown as RedisLink,
    {
      log: { facts } as unknown as Log,
      users: {} as unknown as Users,
      fanout: {} as unknown as Fanout,
    },
    60_000,
  );
}

function queued(): Extract<Fact, { kind: "facts" }> {
  const nowMs = Date.now();
  return {
    kind: "facts",
    nowMs,
    seq: nowMs * 1_000,
    expiresAtMs: nowMs + 60_000,
    online: true,
    acked: 0,
    sent: 0,
    state: "open",
    endedMs: 0,
    endReason: "",
    epoch: 1,
    ownerLive: true,
    fate: "",
    sentAtMs: undefined,
    ackedAtMs: undefined,
    ackedBy: undefined,
    record: "",
    durable: 0,
  };
}

const id = messageId(newConnectionId(), Date.now() * 1_000);

t.test("a follower whose SUBSCRIBE is never answered can leave", async (t) => {
  const leave = new AbortController();
  const receipts = receiptsOf(() => Promise.resolve(queued()));
  const seen: string[] = [];
  for await (const { status } of receipts.follow(id, leave.signal)) {
    seen.push(status);
    // The wait is over, as after `Prefer: wait`.
    setImmediate(() => leave.abort());
  }
  t.same(seen, ["queued"]);
});

t.test("and learns what is read meanwhile", async (t) => {
  let reads = 0;
  const receipts = receiptsOf(() => {
    reads += 1;
    const facts = queued();
    return Promise.resolve(
      reads === 1 ? facts : { ...facts, acked: facts.nowMs * 1e3 },
    );
  });
  const seen: string[] = [];
  const { signal } = new AbortController();
  for await (const { status } of receipts.follow(id, signal)) seen.push(status);
  t.same(seen, ["queued", "delivered"]);
});

t.test("a follower whose read fails is told", async (t) => {
  let reads = 0;
  const receipts = receiptsOf(() => {
    reads += 1;
    return reads === 1
      ? Promise.resolve(queued())
      : Promise.reject(new Error("Redis is away"));
  });
  const follow = receipts.follow(id, new AbortController().signal);
  await follow.next();
  await t.rejects(follow.next(), { message: "Redis is away" });
});
