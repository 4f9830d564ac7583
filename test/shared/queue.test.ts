/** The contract of the queues, in memory and on Redis. */
import t from "tap";
import { queueContract } from "../fixtures/contracts.js";
import { memoryStores } from "../fixtures/memory.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { redisStores } from "../fixtures/world.js";

t.test("in memory", (t) => queueContract(t, memoryStores()));
t.test("on Redis", async (t) =>
  queueContract(t, redisStores((await singleRedis(t)).url)),
);
