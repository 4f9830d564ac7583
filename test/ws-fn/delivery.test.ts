/** Delivery: order, once, and whose word counts, over ports that the test holds in its hand. */
import t from "tap";
import type { Entry } from "../../shared/entry.js";
import type { Page } from "../../shared/log.js";
import { Delivery, type DeliveryPorts } from "../../ws-fn/delivery.js";
import { until } from "../../scripts/lab/until.js";

const entry = (seq: number, fields: Partial<Entry> = {}): Entry => ({
  seq,
  id: `m${seq}`,
  expiresAtMs: Date.now() + 60_000,
  total: 0,
  binary: false,
  onlyEpoch: undefined,
  contentType: "text/plain",
  body: Buffer.from(`${seq}`),
  ...fields,
});
const bell = (seq: number, prev: number, fields: Partial<Entry> = {}) => ({
  kind: "message" as const,
  prev,
  entry: entry(seq, fields),
});

/** A delivery over a log in memory; `events` is what it did. */
function deliver(
  t: { teardown(stop: () => void): void },
  ports: Partial<DeliveryPorts> = {},
  readTo = 0,
) {
  const log: Entry[] = [];
  const events: string[] = [];
  const state = { full: false, mayWrite: true, seq: 0 };
  const delivery = new Delivery(
    {
      read: (cur) => {
        events.push("read");
        const rows = log.filter(({ seq }) => seq > cur);
        const seq = Math.max(state.seq, log.at(-1)?.seq ?? 0);
        return Promise.resolve<Page>({ kind: "rows", seq, more: false, rows });
      },
      recall: () => Promise.resolve("recalled"),
      mayWrite: () => state.mayWrite,
      confirm: () => {
        events.push("confirm");
        state.mayWrite = true;
        return Promise.resolve(true);
      },
      send: ({ seq }, redelivered) => {
        events.push(`${seq}${redelivered ? " again" : ""}`);
        return state.full;
      },
      skip: (seq, status, reason) => events.push(`${seq} ${status} ${reason}`),
      fenced: () => events.push("fenced"),
      lost: () => events.push("lost"),
      ...ports,
    },
    { epoch: 1, cur: 0, readTo },
  );
  t.teardown(() => delivery.stop());
  return { delivery, log, events, state };
}

t.test("the very next message is written at once", async (t) => {
  const { delivery, events } = deliver(t);
  delivery.onBell(bell(5, 0));
  delivery.onBell(bell(9, 5));
  delivery.onBell(bell(9, 5));
  delivery.onBell(bell(5, 0));
  t.same(events, ["5", "9"], "once, in order, without the log");
  t.equal(delivery.cur, 9);
});

t.test(
  "a bell without its message, or after a gap, makes it read",
  async (t) => {
    const { delivery, log, events } = deliver(t);
    log.push(entry(3), entry(5));
    delivery.onBell({ kind: "append", seq: 5, prev: 3 });
    await until(() => delivery.cur === 5);
    t.same(events, ["read", "3", "5"]);
    log.push(entry(7), entry(8));
    delivery.onBell(bell(8, 7));
    await until(() => delivery.cur === 8);
    t.same(events.slice(3), ["read", "7", "8"]);
  },
);

t.test("a number before ours says that history was lost", async (t) => {
  const { delivery, log, events } = deliver(t);
  delivery.onBell(bell(9, 0));
  log.push(entry(12));
  delivery.onBell(bell(12, 4));
  await until(() => delivery.cur === 12);
  t.same(events, ["9", "lost", "read", "12"]);
});

t.test("nothing is written past the fence", async (t) => {
  const { delivery, log, events, state } = deliver(t);
  state.mayWrite = false;
  log.push(entry(3));
  delivery.onBell(bell(3, 0));
  await until(() => delivery.cur === 3);
  t.same(events, ["confirm", "read", "3"], "asked, then read, then written");
});

t.test("bells from before a confirmation are not believed", async (t) => {
  const { delivery, log, events, state } = deliver(t);
  state.mayWrite = false;
  log.push(entry(3), entry(5));
  const reading = delivery.read();
  await Promise.resolve();
  // 4 was recalled meanwhile: it is in a bell, and not in the log.
  delivery.onBell(bell(3, 0));
  delivery.onBell(bell(4, 3));
  await reading;
  await until(() => delivery.cur === 5);
  t.notOk(events.includes("4"));
});

t.test("who is fenced stops", async (t) => {
  const fenced = deliver(t, {
    read: () => Promise.resolve({ kind: "fenced" }),
  });
  t.equal(await fenced.delivery.read(), 0);
  t.same(fenced.events, ["fenced"]);
  const gone = deliver(t, {
    read: () => Promise.resolve({ kind: "missing" }),
    confirm: () => Promise.resolve(false),
  });
  t.equal(await gone.delivery.read(), 0);
  t.same(gone.events, []);
});

