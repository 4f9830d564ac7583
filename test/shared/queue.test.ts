/** The contract of the queues, on Redis. */
import t from "tap";
import { queueContract } from "../fixtures/contracts.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { redisStores } from "../fixtures/world.js";

t.test("on Redis", async (t) =>
  queueContract(t, redisStores((await singleRedis(t)).url)),
);
