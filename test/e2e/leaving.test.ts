/** Instances that leave under load, one after the other, and a client that does not read, with the built processes. */
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { WebSocket } from "ws";
import {
  startApplication,
  type Application,
} from "../../scripts/lab/application.js";
import { backendOf, type Backend } from "../../scripts/lab/backend.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";
import type { Prepared } from "../../shared/api.js";
import type { Claim } from "../../shared/registry.js";
import { planDrain } from "../../ws-fn/drain-plan.js";
import {
  connect,
  patience,
  prepare,
  pushAll,
  startWorld,
} from "../fixtures/world.js";

/** Pages of /proc/<pid>/statm, on every Linux that Node runs on but for exotic kernels. */
const PAGE_BYTES = 4_096;
const MB = 1_048_576;

const CLIENTS = 24;
const RAW_CLIENTS = 12;
/** Pause of a publisher between two messages, ms; each connection has one. */
const PACE_MS = 100;
/** A message that nobody takes for so long fails the test, ms. */
const AGAIN_MS = 20_000;

t.test("a rolling restart under load", async (t) => {
  const redis = await singleRedis(t);
  const env = { REDIS_URL: redis.url, LOG_LEVEL: "warn" };
  // In two turns: six at once take long to start on a busy machine.
  const [http, goingHttp, killedHttp] = await Promise.all([
    startHttpFn(t, env),
    startHttpFn(t, env),
    startHttpFn(t, env),
  ]);
  const [first, second, third] = await Promise.all([
    startWsFn(t, { ...env, DRAIN_RATE: "30" }),
    startWsFn(t, { ...env, DRAIN_RATE: "10", DRAIN_SECONDS: "1" }),
    startWsFn(t, { ...env, SLOW_SECONDS: "2" }),
  ]);
  const backend = backendOf(t, http.url);
  const prepared = await Promise.all(
    Array.from({ length: CLIENTS + RAW_CLIENTS }, () => backend.prepare()),
  );
  let place = first.url;
  const clients = prepared
    .slice(0, CLIENTS)
    .map(({ token }) => startApplication(t, { token, to: () => place }));
  const raws = prepared
    .slice(CLIENTS)
    .map((connection) => startRaw(t, connection, () => place));
  await Promise.all(clients.map(({ bridge }) => bridge.ready));
  await until(() => raws.every(({ isOpen }) => isOpen));

  const load = startLoad(
    prepared.map(({ connectionId }) => connectionId),
    [backendOf(t, goingHttp.url), backend],
  );
  t.teardown(() => load.stop());
  await load.more(200);

  /** On a machine that stalls a socket may break once more, so these are the least. */
  const areBack = (restarts: number) =>
    until(
      () =>
        clients.every(
          ({ bridge, dials }) => bridge.state === "open" && dials > restarts,
        ) &&
        raws.every(
          ({ isOpen, closes }) =>
            isOpen && closes.filter((code) => code === 1012).length >= restarts,
        ),
      { ...patience, message: `everybody is back after ${restarts}` },
    );

  await t.test("http-fn goes, orderly and not", async (t) => {
    const nobody = await backend.prepare();
    const waiting = backendOf(t, goingHttp.url).push(
      nobody.connectionId,
      "for later",
      { headers: { prefer: "wait=30" } },
    );
    const path = `/v1/connections/${nobody.connectionId}`;
    await until(
      async () => (await backend.ask("GET", path)).json()["pending"] === 1,
    );
    goingHttp.kill("SIGTERM");
    const { status, headers, json } = await waiting;
    t.equal(status, 202, "who waits is answered, not cut");
    t.equal(headers["preference-applied"], "wait=30");
    t.match(json(), {
      status: "queued",
      to: { connection: nobody.connectionId },
    });
    t.match(await goingHttp.exited, { code: 0 });
    t.same(load.unanswered, [], "every request that was taken was answered");

    load.origins[0] = backendOf(t, killedHttp.url);
    await load.more(100);
    killedHttp.kill("SIGKILL");
    await killedHttp.exited;
    await load.more(100);
    load.unanswered.length = 0;
    t.ok(
      clients.every(({ dials }) => dials === 1),
      "no client dialled again",
    );
    t.ok(raws.every(({ closes }) => closes.length === 0));
  });

  await t.test("ws-fn goes, at DRAIN_RATE", async (t) => {
    const stubborn = await backend.prepare();
    const deaf = new WebSocket(`${first.url}/ws`, [
      "bridge.v1.json",
      `bearer.${stubborn.token}`,
    ]);
    t.teardown(() => deaf.terminate());
    const deafClosed = closeCode(deaf);
    await new Promise((resolve) => deaf.once("message", resolve));
    const drains = clients.map(drainOf);
    const deafDrain = drainOf({ socket: deaf });
    const goodbyes = clients.map(({ socket }) => closeCode(socket));

    place = second.url;
    first.kill("SIGTERM");
    const slots = await Promise.all([...drains, deafDrain]);
    t.ok(isNoFasterThan(30, slots), `slots: ${slots.join()}`);
    const all = CLIENTS + RAW_CLIENTS + 1;
    t.ok(Math.max(...slots) <= (all / 30) * 1_000);
    const codes = await Promise.all(goodbyes);
    t.ok(codes.includes(1000), "clients leave by themselves");
    // On a machine that stalls one may not be welcome elsewhere in time.
    t.ok(
      codes.every((code) => code === 1000 || code === 1012),
      `closed with ${codes.join()}`,
    );
    await areBack(1);
    t.notOk(first.logs.some((line) => line.includes("DRAIN_SECONDS")));
    t.equal(await deafClosed, 1012, "who did not move is sent away");
    t.match(await first.exited, { code: 0 });
  });

  await t.test("the next one goes faster than its rate", async (t) => {
    const drains = clients.map(drainOf);
    place = third.url;
    second.kill("SIGTERM");
    const slots = await Promise.all(drains);
    t.ok(Math.max(...slots) <= 1_000, `slots: ${slots.join()}`);
    t.match(await second.exited, { code: 0 });
    const said = second.logs.filter((line) => line.includes("DRAIN_SECONDS"));
    t.equal(said.length, 1, "and says so");
    t.match(JSON.parse(said[0] ?? "{}"), {
      sockets: CLIENTS + RAW_CLIENTS,
      drainRate: 10,
      drainSeconds: 1,
      perSecond: CLIENTS + RAW_CLIENTS,
    });
    await areBack(2);
    await load.more(200);

    const posted = await load.stop();
    for (const [index, client] of [...clients, ...raws].entries()) {
      const count = posted[index] ?? 0;
      await until(() => client.texts.length >= count, patience).catch(
        () => undefined,
      );
      const wanted = Array.from({ length: count }, (_, at) => `${at}`);
      t.same(client.texts, wanted, `${index} has everything once and in order`);
    }
    for (const { losses, errors } of clients)
      t.same([losses, errors], [[], []]);
    t.same(load.unanswered, []);
    const [one] = prepared;
    const inspected = await backend.ask(
      "GET",
      `/v1/connections/${one?.connectionId ?? ""}`,
    );
    t.equal(inspected.json()["state"], "open");
  });

  await t.test(
    "a client that does not read costs no memory and loses nothing",
    async (t) => {
      const count = 80;
      const body = "x".repeat(250_000);
      const wsFn = third;
      const { connectionId, token } = await backend.prepare();
      const application = startApplication(t, { token, to: () => wsFn.url });
      await application.bridge.ready;
      await backend.accepted(connectionId, "before");
      await application.has(1);

      const residentBytes = async () => {
        const [, pages = "0"] = (
          await readFile(`/proc/${wsFn.pid}/statm`, "utf8").catch(() => "")
        ).split(" ");
        return Number(pages) * PAGE_BYTES;
      };
      const began = await residentBytes();
      const closed = new Promise<number>((resolve) => {
        application.socket.once("close", (code: number) => resolve(code));
      });
      application.socket.pause();
      for (let index = 0; index < count; index += 1) {
        await backend.accepted(connectionId, `${index} ${body}`);
      }
      let most = await residentBytes();
      await until(
        async () => {
          most = Math.max(most, await residentBytes());
          return wsFn.logs.some((line) => line.includes("does not read"));
        },
        { ms: 30_000, every: 100, message: "ws-fn gave the slow reader up" },
      );
      // Generous: the garbage of what did go out, and one page of the log. Holding the mail would be much more.
      const grown = Math.round((most - began) / MB);
      if (began > 0) t.ok(grown < 100, `ws-fn grew by ${grown} MB`);

      application.socket.resume();
      const code = await closed;
      // One that takes its time to read what lies before it may not get to the close frame.
      t.ok([4008, 1006].includes(code), `closed with ${code}`);
      await application.has(count + 1, 30_000);
      t.same(
        application.texts.map((text) => text?.split(" ")[0]),
        ["before", ...Array.from({ length: count }, (_, index) => `${index}`)],
      );
      t.same(application.losses, []);
    },
  );

  await t.test("a drain that comes before the welcome is told", async (t) => {
    const world = await startWorld(t, redis.url);
    const { socket } = await connect(t, world, await prepare(world), {
      opening: (connection) => connection.drain(7),
    });
    t.match(socket.said, [
      { type: "welcome" },
      { type: "drain", reconnectAfterMs: 7 },
    ]);
  });
});