t.test("what is missing is recreated and read", async (t) => {
  let reads = 0;
  const { delivery, events } = deliver(t, {
    read: () =>
      Promise.resolve<Page>(
        ++reads === 1
          ? { kind: "missing" }
          : { kind: "rows", seq: 3, more: false, rows: [entry(3)] },
      ),
  });
  await delivery.read();
  t.same(events, ["confirm", "3"]);
});

t.test("what had been read before is marked", async (t) => {
  const { delivery, log, events } = deliver(t, {}, 5);
  log.push(entry(5), entry(6));
  await delivery.read();
  t.same(events, ["read", "5 again", "6"]);
});

t.test("expired, and meant for another socket", async (t) => {
  const { delivery, log, events } = deliver(t);
  const past = Date.now() - 1;
  log.push(
    entry(1, { expiresAtMs: past }),
    entry(2, { onlyEpoch: 7 }),
    entry(3, { onlyEpoch: 1, expiresAtMs: past }),
  );
  await delivery.read();
  delivery.onBell(bell(4, 3, { expiresAtMs: past }));
  t.same(events, [
    "read",
    "1 expired ",
    "2 undeliverable not_connected",
    "3",
    "4 expired ",
  ]);
});

t.test("a full socket is left alone until it takes more", async (t) => {
  const { delivery, log, events, state } = deliver(t);
  state.full = true;
  log.push(entry(1), entry(2), entry(3));
  await delivery.read();
  log.push(entry(4));
  delivery.onBell(bell(4, 3));
  await delivery.read();
  t.same(events, ["read", "1"]);
  state.full = false;
  delivery.unblock();
  delivery.unblock();
  await until(() => delivery.cur === 4);
  t.same(events, ["read", "1", "read", "2", "3", "4"]);
});

t.test("a gap that nothing fills is passed", async (t) => {
  const { delivery, events, state } = deliver(t);
  state.seq = 9;
  await delivery.read();
  t.equal(delivery.cur, 9);
  delivery.onBell(bell(10, 9));
  t.same(events, ["read", "10"]);
});

t.test("reads that wait their turn are one", async (t) => {
  const { delivery, events } = deliver(t);
  await Promise.all([delivery.read(), delivery.read(), delivery.read()]);
  t.same(events, ["read"]);
  await delivery.read();
  t.same(events, ["read", "read"]);
});

t.test("an error of Redis makes it look again", async (t) => {
  let failures = 3;
  const { delivery, events } = deliver(t, {
    read: () =>
      failures-- > 0
        ? Promise.reject(new Error("away"))
        : Promise.resolve<Page>({
            kind: "rows",
            seq: 1,
            more: false,
            rows: [entry(1)],
          }),
  });
  t.equal(await delivery.read(), 0);
  await until(() => delivery.cur === 1);
  t.same(events, ["1"]);
});

t.test("a recall is decided between two writes", async (t) => {
  let decide: (word: "recalled") => void = () => undefined;
  const asked: number[] = [];
  const { delivery, log, events, state } = deliver(t, {
    recall: (seq) => {
      asked.push(seq);
      return new Promise((resolve) => {
        decide = resolve;
      });
    },
  });
  delivery.onBell(bell(1, 0));
  t.equal(await delivery.recall(1), "sent");
  t.same(asked, []);
  const recalling = delivery.recall(3);
  await until(() => asked.length === 1);
  // 4 comes while 3 is being taken out: not by its bell, for there is a gap now.
  log.push(entry(4));
  state.seq = 4;
  delivery.onBell(bell(4, 3));
  t.same(events, ["1"]);
  decide("recalled");
  t.equal(await recalling, "recalled");
  await until(() => delivery.cur === 4);
  t.same(events, ["1", "read", "4"]);
});

t.test("a recall that fails may have been delivered", async (t) => {
  const { delivery } = deliver(t, {
    recall: () => Promise.reject(new Error("away")),
  });
  t.equal(await delivery.recall(1), "maybe");
  const { delivery: other } = deliver(t, {
    recall: () => Promise.resolve({ ask: 1 }),
  });
  t.equal(await other.recall(1), "maybe");
});

t.test("who was stopped writes nothing more", async (t) => {
  const { delivery, log, events } = deliver(t);
  log.push(entry(1));
  const reading = delivery.read();
  delivery.stop();
  await reading;
  delivery.onBell(bell(1, 0));
  delivery.unblock();
  await delivery.read();
  t.same(events, []);
});
