/**
 * Delivery inside one process: what whoever waits for an outcome hears, and that no lane waits for ever because its job was
 * never added.
 */
import t from "tap";
import { appendEventsScript } from "../../../shared/events.js";
import { newConnectionId } from "../../../shared/ids.js";
import { createLogger } from "../../../shared/logging.js";
import type { Script } from "../../../shared/redis.js";
import type { WebhookSettings } from "../../../shared/webhook-settings.js";
import { singleRedis } from "../../../scripts/lab/redis.js";
import type { Scope } from "../../../scripts/lab/scope.js";
import { until } from "../../../scripts/lab/until.js";
import { startReceiver } from "../../../scripts/lab/webhook-receiver.js";
import type { OnOutcome, Outcome } from "../../../ws-fn/webhooks/delivery.js";
import { startWebhooks } from "../../../ws-fn/webhooks/webhooks.js";
import {
  changed,
  patience,
  startWorld,
  webhookSettings,
  type World,
} from "../../fixtures/world.js";

const { url } = await singleRedis(t);
let database = 0;

async function startDelivery(
  t: Scope,
  {
    scripts = [],
    everyMs = 3_600_000,
    onOutcome,
    ...given
  }: Partial<WebhookSettings> & {
    scripts?: readonly Script[];
    everyMs?: number;
    onOutcome?: OnOutcome;
  } = {},
) {
  const receiver = await startReceiver(t);
  const webhook = {
    ...webhookSettings,
    ...given,
    url: new URL(receiver.url),
  };
  const at = `${url}/${++database}`;
  const world = await startWorld(t, at, { webhook, scripts });
  const deliver = (stores: World, every = everyMs) => {
    const webhooks = startWebhooks({
      stores,
      settings: webhook,
      logger: createLogger("delivery", "silent"),
      everyMs: every,
      ...(onOutcome && { onOutcome }),
    });
    t.teardown(() => webhooks.close());
  };
  deliver(world);
  return {
    receiver,
    world,
    /** Another instance. */
    another: async (every: number) =>
      deliver(await startWorld(t, at, { webhook }), every),
  };
}

/** What a client says. */
const said = (subject: string, name: string, data: object) => ({
  id: `${subject}.${name}`,
  type: "event" as "connected",
  subject,
  timeMs: Date.now(),
  data: { userId: "ann", ...data } as never,
});

t.test("whoever waits hears what became of an event", async (t) => {
  const outcomes: [string, Outcome][] = [];
  let fails = 0;
  const { receiver, world } = await startDelivery(t, {
    onOutcome: async ({ id }, outcome) => {
      if (outcome.kind === "answered" && fails-- > 0)
        throw new Error("Redis is away");
      outcomes.push([id, outcome]);
    },
  });
  const id = newConnectionId();
  const hears = async (kind: Outcome["kind"]) => {
    await until(() => outcomes.at(-1)?.[1].kind === kind, patience);
    return outcomes.at(-1)?.[1];
  };

  await t.test("the answer, and what it was asked", async (t) => {
    receiver.onPost = () => ({
      status: 200,
      headers: { "content-type": "text/plain" },
      body: "pong",
    });
    await world.events.append([
      said(id, "1", {
        event: "ping ü",
        contentType: "text/plain; charset=utf-8",
        data: "hellö",
        ref: 7,
      }),
    ]);
    t.match(await hears("answered"), {
      status: 200,
      contentType: "text/plain",
      body: Buffer.from("pong"),
      truncated: false,
    });
    const [post] = receiver.posts;
    t.equal(post?.body.toString(), "hellö");
    t.match(post?.headers, {
      "ce-type": "event",
      "ce-eventname": "ping%20%C3%BC",
      "ce-ref": "7",
      "ce-userid": "ann",
      "ce-connectionid": id,
      "content-type": "text/plain; charset=utf-8",
    });
  });

  await t.test("bytes, and a type that no header may hold", async (t) => {
    await world.events.append([
      said(id, "2", {
        event: "bytes",
        contentType: "text/plain\r\nx-evil: 1",
        dataBase64: Buffer.from([1, 2]).toString("base64"),
      }),
    ]);
    await until(() => receiver.posts.length === 2, patience);
    const post = receiver.posts[1];
    t.same(post?.body, Buffer.from([1, 2]));
    t.equal(post?.headers["content-type"], "application/octet-stream");
    t.notOk("x-evil" in (post?.headers ?? {}));
  });

  await t.test("refused", async (t) => {
    receiver.onPost = () => ({ status: 422, body: "not that" });
    await world.events.append([
      said(id, "3", { event: "x", contentType: "text/plain", data: "" }),
    ]);
    t.match(await hears("refused"), {
      status: 422,
      body: Buffer.from("not that"),
    });
    t.equal(receiver.posts.length, 3, "and not tried again");
  });

  await t.test("later", async (t) => {
    receiver.onPost = () => ({ status: 500 });
    await world.events.append([
      said(id, "4", { event: "x", contentType: "text/plain", data: "" }),
    ]);
    t.match(await hears("later"), {
      why: "answered 500",
      attempts: 1,
      delayMs: Number,
    });
    receiver.onPost = () => ({});
    t.match(await hears("answered"), { status: 204 });
  });

  await t.test("an answer that could not be told comes again", async (t) => {
    fails = 1;
    const before = receiver.posts.length;
    await world.events.append([
      said(id, "5", { event: "x", contentType: "text/plain", data: "" }),
    ]);
    await until(() => outcomes.at(-1)?.[0] === `${id}.5`, patience);
    const [one, two] = receiver.posts.slice(before);
    t.equal(two?.headers["webhook-id"], one?.headers["webhook-id"]);
  });
});

t.test("a lane whose job was never added", async (t) => {
  // Whoever appends dies before it adds the job; looked for at once.
  const at = "text(ms + 5000)";
  const scripts = [changed(appendEventsScript, at, "text(ms)")];
  const { receiver, world, another } = await startDelivery(t, { scripts });
  const event = (subject: string) => ({
    id: `${subject}.connected`,
    type: "connected" as const,
    subject,
    timeMs: Date.now(),
    data: { userId: null, protocol: "raw" as const },
  });
  const [lost, other] = [newConnectionId(), newConnectionId()];
  // The Worker is there, and has looked for lost lanes once.
  await world.events.append([event(other)]);
  await until(() => receiver.taken.length === 1, patience);
  const { begun } = world.webhooks;
  world.webhooks.begun = () => Promise.resolve();
  await world.events.append([event(lost)]);
  world.webhooks.begun = begun;
  const last = newConnectionId();
  await world.events.append([event(last)]);
  await until(() => receiver.taken.length === 2, patience);
  const taken = () => receiver.taken.map(({ subject }) => subject);
  t.same(taken(), [other, last], "without a sweep it waits for ever");
  await another(50);
  await until(() => receiver.taken.length === 3, patience);
  t.same(taken(), [other, last, lost]);
  await world.events.append([event(newConnectionId())]);
  await until(() => receiver.taken.length === 4, patience);
  t.equal(receiver.posts.length, 4, "and nothing twice");
});
