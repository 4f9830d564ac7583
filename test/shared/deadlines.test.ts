/**
 * How long an answer of Redis is waited for. The link is the real one, to each kind of Redis. This process stands still by
 * waiting inside one turn of its event loop; a frozen Redis is a stopped server.
 */
import { once } from "node:events";
import net, { type AddressInfo } from "node:net";
import { performance } from "node:perf_hooks";
import { setImmediate as turn } from "node:timers/promises";
import { Cluster } from "ioredis";
import t, { type Test } from "tap";
import {
  afterRunning,
  answerWithin,
  Deadlines,
  type Waiting,
} from "../../shared/deadlines.js";
import { BridgeError } from "../../shared/errors.js";
import { createLogger } from "../../shared/logging.js";
import { RedisLink } from "../../shared/redis.js";
import {
  clusterRedis,
  sentinelRedis,
  singleRedis,
  type TestRedis,
} from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";
import { patience } from "../fixtures/world.js";

/** Nearly twice as long as Redis may be silent. */
const STANDSTILL_MS = 1_500;
/** As in e2e/redis-away: a second, and half of one for a busy machine. */
const ANSWER_MS_MAX = 1_500;

const standStill = () =>
  void Atomics.wait(
    new Int32Array(new SharedArrayBuffer(4)),
    0,
    0,
    STANDSTILL_MS,
  );

class Command implements Waiting {
  isSettled = false;
  error: Error | undefined;
  readonly #then: (() => void) | undefined;

  constructor(then?: () => void) {
    this.#then = then;
  }

  reject(error: Error): void {
    this.isSettled = true;
    this.error = error;
    this.#then?.();
  }
}

async function linkTo(t: Test, url: string): Promise<RedisLink> {
  const link = new RedisLink(url, [], createLogger("test", "silent"));
  t.teardown(() => link.close());
  await until(() => link.ready().then(() => true), patience);
  return link;
}

/** What became of it, in a word, and when. */
async function outcome(work: Promise<unknown>) {
  const began = performance.now();
  const word = await work.then(
    () => "answered",
    (error: Error) => (error instanceof BridgeError ? error.code : `${error}`),
  );
  return { word, ms: performance.now() - began };
}

t.test(
  "who is not answered is rejected, in order, and only once",
  async (t) => {
    const deadlines = new Deadlines(200, () => new Error("late"));
    const order: number[] = [];
    const commands: Command[] = [];
    await new Promise<void>((resolve) => {
      // More than the list keeps room for.
      for (let n = 0; n < 10_000; n += 1) {
        const command = new Command(() => {
          order.push(n);
          if (n === 9_999) resolve();
        });
        commands.push(command);
        deadlines.add(command);
        if (n % 3 === 0) {
          deadlines.add(command);
          command.isSettled = n !== 9_999;
        }
      }
    });
    t.same(
      order,
      commands.flatMap((_, n) => (n % 3 === 0 && n !== 9_999 ? [] : [n])),
    );
    t.ok(commands.every(({ error }, n) => !error === !order.includes(n)));

    const later = await new Promise<Command>((resolve) => {
      const command: Command = new Command(() => resolve(command));
      deadlines.add(command);
    });
    t.match(later.error, { message: "late" }, "and so on after a rest");
  },
);

t.test("a standstill is a moment", async (t) => {
  const order: string[] = [];
  const deadlines = new Deadlines(300, () => new Error("late"));
  await new Promise<void>((resolve) => {
    afterRunning(300, () => order.push("time is up"));
    deadlines.add(
      new Command(() => {
        order.push("late");
        resolve();
      }),
    );
    standStill();
    // Due before anything that is counted: the standstill is over, and little of the time.
    setTimeout(() => order.push("a while later"), 100);
  });
  await until(() => order.length === 3);
  t.equal(order[0], "a while later");
});

