/**
 * Lanes of events that wait for the webhook: order, the one look that ends a lane, who has it, what waits at most, and what
 * all know of the receiver. Each guard is shown by what happens without it.
 */
import t from "tap";
import { appendEventsScript, type BegunLane } from "../../shared/events.js";
import { newConnectionId } from "../../shared/ids.js";
import { laneFailedScript, laneStepScript } from "../../shared/lane-scripts.js";
import { Lanes, type Failure, type Step } from "../../shared/lanes.js";
import type { Logger } from "../../shared/logging.js";
import type { Script } from "../../shared/redis.js";
import { WebhookQueue } from "../../shared/webhook-queue.js";
import type { WebhookSettings } from "../../shared/webhook-settings.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";
import {
  changed,
  patience,
  startWorld,
  webhookSettings,
} from "../fixtures/world.js";
import type { Scope } from "../../scripts/lab/scope.js";

const { url } = await singleRedis(t);
let database = 0;

/** A Redis of its own, and what a deliverer and an appender have there. */
async function startLanes(
  t: Scope,
  {
    scripts = [],
    ...given
  }: Partial<WebhookSettings> & { scripts?: readonly Script[] } = {},
) {
  const webhook = { ...webhookSettings, ...given };
  const world = await startWorld(t, `${url}/${++database}`, {
    webhook,
    scripts,
  });
  const lanes = new Lanes(world.redis, webhook);
  let made = 0;
  return {
    world,
    lanes,
    /** Appends events, named as they are; a client's when the name begins with "event". */
    append: (lane: string, ...names: string[]) =>
      world.events.append(
        names.map((name) => ({
          id: `${lane}.${name}`,
          type: (name.startsWith("event")
            ? "event"
            : "connected") as "connected",
          subject: lane,
          timeMs: Date.now(),
          data: { userId: null, protocol: "raw" },
        })),
      ),
    /** The lane as its job names it; undefined when there is nothing in it. */
    begun: async (lane: string): Promise<BegunLane | undefined> => {
      const generation = await world.redis.command(
        "HGET",
        "bridge:{events}:webhook",
        `g:${lane}`,
      );
      return generation === null
        ? undefined
        : { lane, generation: String(generation) };
    },
    bytes: async () =>
      Number(
        await world.redis.command("HGET", "bridge:{events}:webhook", "bytes"),
      ),
    token: () => `token${++made}`,
    jobs: async () =>
      Number(await world.redis.command("LLEN", "bull:{webhooks}:wait")),
  };
}
type Lab = Awaited<ReturnType<typeof startLanes>>;

const nameIn = (step: Step): string =>
  step.what === "post" || step.what === "old"
    ? (step.item.event.id.split(".")[1] ?? "")
    : step.what;

/** Takes a lane, with permission to send. */
async function take({ lanes, begun, token }: Lab, name: string) {
  const lane = await begun(name);
  if (!lane) throw new Error("there is no lane");
  const mine = token();
  let step = await lanes.take(lane, mine);
  if (step.what === "ask") step = await lanes.proven(lane, mine, 0);
  return {
    lane,
    step,
    done: async () => {
      if (step.what !== "post") throw new Error(`there is ${step.what}`);
      return (step = await lanes.done(lane, mine, step.item));
    },
    given: async () => {
      if (step.what !== "post" && step.what !== "old")
        throw new Error(`there is ${step.what}`);
      return (step = await lanes.given(lane, mine, step.item));
    },
    failed: (failure: Partial<Failure> = {}) =>
      lanes.failed(lane, mine, {
        scope: "any",
        why: "answered 500",
        wantedMs: 0,
        was: step.what === "post" && step.probe ? "probe" : "",
        ...failure,
      }),
  };
}

t.test("one after the other, and then it is over", async (t) => {
  const lab = await startLanes(t);
  const id = newConnectionId();
  const other = newConnectionId();
  await lab.append(id, "1", "2");
  await lab.append(other, "1");
  await lab.append(id, "3", "3");
  t.equal(await lab.jobs(), 2, "one job for each lane");
  const taken = await take(lab, id);
  t.match(taken.step, {
    what: "post",
    item: { event: { type: "connected", subject: id }, attempts: 0 },
  });
  t.equal(nameIn(taken.step), "1");
  t.equal(nameIn(await taken.done()), "2");
  t.equal(nameIn(await taken.given()), "3");
  const empty = await taken.done();
  t.match(empty, { what: "empty" });
  t.equal(await lab.begun(id), undefined);
  t.match(await lab.lanes.take(taken.lane, "late"), { what: "none" });
  await (await take(lab, other)).done();
  t.equal(await lab.bytes(), 0);
  const left = await lab.world.redis.command("KEYS", "bridge:{events}:*");
  t.notMatch(left, /pending|bodies|lanes/);
  t.equal(
    await lab.world.redis.command("HLEN", "bridge:{events}:webhook"),
    1,
    "nothing of a lane stays",
  );
});

