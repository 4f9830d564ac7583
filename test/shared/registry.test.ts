/** The registry's contract, in memory and on every kind of Redis. */
import t from "tap";
import { registryContract } from "../fixtures/contracts.js";
import { memoryStores } from "../fixtures/memory.js";
import {
  clusterRedis,
  sentinelRedis,
  singleRedis,
} from "../../scripts/lab/redis.js";
import { redisStores } from "../fixtures/world.js";

t.test("in memory", (t) => registryContract(t, memoryStores()));
t.test("on one Redis", async (t) =>
  registryContract(t, redisStores((await singleRedis(t)).url)),
);
t.test("on a Redis behind Sentinels", async (t) =>
  registryContract(t, redisStores((await sentinelRedis(t)).url)),
);
t.test("on a Redis Cluster", async (t) =>
  registryContract(t, redisStores((await clusterRedis(t)).url)),
);
