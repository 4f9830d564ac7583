/** A11, A12: a master behind Sentinels is killed, with replicas that have everything and with replicas that lag. */
import { startProxy } from "../../lab/proxy.js";
import type { SentinelRedis, TestRedis } from "../../lab/redis.js";
import { until } from "../../lab/until.js";
import { percentile } from "../report.js";
import { row, type Run } from "../row.js";
import type { Client } from "../clients.js";
import type { WorldSpec } from "../world.js";

/** Silence counts as death after 2 s (scripts/lab/redis.ts), then the sentinels vote. */
const FAILOVER_MS = 60_000;
/** So far behind are replicas that lag, ms. */
const LAG_MS = 100;
/** For so long sentinels leave a replica where a row has put it, ms; a vote that fails is repeated after twice that. */
const HANDS_OFF_MS = 20_000;

const sentinels: WorldSpec = { redis: "sentinel" };

/** Half of the clients hear nothing before the kill: what was accepted for them is in Redis alone. */
function deafen(clients: readonly Client[]): readonly Client[] {
  const absent = clients.filter((_, index) => index % 2 === 1);
  for (const client of absent) client.impair("deaf");
  return absent;
}

/** From the kill to the promotion and on until everybody is handed messages again; says how long that was, s. */
async function promoted(
  run: Run,
  clients: readonly Client[],
  { killedAt, old }: { killedAt: number; old: TestRedis },
): Promise<number> {
  await until(async () => (await run.world.sentinel.master()) !== old, {
    ms: FAILOVER_MS,
    message: "another node is the master",
  });
  await run.healed(clients);
  return (performance.now() - killedAt) / 1_000;
}

export const masterKilled = row({
  id: "A11",
  title: "Sentinel: the master killed",
  world: sentinels,
  sizes: {
    short: { clients: 8, kills: 1, messages: 100 },
    long: { clients: 200, kills: 20, messages: 600 },
  },
  async inject(run, { clients: count, kills, messages }) {
    const { sentinel } = run.world;
    const clients = await run.clients(count);
    const gaps: number[] = [];
    for (let kill = 0; kill < kills; kill += 1) {
      const absent = deafen(clients);
      const load = run.load(clients, { publishers: 24, rate: 300 });
      await load.more(messages);
      const old = await sentinel.master();
      run.fault();
      const killedAt = performance.now();
      await old.stop("SIGKILL");
      for (const client of absent) client.cut();
      gaps.push(await promoted(run, clients, { killedAt, old }));
      await load.stop();
      await sentinel.rejoin(old);
    }
    run.figure("gap p50 s", percentile(gaps, 50));
    run.figure("gap p99 s", percentile(gaps, 99));
  },
});

export const masterKilledWithLag = row({
  id: "A12",
  title: "Sentinel: the master killed, replicas behind, durability=replica",
  world: sentinels,
  sizes: {
    short: { clients: 8, kills: 1, messages: 100 },
    long: { clients: 200, kills: 20, messages: 600 },
  },
  guard: { name: "durability=replica: the answers wait for the master alone" },
  async inject(run, { clients: count, kills, messages }) {
    const { sentinel } = run.world;
    const clients = await run.clients(count);
    const took: number[] = [];
    const gaps: number[] = [];
    for (let kill = 0; kill < kills; kill += 1) {
      const { old, cut } = await lag(run, sentinel);
      const absent = deafen(clients);
      const load = run.load(clients, {
        publishers: 48,
        rate: 300,
        query: `?durability=${run.isBroken ? "local" : "replica"}`,
        heard: (answer, ms) => {
          if (answer?.status === 202) took.push(ms);
        },
      });
      await load.more(messages);
      run.fault();
      const killedAt = performance.now();
      const dead = old.stop("SIGKILL");
      // What is on its way to the replicas goes down with the master.
      cut();
      await dead;
      // What was under way may have been delivered and then forgotten: its sender, who had no answer, sends it again.
      run.ledger.redisForgets({
        from: killedAt - LAG_MS,
        to: performance.now(),
        mayLose: false,
      });
      for (const client of absent) client.cut();
      gaps.push(await promoted(run, clients, { killedAt, old }));
      await load.stop();
      await sentinel.rejoin(old);
    }
    run.figure("answer p50 s", percentile(took, 50) / 1_000);
    run.figure("answer p99 s", percentile(took, 99) / 1_000);
    run.figure("gap p99 s", percentile(gaps, 99));
  },
});

/** Puts the replicas behind their master by LAG_MS; `cut` loses what is on its way to them, for good. */
async function lag(
  run: Run,
  sentinel: SentinelRedis,
): Promise<{ old: TestRedis; cut: () => void }> {
  for (const one of sentinel.sentinels) {
    await one.cli(
      ...["SENTINEL", "SET", sentinel.name],
      ...["failover-timeout", String(HANDS_OFF_MS)],
    );
  }
  const old = await sentinel.master();
  const replicas = sentinel.nodes.filter((node) => node !== old);
  let isCut = false;
  const proxies = await Promise.all(
    replicas.map(async (replica) => {
      // Nobody listens behind it once the master is dead, nor may anybody again.
      const proxy = await startProxy(run.world.scope, () =>
        isCut ? 1 : old.port,
      );
      await replica.cli("REPLICAOF", "127.0.0.1", String(proxy.port));
      await until(
        async () =>
          String(await replica.cli("INFO", "replication")).includes(
            "master_link_status:up",
          ),
        { ms: FAILOVER_MS, message: "the replica follows at a distance" },
      );
      return proxy;
    }),
  );
  for (const proxy of proxies) proxy.delay(LAG_MS);
  return {
    old,
    cut: () => {
      isCut = true;
      for (const proxy of proxies) proxy.cutAll();
    },
  };
}
