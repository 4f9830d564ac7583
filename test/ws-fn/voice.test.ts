/** What a client says, between its frames and Redis: in order, once, never lost in silence. */
import t from "tap";
import { BridgeError, type ErrorData } from "../../shared/errors.js";
import type { ErrorCode } from "../../shared/api.js";
import type { NewEvent } from "../../shared/events.js";
import { newConnectionId } from "../../shared/ids.js";
import { until } from "../../scripts/lab/until.js";
import { bridgeSpeaker } from "../../ws-fn/bridge-v1.js";
import { Intake } from "../../ws-fn/intake.js";
import { rawSpeaker } from "../../ws-fn/raw.js";
import { Voice } from "../../ws-fn/voice.js";

interface Wanted {
  raw?: boolean;
  connectionId?: string;
  epoch?: number;
}

function setup({
  raw = false,
  connectionId = newConnectionId(),
  epoch = 7,
}: Wanted = {}) {
  const stored: NewEvent[] = [];
  const told: Record<string, unknown>[] = [];
  const unheard: unknown[] = [];
  const flow: string[] = [];
  let appends = 0;
  const redis = {
    appends: () => appends,
    /** What each append meets; undefined: it works. */
    append: (): Promise<"ok" | "full"> | undefined => undefined,
    admit: (): Promise<void> | undefined => undefined,
  };
  const speaker = raw
    ? rawSpeaker({ welcome: false, heartbeat: false })
    : bridgeSpeaker();
  const voice = new Voice(
    {
      events: {
        append: async (events) => {
          appends += 1;
          const word = await redis.append();
          if (word !== "full") stored.push(...events);
          return word ?? "ok";
        },
      },
      memory: { admit: () => redis.admit() },
      replies: { store: () => Promise.resolve("stored") },
    },
    {
      connectionId,
      epoch,
      userId: "ann",
      resumeMs: 120_000,
      speaker,
      write: (frame) => {
        if (frame) told.push(JSON.parse(String(frame.data)) as never);
      },
      intake: {
        pause: () => void flow.push("pause"),
        resume: () => void flow.push("resume"),
      },
      unheard: (error) => void unheard.push(error),
    },
  );
  const say = (text: string, ref?: string) =>
    voice.event({
      kind: "event",
      event: "e",
      contentType: "text/plain",
      binary: false,
      body: Buffer.from(text),
      ref,
    });
  const texts = () =>
    stored.map(({ data }) => ("data" in data ? data.data : undefined));
  return { voice, say, stored, texts, told, unheard, flow, redis };
}

const error = (code: ErrorCode, data?: ErrorData) =>
  Promise.reject(new BridgeError(code, data));

t.test("events are stored in order, with a result for a ref", async (t) => {
  const { say, voice, stored, texts, told } = setup();
  say("one", "1");
  say("two");
  say("three", "3");
  await voice.flush();
  t.same(texts(), ["one", "two", "three"]);
  t.match(stored[0], {
    type: "event",
    data: {
      userId: "ann",
      event: "e",
      contentType: "text/plain",
      data: "one",
      ref: "1",
    },
  });
  t.same(told, [
    { type: "result", ref: "1", ok: true },
    { type: "result", ref: "3", ok: true },
  ]);
});

t.test("the same frame has the same identity on any socket", async (t) => {
  const connectionId = newConnectionId();
  const here = setup({ connectionId });
  const there = setup({ connectionId, epoch: 8 });
  here.say("x", "1");
  here.say("x");
  there.say("x", "1");
  there.say("y", "1");
  there.say("x", "2");
  there.say("x");
  await Promise.all([here.voice.flush(), there.voice.flush()]);
  const [same, own, again, ...others] = [...here.stored, ...there.stored].map(
    ({ id }) => id,
  );
  t.equal(again, same);
  t.equal(new Set([same, own, ...others]).size, 5, "everything else differs");
});

t.test("what Redis cannot take now is taken later, in order", async (t) => {
  const { say, voice, texts, told, redis } = setup();
  let failures = 3;
  redis.append = () =>
    failures-- > 0
      ? error(failures === 1 ? "outcome_unknown" : "redis_unavailable")
      : undefined;
  for (let i = 0; i < 20; i++) say(String(i), String(i));
  await until(() => told.length === 20);
  t.same(
    texts(),
    Array.from({ length: 20 }, (_, i) => String(i)),
  );
  t.ok(told.every(({ ok }) => ok === true));
  await voice.flush();
});

t.test("a client is told what is not stored", async (t) => {
  const full = setup();
  full.redis.admit = () => error("redis_full");
  full.say("a", "1");
  full.say("b");
  await full.voice.flush();
  t.match(full.told, [
    { type: "result", ref: "1", ok: false, error: { code: "redis_full" } },
    { type: "error", error: { code: "redis_full" } },
  ]);
  t.equal(full.redis.appends(), 0);
  full.redis.admit = () => undefined;
  full.redis.append = () => Promise.resolve("full");
  full.say("c", "2");
  await full.voice.flush();
  t.match(full.told[2], { ok: false, error: { code: "events_full" } });
  full.redis.append = () => undefined;
  full.say("d", "3");
  await full.voice.flush();
  t.same(full.texts(), ["d"], "and it goes on");

  const raw = setup({ raw: true });
  raw.redis.admit = () => error("redis_full");
  raw.say("a");
  await raw.voice.flush();
  t.match(raw.unheard, [{ code: "redis_full" }], "where no frame can say so");
});

t.test("too much that waits holds the client back", async (t) => {
  const { say, voice, flow, texts, redis } = setup();
  let open: () => void = () => undefined;
  const gate = new Promise<"ok">((resolve) => {
    open = () => resolve("ok");
  });
  redis.append = () => gate;
  for (let i = 0; i < 31; i++) say("x");
  t.same(flow, []);
  say("x");
  t.same(flow, ["pause"]);
  t.ok(voice.holding);
  open();
  await voice.flush();
  t.same(flow, ["pause", "resume"]);
  t.equal(texts().length, 32);

  const large = setup();
  large.redis.append = () => gate;
  for (let i = 0; i < 5; i++) large.say("x".repeat(262_000));
  t.same(large.flow, ["pause"]);
  await large.voice.flush();
});

t.test("a socket is read again when nobody holds it back", async (t) => {
  const flow: string[] = [];
  const intake = new Intake({
    pause: () => void flow.push("pause"),
    resume: () => void flow.push("resume"),
  });
  const [one, two] = [intake.holder(), intake.holder()];
  one.pause();
  two.pause();
  one.pause();
  one.resume();
  t.same(flow, ["pause"]);
  two.resume();
  one.resume();
  t.same(flow, ["pause", "resume"]);
});
