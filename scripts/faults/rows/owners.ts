/** A1, A2, A3, A24: the instance that owns connections is killed, stopped, or told to go. */
import { framesOf } from "../../lab/recorder.js";
import { until } from "../../lab/until.js";
import { row } from "../row.js";

/** RFC 6455, 5.2. */
const OPCODE_CLOSE = 8;
/** The documented bound for an orderly end, ms (scoreboard A24). */
const EXIT_MS = 10_000;

export const killed = row({
  id: "A1",
  title: "ws-fn killed with unacked messages",
  world: { redis: "single" },
  sizes: {
    short: { clients: 12, kills: 2, messages: 60 },
    long: { clients: 200, kills: 20, messages: 300 },
  },
  async inject(run, { clients: count, kills, messages }) {
    const clients = await run.clients(count);
    const load = run.load(clients, { rate: count > 100 ? 300 : 200 });
    for (let kill = 0; kill < kills; kill += 1) {
      // Nothing is acked from now on, so the kill meets an open window on every connection; and every other one gets
      // nothing either, as if it were still on the line.
      for (const [index, client] of clients.entries()) {
        client.impair(index % 2 === 0 ? "mute" : "deaf");
      }
      await load.more(messages);
      const place = run.world.wsFns[kill % 2 === 0 ? 0 : 1];
      const sockets = clients.map(({ application }) => application.socket);
      run.fault();
      await place.end();
      // Sockets of the survivor would stay impaired: they end as a line is cut.
      for (const [index, client] of clients.entries()) {
        if (client.application.socket === sockets[index]) client.cut();
      }
      // The other instance stands, so the bridge can serve from the kill on.
      await run.healed(clients);
      // The last one is replaced when another row needs it.
      if (kill + 1 < kills) await place.replace();
    }
    await load.stop();
  },
});

export const killedThreeTimes = row({
  id: "A2",
  title: "ws-fn killed three times over the same messages",
  world: { redis: "single" },
  sizes: {
    short: { clients: 4, messages: 24, kills: 3 },
    long: { clients: 50, messages: 1_000, kills: 3 },
  },
  async inject(run, { clients: count, messages, kills }) {
    const clients = await run.clients(count, { together: true });
    for (const client of clients) {
      client.hearing = "deaf";
      client.impair("deaf");
    }
    const load = run.load(clients, { rate: 400 });
    await load.more(messages);
    await load.stop();
    const expected = clients.map(
      ({ connection }) =>
        run.ledger.missing().filter((sent) => sent.connection === connection)
          .length,
    );
    for (let kill = 0; kill < kills; kill += 1) {
      // All of it came over the wire (again) and nothing of it was acked.
      await until(
        () =>
          clients.every(
            ({ frames }, index) =>
              frames >= (expected[index] ?? 0) * (kill + 1),
          ),
        { ms: 30_000, message: "every message was sent once more" },
      );
      if (kill === kills - 1) for (const one of clients) one.hearing = "all";
      const place = run.world.wsFns[kill % 2 === 0 ? 0 : 1];
      run.fault();
      await place.end();
      if (kill + 1 < kills) await place.replace();
    }
    await run.healed(clients);
    const { mostFrames } = run.ledger.verdict();
    run.figure("most deliveries of one message", mostFrames);
    run.check(mostFrames > kills, "each kill met the same unacked messages");
  },
});

export const stopped = row({
  id: "A3",
  title: "ws-fn stopped, taken over, woken",
  world: { redis: "single", front: "recorder", env: { LEASE_SECONDS: "2" } },
  sizes: {
    short: { clients: 6, stoppedMs: 3_000, rounds: 1 },
    long: { clients: 50, stoppedMs: 40_000, rounds: 3 },
  },
  async inject(run, { clients: count, stoppedMs, rounds }) {
    let stale = 0;
    let underWay = 0;
    const clients = await run.clients(count, { together: true });
    const load = run.load(clients, { rate: 200 });
    for (let round = 0; round < rounds; round += 1) {
      const place = run.world.wsFns[round % 2 === 0 ? 0 : 1];
      await load.more(60);
      place.isAway = true;
      place.process.kill("SIGSTOP");
      const stoppedAt = new Date().toISOString();
      const began = performance.now();
      run.fault();
      const links = (place.recorder?.links ?? []).filter(({ ended }) => !ended);
      for (const link of links) link.abandon();
      await run.healed(clients);
      await until(() => performance.now() - began >= stoppedMs, {
        ms: stoppedMs + 5_000,
        message: "it was stopped long enough",
      });
      const before = links.map(({ received }) => received.length);
      place.process.kill("SIGCONT");
      await until(() => links.every(({ ended }) => ended), {
        ms: 30_000,
        message: "the old owner let go of its sockets",
      });
      for (const [index, link] of links.entries()) {
        const data = framesOf(link.received).filter(
          ({ at, opcode }) =>
            at >= (before[index] ?? 0) && opcode !== OPCODE_CLOSE,
        );
        if (data.length > 0) underWay += 1;
        stale += data.filter(
          ({ payload }) => publishedAt(payload) > stoppedAt,
        ).length;
      }
      run.check(links.length === count, "it owned every connection");
      place.isAway = false;
      // The next round stops the one that has them now.
    }
    await load.stop();
    run.figure("stale sends", stale);
    run.figure("writes under way at a stop", underWay);
    run.check(stale === 0, `${stale} stale sends after the takeover`);
  },
});

export const rolling = row({
  id: "A24",
  title: "rolling restart by SIGTERM under load",
  world: { redis: "single" },
  sizes: {
    short: { clients: 12, rounds: 1 },
    long: { clients: 200, rounds: 10 },
  },
  async inject(run, { clients: count, rounds }) {
    const clients = await run.clients(count);
    const load = run.load(clients, { rate: count > 100 ? 300 : 150 });
    let slowest = 0;
    for (let round = 0; round < rounds; round += 1) {
      for (const place of [...run.world.wsFns, ...run.world.httpFns]) {
        await load.more(20);
        run.fault();
        slowest = Math.max(slowest, await place.end("SIGTERM"));
        const { code } = await place.process.exited;
        run.check(code === 0, `${place.process.name} ended with ${code}`);
        await run.healed(clients);
        await place.replace();
      }
    }
    await load.stop();
    run.figure("slowest end s", slowest / 1_000);
    run.check(slowest <= EXIT_MS, `an end took ${Math.round(slowest)} ms`);
    const late = clients.filter(({ application }) =>
      application.states.includes("closed"),
    );
    run.check(late.length === 0, `${late.length} clients gave up`);
  },
});

/** RFC 3339, as the frame says; a frame without it (a ping) counts as new. */
function publishedAt(payload: Buffer): string {
  const match = /"publishedAt":"([^"]+)"/.exec(payload.toString());
  return match?.[1] ?? "9";
}