t.test("the sockets are read once before the verdict", async (t) => {
  const server = net.createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const accepted = once(server, "connection") as Promise<[net.Socket]>;
  const socket = net.connect(port, "127.0.0.1");
  const [far] = await accepted;
  t.teardown(() => [socket, far, server].forEach((one) => void one.unref()));

  // Less than what a standstill counts.
  const deadlines = new Deadlines(60, () => new Error("late"));
  const order: string[] = [];
  const command = new Command();
  socket.once("data", () => {
    order.push("answer");
    command.isSettled = true;
  });
  deadlines.add(command);
  afterRunning(60, () => order.push("time is up"));
  far.write("answer");
  standStill();
  await until(() => order.length === 2);
  t.same(order, ["answer", "time is up"]);
  t.equal(command.error, undefined);
});

t.test(
  "an answer that lies in the socket of a process that stood still",
  async (t) => {
    // Due later than the time that is waited, and both are over when the process goes on.
    const answer = new Promise((resolve) =>
      setTimeout(() => resolve("an answer"), 400),
    );
    const answered = answerWithin(300, answer);
    standStill();
    t.equal(await answered, "an answer");
    await t.rejects(answerWithin(100, new Promise(() => {})), {
      name: "Silence",
    });
  },
);

t.test("what is called off does not come", async (t) => {
  let calls = 0;
  const callOff = afterRunning(60, () => (calls += 1));
  await new Promise<void>((resolve) => {
    afterRunning(60, resolve);
    callOff();
  });
  t.equal(calls, 0);
});

const kinds: [string, (t: Test) => Promise<{ url: string }>][] = [
  ["a single Redis", singleRedis],
  ["Redis behind Sentinels", sentinelRedis],
  ["a Cluster", clusterRedis],
];
for (const [name, start] of kinds)
  t.test(`${name} has answered a process that stood still`, async (t) => {
    const link = await linkTo(t, (await start(t)).url);
    const asked = [
      link.command("SET", "{a}", "1"),
      link.command("SET", "{b}", "1"),
      link.command("SET", "{c}", "1"),
      // What BullMQ sends.
      link.client.set("{d}", "1"),
    ].map(outcome);
    // Written at the end of this turn, read in the next one.
    await turn();
    standStill();
    for (const one of asked) t.match(await one, { word: "answered" });
    t.ok(link.healthy);
    t.match(await outcome(link.command("SET", "{a}", "1")), {
      word: "answered",
    });
  });

/** `frozen` holds `{a}`. */
async function isFrozen(t: Test, link: RedisLink, frozen: TestRedis) {
  frozen.freeze();
  try {
    const asked = await Promise.all(
      [
        link.command("SET", "{a}", "1"),
        // What BullMQ sends.
        link.client.set("{a}", "1"),
      ].map(outcome),
    );
    t.match(asked, [
      { word: "outcome_unknown" },
      { word: "Error: Command timed out" },
    ]);
    for (const { ms } of asked)
      t.ok(ms < ANSWER_MS_MAX, `rejected after ${Math.round(ms)} ms`);
    return await outcome(link.command("SET", "{a}", "1"));
  } finally {
    frozen.thaw();
  }
}

async function isBack(link: RedisLink) {
  await until(() => link.command("SET", "{a}", "1").then(() => true), patience);
}

t.test("a single Redis that is frozen", async (t) => {
  const redis = await singleRedis(t);
  const link = await linkTo(t, redis.url);
  const { word } = await isFrozen(t, link, redis);
  t.equal(word, "redis_unavailable", "the next one is refused at once");
  await isBack(link);
});

t.test("one master of a Cluster is frozen", async (t) => {
  const { url, masters } = await clusterRedis(t);
  const link = await linkTo(t, url);
  await isBack(link);
  const port = Number(link.masterOf("a").split(":")[1]);
  const frozen = masters.find((master) => master.port === port);
  if (!frozen) throw new Error(`no master on port ${port}`);
  await isFrozen(t, link, frozen);
  // Whoever asks the pool for the slots asks the frozen one as well.
  if (link.client instanceof Cluster) link.client.refreshSlotsCache();
  await isBack(link);
});
