/** A16, A17, A20, A22: the line between client and ws-fn is silent, slow, lossy, away for long, or cut everywhere. */
import { keys } from "../../../shared/keys.js";
import { until } from "../../lab/until.js";
import type { Client } from "../clients.js";
import { percentile } from "../report.js";
import { row, type Run } from "../row.js";
import type { WorldSpec } from "../world.js";
import { openWire } from "../wire.js";

/** The library gives a socket up after so many silent heartbeats, ws-fn after three unanswered and one more. */
const CLIENT_HEARTBEATS = 2.5;
const SERVER_HEARTBEATS = 4;
/** A busy machine hears and dials late, ms. */
const SLACK_MS = 15_000;
const PATIENCE_MS = 30_000;

/** Seconds of the resume window: what the world below says in the short form, and the default. */
const WINDOW = { short: 8, long: 120 };
/** Lines that can be made bad, and windows that can be waited for. */
export const badLines: WorldSpec = {
  redis: "single",
  front: "proxy",
  env: { LOG_MAX_MESSAGES: "1000" },
  shortEnv: {
    HEARTBEAT_SECONDS: "1",
    RESUME_SECONDS: String(WINDOW.short),
    LOG_MAX_MESSAGES: "300",
  },
};

export const blackHole = row({
  id: "A16",
  title: "the line to ws-fn swallows everything, nothing is closed",
  world: badLines,
  sizes: {
    short: { clients: 8, heartbeatMs: 1_000, rounds: 1 },
    long: { clients: 100, heartbeatMs: 20_000, rounds: 3 },
  },
  async inject(run, { clients: count, heartbeatMs, rounds }) {
    const clients = await run.clients(count, { together: true });
    const load = run.load(clients, { ahead: 200 });
    let clientsHeard = 0;
    let serverHeard = 0;
    for (let round = 0; round < rounds; round += 1) {
      const [place, url] = [
        run.world.wsFns[round % 2 === 0 ? 0 : 1],
        run.world.address(round),
      ];
      // One that never dials again: its connection is open for as long as ws-fn believes in its socket.
      const prepared = await run.world.backends[0].prepare();
      const path = `/v1/connections/${prepared.connectionId}`;
      const lone = openWire(run.world.scope, { url, token: prepared.token });
      await until(() => lone.isWelcome, { ms: PATIENCE_MS });
      await load.more(40);
      place.proxy?.pause();
      place.isAway = true;
      const began = performance.now();
      run.fault();
      await run.healed(clients, began);
      clientsHeard = Math.max(clientsHeard, performance.now() - began);
      await until(
        async () => {
          const answer = await run.world.backends[0].ask("GET", path);
          return answer.json<{ state: string }>().state !== "open";
        },
        {
          ms: SERVER_HEARTBEATS * heartbeatMs + SLACK_MS,
          message: "ws-fn gives a silent socket up",
        },
      );
      serverHeard = Math.max(serverHeard, performance.now() - began);
      place.proxy?.resume();
      place.isAway = false;
    }
    await load.stop();
    run.figure("heartbeat s", heartbeatMs / 1_000);
    run.figure("clients back after s", clientsHeard / 1_000);
    run.figure("ws-fn let go after s", serverHeard / 1_000);
    run.check(
      clientsHeard <= CLIENT_HEARTBEATS * heartbeatMs + SLACK_MS,
      `the last client was back after ${Math.round(clientsHeard)} ms`,
    );
  },
});

/** 256 kbit/s, bytes a millisecond. */
const BYTES_PER_MS = 32;
/** What a lost segment costs: the retransmission timeout of TCP is at least this, ms. */
const RETRANSMISSION_MS = 200;
const LOSS = 0.05;

export const lossy = row({
  id: "A17",
  title:
    "256 kbit/s, 5 % of the chunks a retransmission late, cuts inside frames",
  world: badLines,
  sizes: {
    short: { clients: 8, rounds: 3, messages: 60 },
    long: { clients: 100, rounds: 40, messages: 600 },
  },
  async inject(run, { clients: count, rounds, messages }) {
    const clients = await run.clients(count);
    const proxies = run.world.wsFns.flatMap(({ proxy }) => proxy ?? []);
    for (const proxy of proxies) {
      proxy.hold(
        ({ length }) =>
          length / BYTES_PER_MS +
          (Math.random() < LOSS ? RETRANSMISSION_MS * (1 + Math.random()) : 0),
      );
    }
    const load = run.load(clients, { ahead: messages });
    for (let round = 0; round < rounds; round += 1) {
      await load.more(messages);
      const cuts = () => proxies.reduce((sum, { seen }) => sum + seen.cuts, 0);
      const before = cuts();
      for (const proxy of proxies) proxy.cutInside();
      await until(() => cuts() >= before + count, {
        ms: PATIENCE_MS,
        message: "every socket was cut inside a chunk",
      });
      run.fault(count);
      await run.healed(clients);
    }
    for (const proxy of proxies) proxy.hold(undefined);
    await load.stop();
  },
});

