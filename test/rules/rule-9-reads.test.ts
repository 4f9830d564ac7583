/** Delivery rule 9: a read gives all there is, and loses no bell that comes meanwhile. */
import t from "tap";
import type { Bell, Entry } from "../../shared/entry.js";
import type { Page } from "../../shared/log.js";
import { Delivery, type DeliveryPorts } from "../../ws-fn/delivery.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { until } from "../../scripts/lab/until.js";
import {
  connect,
  patience,
  prepare,
  push,
  startWorld,
} from "../fixtures/world.js";

const redis = await singleRedis(t);
/** 1,200 messages wait; what a client gets of them. */
async function many(t: Scope, guarded: boolean) {
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  const all = Array.from({ length: 1_200 }, (_, n) => `${n}`);
  for (const text of all) await world.log.append(push(id, text));
  const log = new Proxy(world.log, {
    get(target, name) {
      if (name === "read")
        return async (...call: Parameters<typeof target.read>) => {
          const page = await target.read(...call);
          return page.kind === "rows" ? { ...page, more: false } : page;
        };
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function"
        ? (value.bind(target) as unknown)
        : value;
    },
  });
  const client = await connect(t, world, id, guarded ? {} : { deps: { log } });
  if (guarded) await client.receives(...all);
  return client.socket.messages.length;
}

t.test("more than one page", async (t) => {
  t.ok((await many(t, false)) < 1_200, "the rest is lost after the first");
  t.equal(await many(t, true), 1_200, "comes page by page");
});

const entry = (seq: number): Entry => ({
  seq,
  id: `m${seq}`,
  expiresAtMs: Date.now() + 60_000,
  total: 0,
  binary: false,
  onlyEpoch: undefined,
  contentType: "text/plain",
  body: Buffer.from(`${seq}`),
});
const bell = (seq: number, prev = seq - 1): Bell & { kind: "message" } => ({
  kind: "message",
  prev,
  entry: entry(seq),
});

/** A delivery whose reads wait for the test. */
function slowDelivery() {
  const sent: number[] = [];
  const reads: ((page: Page) => void)[] = [];
  const ports: DeliveryPorts = {
    read: () => new Promise((resolve) => reads.push(resolve)),
    recall: () => Promise.resolve("recalled"),
    mayWrite: () => true,
    confirm: () => Promise.resolve(true),
    send: ({ seq }) => {
      sent.push(seq);
      return false;
    },
    skip: () => undefined,
    fenced: () => undefined,
    lost: () => undefined,
  };
  const delivery = new Delivery(ports, { epoch: 1, cur: 0, readTo: 0 });
  return { delivery, sent, reads };
}

const rows = (...seqs: number[]): Page => ({
  kind: "rows",
  seq: seqs.at(-1) ?? 0,
  more: false,
  rows: seqs.map(entry),
});

t.test("bells during a read are applied after it", async (t) => {
  const { delivery, sent, reads } = slowDelivery();
  const reading = delivery.read();
  await until(() => reads.length === 1, patience);
  for (const seq of [1, 2, 3, 4]) delivery.onBell(bell(seq));
  t.same(sent, []);
  reads[0]?.(rows(1, 2));
  await reading;
  await until(() => sent.length === 4, patience);
  t.same(sent, [1, 2, 3, 4], "in order, once");
  delivery.onBell(bell(5));
  t.same(sent.at(-1), 5, "and the fast path goes on");
  t.equal(reads.length, 1, "without another read");
});

t.test("more bells than are kept make the log be read again", async (t) => {
  const { delivery, sent, reads } = slowDelivery();
  const reading = delivery.read();
  await until(() => reads.length === 1, patience);
  for (let seq = 1; seq <= 1_500; seq += 1) delivery.onBell(bell(seq));
  reads[0]?.(rows());
  await reading;
  await until(() => reads.length === 2, patience);
  t.same(sent, [], "what is incomplete is not applied");
  reads[1]?.(rows(...Array.from({ length: 1_500 }, (_, n) => n + 1)));
  await until(() => sent.length === 1_500, patience);
  t.same(
    sent,
    [...sent].sort((a, b) => a - b),
  );
});

t.test("a gap among the bells makes the log be read", async (t) => {
  const { delivery, sent, reads } = slowDelivery();
  delivery.onBell(bell(1));
  delivery.onBell(bell(3));
  await until(() => reads.length === 1, patience);
  reads[0]?.(rows(2, 3));
  await until(() => sent.length === 3, patience);
  t.same(sent, [1, 2, 3]);
});
