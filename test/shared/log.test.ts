/** The log's contract, on every kind of Redis. */
import t from "tap";
import { logContract } from "../fixtures/contracts.js";
import {
  clusterRedis,
  sentinelRedis,
  singleRedis,
} from "../../scripts/lab/redis.js";
import { patience, push, redisStores, startWorld } from "../fixtures/world.js";
import { until } from "../../scripts/lab/until.js";

t.test("on one Redis", async (t) =>
  logContract(t, redisStores((await singleRedis(t)).url)),
);
t.test("on a Redis behind Sentinels", async (t) =>
  logContract(t, redisStores((await sentinelRedis(t)).url)),
);
t.test("on a Redis Cluster", async (t) =>
  logContract(t, redisStores((await clusterRedis(t)).url)),
);

t.test("a refused message that was overtaken is not tried again", async (t) => {
  const { url } = await singleRedis(t);
  const world = await startWorld(t, url, { maxMessages: 1 });
  const full = async () => {
    const { connectionId } = await world.registry.prepare({});
    const short = push(connectionId, "short", { ttlSeconds: 0.05 });
    const { messageId, expiresAtMs } = await world.log.append(short);
    await until(() => Date.now() > expiresAtMs, patience);
    t.ok(messageId);
    return connectionId;
  };
  // What ran out makes room, and the message is tried again: by then a later one may be in the log.
  await world.log.append(push(await full(), "1"));
  await t.rejects(
    world.log.append(push(await full(), "1", { overtaken: () => true })),
    { code: "log_full" },
  );
});
