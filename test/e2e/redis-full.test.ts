/**
 * Redis nearly full, full, and with a full disk, with the built processes: what is new is refused in time and in so many
 * words, what was accepted reaches its client all the same, nobody spins, and all of it passes by itself.
 */
import { execFile } from "node:child_process";
import { mkdtemp, rmdir } from "node:fs/promises";
import type { IncomingMessage } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import t, { type Test } from "tap";
import { WebSocket } from "ws";
import { startApplication } from "../../scripts/lab/application.js";
import {
  backendOf,
  type Answer,
  type Backend,
} from "../../scripts/lab/backend.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { singleRedis, type TestRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";
import { holdAllScript, liveScript } from "../../shared/directory-scripts.js";
import { drains } from "../../shared/full.js";
import type { Fanout } from "../../shared/fanout.js";
import {
  historyScript,
  holdScript,
  recallGroupScript,
  sentScript,
} from "../../shared/fanout-scripts.js";
import { newScheduledId } from "../../shared/ids.js";
import { keys } from "../../shared/keys.js";
import { readScript, reportScript } from "../../shared/log-scripts.js";
import { restoreScript } from "../../shared/registry-scripts.js";
import { changed, prepare, push, startWorld } from "../fixtures/world.js";

const run = promisify(execFile);
const MIB = 1_048_576;
const roomy = 1_024 * MIB;
const bodyBytes = 60_000;
/** At most so many messages wait for one connection here. */
const logMax = 300;
const leaseMs = 1_500;

/** One field of INFO; "" when it is not there. */
async function info(redis: TestRedis, section: string, field: string) {
  const text = String(await redis.cli("INFO", section));
  return new RegExp(`^${field}:(.*)$`, "m").exec(text)?.[1]?.trim() ?? "";
}

const usedBytes = async (redis: TestRedis) =>
  Number(await info(redis, "memory", "used_memory"));

/** How often Redis refused a command for want of memory so far. */
async function refusals(redis: TestRedis): Promise<number> {
  const count = await info(redis, "errorstats", "errorstat_OOM");
  return Number(count.replace("count=", "") || 0);
}

const maxmemory = (redis: TestRedis, bytes: number) =>
  redis.cli("CONFIG", "SET", "maxmemory", String(bytes));

interface Parked {
  connectionId: string;
  token: string;
  texts: string[];
  lastId: string;
}

/** Connections whose clients are away. */
async function park(backend: Backend, count: number): Promise<Parked[]> {
  const prepared = [];
  for (let i = 0; i < count; i++) prepared.push(await backend.prepare());
  return prepared.map(({ connectionId, token }) => ({
    connectionId,
    token,
    texts: [],
    lastId: "",
  }));
}

/** A publisher for each connection, until it is refused. Resolves with the refusals. */
function fill(backend: Backend, all: readonly Parked[]): Promise<Answer[]> {
  return Promise.all(
    all.map(async (parked) => {
      for (;;) {
        const text = `${parked.texts.length} `.padEnd(bodyBytes, "x");
        const answer = await backend.push(parked.connectionId, text);
        if (answer.status !== 202) return answer;
        parked.texts.push(text);
        parked.lastId = answer.json<{ id: string }>().id;
      }
    }),
  );
}

/** The clients come, one and all, and take what waits: all of it, in order, once; their acks make room. */
async function drainAll(
  t: Test,
  backend: Backend,
  all: readonly Parked[],
  wsUrl: string,
): Promise<void> {
  await Promise.all(
    all.map(async ({ token, texts, lastId }) => {
      const refusals: string[] = [];
      const application = startApplication(t, {
        token,
        to: () => wsUrl,
        onSocket: (socket) =>
          socket.on("error", ({ message }) => refusals.push(message)),
      });
      await application.has(texts.length, 60_000);
      t.ok(application.texts.join() === texts.join(), "all of it, in order");
      t.same(refusals, [], "no dial was refused");
      await until(
        async () => (await backend.receipt(lastId)).status === "delivered",
        { ms: 20_000, message: "the receipt says so" },
      );
      await application.bridge.close();
    }),
  );
}

function isRefused(t: Test, answer: Answer): void {
  t.equal(answer.status, 503);
  t.match(answer.headers["retry-after"], /^[1-9]\d*$/);
  t.match(answer.json(), { code: "redis_full", hint: /Retry-After/ });
}

/** What an upgrade without a connection of its own is answered. */
async function upgrade(wsUrl: string): Promise<IncomingMessage | "open"> {
  const socket = new WebSocket(`${wsUrl}/ws`);
  try {
    return await new Promise((resolve, reject) => {
      socket.once("unexpected-response", (_, response) => resolve(response));
      socket.once("open", () => resolve("open"));
      socket.once("error", reject);
    });
  } finally {
    socket.on("error", () => undefined);
    socket.terminate();
  }
}

