/** A14: Redis nearly full and full: what is new is refused in time, what waits drains. */
import type { TestRedis } from "../../lab/redis.js";
import { until } from "../../lab/until.js";
import type { Sent } from "../ledger.js";
import { row, type Run } from "../row.js";

const MIB = 1_048_576;
const PATIENCE_MS = 30_000;
/** The publisher's name is part of the body: this one makes a body of so many bytes. */
const FILLER = "fill".padEnd(60_000, "x");
/** More than this and somebody spins, lines a second. */
const LINES_A_SECOND = 5;

export const memoryFull = row({
  id: "A14",
  title: "Redis reaches maxmemory",
  world: { redis: "single" },
  sizes: {
    short: { clients: 4, roomMiB: 6, fullMs: 1_000 },
    long: { clients: 50, roomMiB: 256, fullMs: 60_000 },
  },
  async inject(run, { clients: count, roomMiB, fullMs }) {
    const redis = run.world.single;
    const clients = await run.clients(count);
    try {
      // Everything that comes from now on waits in Redis.
      for (const client of clients) client.impair("deaf");
      const refusedBefore = await refusedByRedis(redis);
      const limit = (await used(redis)) + roomMiB * MIB;
      await maxmemory(redis, limit);
      run.fault();
      await Promise.all(
        clients.map(({ connection }, index) => fill(run, connection, index)),
      );
      const share = (await used(redis)) / limit;
      run.figure("memory at the first refusal", `${Math.round(share * 100)} %`);
      run.check(share < 1, "refused before Redis is full");
      run.check(
        (await refusedByRedis(redis)) === refusedBefore,
        "Redis itself refused nothing",
      );

      // Full whatever our clients take: less than an empty Redis needs.
      await maxmemory(redis, MIB);
      run.fault();
      const began = performance.now();
      const lines = logged(run);
      const waiting = run.ledger.missing().length;
      for (const client of clients) client.cut();
      await until(() => run.ledger.missing().length === 0, {
        ms: PATIENCE_MS,
        message: "what waits is handed over by a full Redis",
      });
      const drained = (performance.now() - began) / 1_000;
      await until(() => performance.now() - began >= fullMs, {
        ms: fullMs + PATIENCE_MS,
        message: "it was full for long enough",
      });
      const seconds = (performance.now() - began) / 1_000;
      const [client] = clients;
      const answer = await run.world.backends[0].push(
        client?.connection ?? "",
        "no room",
      );
      run.check(answer.status === 503, `it is full: ${answer.status}`);
      const rate = (logged(run) - lines) / seconds;
      run.figure("drained messages/s", waiting / drained);
      run.figure("error lines/s while full", rate);
      run.check(rate <= LINES_A_SECOND, `${rate} error lines a second`);
    } finally {
      await maxmemory(redis, 0);
    }
    await run.healed(clients);
  },
});

/** Publishes until it is refused, and looks at how. */
async function fill(run: Run, connection: string, index: number) {
  const backend = run.world.backends[index % 2 === 0 ? 0 : 1];
  const deadline = performance.now() + PATIENCE_MS;
  while (performance.now() < deadline) {
    const sent: Sent = run.ledger.invoke(connection, FILLER);
    const answer = await backend.push(connection, sent.text);
    if (answer.status === 202) {
      sent.outcome = "ok";
      sent.id = answer.json<{ id: string }>().id;
      continue;
    }
    const { code } = answer.json<{ code?: string }>();
    // A busy machine: not what this is about, and such a one may be there.
    if (code === "outcome_unknown" || code === "redis_unavailable") {
      sent.outcome = "unknown";
      continue;
    }
    sent.outcome = "refused";
    run.check(
      (answer.status === 503 && code === "redis_full") ||
        (answer.status === 429 && code === "log_full"),
      `a full Redis was answered ${answer.status} ${code ?? ""}`,
    );
    run.check(
      Number(answer.headers["retry-after"]) > 0,
      "the refusal says when to ask again",
    );
    return;
  }
  run.check(false, "nothing was refused");
}

function logged({ world }: Run): number {
  return [...world.httpFns, ...world.wsFns].reduce(
    (sum, { process }) =>
      sum + process.logs.filter((line) => /"level":[56]0/.test(line)).length,
    0,
  );
}

async function used(redis: TestRedis): Promise<number> {
  const info = String(await redis.cli("INFO", "memory"));
  return Number(/^used_memory:(\d+)/m.exec(info)?.[1]);
}

/** Commands that Redis refused for want of memory, since it started. */
async function refusedByRedis(redis: TestRedis): Promise<number> {
  const info = String(await redis.cli("INFO", "errorstats"));
  return Number(/^errorstat_OOM:count=(\d+)/m.exec(info)?.[1] ?? 0);
}

async function maxmemory(redis: TestRedis, bytes: number): Promise<void> {
  await redis.cli("CONFIG", "SET", "maxmemory", String(bytes));
}
