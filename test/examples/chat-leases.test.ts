// What becomes of a registration in the chat over Redis: screening before it, clean-up after it, and its lease when
// nobody is left to clean up. Real processes, one member in each, as the platform would have it.

import t from "tap";

import { join, Member } from "../fixtures/chat-member.js";
import { startOnNode } from "../fixtures/examples.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";

/** Short: it ends while the test looks on. Long: only a clean-up could end it. */
const SHORT = "1500";
const LONG = "3600000";
const LEASE_MS = 30_000;

const redis = await singleRedis(t);
const startInstance = (lease = LONG) =>
  startOnNode(t, "chat-over-redis", {
    REDIS_URL: redis.url,
    CHAT_LEASE_MS: lease,
  });
const [here, there] = await Promise.all([startInstance(), startInstance()]);

async function registered(): Promise<string[]> {
  const keys = await redis.cli("KEYS", "chat:member:*");
  return Array.isArray(keys) ? keys.map(String).sort() : [];
}

/** The keys of these members, as `registered` gives them. */
const keysOf = (...members: { id: string }[]) =>
  members.map(({ id }) => `chat:member:${id}`).sort();

const isEmpty = () =>
  until(async () => (await registered()).length === 0, {
    ms: LEASE_MS,
    message: "nobody is registered",
  });

t.beforeEach(async () => {
  await redis.cli("FLUSHALL"); // those of the last test are gone, their leases may not be
});

void t.test(
  "SCN-CHAT-1: a member is registered on connect, a refused visitor never",
  async (t) => {
    const ann = await join(t, here.url, "Ann");
    const bob = await join(t, here.url, "Bob");
    const refused = new Member(t, here.url, "");
    await refused.closed;
    t.equal(refused.refusal, 400);
    t.same(await registered(), keysOf(ann, bob));
  },
);

void t.test("SCN-CHAT-2: members of two instances meet", async (t) => {
  const ann = await join(t, here.url, "Ann");
  const bob = await join(t, there.url, "Bob");
  await ann.hears("joined", ({ id }) => id === bob.id);
  await ann.says("hello");
  await bob.hears("said", ({ from }) => from.id === ann.id);
  bob.send({ type: "say", text: "psst", to: ann.id });
  t.ok((await ann.hears("said", ({ text }) => text === "psst")).private);
});

void t.test("SCN-CHAT-3: who disconnects is deleted at once", async (t) => {
  const ann = await join(t, here.url, "Ann"); // with a lease of an hour
  ann.socket.close(1000);
  await isEmpty();
  t.equal(await redis.cli("SCARD", "chat:members"), 0);
});

void t.test(
  "SCN-CHAT-3: after kill -9 the registration ends with its lease, and only with it",
  async (t) => {
    const [short, long] = await Promise.all([
      startInstance(SHORT),
      startInstance(LONG),
    ]);
    const ann = await join(t, here.url, "Ann");
    const bob = await join(t, short.url, "Bob");
    const cleo = await join(t, long.url, "Cleo");
    await ann.hears("joined", ({ id }) => id === bob.id);
    for (const { process } of [short, long]) {
      process.kill("SIGKILL");
      await process.exited;
    }
    await until(async () => !(await ann.members()).includes("Bob"), {
      ms: LEASE_MS,
      message: "Bob's lease is over",
    });
    await ann.hears("left", ({ id }) => id === bob.id);
    // Without a lease that ends, a killed member would stay for ever.
    t.same(await ann.members(), ["Ann", "Cleo"]);
    t.same(await registered(), keysOf(ann, cleo));
  },
);

void t.test(
  "SCN-CHAT-3: frozen as its connection ends, an instance cannot clean up, and the lease does",
  async (t) => {
    const [short, long] = await Promise.all([
      startInstance(SHORT),
      startInstance(LONG),
    ]);
    const ann = await join(t, here.url, "Ann");
    const bob = await join(t, short.url, "Bob");
    const cleo = await join(t, long.url, "Cleo");
    await ann.hears("joined", ({ id }) => id === bob.id);
    for (const { process, member } of [
      { process: short.process, member: bob },
      { process: long.process, member: cleo },
    ]) {
      process.kill("SIGSTOP");
      member.socket.close(1000);
    }
    await until(async () => !(await ann.members()).includes("Bob"), {
      ms: LEASE_MS,
      message: "Bob's lease is over",
    });
    t.same(await ann.members(), ["Ann", "Cleo"]);

    // Thawed, it catches up: nobody is told twice.
    long.process.kill("SIGCONT");
    short.process.kill("SIGCONT");
    await ann.hears("left", ({ id }) => id === cleo.id);
    await bob.closed;
    await ann.says("after all");
    const left = ann.heard.filter(
      (message) => message.type === "left" && message.id === bob.id,
    );
    t.equal(left.length, 1);
  },
);

void t.test(
  "a member who was away for longer than the lease is sent away with 1011",
  async (t) => {
    const instance = await startInstance(SHORT);
    const ann = await join(t, instance.url, "Ann");
    instance.process.kill("SIGSTOP");
    await isEmpty();
    instance.process.kill("SIGCONT");
    t.equal(await ann.closed, 1011);
  },
);

void t.test("SCN-MIX-3: without Redis a visitor is told 1011", async (t) => {
  await redis.stop();
  t.equal(await new Member(t, here.url, "Ann").closed, 1011);
});