/** Lines that an operator would be woken by: warnings and worse. */
const alarms = (logs: readonly string[]) =>
  logs.filter((line) => /"level":[456]0/.test(line));

t.test("a full Redis", async (t) => {
  const redis = await singleRedis(t, {
    config: {
      appendonly: "no",
      "enable-protected-configs": "yes",
      maxmemory: String(roomy),
    },
  });
  const env = {
    REDIS_URL: redis.url,
    LOG_MAX_MESSAGES: String(logMax),
    LEASE_SECONDS: String(leaseMs / 1_000),
  };
  const [http, unguarded, ws] = await Promise.all([
    startHttpFn(t, env),
    startHttpFn(t, { ...env, REDIS_MEMORY_HIGH: "0" }),
    startWsFn(t, env),
  ]);
  const backend = backendOf(t, http.url);
  const open = backendOf(t, unguarded.url);

  await t.test("one client's log is full, others' are not", async (t) => {
    const [here, elsewhere] = await Promise.all([
      backend.prepare(),
      backend.prepare(),
    ]);
    const { connectionId } = here;
    await Promise.all(
      Array.from({ length: logMax }, (_, n) =>
        backend.accepted(connectionId, String(n)),
      ),
    );
    const answer = await backend.push(connectionId, "one more");
    t.equal(answer.status, 429);
    t.match(answer.headers["retry-after"], /^[1-9]\d*$/);
    t.match(answer.json(), { code: "log_full", limit: logMax });
    await backend.accepted(elsewhere.connectionId, "room");
    await backend.ask("DELETE", `/v1/connections/${connectionId}`);
  });

  await t.test("is not filled by us: refused at the mark", async (t) => {
    const all = await park(backend, 4);
    const [first] = all;
    if (!first) throw new Error("nobody is parked");
    const keyed = { headers: { "idempotency-key": "before it was full" } };
    const before = await backend.push(first.connectionId, "keyed", keyed);
    const recalled = await backend.accepted(first.connectionId, "recalled");
    first.texts.push("keyed");
    const limit = (await usedBytes(redis)) + 8 * MIB;
    await maxmemory(redis, limit);
    for (const answer of await fill(backend, all)) {
      isRefused(t, answer);
      const { limit: mark, actual } = answer.json<Record<string, number>>();
      t.ok(mark && actual && actual >= mark, `${actual} of ${limit} bytes`);
    }
    t.ok((await usedBytes(redis)) < 0.95 * limit, "well before the limit");
    t.equal(await refusals(redis), 0, "Redis itself refused nothing");

    // ws-fn looks for itself, and Redis may have freed a few buffers since.
    await maxmemory(redis, Math.round(limit * 0.97));
    isRefused(t, await backend.ask("POST", "/v1/connections"));
    // The first may be let in: what ws-fn knows may be from before there was a limit, and it asks beside it.
    const refused = await until(
      async () => {
        const answer = await upgrade(ws.url);
        return answer === "open" ? undefined : answer;
      },
      { message: "a new connection is refused" },
    );
    await maxmemory(redis, limit);
    t.equal(refused.statusCode, 503);
    t.match(refused.headers["retry-after"], /^[1-9]\d*$/);

    const explained = await backend.push(first.connectionId, "new", {
      query: "?explain=1",
    });
    t.match(explained.json(), { status: 503, problem: { code: "redis_full" } });
    const again = await backend.push(first.connectionId, "keyed", keyed);
    t.equal(again.status, 202, "what was taken before is not denied");
    t.equal(again.headers["idempotency-replayed"], "true");
    t.equal(again.json()["id"], before.json()["id"]);
    const recall = await backend.ask("DELETE", `/v1/messages/${recalled.id}`);
    t.equal(recall.status, 200);

    await drainAll(t, backend, all, ws.url);
    await until(
      async () => {
        const answer = await backend.ask("POST", "/v1/connections");
        return answer.status === 201;
      },
      { ms: 20_000, every: 50, message: "there is room again" },
    );
    t.equal(alarms(http.logs).length, 1, "one line when it began");
    t.match(alarms(http.logs)[0], /Redis is nearly full/);
  });

  await t.test("is filled where the mark is off", async (t) => {
    const all = await park(open, 4);
    await maxmemory(redis, (await usedBytes(redis)) + 4 * MIB);
    for (const answer of await fill(open, all)) isRefused(t, answer);
    t.ok((await refusals(redis)) > 0, "the first refusal is Redis's own");
    await drainAll(t, backend, all, ws.url);
    await maxmemory(redis, roomy);
  });

  await t.test("by whomever: what was accepted is delivered", async (t) => {
    const room = "/v1/groups/room";
    const toRoom = (side: Backend, body: string, query = "") =>
      side.ask("POST", `${room}/messages${query}`, {
        body,
        headers: { "content-type": "text/plain" },
      });
    const { connectionId, token } = await open.prepare();
    const present = startApplication(t, { token, to: () => ws.url });
    await present.bridge.ready;
    await open.accepted(connectionId, "before");
    await present.has(1);
    const all = await park(open, 4);
    for (const parked of all)
      for (let n = 0; n < 20; n++) {
        parked.texts.push(`${n} waits`);
        const sent = await open.accepted(parked.connectionId, `${n} waits`);
        parked.lastId = sent.id;
      }
    const [leaving, closed] = await Promise.all([
      open.prepare({ groups: ["room"] }),
      open.prepare({ groups: ["room"] }),
    ]);
    t.equal((await toRoom(open, "to all in it")).status, 202);
    const meeting = await toRoom(open, "later", "?delay=600");
    const late = await open.accepted(connectionId, "due meanwhile", {
      query: "?delay=1",
    });
    const recalled = await open.accepted(connectionId, "far away", {
      query: "?delay=600",
    });

    const [hadRefused, hadLogged] = [
      await refusals(redis),
      alarms([...ws.logs, ...http.logs, ...unguarded.logs]).length,
    ];
    // Less than an empty Redis takes: whatever our clients ack, it stays full.
    await maxmemory(redis, MIB);
    const since = Date.now();
    for (const side of [backend, open]) {
      isRefused(t, await side.push(connectionId, "no"));
      isRefused(t, await side.ask("POST", "/v1/connections"));
      isRefused(t, await side.push(connectionId, "no", { query: "?delay=9" }));
      isRefused(t, await toRoom(side, "no"));
      isRefused(t, await toRoom(side, "no", "?delay=9"));
      const member = `${room}/connections/${connectionId}`;
      isRefused(t, await side.ask("PUT", member));
    }
    await drainAll(t, backend, all, ws.url);
    const recall = await backend.ask("DELETE", `/v1/messages/${recalled.id}`);
    t.equal(recall.status, 200);
    const goes = `/v1/connections/${closed.connectionId}`;
    t.equal((await backend.ask("DELETE", goes)).status, 200);
    const waits = `/v1/messages/${meeting.json<{ id: string }>().id}`;
    t.equal((await backend.ask("DELETE", waits)).status, 200);
    t.match((await backend.ask("GET", room)).json(), { recipients: 1 });
    const guest = startApplication(t, {
      token: leaving.token,
      to: () => ws.url,
    });
    await guest.has(1);
    t.same(guest.texts, ["to all in it"]);
    await guest.bridge.close();
    await until(
      async () =>
        (await backend.ask("GET", `/v1/connections/${leaving.connectionId}`))
          .status === 410,
      { ms: 20_000, message: "a client's Close ends its connection" },
    );
    await until(
      async () => {
        const { recipients } = (await backend.ask("GET", room)).json();
        return recipients === 0;
      },
      { ms: 20_000, message: "and its membership" },
    );
    await until(
      async () => {
        const owner = String(
          await redis.cli("HGET", `bridge:{${connectionId}}:conn`, "owner"),
        );
        const lease = await redis.cli("ZSCORE", keys.instances, owner);
        return Number(lease) > since + leaseMs * 3;
      },
      { ms: 20_000, every: 50, message: "leases are renewed" },
    );
    const seconds = (Date.now() - since) / 1_000;
    const refused = (await refusals(redis)) - hadRefused;
    t.ok(refused < 100, `${refused} refused in ${seconds} s: nobody spins`);
    const lines = alarms([...ws.logs, ...http.logs, ...unguarded.logs]);
    const logged = lines.length - hadLogged;
    t.ok(logged <= 12, `${logged} warnings in ${seconds} s`);
    t.comment(`${refused} commands refused, ${logged} warnings, ${seconds} s`);

    await maxmemory(redis, roomy);
    await backend.accepted(connectionId, "after");
    await present.has(3);
    t.same([...present.texts].sort(), ["after", "before", "due meanwhile"]);
    t.equal(present.dials, 1, "the socket stayed open");
    await until(
      async () => (await backend.receipt(late.id)).status === "delivered",
      { ms: 20_000 },
    );
  });

  await t.test("without its first line, no script drains", async (t) => {
    const whole = await startWorld(t, redis.url);
    const line = drains();
    const none = "redis.call('ZREM', KEYS[1], '')";
    const flag = "redis.call('HDEL', KEYS[1], 'flag')";
    for (const [script, from] of [
      [liveScript, none],
      [holdAllScript, line],
      [restoreScript, line],
      [readScript, flag],
      [reportScript, line],
    ] as const) {
      const world = await startWorld(t, redis.url, {
        scripts: [changed(script, from)],
      });
      const id = await prepare(whole);
      const { place: at } = await whole.log.append(push(id, "waits"));
      const seq = "seq" in at ? at.seq : 0;
      /** A client comes, reads, and is sent a message; `of` does what the script is for. */
      const drain = async (of: typeof world) => {
        const owner = { owner: "a", protocol: "raw" } as const;
        const by = (name: string) => (script.name === name ? of : whole);
        await by("bridgeLive").registry.live("a");
        const claim = await by("bridgeHoldAll").registry.claim(id, owner);
        const { epoch, identity } = claim;
        const mine = { ...owner, epoch, identity, cur: 0, upkeep: true };
        await by("bridgeRestore").registry.confirm(id, mine);
        await by("bridgeRead").log.read(id, epoch, 0);
        await by("bridgeReport").log.report(id, epoch, {
          ackedBy: "client",
          sent: [{ seq, atMs: Date.now() }],
          fates: [],
        });
      };
      await maxmemory(redis, MIB);
      await t.rejects(drain(world), { code: "redis_full" }, script.name);
      await drain(whole);
      await maxmemory(redis, roomy);
    }

    const { fanout } = whole;
    const group = "drained";
    const message = {
      ...{ group, body: Buffer.from("x"), contentType: "text/plain" },
      ...{ binary: false, ttlSeconds: 60 },
    };
    const later = newScheduledId();
    await fanout.schedule(message, later, Date.now() + 60_000);
    const span = { spanMs: 60_000 };
    const start = { epoch: "", offset: 0 };
    for (const [script, ask] of [
      [holdScript, (of: Fanout) => of.hold(group, ["a"], span)],
      [historyScript, (of: Fanout) => of.read("unknown", start)],
      [sentScript, (of: Fanout) => of.sent(group, [[1, 1]])],
      [recallGroupScript, (of: Fanout) => of.recall(group, later)],
    ] as const) {
      const world = await startWorld(t, redis.url, {
        scripts: [changed(script, line)],
      });
      await maxmemory(redis, MIB);
      const broken = async () => void (await ask(world.fanout));
      await t.rejects(broken(), { code: "redis_full" }, script.name);
      await ask(fanout);
      // These two begin with a delete of their own.
      await fanout.leave(group, ["a"], 1_000);
      await fanout.leave(group, ["a"], 0);
      await t.rejects(fanout.publish({ ...message, group: script.name }), {
        code: "redis_full",
      });
      await maxmemory(redis, roomy);
    }
  });

  await t.test("a full disk: refused, readable, and it passes", async (t) => {
    const disk = await mkdtemp(path.join(tmpdir(), "bridge-disk-"));
    t.teardown(() => rmdir(disk).catch(() => undefined));
    const mounted = await run("mount", [
      ...["-t", "tmpfs", "-o", "size=3m", "none", disk],
    ]).then(
      () => true,
      () => false,
    );
    if (!mounted) {
      t.comment("not shown: nothing may be mounted here");
      return;
    }
    t.teardown(() => run("umount", ["-l", disk]));
    await redis.cli("CONFIG", "SET", "dir", disk);
    await redis.cli("CONFIG", "SET", "appendfsync", "everysec");
    await redis.cli("CONFIG", "SET", "appendonly", "yes");
    const is = async (field: string, value: string) =>
      (await info(redis, "persistence", field)) === value;
    await until(
      async () =>
        (await is("aof_enabled", "1")) &&
        (await is("aof_rewrite_in_progress", "0")) &&
        (await is("aof_rewrite_scheduled", "0")),
      { message: "the append-only file is there" },
    );

    const all = await park(backend, 2);
    for (const answer of await fill(backend, all)) {
      t.equal(answer.status, 503);
      t.match(answer.headers["retry-after"], /^[1-9]\d*$/);
      t.match(answer.json(), { code: "redis_unavailable", detail: /disk/ });
    }
    const [{ connectionId = "", lastId = "" } = {}] = all;
    t.equal((await backend.receipt(lastId)).status, "queued");
    const one = await backend.ask("GET", `/v1/connections/${connectionId}`);
    t.match(one.json(), { state: "prepared" });
    t.equal((await backend.ask("GET", "/v1/connections")).status, 200);

    await run("mount", ["-o", "remount,size=64m", disk]);
    await until(
      async () => {
        const { status } = await backend.push(connectionId, "after");
        return status === 202;
      },
      { ms: 20_000, every: 50, message: "writes are taken again" },
    );
    all[0]?.texts.push("after");
    await drainAll(t, backend, all, ws.url);
  });
});
