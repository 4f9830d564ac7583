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
  "if tonumber(c[1] or 0) > tonumber(ARGV[1]) then return 'fenced' end",
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

/** A newer owner, then the former one begins a run. Whether the next push still asks for a job of the new owner. */
async function flagLate(t: Scope, guarded: boolean) {
  const world = await startWorld(t, redis.url, {
    scripts: guarded ? [] : [unfencedRead],
  });
  const id = await prepare(world);
  const { epoch } = await world.registry.claim(id, bridge);
  const next = await world.registry.claim(id, bridge);
  await world.log.read(id, epoch, 0, "begin");
  const { jobEpoch } = await world.log.append(push(id, "x"));
  return jobEpoch === next.epoch;
}

t.test("a former owner's flag keeps jobs from the new one", async (t) => {
  t.equal(await flagLate(t, false), false, "without the epoch: no job");
  t.equal(await flagLate(t, true), true, "with it: a job");
});

/**
 * An owner is stopped; another takes over while the word of it is lost; the first runs again and finds in its socket a
 * bell from before. What it then writes.
 */
async function writeLate(t: Scope, lease: Lease, stop: () => void) {
  const world = await startWorld(t, redis.url);
  const other = await startWorld(t, redis.url);
  const id = await prepare(world);
  const first = await connect(t, world, id, { lease });
  // No job, so that no run asks Redis by itself.
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
  }
  const pulse = new StoppedPulse();
  t.teardown(() => pulse.close());
  const without = await writeLate(
    t,
    new Careless(pulse, 60_000),
    () => undefined,
  );
  t.same(without.messages, ["before", "stale"], "nobody asks the lease");

  const paused = await writeLate(t, new Lease(pulse, 60_000), () => {
    pulse.stops += 1;
  });
  t.same(paused.messages, ["before"], "it was stopped: it asks Redis first");
  t.equal(paused.closedWith?.code, 4509);

  class Ending extends Lease {
    over = false;
    override get holds(): boolean {
      return !this.over && super.holds;
    }
  }
  const lease = new Ending(pulse, 60_000);
  const over = await writeLate(t, lease, () => {
    lease.over = true;
  });
  t.same(over.messages, ["before"], "its lease is over: it asks Redis first");
  t.equal(over.closedWith?.code, 4509);
});

t.test("who was stopped since its claim says welcome first", async (t) => {
  class Stopped extends Lease {
    asked = 0;
    override renewal() {
      this.asked += 1;
      return super.renewal();
    }
    override get holds(): boolean {
      return this.asked > 1 && super.holds;
    }
  }
  const pulse = new StoppedPulse();
  t.teardown(() => pulse.close());
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  await pushAll(world, id, "1");
  const lease = new Stopped(pulse, 60_000);
  const client = await connect(t, world, id, { lease });
  await client.receives("1");
  t.equal(lease.asked, 2, "it asked Redis");
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

t.test("an owner whose registration lapsed renews, and stays", async (t) => {
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