t.test("an event in the moment of the end begins a lane anew", async (t) => {
  const lab = await startLanes(t);
  const id = newConnectionId();
  await lab.append(id, "1");
  const first = await take(lab, id);
  // Its job is active still, and its name taken, when the lane begins again.
  await first.done();
  await lab.append(id, "2");
  t.equal(await lab.jobs(), 2, "with a job of its own");
  const second = await take(lab, id);
  t.not(second.lane.generation, first.lane.generation);
  t.equal(nameIn(second.step), "2");
  t.match(await lab.lanes.take(first.lane, "late"), { what: "none" });
  t.match(await second.done(), { what: "empty" }, "the late one took nothing");

  await t.test("without generations it would wait for the sweep", async (t) => {
    const careless = await startLanes(t, {
      scripts: [
        changed(
          appendEventsScript,
          "begun[#begun + 1] = position",
          "begun[#begun + 1] = '1'",
        ),
      ],
    });
    await careless.append(id, "1");
    await (await take(careless, id)).done();
    await careless.append(id, "2");
    t.equal(await careless.jobs(), 1);
  });
});

t.test("two who have the same lane", async (t) => {
  /** The first one stands still while it posts; the second one takes over. */
  const run = async (scripts: readonly Script[]) => {
    const lab = await startLanes(t, { scripts });
    const id = newConnectionId();
    await lab.append(id, "1", "2", "3");
    const stalled = await take(lab, id);
    const next = await take(lab, id);
    t.equal(nameIn(next.step), "1", "a repeat, under the same ID");
    t.equal(nameIn(await next.done()), "2");
    const late = await stalled.done();
    const failed = await stalled.failed();
    return { late, failed, after: await next.done() };
  };
  const { late, failed, after } = await run([]);
  t.match(late, { what: "fenced" }, "the first one stops");
  t.equal(failed, undefined);
  t.equal(nameIn(after), "3", "nothing was passed over");
  const token = "redis.call('HGET', KEYS[4], 't:' .. lane) ~= token";
  const unfenced = await run([changed(laneStepScript, token, "false")]);
  t.equal(nameIn(unfenced.late), "2", "without the token both would go on");

  await t.test("what the first one delivered is done", async (t) => {
    const lab = await startLanes(t);
    const id = newConnectionId();
    await lab.append(id, "1", "2");
    const stalled = await take(lab, id);
    const next = await take(lab, id);
    t.match(await stalled.done(), { what: "fenced" });
    t.equal(nameIn(await next.done()), "2", "and not done twice");
  });
});

const shareGuard =
  "return own == 0 or own + #event + 256 <= (limit - pendingBytes) * 0.25";

/** Four clients say what they can while the receiver is away; then twenty others say one thing each. */
async function crowded(t: Scope, scripts: readonly Script[]) {
  const lab = await startLanes(t, { pendingBytes: 200_000, scripts });
  const loud = Array.from({ length: 4 }, newConnectionId);
  for (let n = 0; n < 120; n += 1)
    for (const id of loud) await lab.append(id, `event${n}`);
  const words: string[] = [];
  const quiet = Array.from({ length: 20 }, newConnectionId);
  for (const id of quiet) words.push(await lab.append(id, "event"));
  const full = words.filter((word) => word === "full").length;
  const before = await lab.append(loud[0] ?? "", "event-before");
  for (const id of loud) {
    const taken = await take(lab, id);
    for (let { step } = taken; step.what === "post";) step = await taken.done();
  }
  const after = await lab.append(loud[0] ?? "", "event-after");
  for (const id of [...quiet, ...loud.slice(0, 1)]) {
    if (!(await lab.begun(id))) continue;
    const taken = await take(lab, id);
    for (let { step } = taken; step.what === "post";) step = await taken.done();
  }
  const left = await lab.world.redis.command(
    "HKEYS",
    "bridge:{events}:webhook",
  );
  return { full, before, after, left: (left as unknown[]).map(String) };
}

t.test("who says much while the receiver is away", async (t) => {
  const off = await crowded(t, [
    changed(appendEventsScript, shareGuard, "return true"),
  ]);
  t.equal(off.full, 20, "without its share it takes the room of all");
  const on = await crowded(t, []);
  t.equal(on.full, 0, "leaves room for who has said nothing yet");
  t.equal(on.before, "full");
  t.equal(on.after, "ok", "and may say more when what it said was taken");
  t.notOk(
    on.left.some((field) => /^[bu]:/.test(field)),
    "nothing is left of it",
  );
});

