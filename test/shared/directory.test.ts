/**
 * The directory: which process holds which connection, who is due, who is dead; and how a process and its connections are put
 * right when a word was lost on its way, or Redis has forgotten something.
 */
import t from "tap";
import { Directory } from "../../shared/directory.js";
import { BridgeError } from "../../shared/errors.js";
import { everybody, keys } from "../../shared/keys.js";
import type { RedisLink, Script } from "../../shared/redis.js";
import { Registry } from "../../shared/registry.js";
import {
  claimScript,
  confirmScript,
  releaseScript,
} from "../../shared/registry-scripts.js";
import { clusterRedis, singleRedis } from "../../scripts/lab/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { until } from "../../scripts/lab/until.js";
import { altered, patience, startWorld } from "../fixtures/world.js";

const redis = await singleRedis(t);

/** Everything of `$all`, none of it from another test. */
async function directory(t: Scope) {
  await redis.cli("FLUSHALL");
  const { redis: link, registry } = await startWorld(t, redis.url, {
    keeps: false,
  });
  await redis.cli("DEL", keys.instances);
  return { link, directory: registry.directory };
}

const score = async (key: string, member: string) => {
  const found = await redis.cli("ZSCORE", key, member);
  return found === null ? undefined : Number(found);
};
const member = (id: string) => score(keys.groupMembers(everybody), id);
const online = (id: string) => score(keys.groupOnline(everybody), id);
const due = (id: string) => score(keys.due, id);

t.test("listed, held, left, gone", async (t) => {
  const { directory: all } = await directory(t);
  const from = Date.now();
  const position = await all.list("a", 5_000);
  t.match(position.epoch, /^\d+$/);
  t.equal(await member("a"), 0);
  t.equal(await online("a"), undefined, "nobody has its socket");
  t.ok(((await due("a")) ?? 0) >= from + 5_000, "due when its time is over");

  t.same(await all.hold("one", "a"), position, "where `$all` stands");
  t.same([...(await all.heldBy("one"))], ["a"]);
  t.ok(((await online("a")) ?? 0) > from);
  t.equal(await due("a"), undefined, "its process stands for it");

  const untilMs = Date.now() + 7_000;
  await all.depart("one", "a", { untilMs, dueMs: untilMs + 1 });
  t.same([...(await all.heldBy("one"))], []);
  t.equal(await member("a"), 0, "a member while it may come back");
  t.equal(await score(keys.groupUntil(everybody), "a"), untilMs);
  t.equal(await online("a"), undefined);
  t.equal(await due("a"), untilMs + 1);

  await all.depart("", "a", { untilMs: 0, dueMs: 0 });
  t.equal(await member("a"), undefined);
  t.equal(await due("a"), undefined);
  t.same(await all.page(undefined, 10), []);
});

t.test("who was lost to another process stays with that", async (t) => {
  const { directory: all } = await directory(t);
  await all.hold("one", "a");
  await all.hold("two", "a");
  await all.depart("one", "a", {});
  t.same([...(await all.heldBy("one"))], []);
  t.same([...(await all.heldBy("two"))], ["a"]);
  t.ok(await online("a"), "nothing else has changed");
  t.equal(await due("a"), undefined);
});

t.test("what is said in one turn goes in one call for a process", async (t) => {
  const { link } = await directory(t);
  const calls: string[] = [];
  const counting = altered(link, {
    run: (script: Script, ...rest: [readonly string[], readonly never[]]) => {
      calls.push(script.name);
      return link.run(script, ...rest);
    },
  });
  const all = new Directory(counting, { keepMs: 60_000 });
  const ids = Array.from({ length: 150 }, (_, n) => `c${n}`);
  await Promise.all([
    ...ids.map((id) => all.hold("one", id)),
    all.hold("two", "other"),
  ]);
  t.same(calls, ["bridgeHoldAll", "bridgeHoldAll", "bridgeHoldAll"]);
  t.same([...(await all.heldBy("one"))].sort(), [...ids].sort());
  t.same([...(await all.heldBy("two"))], ["other"]);

  calls.length = 0;
  await Promise.all(ids.map((id) => all.depart("one", id, { untilMs: 0 })));
  t.same(calls, ["bridgeDepart", "bridgeDepart"]);
  t.same([...(await all.heldBy("one"))], []);
  t.same(await all.page(undefined, 10), ["other"]);
});

