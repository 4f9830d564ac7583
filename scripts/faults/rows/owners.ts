/** A1, A2, A24: the instance that owns connections is killed, or told to go. */
import { CLOSE_NORMAL, CLOSE_RESTART } from "../../../shared/close-codes.js";
import { until } from "../../lab/until.js";
import { row, type Run } from "../row.js";
import type { Place } from "../world.js";
import { openWire, type Wire } from "../wire.js";

/** A function ends itself after its drain and so much more, ms: an end that takes longer hangs. The goal is 10 s. */
const EXIT_MS = 40_000;
/** What may be sent while a process starts, messages. */
const AHEAD = 60;

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
    const rate = count > 100 ? 300 : 200;
    const load = run.load(clients, { rate, ahead: AHEAD });
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
    const rate = count > 100 ? 300 : 150;
    const load = run.load(clients, { rate, ahead: AHEAD });
    let slowest = 0;
    const codes = new Map<number, number>();
    for (let round = 0; round < rounds; round += 1) {
      for (const place of [...run.world.wsFns, ...run.world.httpFns]) {
        await load.more(20);
        const before = clients.map(({ ends }) => ends.length);
        const isWs = run.world.wsFns.some((one) => one === place);
        const staying = isWs ? await stayer(run, place) : [];
        run.fault();
        slowest = Math.max(slowest, await place.end("SIGTERM"));
        const { code } = await place.process.exited;
        run.check(code === 0, `${place.process.name} ended with ${code}`);
        await until(() => staying.every(({ closed }) => closed), {
          ms: 30_000,
          message: "who stayed heard of the end",
        });
        for (const { closed } of staying) {
          run.check(
            closed === CLOSE_RESTART,
            `who cannot move is closed with ${CLOSE_RESTART}, not ${closed}`,
          );
        }
        await run.healed(clients);
        for (const [index, { ends }] of clients.entries()) {
          for (const { code } of ends.slice(before[index])) {
            codes.set(code, (codes.get(code) ?? 0) + 1);
          }
        }
        await place.replace();
      }
    }
    await load.stop();
    run.figure("slowest end s", slowest / 1_000);
    run.check(slowest <= EXIT_MS, `an end took ${Math.round(slowest)} ms`);
    const [moved = 0, late = 0] = [CLOSE_NORMAL, CLOSE_RESTART].map((code) =>
      codes.get(code),
    );
    const others = [...codes].filter(
      ([code]) => code !== CLOSE_NORMAL && code !== CLOSE_RESTART,
    );
    run.figure("moved with 1000", moved);
    run.figure("too late and closed with 1012", late);
    run.check(moved > 0, "clients moved, and their old sockets got 1000");
    run.check(
      others.length === 0,
      `sockets ended with ${others.map(String).join(" and ")}`,
    );
    const gone = clients.filter(({ application }) =>
      application.states.includes("closed"),
    );
    run.check(gone.length === 0, `${gone.length} clients gave up`);
  },
});

/** A raw socket: it cannot be told to move. */
async function stayer(run: Run, { process }: Place): Promise<Wire[]> {
  const { token } = await run.world.backends[0].prepare();
  const { url } = process;
  const wire = openWire(run.world.scope, { url, token, isRaw: true });
  await until(() => wire.isWelcome, {
    ms: 30_000,
    message: "a raw socket is open",
  });
  return [wire];
}
