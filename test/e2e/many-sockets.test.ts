/** Server mode: however many sockets one ws-fn process holds, its Redis connections stay few. */
import t, { type Test } from "tap";
import { WebSocket } from "ws";
import { backendOf } from "../../scripts/lab/backend.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import {
  clusterRedis,
  singleRedis,
  type TestRedis,
} from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";

const SOCKETS = 1_000;
/** The bound: for one server, and on a Cluster for each master. */
const CONNECTIONS_MAX = 6;
/** Handshakes under way at once: enough to be quick, few enough for a listen backlog. */
const AT_ONCE = 25;

/** How many clients a server has, this question's own not counted. */
async function clients(redis: TestRedis): Promise<number> {
  const list = String(await redis.cli("CLIENT", "LIST")).split("\n");
  return list.filter((line) => line !== "" && !line.includes("cmd=client|list"))
    .length;
}

async function holds(t: Test, url: string, servers: readonly TestRedis[]) {
  const wsFn = await startWsFn(t, { REDIS_URL: url, LOG_LEVEL: "warn" });
  const sockets: WebSocket[] = [];
  t.teardown(() => sockets.forEach((socket) => socket.terminate()));
  const ids: string[] = [];
  const messages: string[] = [];
  const one = () =>
    new Promise<void>((resolve, reject) => {
      const socket = new WebSocket(`${wsFn.url}/ws`);
      sockets.push(socket);
      socket.on("error", reject);
      socket.on("message", (data: Buffer) => messages.push(data.toString()));
      socket.once("message", (data: Buffer) => {
        messages.pop();
        const welcome = JSON.parse(data.toString()) as { connectionId: string };
        ids.push(welcome.connectionId);
        resolve();
      });
    });
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      for (let count = 0; count < SOCKETS / AT_ONCE; count += 1) await one();
    }),
  );
  t.equal(ids.length, SOCKETS);

  const now = await Promise.all(servers.map(clients));
  for (const count of now) {
    t.ok(
      count > 0 && count <= CONNECTIONS_MAX,
      `${count} connections to Redis`,
    );
  }

  // They all work, and mail does not change the count.
  const httpFn = await startHttpFn(t, { REDIS_URL: url, LOG_LEVEL: "warn" });
  const backend = backendOf(t, httpFn.url);
  await backend.ask("GET", "/readyz");
  const idle = await Promise.all(servers.map(clients));
  const chosen = ids.filter((_, index) => index % 10 === 0);
  for (const id of chosen) await backend.accepted(id, `to ${id}`);
  await until(() => messages.length === chosen.length, { ms: 20_000 });
  t.same([...messages].sort(), chosen.map((id) => `to ${id}`).sort());
  const busy = await Promise.all(servers.map(clients));
  for (const [index, count] of busy.entries()) {
    const more = count - (idle[index] ?? 0);
    // http-fn may open its queue's on the first push.
    t.ok(more <= 2, `${more} more with a Worker for each of ${chosen.length}`);
  }
}

t.test("1,000 sockets in one process on one Redis", async (t) => {
  const redis = await singleRedis(t);
  await holds(t, redis.url, [redis]);
});

t.test("1,000 sockets in one process on a Cluster", async (t) => {
  const cluster = await clusterRedis(t);
  await holds(t, cluster.url, cluster.masters);
});