t.test("left and taken again in one turn, it is held", async (t) => {
  const { directory: all } = await directory(t);
  await all.hold("one", "a");
  const untilMs = Date.now() + 1_000;
  await Promise.all([
    all.hold("one", "a"),
    all.depart("one", "a", { untilMs, dueMs: untilMs }),
  ]);
  t.same([...(await all.heldBy("one"))], ["a"]);
  t.equal(await due("a"), undefined);
  t.ok(await online("a"));
});

t.test(
  "a look finds what is due, oldest first, and no more than asked",
  async (t) => {
    const { directory: all } = await directory(t);
    const now = Date.now();
    for (const [id, dueMs] of [
      ["third", now - 10],
      ["first", now - 30],
      ["second", now - 20],
      ["later", now + 60_000],
    ] as const)
      await all.lookAgain(id, dueMs);
    t.match(await all.look(10), {
      due: ["first", "second", "third"],
      dead: [],
    });
    t.same((await all.look(2)).due, ["first", "second"]);
    await all.lookAgain("first", 0);
    t.same((await all.look(10)).due, ["second", "third"]);
  },
);

/** A process whose lease is over. */
async function dies(all: Directory, instance: string): Promise<number> {
  await all.live(instance, 1);
  const end = (await score(keys.instances, instance)) ?? 0;
  await until(async () => (await all.look(1)).nowMs > end, patience);
  return end;
}

t.test("a look finds the dead, and what they held", async (t) => {
  const { directory: all } = await directory(t);
  t.same(await all.live("alive", 60_000), { known: false, held: 0 });
  for (const id of ["a", "b", "c"]) await all.hold("dead", id);
  await all.hold("alive", "d");
  t.same(await all.live("alive", 60_000), { known: true, held: 1 });
  const leaseEndMs = await dies(all, "dead");
  const [found, ...none] = (await all.look(10)).dead;
  t.same(none, []);
  t.match(found, { instance: "dead", leaseEndMs });
  t.same(found?.connectionIds.sort(), ["a", "b", "c"]);
  const [some] = (await all.look(2)).dead;
  t.equal(some?.connectionIds.length, 2);
});

t.test("several dead, with due ones between, are told apart", async (t) => {
  const { directory: all } = await directory(t);
  await all.hold("x", "1");
  const ends = { x: await dies(all, "x"), empty: await dies(all, "empty") };
  await all.hold("y", "2");
  const y = await dies(all, "y");
  await all.lookAgain("due", Date.now() - 5);
  const { due, dead } = await all.look(10);
  t.same(due, ["due"]);
  t.same(dead, [
    { instance: "x", leaseEndMs: ends.x, connectionIds: ["1"] },
    { instance: "empty", leaseEndMs: ends.empty, connectionIds: [] },
    { instance: "y", leaseEndMs: y, connectionIds: ["2"] },
  ]);
});

t.test("the dead are forgotten when they hold nothing", async (t) => {
  const { directory: all } = await directory(t);
  await all.hold("dead", "a");
  const end = await dies(all, "dead");
  t.equal(await all.retire("dead", end), false);
  t.equal((await all.look(1)).dead.length, 1);
  await all.depart("dead", "a", {});
  t.equal(await all.retire("dead", end), true);
  t.same((await all.look(1)).dead, []);
});

t.test("one that has come back stays", async (t) => {
  const { directory: all } = await directory(t);
  const end = await dies(all, "frozen");
  await all.live("frozen", 60_000);
  t.same((await all.look(1)).dead, []);
  t.equal(
    await all.retire("frozen", end),
    false,
    "as it was seen it is no more",
  );
  t.match(await all.live("frozen", 60_000), { known: true });
  t.equal(await all.retire("frozen"), true, "by its own word it goes");
  t.match(await all.live("frozen", 60_000), { known: false });
});

