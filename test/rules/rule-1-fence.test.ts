/** Delivery rule 1: who was stopped and overtaken has no effect any more, in Redis and on the socket. */
import t from "tap";
import { channels } from "../../shared/keys.js";
import { readScript, reportScript } from "../../shared/log-scripts.js";
import { claimScript } from "../../shared/registry-scripts.js";
import { Lease, Pulse } from "../../ws-fn/lease.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { until } from "../../scripts/lab/until.js";
import {
  altered,
  changed,
  connect,
  patience,
  prepare,
  push,
  pushAll,
  startWorld,
} from "../fixtures/world.js";

const redis = await singleRedis(t);
const bridge = { owner: "new", protocol: "bridge.v1.json" } as const;

/** A process that can be stopped: what its clock tells when it runs again. */
class StoppedPulse extends Pulse {
  stops = 0;
  override get generation(): number {
    return this.stops;
  }
}

const unfencedReport = changed(
  reportScript,
  "if c[1] ~= ARGV[1] then",
  "if false then",
);
const unfencedRead = changed(
  readScript,
  "if tonumber(c[1] or 0) > tonumber(ARGV[1]) then return {'fenced'} end",
);

/** Two messages, an owner that gets them, a newer owner, and then the trim of the first. */
async function trimLate(t: Scope, guarded: boolean) {
  const world = await startWorld(t, redis.url, {
    scripts: guarded ? [] : [unfencedReport],
  });
  const id = await prepare(world);
  await pushAll(world, id, "1", "2");
  const { epoch, seq } = await world.registry.claim(id, bridge);
  const next = await world.registry.claim(id, bridge);
  await world.log.report(id, epoch, {
    acked: seq,
    ackedBy: "client",
    sent: [],
    fates: [],
  });
  const page = await world.log.read(id, next.epoch, 0);
  return page.kind === "rows" ? page.rows.length : page.kind;
}

t.test("a former owner's trim takes messages from the new one", async (t) => {
  t.equal(await trimLate(t, false), 0, "without the epoch: both are gone");
  t.equal(await trimLate(t, true), 2, "with it: both are there");
});

/** A newer owner, then the former one reads. Whether it is told that the connection is not its any more. */
async function readLate(t: Scope, guarded: boolean) {
  const world = await startWorld(t, redis.url, {
    scripts: guarded ? [] : [unfencedRead],
  });
  const id = await prepare(world);
  await pushAll(world, id, "theirs");
  const { epoch } = await world.registry.claim(id, bridge);
  await world.registry.claim(id, bridge);
  return (await world.log.read(id, epoch, 0)).kind;
}

t.test("a former owner's read is given messages of the new one", async (t) => {
  t.equal(await readLate(t, false), "rows", "without the epoch: it has them");
  t.equal(await readLate(t, true), "fenced", "with it: it is over");
});

/**
 * An owner is stopped; another takes over while the word of it is lost; the first runs again and finds in its socket a
 * bell from before. What it then writes.
 */
async function writeLate(
  t: Scope,
  own: (ask: () => Promise<boolean>) => Lease,
  stop: () => void,
) {
  const world = await startWorld(t, redis.url);
  const lease = own(() => world.registry.live(world.instance));
  const other = await startWorld(t, redis.url);
  const id = await prepare(world);
  const first = await connect(t, world, id, { deps: { lease } });
  await world.log.append(push(id, "before"));
  await first.receives("before");
  const channel = `${channels.bell(id)}${first.epoch}`;
  const old = Number(first.socket.said.at(-1)?.["seq"]);
  // The word of the takeover goes to nobody.
  const deaf = changed(claimScript, "if old > 0 then", "if false then");
  const thief = await startWorld(t, redis.url, { scripts: [deaf] });
  await connect(t, thief, id, { resumeSeq: old });
  stop();
  const header = `${Date.now() + 60_000} 0 - - - 0 text/plain`;
  await other.redis.publish(channel, `m ${old + 1} ${old} ${header}\nstale`);
  // What is decided is decided when it was taken over, or when it wrote.
  await until(
    () => first.socket.closedWith ?? first.socket.messages.includes("stale"),
    patience,
  );
  return first.socket;
}

