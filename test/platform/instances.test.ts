// The life of instances: one connection each, frozen or killed afterwards, reused, recycled, reclaimed, refused.

import { readFileSync } from "node:fs";
import t, { type Test } from "tap";
import { VirtualClock } from "../../platform/clock.js";
import type { FunctionDescription } from "../../platform/function-description.js";
import type { InvocationRecord } from "../../platform/invocation.js";
import {
  startPlatform,
  type FunctionSetup,
  type PlatformOptions,
} from "../../platform/platform.js";
import { seededRandom } from "../../platform/random.js";
import type { Rules } from "../../platform/rules.js";
import {
  ask,
  describe,
  directoryOf,
  fetchPlain,
  lastEnded,
  meet,
  openClient,
  plainEnv,
  processLives,
  processState,
  startTestPlatform,
  until,
  type Who,
} from "../fixtures/functions/platform.js";

interface InstanceLine {
  functionName: string;
  pid: number;
  state: string;
  served: number;
}

function light(
  name: string,
  protocol: "HTTP" | "WS",
  changes: Partial<FunctionDescription> = {},
  setup: Partial<FunctionSetup> = {},
): FunctionSetup {
  const description = describe(name, directoryOf("light"), protocol, changes);
  return { description, route: "/", maxIdle: 50, ...setup };
}

/** A platform over one WebSocket function (or the given ones) whose clock the test advances. */
async function start(
  t: Test,
  rules: Partial<Rules> = {},
  options: Partial<PlatformOptions> = {},
) {
  const clock = new VirtualClock();
  const platform = await startPlatform({
    functions: [light("chat", "WS")],
    env: plainEnv,
    rules,
    clock,
    ...options,
  });
  t.teardown(() => platform.close());
  const { port } = platform;
  const instances = () => ask<InstanceLine[]>(port, "instances");
  return {
    platform,
    port,
    clock,
    instances,
    /** Waits until the instance of a process is in a state. */
    reaches: (pid: number, state: string) =>
      until(`${pid} to be ${state}`, async () =>
        (await instances()).some(
          (one) => one.pid === pid && one.state === state,
        ),
      ),
    /** An invocation that ended with this status. */
    ended: (status: number) =>
      until(`an invocation to end with ${status}`, async () => {
        const all = await ask<InvocationRecord[]>(port, "invocations");
        return all.find((one) => one.endedAt && one.statusCode === status);
      }),
    /** The one that runs. */
    running: async () => {
      const all = await ask<InvocationRecord[]>(port, "invocations");
      return all.find((one) => one.endedAt === null);
    },
  };
}

t.test(
  "WS-LIFE-3, WS-LIFE-4: twenty connects in the same millisecond get twenty instances, and none of them a second one",
  async (t) => {
    const { port, instances } = await start(t);
    const clients = await Promise.all(
      Array.from({ length: 20 }, () => meet(port)),
    );
    t.equal(new Set(clients.map(({ pid }) => pid)).size, 20);
    const all = await instances();
    t.equal(all.length, 20);
    for (const one of all) t.match(one, { served: 1, state: "serving" });
    // And again all at once over frozen ones.
    await Promise.all(clients.map((client) => client.leave()));
    await until("all to be frozen", async () =>
      (await instances()).every((one) => one.state === "frozen"),
    );
    const again = await Promise.all(
      Array.from({ length: 20 }, () => meet(port)),
    );
    t.equal(new Set(again.map(({ pid }) => pid)).size, 20);
    for (const client of again) t.match(client, { served: 2, most: 1 });
    t.equal((await instances()).length, 20);
    for (const client of again) client.drop();
  },
);

