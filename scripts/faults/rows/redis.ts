/** A5, A6, A7, A8, A30: replies of Redis that are lost, connections to it that are cut, subscriptions that are refused, and Redis killed. */
import type { TestProxy } from "../../lab/proxy.js";
import { until } from "../../lab/until.js";
import { appendingTwice } from "../preloads.js";
import { row, type Run } from "../row.js";
import type { WorldSpec } from "../world.js";

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
  const load = run.load(clients, {
    publishers: 24,
    rate: 200,
    halfKeyless: true,
  });
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

const proxied: WorldSpec = {
  redis: "single",
  between: ["http-redis", "ws-redis"],
};
const appendOnce = {
  name: "the append that is executed once, however often it is sent",
  world: { ...proxied, env: appendingTwice },
};

export const repliesToHttp = row<Cuts>({
  id: "A5",
  title: "lost replies, producer side",
  world: proxied,
  guard: appendOnce,
  sizes: {
    short: { clients: 8, cuts: 30 },
    long: { clients: 50, cuts: 1_000 },
  },
  inject: (run, size) => loseReplies(run, run.world.httpRedis, size),
});

export const repliesToWs = row<Cuts>({
  id: "A6",
  title: "lost replies, consumer side",
  world: proxied,
  sizes: {
    short: { clients: 8, cuts: 30 },
    long: { clients: 50, cuts: 1_000 },
  },
  inject: (run, size) => loseReplies(run, run.world.wsRedis, size),
});

export const allCut = row({
  id: "A7",
  title: "all Redis connections of the functions cut",
  world: proxied,
  sizes: {
    short: { clients: 8, rounds: 6, messages: 40 },
    // Every two seconds for two minutes, and as often again.
    long: { clients: 200, rounds: 120, messages: 600 },
  },
  guard: appendOnce,
  async inject(run, { clients: count, rounds, messages }) {
    const clients = await run.clients(count);
    const load = run.load(clients, {
      publishers: 24,
      rate: 300,
      halfKeyless: true,
    });
    const { httpRedis, wsRedis } = run.world;
    const before = httpRedis.seen.cuts + wsRedis.seen.cuts;
    for (let round = 0; round < rounds; round += 1) {
      await load.more(messages);
      // Each cut meets a push that was executed and not answered.
      await httpRedis.cutAfterReply(/bridgeAppend|EVALSHA/i);
      run.fault();
      httpRedis.cutAll();
      wsRedis.cutAll();
      await run.healed(clients);
    }
    await load.stop();
    const cuts = httpRedis.seen.cuts + wsRedis.seen.cuts - before;
    run.figure("connections cut", cuts);
  },
});

/**
 * Under `everysec` Redis puts a write off, for two seconds at most, while the disk is busy with an earlier sync, and
 * answers all the same (`aof_delayed_fsync`, redis.conf): what it lost of that is Redis' own.
 */
const POSTPONED_MS = 2_000;

export const redisKilled = row({
  id: "A8",
  title: "Redis killed and restarted under load, AOF everysec and always",
  world: { redis: "single" },
  sizes: {
    short: { clients: 8, kills: 1, messages: 100 },
    long: { clients: 200, kills: 10, messages: 900 },
  },
  guard: {
    name: "the append-only file",
    world: { redis: "single", redisConfig: { appendonly: "no" } },
  },
  async inject(run, { clients: count, kills, messages }) {
    const redis = run.world.single;
    const clients = await run.clients(count);
    // Half of them hear nothing before a kill, so that what was accepted for them is in Redis alone.
    const absent = clients.filter((_, index) => index % 2 === 1);
    for (const fsync of ["always", "everysec"]) {
      await redis.cli("CONFIG", "SET", "appendfsync", fsync);
      for (let kill = 0; kill < kills; kill += 1) {
        for (const client of absent) client.impair("deaf");
        const load = run.load(clients, { publishers: 24, rate: 300 });
        await load.more(messages);
        run.fault();
        const from = performance.now() - POSTPONED_MS;
        await redis.stop("SIGKILL");
        await redis.start();
        const back = performance.now();
        // Its command line says everysec.
        await redis.cli("CONFIG", "SET", "appendfsync", fsync);
        if (fsync === "everysec") {
          run.ledger.redisForgets({ from, to: back, mayLose: true });
        }
        for (const client of absent) client.cut();
        await run.healed(clients, back);
        await load.stop();
      }
    }
    await redis.cli("CONFIG", "SET", "appendfsync", "everysec");
  },
});

/** Nobody may subscribe, and whoever had is cut off: doorbells reach nobody, while commands work. */
const DEAF = ["-subscribe", "-ssubscribe"];
const HEARING = ["+subscribe", "+ssubscribe"];

export const deaf = row({
  id: "A30",
  title: "subscriptions dead, commands work: deliver jobs wake the owners",
  world: { redis: "single" },
  sizes: {
    short: { clients: 8, rounds: 3, messages: 60 },
    long: { clients: 200, rounds: 30, messages: 600 },
  },
  async inject(run, { clients: count, rounds, messages }) {
    const redis = run.world.single;
    const clients = await run.clients(count);
    const load = run.load(clients, { publishers: 24, rate: 200 });
    for (let round = 0; round < rounds; round += 1) {
      await load.more(messages);
      await redis.cli("ACL", "SETUSER", "default", ...DEAF);
      await redis.cli("CLIENT", "KILL", "TYPE", "pubsub");
      run.fault();
      // Not healed: what arrives from here on arrives by a job.
      await run.healed(clients);
      await load.more(messages);
      await redis.cli("ACL", "SETUSER", "default", ...HEARING);
      // What refused to subscribe asks again when its connection is new.
      await redis.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
      await run.healed(clients);
    }
    await load.stop();
  },
});
