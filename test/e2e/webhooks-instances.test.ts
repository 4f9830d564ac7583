/**
 * ws-fn instances that die, stand still or go in the middle of a POST to the webhook: the event comes again under the same
 * `webhook-id`, what follows of its connection comes after it, and nothing is lost.
 */
import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { WebSocket } from "ws";
import { startPairOnPlatform } from "../../scripts/lab/pair.js";
import { startWsFn } from "../../scripts/lab/processes.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { until } from "../../scripts/lab/until.js";
import { startReceiver } from "../../scripts/lab/webhook-receiver.js";
import { newConnectionId } from "../../shared/ids.js";
import {
  allTaken,
  secrets,
  startAppender,
  watchOrder,
  webhookEnv,
} from "../fixtures/webhook-appender.js";
import { patience } from "../fixtures/world.js";

const { url } = await singleRedis(t);
let database = 0;

/** One instance has an event in a POST that nobody answers; another one is there to take over. */
async function inTheMiddle(t: Scope) {
  const receiver = await startReceiver(t);
  const env = webhookEnv(`${url}/${++database}`, receiver.url);
  const first = await startWsFn(t, env);
  const appender = await startAppender(t, env);
  receiver.onPost = () => "hang";
  const lane = newConnectionId();
  const ids = await appender.append(lane, 4);
  await until(() => receiver.posts.length === 1, patience);
  const second = await startWsFn(t, env);
  receiver.onPost = () => ({});
  const early = watchOrder(receiver);
  return {
    receiver,
    appender,
    lane,
    ids,
    first,
    second,
    early,
    heard: () => receiver.posts.map(({ id }) => id),
  };
}

const is = (lane: string, ...numbers: number[]) =>
  numbers.map((number) => `${lane}.${number}`);

/** Killed. */
async function killed(t: Test): Promise<void> {
  const lab = await inTheMiddle(t);
  const { receiver, lane } = lab;
  lab.first.kill("SIGKILL");
  await allTaken(receiver, lab.ids);
  t.same(lab.heard(), is(lane, 1, 1, 2, 3, 4));
  const [before, again] = receiver.posts;
  t.equal(again?.headers["webhook-id"], before?.headers["webhook-id"]);
  t.equal(again?.body.toString(), before?.body.toString());
  t.same(lab.early, []);
}

/** Standing still, and back later. */
async function standsStill(t: Test): Promise<void> {
  const lab = await inTheMiddle(t);
  const { receiver, lane } = lab;
  lab.first.kill("SIGSTOP");
  await allTaken(receiver, lab.ids);
  lab.first.kill("SIGCONT");
  // Its POST ends now, late; it must not go on from there.
  await receiver.down();
  await receiver.up();
  const [fifth = ""] = await lab.appender.append(lane, 1);
  await allTaken(receiver, [fifth]);
  t.same(lab.heard(), is(lane, 1, 1, 2, 3, 4, 5));
  t.same(lab.early, []);
}

/** Redis killed and back. */
async function redisKilled(t: Test): Promise<void> {
  const redis = await singleRedis(t);
  const receiver = await startReceiver(t);
  const env = webhookEnv(redis.url, receiver.url);
  await Promise.all([startWsFn(t, env), startWsFn(t, env)]);
  const appender = await startAppender(t, env);
  // The first of each lane is under way until all are appended; then it goes so slowly that many are left.
  let begin = () => {};
  const appended = new Promise<void>((resolve) => (begin = resolve));
  receiver.onPost = async () => {
    await appended;
    await sleep(20);
    return {};
  };
  const early = watchOrder(receiver);
  const ids = await appender.appendLanes(40, 5);
  begin();
  await until(() => receiver.taken.length >= 20, { ...patience, every: 1 });
  await redis.stop("SIGKILL");
  t.ok(receiver.taken.length < ids.length, "some were under way");
  await redis.start();
  await allTaken(receiver, ids);
  t.same(early, []);
}

/** Redis full meanwhile. */
async function redisFull(t: Test): Promise<void> {
  const redis = await singleRedis(t);
  const receiver = await startReceiver(t);
  const env = webhookEnv(redis.url, receiver.url);
  const wsFns = await Promise.all([startWsFn(t, env), startWsFn(t, env)]);
  const appender = await startAppender(t, env);
  let begin = () => {};
  const appended = new Promise<void>((resolve) => (begin = resolve));
  receiver.onPost = async () => {
    await appended;
    return {};
  };
  const early = watchOrder(receiver);
  const ids = await appender.appendLanes(10, 3);
  await until(() => receiver.posts.length === 10, patience);
  await redis.cli("CONFIG", "SET", "maxmemory", "1mb");
  begin();
  await allTaken(receiver, ids);
  t.same(early, [], "lanes that are under way go on");
  // Events belong to what drains, and find room; BullMQ's jobs do not, and are made up for.
  const later = await appender.appendLanes(3, 1);
  await redis.cli("CONFIG", "SET", "maxmemory", "0");
  await allTaken(receiver, later);
  const errors = wsFns.flatMap(({ logs }) =>
    logs.filter((line) => /"level":[56]0/.test(line)),
  );
  t.same(errors, []);
}

/** Frozen or killed when their socket closes. */
async function onThePlatform(t: Test): Promise<void> {
  const receiver = await startReceiver(t);
  const { backend, wsFns } = await startPairOnPlatform(t, "hostile", {
    WEBHOOK_URL: receiver.url,
    WEBHOOK_SECRETS: secrets.join(","),
    LEASE_SECONDS: "2",
  });
  const [{ url: at }] = wsFns;
  const dial = async () => {
    const { connectionId, url } = await backend.prepare();
    const socket = new WebSocket(`${at}/ws${new URL(url).search}`);
    t.teardown(() => socket.terminate());
    await new Promise((resolve, reject) => {
      socket.once("message", resolve);
      socket.once("error", reject);
    });
    return { connectionId, socket };
  };
  const lives = [];
  for (let n = 0; n < 5; n += 1) {
    const life = await dial();
    // Some close before anything of theirs was delivered.
    if (n % 2 === 0)
      await until(
        () => receiver.taken.some((post) => post.subject === life.connectionId),
        patience,
      );
    life.socket.close(1000);
    lives.push(life);
  }
  // Somebody is connected: an instance is awake.
  await dial();
  for (const { connectionId } of lives) {
    const types = () => [
      ...new Set(
        receiver.taken
          .filter(({ subject }) => subject === connectionId)
          .map(({ type }) => type),
      ),
    ];
    await until(() => types().length >= 2, { ...patience, ms: 60_000 });
    t.same(types(), ["connected", "disconnected"]);
  }
}

/** Ended in an orderly way. */
async function ended(t: Test): Promise<void> {
  const lab = await inTheMiddle(t);
  const { receiver, lane } = lab;
  lab.first.kill("SIGTERM");
  await allTaken(receiver, lab.ids);
  const { code } = await lab.first.exited;
  t.equal(code, 0);
  t.same(lab.heard(), is(lane, 1, 1, 2, 3, 4));
  t.same(lab.early, []);
}

t.test("whatever happens to those who deliver", async (t) => {
  const scenarios = [
    killed,
    standsStill,
    redisKilled,
    redisFull,
    onThePlatform,
    ended,
  ];
  // Each waits for the lock of the one that is gone: side by side.
  const ends = await Promise.allSettled(scenarios.map((each) => each(t)));
  for (const [at, end] of ends.entries()) {
    const name = scenarios[at]?.name ?? "";
    if (end.status === "rejected") t.error(end.reason, name);
    else t.pass(name);
  }
});