t.test(
  "WS-LIFE-7, WS-LIFE-8: after the close the instance is frozen, and the next connection wakes it with its memory",
  async (t) => {
    const beats = t.testdir();
    const { port, reaches, ended, running } = await start(
      t,
      {},
      { env: { ...plainEnv, HEARTBEATS: beats } },
    );
    const beatsOf = (pid: number) =>
      Number(readFileSync(`${beats}/${pid}`, "utf8"));
    const first = await meet(port);
    const { pid } = first;
    const before = await until("it to run", () => beatsOf(pid));
    await until("it to run on", () => beatsOf(pid) > before);
    t.match(await running(), { coldStart: true });
    await first.leave();
    await reaches(pid, "frozen");
    await until(
      "the kernel to have stopped it",
      () => processState(pid) === "T",
    );
    const atRest = beatsOf(pid);
    const second = await meet(port);
    t.match(second, { pid, served: 2, most: 1 });
    t.match(await running(), { coldStart: false });
    await until("it to run again", () => beatsOf(pid) > atRest);
    await second.leave();
    await ended(200);
    await until(
      "the kernel to have stopped it",
      () => processState(pid) === "T",
    );
    const stopped = beatsOf(pid);
    await fetchPlain(port, "/_platform/instances");
    t.equal(beatsOf(pid), stopped, "it does nothing while it is frozen");
  },
);

t.test(
  "WS-LIFE-7, WS-LIFE-8: under kill the instance ends, and the next connection gets a new one",
  async (t) => {
    const { port } = await start(t, { afterClose: "kill" });
    const first = await meet(port);
    await first.leave();
    await until("it to end", () => !processLives(first.pid));
    const second = await meet(port);
    t.not(second.pid, first.pid);
    t.equal(second.served, 1);
    second.drop();
  },
);

t.test(
  "WS-LIFE-8: under random the seed says which, the same each time",
  async (t) => {
    const seed = 5;
    const random = seededRandom(seed);
    const expected = Array.from({ length: 6 }, () =>
      random() < 0.5 ? "kill" : "freeze",
    );
    t.equal(new Set(expected).size, 2);
    const { port } = await start(t, { afterClose: "random", seed });
    const found: string[] = [];
    for (let i = 0; i < expected.length; i++) {
      const client = await meet(port);
      await client.leave();
      found.push(
        await until("its fate", () => {
          const state = processState(client.pid);
          if (state === "T") return "freeze";
          return state === undefined && "kill";
        }),
      );
    }
    t.strictSame(found, expected);
  },
);

t.test(
  "WS-LIFE-7: with a grace the instance runs on that long, and a connection in it finds it running",
  async (t) => {
    const { port, clock, reaches, instances } = await start(t, {
      graceAfterCloseMs: 1_000,
    });
    const first = await meet(port);
    await first.leave();
    await reaches(first.pid, "ready");
    await clock.advance(999);
    t.match(await instances(), [{ state: "ready" }]);
    const second = await until("it to be given out", () => meet(port));
    t.equal(second.pid, first.pid);
    await clock.advance(5_000);
    t.match(await instances(), [{ state: "serving" }], "the grace is over");
    await second.leave();
    await reaches(first.pid, "ready");
    await clock.advance(1_000);
    await reaches(first.pid, "frozen");
  },
);

t.test(
  "WS-LIFE-8: a frozen instance is destroyed after its warm time, and can be",
  async (t) => {
    const { port, clock, reaches, instances } = await start(t);
    const { pid, leave } = await meet(port);
    await leave();
    await reaches(pid, "frozen");
    await clock.advance(239_000);
    t.match(await instances(), [{ state: "frozen" }]);
    await clock.advance(1_000);
    await until("it to end", () => !processLives(pid));
  },
);

t.test(
  "WS-LIFE-9: 433 costs the instance, after two hours that take no time; 455 only by the switch",
  async (t) => {
    for (const reuseAfterFailure of [true, false]) {
      const { port, clock, reaches, ended } = await start(
        t,
        { reuseAfterFailure },
        {
          functions: [
            light("chat", "WS", { timeoutSeconds: 7_200, idleSeconds: 3_600 }),
          ],
        },
      );
      const idle = await meet(port);
      await clock.advance(3_600_000);
      await idle.ended;
      await ended(455);
      if (reuseAfterFailure) await reaches(idle.pid, "frozen");
      else await until("it to end", () => !processLives(idle.pid));
    }
    const { port, clock, ended } = await start(
      t,
      {},
      {
        functions: [
          light("chat", "WS", { timeoutSeconds: 7_200, idleSeconds: 7_200 }),
        ],
      },
    );
    const client = await meet(port);
    await clock.advance(7_199_999);
    t.match(await ask(port, "invocations"), [{ state: "established" }]);
    await clock.advance(1);
    await client.ended;
    await ended(433);
    await until("it to end", () => !processLives(client.pid));
    const next = await meet(port);
    t.not(next.pid, client.pid);
    next.drop();
  },
);