t.test("what may wait is bounded", async (t) => {
  const missed: number[] = [];
  const lab = await startLanes(t, {
    pendingBytes: 6_000,
    scripts: [changed(appendEventsScript, shareGuard, "return true")],
  });
  const { webhooks } = lab.world;
  webhooks.missed = (count) => void missed.push(count);
  const id = newConnectionId();
  const words: string[] = [];
  for (let n = 0; n < 12; n += 1) words.push(await lab.append(id, `event${n}`));
  const clients = words.filter((word) => word === "ok").length;
  t.ok(clients > 3 && clients < 12, "a client is told to come back");
  t.equal(words.at(-1), "full");
  const { events } = await lab.world.events.read(0, 100);
  t.equal(events.length, clients, "and nothing was done then");
  t.same(missed, []);
  for (let n = 0; n < 6; n += 1) t.equal(await lab.append(id, `${n}`), "ok");
  t.ok(missed.length > 0 && missed.length < 6, "the rest is for connections");
  t.ok((await lab.bytes()) <= 6_000);
  const all = await lab.world.events.read(0, 100);
  t.equal(all.events.length, clients + 6, "the stream has them all");
  const taken = await take(lab, id);
  for (let step = taken.step; step.what === "post";) step = await taken.done();
  t.equal(await lab.bytes(), 0);
});

t.test("what found no room is counted in the log", async (t) => {
  const lab = await startLanes(t);
  const lines: unknown[] = [];
  const logger = {
    error: (facts: object, words: string) => lines.push({ ...facts, words }),
  } as unknown as Logger;
  const queue = new WebhookQueue(lab.world.redis, logger);
  for (let n = 0; n < 5; n += 1) queue.missed(2);
  await until(() => lines.length > 0, patience);
  queue.missed(1);
  await queue.close();
  t.match(lines, [
    { events: 10, words: /WEBHOOK_PENDING_BYTES/ },
    { events: 1 },
  ]);
});

t.test("what the webhook does not want has no lane", async (t) => {
  const lab = await startLanes(t, { events: new Set(["disconnected"]) });
  const id = newConnectionId();
  await lab.append(id, "1");
  t.equal(await lab.begun(id), undefined);
  t.equal(await lab.jobs(), 0);
});

t.test("permission comes first, and one asks for all", async (t) => {
  const lab = await startLanes(t);
  const ids = [newConnectionId(), newConnectionId()];
  for (const id of ids) await lab.append(id, "1");
  const [one, two] = await Promise.all(ids.map((id) => lab.begun(id)));
  if (!one || !two) throw new Error("two lanes");
  t.match(await lab.lanes.take(one, "a"), { what: "ask" });
  t.match(await lab.lanes.take(two, "b"), { what: "pause" });
  const refused = await lab.lanes.failed(one, "a", {
    scope: "unproven",
    why: "answered OPTIONS with 405",
    wantedMs: 0,
    was: "ask",
  });
  t.match(refused, { change: "down", mode: "unproven", attempts: 0 });
  t.match(await lab.lanes.take(two, "b"), { what: "wait", mode: "unproven" });
  let step: Step | undefined;
  await until(async () => {
    step = await lab.lanes.take(two, "b");
    return step.what === "ask";
  }, patience);
  t.match(await lab.lanes.take(one, "a"), { what: "wait" });
  t.match(await lab.lanes.proven(two, "b", 0), {
    what: "post",
    recovered: { mode: "unproven", failures: 1 },
  });
  t.match(await lab.lanes.take(one, "a"), { what: "post" });
  const elsewhere = new Lanes(lab.world.redis, {
    ...webhookSettings,
    url: new URL("https://other.example/"),
  });
  t.match(await elsewhere.take(one, "a"), { what: "ask" }, "another URL");
});

t.test("whoever gets permission after an outage goes on", async (t) => {
  const lab = await startLanes(t);
  const ids = [newConnectionId(), newConnectionId()];
  for (const id of ids) await lab.append(id, "1");
  const [one, two] = await Promise.all(ids.map((id) => lab.begun(id)));
  if (!one || !two) throw new Error("two lanes");
  t.match(await lab.lanes.take(one, "a"), { what: "ask" });
  const failed = await lab.lanes.failed(one, "a", {
    scope: "any",
    why: "network",
    wantedMs: 0,
    was: "ask",
  });
  t.match(failed, { change: "down", mode: "down" }, "at once");
  let step: Step | undefined;
  await until(async () => {
    step = await lab.lanes.take(one, "a");
    return step.what === "ask";
  }, patience);
  step = await lab.lanes.proven(one, "a", 0);
  t.match(step, { what: "post", probe: true });
  t.match(await lab.lanes.take(two, "b"), { what: "wait" }, "it alone");
  if (step.what !== "post") return;
  t.match(await lab.lanes.done(one, "a", step.item), {
    what: "empty",
    recovered: { mode: "down", failures: 1 },
  });
  t.match(await lab.lanes.take(two, "b"), { what: "post", probe: false });
});

