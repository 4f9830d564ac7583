/** A5, A6, A8: replies of Redis that are lost, and Redis killed. */
import type { TestProxy } from "../../lab/proxy.js";
import type { TestRedis } from "../../lab/redis.js";
import { until } from "../../lab/until.js";
import { row, type Run } from "../row.js";

/** Writes may be held back for so long before a kill, ms; the kill ends it. */
const HOLD_MS = 20_000;

/** With so many pushes answered, the reply that a trap waits for is one of a command that waits itself. */
const ANSWERS_A_CUT = 30;

interface Cuts {
  clients: number;
  cuts: number;
}

/** A lost reply at every Nth command, N random: executed, and the answer never arrives. */
async function loseReplies(
  run: Run,
  proxy: TestProxy,
  { clients: count, cuts }: Cuts,
): Promise<void> {
  const clients = await run.clients(count);
  const load = run.load(clients, { publishers: 24, rate: 200 });
  await load.more(20);
  for (let cut = 0; cut < cuts; cut += 1) {
    let left = 1 + Math.floor(Math.random() * 12);
    let isCut = false;
    void proxy
      .cutAfterReply(() => (left -= 1) <= 0)
      .then(() => {
        isCut = true;
        run.fault();
      });
    // A command that waits in Redis has its reply late: the next trap does not wait for it.
    const goal = load.answered + ANSWERS_A_CUT;
    await until(() => isCut || load.answered >= goal, {
      ms: 30_000,
      every: 5,
      message: "a reply was lost",
    });
    // Every few cuts, so that cuts also meet what an earlier one left behind.
    if (cut % 10 === 9) await run.healed(clients);
  }
  await run.healed(clients);
  await load.stop();
}

export const repliesToHttp = row<Cuts>({
  id: "A5",
  title: "lost replies, producer side",
  world: { redis: "single", between: ["http-redis", "ws-redis"] },
  sizes: {
    short: { clients: 8, cuts: 30 },
    long: { clients: 50, cuts: 1_000 },
  },
  inject: (run, size) => loseReplies(run, run.world.httpRedis, size),
});

export const repliesToWs = row<Cuts>({
  id: "A6",
  title: "lost replies, consumer side",
  world: { redis: "single", between: ["http-redis", "ws-redis"] },
  sizes: {
    short: { clients: 8, cuts: 30 },
    long: { clients: 50, cuts: 1_000 },
  },
  inject: (run, size) => loseReplies(run, run.world.wsRedis, size),
});

export const redisKilled = row({
  id: "A8",
  title: "Redis killed and restarted, AOF everysec",
  world: { redis: "single" },
  sizes: {
    short: { clients: 8, kills: 2, messages: 60 },
    long: { clients: 200, kills: 20, messages: 600 },
  },
  guard: {
    name: "the append-only file",
    world: { redis: "single", redisConfig: { appendonly: "no" } },
  },
  async inject(run, { clients: count, kills, messages }) {
    const clients = await run.clients(count);
    // Half of them are away at the kill, so that what was accepted for them is in Redis alone.
    const absent = clients.filter((_, index) => index % 2 === 1);
    for (let kill = 0; kill < kills; kill += 1) {
      for (const client of absent) client.impair("deaf");
      const load = run.load(clients, { rate: 300 });
      await load.more(messages);
      const redis = run.world.single;
      run.fault();
      await written(redis);
      await redis.stop("SIGKILL");
      await redis.start();
      const back = performance.now();
      for (const client of absent) client.cut();
      await run.healed(clients, back);
      await load.stop();
    }
  },
});

/**
 * Holds writes back, those under way as well, until the append-only file has all that was answered. With `everysec`
 * Redis answers first and puts the write off, up to two seconds, while the disk is busy with an earlier sync: a kill in
 * that window loses accepted writes by Redis' own rules, and the row would show the disk and not the bridge.
 */
async function written(redis: TestRedis): Promise<void> {
  const info = String(await redis.cli("INFO", "persistence"));
  if (!info.includes("aof_enabled:1")) return;
  await redis.cli("CLIENT", "PAUSE", String(HOLD_MS), "WRITE");
  await until(
    async () =>
      /aof_buffer_length:0\r/.test(
        String(await redis.cli("INFO", "persistence")),
      ),
    { message: "the append-only file has everything" },
  );
}