t.test("all are paged in order of ID", async (t) => {
  const { directory: all } = await directory(t);
  for (const id of ["d", "b", "a", "c"]) await all.list(id, 1_000);
  t.same(await all.page(undefined, 3), ["a", "b", "c"]);
  t.same(await all.page("c", 3), ["d"]);
  t.same(await all.page("d", 3), []);
});

/** How a script of the next call goes wrong: it is not sent, or its answer is lost. */
type Fault = "not sent" | "no answer";

/** A process with a registry of its own; a fault of a script happens once. */
async function faulty(t: Scope, url: string) {
  const world = await startWorld(t, url, { keeps: false });
  const { redis: link, windows, events, instance } = world;
  const faults = new Map<string, Fault>();
  const run: RedisLink["run"] = async (script, ...call) => {
    const fault = faults.get(script.name);
    faults.delete(script.name);
    if (fault === "not sent") throw new BridgeError("redis_unavailable");
    const reply = await link.run(script, ...call);
    if (fault === "no answer") throw new BridgeError("outcome_unknown");
    return reply;
  };
  const registry = new Registry(altered(link, { run }), windows, events);
  return {
    link,
    instance,
    owner: { owner: instance, protocol: "raw" } as const,
    registry,
    prepared: async () => (await registry.prepare({})).connectionId,
    state: async (id: string) => (await registry.inspect(id)).state,
    heldBy: async () => [...(await registry.directory.heldBy(instance))].sort(),
    fault: (script: Script, fault: Fault) => faults.set(script.name, fault),
  };
}