t.test("a stale frame is written to an abandoned socket", async (t) => {
  class Careless extends Lease {
    override get holds(): boolean {
      return true;
    }
    override get doubt(): number {
      return 1;
    }
  }
  const pulse = new StoppedPulse();
  t.teardown(() => pulse.close());
  const without = await writeLate(
    t,
    (ask) => new Careless(pulse, 60_000, ask),
    () => undefined,
  );
  t.same(without.messages, ["before", "stale"], "nobody asks the lease");

  const paused = await writeLate(
    t,
    (ask) => new Lease(pulse, 60_000, ask),
    () => {
      pulse.stops += 1;
    },
  );
  t.same(paused.messages, ["before"], "it was stopped: it asks Redis first");
  t.equal(paused.closedWith?.code, 4509);

  // Its lease runs out, is renewed, and runs again: what was confirmed before counts no more all the same.
  const now = performance.now.bind(performance);
  let lateMs = 0;
  performance.now = () => now() + lateMs;
  t.teardown(() => {
    performance.now = now;
  });
  const over = await writeLate(
    t,
    (ask) => new Lease(pulse, 60_000, ask),
    () => {
      lateMs = 60_000;
    },
  );
  t.same(over.messages, ["before"], "its lease is over: it asks Redis first");
  t.equal(over.closedWith?.code, 4509);
});

t.test("who was stopped since its claim says welcome first", async (t) => {
  const pulse = new StoppedPulse();
  t.teardown(() => pulse.close());
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  await pushAll(world, id, "1");
  const lease = new Lease(pulse, 60_000, () =>
    world.registry.live(world.instance),
  );
  let asked = 0;
  const registry = altered(world.registry, {
    claim: async (...call) => {
      const claim = await world.registry.claim(...call);
      pulse.stops += 1;
      return claim;
    },
    confirm: (...call) => {
      asked += 1;
      return world.registry.confirm(...call);
    },
  });
  const client = await connect(t, { ...world, registry }, id, {
    deps: { lease, registry },
  });
  await client.receives("1");
  t.equal(asked, 1, "it asked Redis");
  t.equal(client.socket.said[0]?.["type"], "welcome");
});

/** An owner is overtaken; then a push arrives at the new one. Whether the former knows by then. */
async function overtaken(t: Scope, guarded: boolean) {
  const scripts = guarded
    ? []
    : [changed(claimScript, "if old > 0 then", "if false then")];
  const world = await startWorld(t, redis.url, { scripts });
  const id = await prepare(world);
  const first = await connect(t, world, id);
  const second = await connect(t, world, id);
  await pushAll(world, id, "x");
  await second.receives("x");
  return first.socket;
}

t.test("a former owner hears of the takeover on its own bell", async (t) => {
  const without = await overtaken(t, false);
  t.equal(without.closedWith, undefined, "without the word: it sits there");
  const { closedWith, messages } = await overtaken(t, true);
  t.equal(closedWith?.code, 4509);
  t.same(messages, []);
});

t.test("an owner whose connection was taken for lost keeps it", async (t) => {
  const world = await startWorld(t, redis.url);
  const other = await startWorld(t, redis.url);
  const id = await prepare(world);
  const client = await connect(t, world, id);
  await pushAll(world, id, "1");
  await client.receives("1");
  // It was frozen, and somebody swept.
  const hash = `bridge:{${id}}:conn`;
  await redis.cli("HSET", hash, "lease", String(Date.now() - 10));
  t.equal((await other.registry.lapse(id)).state, "away");
  client.ack();
  await until(
    async () => (await world.registry.inspect(id)).pending === 0,
    patience,
  );
  t.equal((await world.registry.inspect(id)).state, "open");
  t.equal(client.socket.closedWith, undefined, "nobody took it over");
});