t.test("the rate that the receiver allows", async (t) => {
  const lab = await startLanes(t);
  const id = newConnectionId();
  await lab.append(id, "1", "2", "3", "4");
  const lane = await lab.begun(id);
  if (!lane) throw new Error("no lane");
  await lab.lanes.take(lane, "a");
  let step = await lab.lanes.proven(lane, "a", 2);
  for (let n = 0; n < 2; n += 1) {
    if (step.what !== "post") throw new Error(step.what);
    step = await lab.lanes.done(lane, "a", step.item);
  }
  t.match(step, { what: "pause" }, "two of the minute are used");
  if (step.what === "pause") t.ok(step.ms > 20_000 && step.ms <= 30_000);
});

t.test("a receiver that fails", async (t) => {
  const open = async (scripts: readonly Script[] = []) => {
    const lab = await startLanes(t, { scripts });
    const ids = Array.from({ length: 5 }, newConnectionId);
    for (const id of ids) await lab.append(id, "1");
    const takes = [];
    for (const id of ids) takes.push(await take(lab, id));
    return { ...lab, ids, takes };
  };

  await t.test("one lane alone says nothing of it", async (t) => {
    const { takes } = await open();
    for (let n = 1; n < 14; n += 1) {
      const failed = await takes[0]?.failed();
      t.match(failed, { attempts: n, change: undefined, mode: undefined });
      const most = Math.min(300_000, 1_000 * 2 ** (n - 1));
      const delay = failed?.delayMs ?? 0;
      t.ok(delay >= most / 2 && delay <= most, `attempt ${n}: ${delay} ms`);
    }
  });

  await t.test("three do, and one at a time tries", async (t) => {
    const lab = await open();
    const { takes, lanes } = lab;
    t.match(await takes[0]?.failed(), { change: undefined });
    t.match(await takes[1]?.failed(), { change: undefined });
    const third = await takes[2]?.failed();
    t.match(third, { change: "down", failures: 1, mode: "down" });
    const under = await takes[3]?.failed();
    t.match(under, { change: undefined, failures: 1 }, "was under way");
    const other = takes[4];
    if (!other) throw new Error("five");
    t.match(await lanes.take(other.lane, "x"), { what: "wait", mode: "down" });
    let step: Step | undefined;
    await until(async () => {
      step = await lanes.take(other.lane, "x");
      return step.what === "post";
    }, patience);
    t.match(step, { what: "post", probe: true });
    const again = await take(lab, lab.ids[0] ?? "");
    t.match(again.step, { what: "wait" }, "one tries");
    const still = await lanes.failed(other.lane, "x", {
      scope: "any",
      why: "answered 500",
      wantedMs: 0,
      was: "probe",
    });
    t.match(still, { change: "still", failures: 2 });
    t.match(
      await takes[1]?.done(),
      { recovered: { mode: "down", failures: 2 } },
      "whoever succeeds tells it once",
    );
    t.match((await take(lab, lab.ids[0] ?? "")).step, { what: "post" });
    t.notOk((await takes[2]?.done())?.recovered);
    t.match(await takes[3]?.failed(), { change: undefined, mode: undefined });

    const careless = await open([
      changed(laneFailedScript, "'streak', 1) >= 3", "'streak', 1) >= 1e9"),
    ]);
    for (const each of careless.takes) await each.failed();
    const step2 = await take(careless, careless.ids[0] ?? "");
    t.match(step2.step, { what: "post" }, "else every lane would try");
  });

  await t.test("what it asks for is heeded", async (t) => {
    const lab = await open();
    const failed = await lab.takes[0]?.failed({
      scope: "throttled",
      wantedMs: 40_000,
    });
    t.match(failed, { change: "down", mode: "throttled", delayMs: 40_000 });
    const { step } = await take(lab, lab.ids[1] ?? "");
    t.match(step, { what: "wait", mode: "throttled" });
    const gone = await lab.takes[2]?.failed({
      scope: "gone",
      wantedMs: 3_600_000,
    });
    t.match(gone, { change: "down", mode: "gone", delayMs: 3_600_000 });
    t.equal(
      await lab.world.redis.command("EXISTS", "bridge:{events}:proof"),
      0,
      "permission is over",
    );
  });

  await t.test("while it is down, what is too old is given up", async (t) => {
    const lab = await startLanes(t, { giveUpMs: 50 });
    const id = newConnectionId();
    await lab.append(id, "1", "2");
    const taken = await take(lab, id);
    await taken.failed({ scope: "throttled", wantedMs: 60_000 });
    await until(async () => {
      const { step, given } = await take(lab, id);
      if (step.what !== "old") return false;
      t.match(step, { why: "answered 500", item: { attempts: 1 } });
      await given();
      return true;
    }, patience);
  });
});