t.test("what a raw socket took is told before it is sent away", async (t) => {
  const world = await startWorld(t, (await singleRedis(t)).url);
  const id = await prepare(world);
  const client = await connect(t, world, id, { protocol: "raw" });
  // Reports of a raw socket are gathered: the first goes at once, the others would go a while later.
  for (const text of ["1", "2", "3"]) {
    await pushAll(world, id, text);
    await until(() => client.socket.frames.at(-1)?.data.toString() === text);
  }
  const claim = new Promise<Claim>((resolve, reject) => {
    client.socket.close = () => {
      world.registry
        .claim(id, { owner: world.instance, protocol: "raw" })
        .then(resolve, reject);
    };
  });
  client.connection.drain(0);
  const { acked, seq } = await claim;
  t.equal(acked, seq, "whoever comes back at once gets nothing twice");
  await world.registry.abandon(id, world.instance);
});

t.test("slots are evenly apart, each somewhere in its step", async (t) => {
  const plan = (sockets: number, withinMs: number) =>
    planDrain(sockets, { ratePerSecond: 100, withinMs });
  const { slots, ...facts } = plan(50, 10_000);
  t.same(facts, { windowMs: 500, ratePerSecond: 100, isHurried: false });
  const sorted = slots.toSorted((a, b) => a - b);
  t.same(
    sorted.map((slot) => Math.floor(slot / 10)),
    Array.from({ length: 50 }, (_, index) => index),
  );
  t.notSame(slots, sorted, "not in the order of their coming");
  t.ok(isNoFasterThan(100, slots.map(Math.round)));
  const random = Array.from({ length: 50 }, () => Math.random() * 500);
  t.notOk(isNoFasterThan(100, random), "as they would be without steps");

  t.match(plan(1_000, 2_000), { windowMs: 2_000, ratePerSecond: 500 });
  t.ok(plan(1_000, 2_000).isHurried);
  t.same(plan(0, 2_000).slots, []);
  t.same(plan(2, 0).slots, [0, 0], "no time at all");
});

