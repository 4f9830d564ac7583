/** The registry's contract, on every kind of Redis. */
import t from "tap";
import { registryContract } from "../fixtures/contracts.js";
import {
  clusterRedis,
  sentinelRedis,
  singleRedis,
} from "../../scripts/lab/redis.js";
import { redisStores } from "../fixtures/world.js";

t.test("on one Redis", async (t) =>
  registryContract(t, redisStores((await singleRedis(t)).url)),
);
t.test("on a Redis behind Sentinels", async (t) =>
  registryContract(t, redisStores((await sentinelRedis(t)).url)),
);
t.test("on a Redis Cluster", async (t) =>
  registryContract(t, redisStores((await clusterRedis(t)).url)),
);
