/**
 * A3, A4: the instance that owns connections stands still while another takes over, and then goes on. What happens there
 * without the fence depends on whether a run was about to end; test/rules/rule-1-fence.test.ts takes it out.
 */
import { rm, writeFile } from "node:fs/promises";

import { CLOSE_TAKEN_OVER } from "../../../shared/close-codes.js";
import { framesOf } from "../../lab/recorder.js";
import { until } from "../../lab/until.js";
import { blockable, blockedLine, blockFile } from "../preloads.js";
import { row, type Run } from "../row.js";
import type { WorldSpec, WsPlace } from "../world.js";

/** RFC 6455, 5.2. */
const OPCODE_CLOSE = 8;
/** A process that goes on may be slow to: the machine has others, ms. */
const PATIENCE_MS = 30_000;

/** A lease that ends while the owner stands still; what it writes afterwards is read at its sockets. */
const world = {
  redis: "single",
  front: "recorder",
  env: { ...blockable, LEASE_SECONDS: "2" },
} as const satisfies WorldSpec;

interface Size {
  clients: number;
  /** At least. */
  stillMs: number;
  rounds: number;
}

interface Standstill {
  begin(place: WsPlace): Promise<void>;
  end(place: WsPlace): Promise<void>;
  /** Every nth client goes to the other instance; the others stay and wait. */
  every: number;
}

async function standStill(
  run: Run,
  { clients: count, stillMs, rounds }: Size,
  { begin, end, every }: Standstill,
): Promise<void> {
  let stale = 0;
  let underWay = 0;
  let told = 0;
  const clients = await run.clients(count, { together: true });
  const load = run.load(clients, { rate: 200, ahead: 400 });
  for (let round = 0; round < rounds; round += 1) {
    const place = run.world.wsFns[round % 2 === 0 ? 0 : 1];
    await load.more(60);
    const links = (place.recorder?.links ?? []).filter(({ ended }) => !ended);
    run.check(links.length === count, "it owned every connection");
    await begin(place);
    const began = performance.now();
    const stoppedAt = new Date().toISOString();
    run.fault();
    // For the one that stands still: it hears of them when it goes on, and must not send them any more.
    await load.more(2 * count);
    place.isAway = true;
    const moving = clients.filter((_, index) => index % every === 0);
    // The welcome at its head says whose it is.
    const left = links.filter(({ received }) =>
      moving.some(({ connection }) => received.includes(connection)),
    );
    run.check(left.length === moving.length, "each of them has a socket there");
    for (const link of left) link.abandon();
    await run.healed(moving);
    await until(() => performance.now() - began >= stillMs, {
      ms: stillMs + 5_000,
      message: "it stood still long enough",
    });
    const before = left.map(({ received }) => received.length);
    await end(place);
    await until(() => left.every(({ ended }) => ended), {
      ms: PATIENCE_MS,
      message: "the old owner let go of its sockets",
    });
    for (const [index, link] of left.entries()) {
      const after = framesOf(link.received).filter(
        ({ at }) => at >= (before[index] ?? 0),
      );
      const data = after.filter(({ opcode }) => opcode !== OPCODE_CLOSE);
      if (data.length > 0) underWay += 1;
      stale += data.filter(
        ({ payload }) => publishedAt(payload) > stoppedAt,
      ).length;
      for (const { payload, opcode } of after) {
        if (opcode !== OPCODE_CLOSE) continue;
        told += 1;
        const code = payload.readUInt16BE();
        run.check(code === CLOSE_TAKEN_OVER, `it closed with ${code}`);
      }
    }
    // Who stayed got nothing meanwhile, and all of it now.
    await run.healed(clients);
    place.isAway = false;
    // The next round meets the one that has all of them: who stayed comes as well.
    if (round + 1 === rounds) continue;
    const other = run.world.wsFns[round % 2 === 0 ? 1 : 0];
    place.isAway = true;
    for (const one of clients) if (!moving.includes(one)) one.cut();
    await run.healed(clients);
    place.isAway = false;
    other.isAway = false;
  }
  await load.stop();
  run.figure("stale sends", stale);
  run.figure("writes under way", underWay);
  run.figure("told 4509", told);
  run.check(stale === 0, `${stale} stale sends after the takeover`);
  run.check(told > 0, "a superseded socket was closed with 4509");
}

export const stopped = row<Size>({
  id: "A3",
  title: "ws-fn stopped, taken over, woken",
  world,
  sizes: {
    short: { clients: 6, stillMs: 3_000, rounds: 1 },
    long: { clients: 50, stillMs: 40_000, rounds: 3 },
  },
  inject: (run, size) =>
    standStill(run, size, {
      every: 1,
      begin: ({ process }) => Promise.resolve(process.kill("SIGSTOP")),
      end: ({ process }) => Promise.resolve(process.kill("SIGCONT")),
    }),
});

export const blocked = row<Size>({
  id: "A4",
  title: "event loop of ws-fn blocked, half of its clients taken over",
  world,
  sizes: {
    short: { clients: 8, stillMs: 1_500, rounds: 1 },
    long: { clients: 50, stillMs: 10_000, rounds: 10 },
  },
  inject: async (run, size) => {
    const times = new Map<number, number>();
    await standStill(run, size, {
      every: 2,
      begin: async ({ process }) => {
        const time = (times.get(process.pid) ?? 0) + 1;
        times.set(process.pid, time);
        await writeFile(blockFile(process.pid), "");
        run.world.scope.teardown(() =>
          rm(blockFile(process.pid), { force: true }),
        );
        process.kill("SIGUSR2");
        await process.waitForLine(blockedLine(time), PATIENCE_MS);
      },
      end: ({ process }) => rm(blockFile(process.pid)),
    });
  },
});

/** RFC 3339, as the frame says; a frame without it (a ping) counts as new. */
function publishedAt(payload: Buffer): string {
  const match = /"publishedAt":"([^"]+)"/.exec(payload.toString());
  return match?.[1] ?? "9";
}