for (const [where, start] of [
  ["one Redis", async (t: Scope) => (await singleRedis(t)).url],
  ["a Cluster", async (t: Scope) => (await clusterRedis(t)).url],
] as const)
  t.test(`a process and its connections, on ${where}`, async (t) => {
    const url = await start(t);

    for (const fault of ["not sent", "no answer"] as const)
      await t.test(`a release: ${fault}`, async (t) => {
        const {
          instance,
          owner,
          registry,
          prepared,
          state,
          heldBy,
          fault: breaks,
        } = await faulty(t, url);
        const [kept, left] = [await prepared(), await prepared()];
        await registry.claim(kept, owner);
        const { epoch } = await registry.claim(left, owner);
        breaks(releaseScript, fault);
        await t.rejects(registry.release(left, { epoch, owner: instance }));
        t.same(await heldBy(), [kept, left].sort());
        // A moment later it may be no more: the first renewal believes it.
        await registry.live(instance);
        await registry.live(instance);
        t.equal(await state(left), "away");
        t.equal(await state(kept), "open");
        t.same(await heldBy(), [kept]);
      });

    await t.test("a claim that was done and not answered", async (t) => {
      const {
        instance,
        owner,
        registry,
        prepared,
        state,
        heldBy,
        fault: breaks,
      } = await faulty(t, url);
      const id = await prepared();
      breaks(claimScript, "no answer");
      await t.rejects(registry.claim(id, owner), { code: "outcome_unknown" });
      t.equal(await state(id), "away", "nobody has its socket");
      t.same(await heldBy(), []);
      t.ok(await registry.claim(id, owner), "its client may come again");
      await registry.abandon(id, instance);
    });

    await t.test("a claim that was refused leaves no trace", async (t) => {
      const { owner, registry, prepared, heldBy } = await faulty(t, url);
      const id = await prepared();
      await registry.end(id, {
        reason: "closed_by_backend",
        code: 4510,
        words: "",
      });
      for (const none of [id, "c_0000000000000000000000"]) {
        await t.rejects(registry.claim(none, owner));
        t.same(await heldBy(), []);
        const all = await registry.directory.page(undefined, 100);
        t.notOk(all.includes(none));
      }
    });

    await t.test(
      "one that it holds twice it holds until both are gone",
      async (t) => {
        const { instance, owner, registry, prepared, state, heldBy } =
          await faulty(t, url);
        const id = await prepared();
        await registry.claim(id, owner);
        const { epoch } = await registry.claim(id, owner);
        await registry.abandon(id, instance);
        t.same(await heldBy(), [id], "its client came back to this process");
        t.ok(await registry.release(id, { epoch, owner: instance }));
        t.equal(await state(id), "away");
        t.same(await heldBy(), []);
      },
    );

    await t.test("what Redis forgot is told again", async (t) => {
      const { link, instance, owner, registry, prepared, state, heldBy } =
        await faulty(t, url);
      const ids = [await prepared(), await prepared()].sort();
      for (const id of ids) await registry.claim(id, owner);
      t.equal(await registry.live(instance), true);

      await link.command("SREM", keys.held(instance), ids[0] ?? "");
      t.equal(await registry.live(instance), true);
      await until(async () => {
        const held = await heldBy();
        return ids.every((id) => held.includes(id));
      }, patience);

      // One lost and one left over: the number is right.
      const other = await prepared();
      await link.command("SREM", keys.held(instance), ids[0] ?? "");
      await link.command("SADD", keys.held(instance), other);
      registry.unsure();
      t.equal(await registry.live(instance), true);
      await until(async () => (await heldBy()).join() === ids.join(), patience);
      t.equal(await state(other), "prepared");
      await link.command("SREM", keys.held(instance), ids[0] ?? "");
      await link.command("SADD", keys.held(instance), other);
      for (let renewal = 0; renewal < 6; renewal += 1)
        await registry.live(instance);
      await until(async () => (await heldBy()).join() === ids.join(), patience);

      await link.command("DEL", keys.held(instance));
      await link.command("DEL", keys.instances);
      t.equal(await registry.live(instance), false, "and this is a doubt");
      await until(async () => {
        const held = await heldBy();
        return ids.every((id) => held.includes(id));
      }, patience);
      t.equal(await registry.live(instance), true);
    });

    await t.test(
      "of many that are confirmed one that fails fails by itself",
      async (t) => {
        const { link, instance, owner, registry, prepared } = await faulty(
          t,
          url,
        );
        const ids = await Promise.all(
          Array.from({ length: 6 }, () => prepared()),
        );
        const claims = await Promise.all(
          ids.map((id) => registry.claim(id, owner)),
        );
        const [, , broken = ""] = ids;
        await link.command("DEL", keys.connection(broken));
        await link.command("SET", keys.connection(broken), "no hash");
        const outcomes = await Promise.allSettled(
          ids.map((id, n) =>
            registry.confirm(id, {
              epoch: claims[n]?.epoch ?? 0,
              owner: instance,
              cur: 0,
              protocol: "raw",
              identity: claims[n]?.identity ?? fail(),
            }),
          ),
        );
        t.same(
          outcomes.map((one) =>
            one.status === "fulfilled" ? one.value.kind : "failed",
          ),
          ["ok", "ok", "failed", "ok", "ok", "ok"],
        );
        await link.command("DEL", keys.connection(broken));
      },
    );

    await t.test(
      "a connection that Redis forgot is there again once it is confirmed",
      async (t) => {
        const {
          link,
          owner,
          registry,
          prepared,
          state,
          fault: breaks,
        } = await faulty(t, url);
        const id = await prepared();
        const { epoch, identity } = await registry.claim(id, owner);
        const asked = { ...owner, epoch, cur: 0, identity };
        breaks(confirmScript, "not sent");
        await t.rejects(registry.confirm(id, asked), {
          code: "redis_unavailable",
        });
        await link.command("DEL", keys.connection(id));
        t.match(await registry.confirm(id, asked), {
          kind: "ok",
          restored: true,
        });
        t.equal(await state(id), "open", "forgotten, and there again");
      },
    );
  });

function fail(): never {
  throw new Error("there is a claim for each");
}