t.test(
  "WS-BILL-6, WS-BILL-7: beyond the memory quota a connect is 432, and frozen instances give way first",
  async (t) => {
    const { port, reaches, ended } = await start(
      t,
      { memoryQuotaMb: 256, startFailureAnswer: "status" },
      {
        functions: [
          light("one", "WS", {}, { route: "/one" }),
          light("two", "WS", {}, { route: "/two" }),
        ],
      },
    );
    const first = await meet(port, "/one");
    const second = await meet(port, "/one");
    const refusal = await meet(port, "/two").catch((error: Error) => error);
    t.match(String(refusal), /HTTP\/1\.1 432 /);
    t.match(String(refusal), /"errorCode":432,"errorMessage":"ResourceLimit/);
    const refused = await ended(432);
    t.match(refused, { instanceId: null, billing: null });
    t.match(String(refusal), refused.requestId);
    await first.leave();
    await reaches(first.pid, "frozen");
    const third = await meet(port, "/two");
    await until("the frozen one to end", () => !processLives(first.pid));
    for (const client of [second, third]) client.drop();
  },
);

t.test(
  "WS-BILL-6: more starts than allowed within a minute are 429, and a minute later there may be more",
  async (t) => {
    const { port, clock, ended } = await start(t, { startsPerMinute: 1 });
    const first = await meet(port);
    const refusal = await meet(port).catch((error: Error) => error);
    t.match(String(refusal), /HTTP\/1\.1 503 /);
    t.match(await ended(429), { statusMessage: "ResourceLimit" });
    await clock.advance(60_000);
    const second = await meet(port);
    t.not(second.pid, first.pid);
    for (const client of [first, second]) client.drop();
  },
);

t.test(
  "WS-BILL-7: prewarmed instances run unused and are kept; used ones are frozen like any other",
  async (t) => {
    const { port, clock, instances, reaches, running } = await start(
      t,
      {},
      { functions: [light("chat", "WS", {}, { prewarm: 1 })] },
    );
    await until("the stock", async () =>
      (await instances()).some((one) => one.state === "ready"),
    );
    const [stock] = await instances();
    await clock.advance(600_000);
    t.match(await instances(), [
      { pid: stock?.pid, state: "ready", served: 0 },
    ]);
    const client = await meet(port);
    t.equal(client.pid, stock?.pid);
    t.match(await running(), { coldStart: false });
    await client.leave();
    await reaches(client.pid, "frozen");
  },
);

t.test(
  "an HTTP function serves many requests in one instance and is frozen without any; 433 hurts no neighbour",
  async (t) => {
    const { port, clock, instances, reaches } = await start(
      t,
      { startFailureAnswer: "status" },
      {
        functions: [
          light("web", "HTTP", { concurrency: 100, timeoutSeconds: 10 }),
        ],
      },
    );
    const who = async () =>
      JSON.parse((await fetchPlain(port, "/")).body) as Who;
    const all = await Promise.all(Array.from({ length: 20 }, who));
    const [{ pid } = { pid: 0 }] = all;
    t.equal(new Set(all.map((one) => one.pid)).size, 1);
    await reaches(pid, "frozen");
    t.equal((await who()).pid, pid);
    await reaches(pid, "frozen");

    const cut = fetchPlain(port, "/hang");
    await reaches(pid, "serving");
    await clock.advance(5_000);
    const neighbour = fetchPlain(port, "/hang");
    await until("both to run", async () =>
      (await ask<{ active: number }[]>(port, "instances")).some(
        (one) => one.active === 2,
      ),
    );
    await clock.advance(5_000);
    t.equal((await cut).status, 433);
    t.match(await instances(), [{ pid, state: "serving" }]);
    const next = await who();
    t.not(next.pid, pid, "it gets nothing new");
    await clock.advance(5_000);
    t.equal((await neighbour).status, 433);
    await until("it to end", () => !processLives(pid));
  },
);

t.test(
  "WS-LIFE-7: closing the platform ends frozen instances without waking them; recycled ones hear SIGTERM only with a grace",
  async (t) => {
    const printed: string[] = [];
    const print = ({ line }: { line: string }) => void printed.push(line);
    const { platform, port, reaches } = await start(t, {}, { print });
    const { pid, leave } = await meet(port);
    await leave();
    await reaches(pid, "frozen");
    await platform.close();
    t.notOk(processLives(pid));
    t.strictSame(printed, []);

    const polite = await start(
      t,
      { afterClose: "kill", sigtermGraceMs: 10_000 },
      { print },
    );
    const client = await meet(polite.port);
    await client.leave();
    await until("it to end", () => !processLives(client.pid));
    t.strictSame(printed, ["asked to end"]);
  },
);

t.test(
  "a fault makes an instance slow or fail at its start, the n-th one of a function if wanted",
  async (t) => {
    const { port, clock, ended } = await start(
      t,
      { startFailureAnswer: "status" },
      {
        initFaults: [
          { nth: 1, fail: 449 },
          { nth: [2], delayMs: 60_000 },
        ],
      },
    );
    t.match(
      String(await meet(port).catch((error: Error) => error)),
      /HTTP\/1\.1 449 .*InsufficientResources/s,
    );
    const slow = meet(port).catch((error: Error) => error);
    await until("the fault to wait", () => clock.waiting > 0);
    await clock.advance(60_000);
    t.match(String(await slow), /HTTP\/1\.1 450 /);
    t.match(await ended(450), { why: /init timeout of 60 s/ });
    const third = await meet(port);
    third.drop();
  },
);

t.test(
  "WS-LIFE-2, WS-LIFE-6: while the connection is open the invocation runs, and so does the instance, though its client is silent",
  async (t) => {
    const { port } = await startTestPlatform(t, { limits: { wsPrewarm: 0 } });
    const client = await openClient(port);
    client.socket.send("!push 10");
    for (let i = 0; i < 20; i++) t.equal(String(await client.next()), "tick");
    const all = await ask<InvocationRecord[]>(port, "invocations");
    t.match(
      all.find((one) => one.functionName === "ws-fn"),
      { statusCode: 202, state: "established", endedAt: null },
    );
    client.socket.close(1000);
    await client.closed;
    t.match(await lastEnded(port), { statusCode: 200 });
  },
);

t.test(
  "WS-TIME-7: a changed idle timeout counts for new connections, an open one keeps its own",
  async (t) => {
    const { platform, port, clock } = await start(
      t,
      {},
      {
        functions: [light("chat", "WS", { idleSeconds: 10 })],
      },
    );
    t.match(platform.setIdleSeconds("chat", 9), [/10/], "still checked");
    t.same(platform.setIdleSeconds("nobody", 60), [
      "nobody: no such function.",
    ]);
    const old = await meet(port);
    t.same(platform.setIdleSeconds("chat", 60), []);
    const fresh = await meet(port);
    const endings = async () => {
      const all = await ask<InvocationRecord[]>(port, "invocations");
      return all.map(({ statusCode }) => statusCode); // the newest first
    };
    await clock.advance(11_000);
    await until("the old one to be cut", async () =>
      (await endings()).includes(455),
    );
    t.same(await endings(), [202, 455]);
    await clock.advance(50_000);
    await until("the new one to be cut", async () =>
      (await endings()).every((status) => status === 455),
    );
    old.drop();
    fresh.drop();
  },
);