/** Whether sockets that leave at these milliseconds (rounded) never leave faster than at `rate` a second. */
function isNoFasterThan(rate: number, slots: readonly number[]): boolean {
  const sorted = slots.toSorted((a, b) => a - b);
  const stepMs = 1_000 / rate;
  return sorted.every((from, index) =>
    sorted
      .slice(index + 1)
      .every((to, between) => to - from + 1 >= between * stepMs),
  );
}

/** `reconnectAfterMs` of the next drain frame. */
function drainOf({ socket }: Pick<Application, "socket">): Promise<number> {
  return new Promise((resolve) => {
    const look = (data: Buffer) => {
      if (!data.includes('"type":"drain"')) return;
      socket.off("message", look);
      const frame = JSON.parse(data.toString()) as { reconnectAfterMs: number };
      resolve(frame.reconnectAfterMs);
    };
    socket.on("message", look);
  });
}

function closeCode(socket: WebSocket): Promise<number> {
  return new Promise((resolve) => {
    socket.once("close", (code: number) => resolve(code));
  });
}

/** A raw client of a few lines: whenever its socket ends it comes back with the same token. */
function startRaw(t: Test, { url }: Prepared, to: () => string) {
  const raw = { texts: [] as string[], closes: [] as number[], isOpen: false };
  let socket: WebSocket;
  let isOver = false;
  const dial = () => {
    socket = new WebSocket(`${to()}/ws${new URL(url).search}`);
    socket.on("error", () => undefined);
    socket.once("message", () => {
      raw.isOpen = true;
      socket.on("message", (data: Buffer) => raw.texts.push(data.toString()));
    });
    socket.once("close", (code) => {
      raw.isOpen = false;
      raw.closes.push(code);
      if (!isOver) dial();
    });
  };
  dial();
  t.teardown(() => {
    isOver = true;
    socket.terminate();
  });
  return raw;
}

/** Posts "0", "1", … to every connection until it is stopped, in turn over all `origins`, which may change. */
function startLoad(connectionIds: readonly string[], origins: Backend[]) {
  const posted = connectionIds.map(() => 0);
  const unanswered: string[] = [];
  const isOver = new AbortController();
  const sum = () => posted.reduce((all, one) => all + one, 0);
  const post = async (connectionId: string, text: string, turn: number) => {
    const headers = { "idempotency-key": text };
    const deadline = performance.now() + AGAIN_MS;
    for (let attempt = 0, isCut = false; ; attempt += 1) {
      const origin = origins[(turn + attempt) % origins.length];
      try {
        const answer = await origin?.push(connectionId, text, { headers });
        // A kept connection may close while a request is on its way to it; that one was not taken. This one was.
        if (isCut && answer?.headers["idempotency-replayed"] === "true")
          unanswered.push(text);
        if (answer?.status === 202) return;
        if (answer?.status !== 503) throw new Error(answer?.text);
        isCut = false;
        await sleep(PACE_MS);
      } catch (error) {
        if (performance.now() > deadline) throw error;
        const { code } = error as NodeJS.ErrnoException;
        if (code === undefined) throw error;
        isCut ||= code !== "ECONNREFUSED";
      }
    }
  };
  const publishers = connectionIds.map(async (connectionId, index) => {
    while (!isOver.signal.aborted) {
      const number = posted[index] ?? 0;
      await post(connectionId, String(number), index + number);
      posted[index] = number + 1;
      await sleep(PACE_MS);
    }
  });
  return {
    origins,
    /** What was posted by requests that were taken and got no answer. */
    unanswered,
    more: async (count: number) => {
      const enough = sum() + count;
      await until(() => sum() >= enough, { ms: 20_000 });
    },
    /** How many were accepted for each connection. */
    stop: async () => {
      isOver.abort();
      await Promise.all(publishers);
      return posted;
    },
  };
}