export const storm = row({
  id: "A22",
  title: "every socket cut at once, and once more while they come back",
  world: { redis: "single" },
  sizes: {
    short: { clients: 120, storms: 2, messages: 60 },
    long: { clients: 2_000, storms: 5, messages: 1_000 },
  },
  async inject(run, { clients: count, storms, messages }) {
    const clients = await run.clients(count);
    const load = run.load(clients, { rate: 200, ahead: 400 });
    let most = 0;
    const back: number[] = [];
    for (let storm = 0; storm < storms; storm += 1) {
      await load.more(messages);
      const began = performance.now();
      run.fault(count);
      const dials = clients.map(({ application }) => application.dials);
      for (const one of clients) one.cut();
      if (storm % 2 === 1) {
        // Into the handshakes of the resumes.
        await until(
          () =>
            clients.every(
              ({ application }, index) =>
                application.dials > (dials[index] ?? 0),
            ),
          { ms: PATIENCE_MS, every: 1, message: "all of them dial" },
        );
        for (const one of clients) one.cut();
      }
      await Promise.all(
        clients.map(async ({ application }) => {
          await until(() => application.bridge.state === "open", {
            ms: PATIENCE_MS,
            message: "a client is back",
          });
          back.push((performance.now() - began) / 1_000);
        }),
      );
      most = Math.max(most, await redisClients(run));
      await run.healed(clients, began);
    }
    await load.stop();
    run.figure("99 % connected after s", percentile(back, 99));
    run.figure("Redis clients", most);
    const processes = 4;
    run.check(
      most <= processes * REDIS_CLIENTS_EACH,
      `${most} Redis clients of ${processes} processes`,
    );
  },
});

/** Of one process, on one server. */
const REDIS_CLIENTS_EACH = 6;

async function redisClients(run: Run): Promise<number> {
  const list = String(await run.world.single.cli("CLIENT", "LIST"));
  return list
    .split("\n")
    .filter((line) => line !== "" && !line.includes("cmd=client")).length;
}

export const offline = row({
  id: "A20",
  title: "offline for less, just less and just more than the resume window",
  world: badLines,
  sizes: {
    short: { each: 3, seconds: [1, WINDOW.short - 0.3, WINDOW.short + 1] },
    long: {
      each: 20,
      seconds: [1, 29, WINDOW.long - 1, WINDOW.long, WINDOW.long + 1],
    },
  },
  async inject(run, { each, seconds }) {
    const clients = await run.clients(each * seconds.length);
    const load = run.load(clients, { ahead: 60 });
    await load.more(60);
    run.fault(clients.length);
    const outcomes = await Promise.all(
      clients.map((client, index) =>
        goAway(run, client, (seconds[index % seconds.length] ?? 0) * 1_000),
      ),
    );
    const back = clients.filter(
      ({ application }) => application.bridge.state === "open",
    );
    await load.more(60);
    await run.healed(back);
    await load.stop();
    for (const [index, window] of seconds.entries()) {
      const those = outcomes.filter((_, at) => at % seconds.length === index);
      const resumed = those.filter((word) => word === "resumed").length;
      run.figure(
        `offline ${window} s`,
        `${resumed} resumed, ${those.length - resumed} told that it is gone`,
      );
    }
    run.check(outcomes.includes("gone"), "some came after their window");
    run.check(outcomes.includes("resumed"), "some came within their window");
  },
});

/** Is away for so long, comes back, and is resumed or told that it is too late: whichever is right by Redis' clock. */
async function goAway(
  run: Run,
  client: Client,
  ms: number,
): Promise<"resumed" | "gone"> {
  const { application, connection } = client;
  client.isOffline = true;
  client.mayEnd = true;
  client.cut();
  const began = performance.now();
  const ends = await until(
    async () =>
      Number(
        await run.world.single.cli(
          "HGET",
          keys.connection(connection),
          "until",
        ),
      ),
    { ms: PATIENCE_MS, message: "ws-fn noticed the cut" },
  );
  await until(() => performance.now() - began >= ms, {
    ms: ms + PATIENCE_MS,
    every: 10,
    message: "it was offline for long enough",
  });
  client.isOffline = false;
  await until(() => ["open", "closed"].includes(application.bridge.state), {
    ms: PATIENCE_MS,
    every: 5,
    message: "it is resumed or told that it is gone",
  });
  if (application.bridge.state === "open") {
    run.check(
      client.dialledAt <= ends,
      `resumed by a dial ${client.dialledAt - ends} ms after the window`,
    );
    return "resumed";
  }
  const error = application.errors.at(-1);
  run.check(
    error?.status === 410 || error?.closeCode === 4510,
    `it was told by ${error?.message ?? "nothing"}`,
  );
  const toldAt = client.ends.at(-1)?.at ?? 0;
  run.check(
    toldAt >= ends,
    `told that it is gone ${ends - toldAt} ms before its window was over`,
  );
  return "gone";
}
