/** Groups as their users meet them: built functions on two instances, real sockets, the client library and raw ones. */
import t, { type Test } from "tap";
import { WebSocket } from "ws";
import type {
  Accepted,
  Connection,
  PrepareRequest,
  Receipt,
} from "../../shared/api.js";
import type { GroupState, MessageFrame } from "../../client/types.js";
import { startApplication } from "../../scripts/lab/application.js";
import { parseGroupMessageId } from "../../shared/ids.js";
import { startWsFn } from "../../scripts/lab/processes.js";
import { startPair, type Pair } from "../../scripts/lab/pair.js";
import { FakeClock } from "../fixtures/fake-socket.js";
import { until } from "../../scripts/lab/until.js";

const pair = await startPair(t, {
  LEASE_SECONDS: "3",
  DRAIN_SECONDS: "0.1",
});
const { backend, wsFns } = pair;

const prepare = (wish?: PrepareRequest) => backend.prepare(wish);

let published = 0;

/** As a good backend does it: with a key, and again after a 503. */
async function publish(
  path: string,
  body: string,
  headers: Record<string, string> = {},
): Promise<Accepted> {
  const key = `${++published}`;
  const answer = await until(
    async () => {
      const { status, text, json } = await backend.ask("POST", path, {
        body,
        headers: {
          "content-type": "text/plain",
          "idempotency-key": key,
          ...headers,
        },
      });
      return status === 503 ? undefined : { status, text, json };
    },
    { every: 100 },
  );
  if (answer.status !== 202) throw new Error(answer.text);
  return answer.json<Accepted>();
}

/** As a good client does it: what may or may not have been done is asked for again. */
const again = (ask: () => Promise<GroupState>): Promise<GroupState> =>
  until(
    () =>
      ask().catch((error: { problem?: { status?: number } }) => {
        if (error.problem?.status === 503) return undefined;
        throw error as Error;
      }),
    { ms: 30_000, every: 100 },
  );

/** An application on instance 0 or 1. */
const application = (t: Test, token: string, instance: 0 | 1) =>
  startApplication(t, { token, to: () => wsFns[instance].url });

async function raw(t: Test, { wsFns }: Pair, token: string, instance: 0 | 1) {
  const texts: string[] = [];
  const socket = new WebSocket(
    `${wsFns[instance].url}/ws?welcome=0&token=${token}`,
  );
  t.teardown(() => socket.terminate());
  socket.on("message", (data: Buffer) => texts.push(data.toString()));
  await new Promise((resolve, reject) => {
    socket.on("open", resolve);
    socket.on("error", reject);
  });
  return { socket, texts };
}

/** The receipt once it counts so many sockets. */
const sentTo = (id: string, sockets: number): Promise<Receipt> =>
  until(async () => {
    const receipt = await backend.receipt(id);
    return receipt.sent === sockets ? receipt : undefined;
  });

const members = async (group: string) =>
  (await backend.ask("GET", `/v1/groups/${group}`)).json<{
    recipients: number;
    online: number;
    items: Connection[];
    next: string | null;
  }>();

t.test("one publish reaches every member, on both instances", async (t) => {
  const groups = ["room"];
  const [a, b, c, d, none] = await Promise.all([
    prepare({ groups, userId: "ann", labels: { plan: "pro" } }),
    prepare({ groups, userId: "bob", labels: { plan: "free" } }),
    prepare({ groups }),
    prepare({ groups }),
    prepare(),
  ]);
  const early = await publish("/v1/groups/room/messages", "early");
  t.match(early, {
    status: "queued",
    to: { group: "room" },
    recipients: 4,
    online: 0,
    durability: "local",
  });
  const one = application(t, a.token, 0);
  const two = application(t, b.token, 1);
  const three = await raw(t, pair, c.token, 1);
  const outside = application(t, none.token, 0);
  await Promise.all([one.bridge.ready, two.bridge.ready, outside.bridge.ready]);
  await Promise.all([one.has(1), two.has(1)]);
  await until(() => three.texts.length === 1);
  t.same(one.texts, ["early"], "from when it was prepared");

  const published = await publish("/v1/groups/room/messages", "to all");
  t.match(published, { recipients: 4, online: 3 });
  await Promise.all([one.has(2), two.has(2)]);
  await until(() => three.texts.length === 2);
  t.same(three.texts, ["early", "to all"], "raw ones get the body");
  t.match(one.messages[1], {
    id: published.id,
    group: "room",
    seq: undefined,
    text: "to all",
    redelivered: false,
  });
  const receipt = await sentTo(published.id, 3);
  t.match(receipt, { status: "sent", ack: null, recipients: 4, online: 3 });
  t.same(
    receipt.timeline.map(({ status }) => status),
    ["queued", "sent"],
  );
  const events = await backend.ask(
    "GET",
    `/v1/messages/${published.id}/events`,
  );
  t.match(events.text, /^event: sent$/m, "and its stream ends");
  t.equal(
    (await backend.ask("DELETE", `/v1/messages/${published.id}`)).json()[
      "code"
    ],
    "already_sent",
  );

  const everybody = await publish("/v1/broadcast", "hear, hear");
  t.match(everybody, { to: { broadcast: true }, recipients: 5, online: 4 });
  await Promise.all([one.has(3), two.has(3), outside.has(1)]);
  t.match(outside.messages, [{ group: "$all", text: "hear, hear" }]);

  const filter = encodeURIComponent('{"labels":{"plan":["pro","team"]}}');
  t.match(
    await publish(`/v1/groups/room/messages?filter=${filter}`, "pro only"),
    { recipients: null },
  );
  t.match(
    await publish(
      `/v1/groups/room/messages?except=${a.connectionId}`,
      "not for ann",
    ),
    { recipients: null, online: 2 },
  );
  await publish("/v1/groups/room/messages", "x".repeat(40_000), {
    ttl: "60",
  });
  await Promise.all([one.has(5), two.has(5)]);
  t.same(one.texts.slice(3, 4), ["pro only"]);
  t.same(two.texts.slice(3, 4), ["not for ann"]);
  t.equal(one.texts[4]?.length, 40_000, "too large for the bell");

  const { items, recipients, online } = await members("room");
  t.match({ recipients, online }, { recipients: 4, online: 3 });
  t.same(
    items.map(({ connectionId, state }) => `${connectionId} ${state}`).sort(),
    [a, b, c, d]
      .map(({ connectionId }) =>
        connectionId === d.connectionId
          ? `${connectionId} prepared`
          : `${connectionId} open`,
      )
      .sort(),
  );

  const keyed = { "idempotency-key": "k" };
  const first = await publish("/v1/groups/room/messages", "once", keyed);
  const again = await backend.ask("POST", "/v1/groups/room/messages", {
    body: "once",
    headers: { "content-type": "text/plain", ...keyed },
  });
  t.equal(again.headers["idempotency-replayed"], "true");
  t.same(again.json(), first);
  await Promise.all([one.has(6), two.has(6)]);

  const later = await publish("/v1/groups/room/messages?delay=0.3", "later");
  const never = await publish("/v1/groups/room/messages?delay=60", "never");
  t.match(later, { status: "scheduled", recipients: 4, online: 3 });
  t.equal(
    (await backend.ask("DELETE", `/v1/messages/${never.id}`)).json()["status"],
    "recalled",
  );
  await Promise.all([one.has(7), two.has(7)]);
  t.match(one.messages[6], { id: later.id, text: "later" });
  t.match(await sentTo(later.id, 3), {
    status: "sent",
    timeline: [{ status: "scheduled" }, {}, {}],
  });

  await one.bridge.close();
  await until(async () => (await members("room")).recipients === 3, {
    message: "an ended connection is no member",
  });
});

t.test("members come and go: backend and client", async (t) => {
  const userId = 'Ä "nn" – 安';
  const { connectionId, token } = await prepare({
    userId,
    permissions: ["join:lobby", "publish:*"],
  });
  const app = application(t, token, 0);
  await app.bridge.ready;
  const put = () =>
    backend.ask("PUT", `/v1/groups/hall/connections/${connectionId}`);
  const joined = (await put()).json<{ offset: number }>();
  t.match(joined, { group: "hall", connectionId });
  await publish("/v1/groups/hall/messages", "hello");
  await app.has(1);
  t.match(app.messages, [{ group: "hall", text: "hello" }]);
  t.equal((await put()).status, 200, "twice is once");
  t.same(
    (await backend.ask("GET", `/v1/connections/${connectionId}`)).json()[
      "groups"
    ],
    ["hall"],
  );
  const gone = await backend.ask(
    "DELETE",
    `/v1/groups/hall/connections/${connectionId}`,
  );
  t.equal(gone.status, 204, gone.text);
  await publish("/v1/groups/hall/messages", "unheard");

  const at: GroupState = await app.bridge.join("lobby");
  await publish("/v1/groups/lobby/messages", "one");
  t.match(await app.bridge.publish("lobby", "two"), { id: /^m_G/ });
  await app.has(3);
  t.same(app.texts, ["hello", "one", "two"]);
  // A client may claim what it likes in its data; `from` is the bridge's, and the backend's messages have none.
  t.same(
    app.messages.map(({ from }) => from),
    [undefined, undefined, { userId }],
  );
  const end: GroupState = await app.bridge.leave("lobby");
  t.ok(end.offset > at.offset);
  await publish("/v1/groups/lobby/messages", "unheard");
  await t.rejects(app.bridge.join("elsewhere"), {
    message: /forbidden/,
  });
  await t.rejects(app.bridge.join("$all"), { message: /invalid_parameter/ });
  await publish("/v1/broadcast", "last");
  await app.has(4);
  t.equal(app.texts.at(-1), "last");
  t.match(await members("lobby"), { recipients: 0, online: 0, items: [] });
  t.same(app.errors, []);
});

t.test("whoever comes back gets what it missed, or is told", async (t) => {
  const { token } = await prepare({ groups: ["back"] });
  /** A port that nobody listens at: the client stays away. */
  let away = false;
  const app = startApplication(t, {
    token,
    to: (dial) =>
      away ? "ws://127.0.0.1:1" : wsFns[dial % 2 === 0 ? 0 : 1].url,
  });
  await app.bridge.ready;
  await publish("/v1/groups/back/messages", "1");
  await app.has(1);
  app.socket.terminate();
  for (const text of ["2", "3"])
    await publish("/v1/groups/back/messages", text);
  await app.has(3);
  t.same(app.texts, ["1", "2", "3"]);
  t.same(app.losses, []);

  away = true;
  app.socket.terminate();
  // More than the history holds, for all that the server can tell.
  await publish("/v1/groups/back/messages", "lost");
  await pair.redis.cli("XTRIM", "bridge:{g:back}:history", "MAXLEN", "0");
  away = false;
  await until(() => app.losses.length > 0, { ms: 20_000 });
  t.match(app.losses, [{ what: "group", group: "back" }]);
  await publish("/v1/groups/back/messages", "4");
  await app.has(4);
  t.same(app.texts, ["1", "2", "3", "4"], "nothing in part");
});

t.test("whoever comes back before its first ack", async (t) => {
  const { token } = await prepare({ groups: ["rare"] });
  // It stands still: no ack is due.
  const clock = new FakeClock();
  /** Offsets that came over the wire. */
  const wire: number[] = [];
  const app = startApplication(t, {
    token,
    clock,
    to: (dial) => wsFns[dial % 2 === 0 ? 0 : 1].url,
    onSocket: (socket) =>
      void socket.on("message", (data: Buffer) => {
        const frame = JSON.parse(data.toString()) as Partial<MessageFrame>;
        if (frame.group === "rare" && frame.offset) wire.push(frame.offset);
      }),
  });
  await app.bridge.ready;
  for (const text of ["1", "2"])
    await publish("/v1/groups/rare/messages", text);
  await app.has(2);
  app.socket.terminate();
  await until(() => app.bridge.state === "resuming");
  await publish("/v1/groups/rare/messages", "3");
  clock.advance(200);
  await app.has(3);
  t.same(app.texts, ["1", "2", "3"]);
  t.equal(new Set(wire).size, 3);
  t.equal(wire.length, 3, "nothing twice, not even on the wire");
  t.notOk(app.messages.some(({ redelivered }) => redelivered));

  // A page that is loaded anew: the server knows only what was acked, which is nothing.
  const anew = application(t, token, 1);
  await anew.has(3);
  t.same(anew.texts, ["1", "2", "3"]);
  t.ok(anew.messages.every(({ redelivered }) => redelivered));
});

t.test("who died with its instance is not online", async (t) => {
  const instance = await startWsFn(t, {
    REDIS_URL: pair.redis.url,
    LOG_LEVEL: "warn",
    LEASE_SECONDS: "1",
  });
  const wish = { groups: ["fallen"] };
  const [stays, falls] = [await prepare(wish), await prepare(wish)];
  const one = application(t, stays.token, 0);
  const two = startApplication(t, {
    token: falls.token,
    // Afterwards it finds nobody.
    to: (dial) => (dial === 0 ? instance.url : "ws://127.0.0.1:1"),
  });
  await Promise.all([one.bridge.ready, two.bridge.ready]);
  t.match(await members("fallen"), { recipients: 2, online: 2 });
  instance.kill("SIGKILL");
  await instance.exited;
  await until(async () => (await members("fallen")).online === 1, {
    message: "its lease is over",
  });
  t.match(await publish("/v1/groups/fallen/messages", "x"), {
    recipients: 2,
    online: 1,
  });
  await one.has(1);
});

/**
 * Between its join and its leave: after the offset that the result of `join` names, up to and with the one that the result
 * of `leave` names. Exactly that, in order, whatever happens to its sockets in between.
 */
t.test(
  "two hundred members come and go while two thousand messages are published",
  async (t) => {
    const total = 2_000;
    const offsetOf = (id: string) => {
      const route = parseGroupMessageId(id);
      return route?.kind === "offset" ? route.offset : Number.NaN;
    };
    const published: number[] = [];
    let done = false;
    let cuts = 0;
    let memberships = 0;

    async function member(number: number): Promise<void> {
      const { token } = await prepare({ permissions: ["join:churn"] });
      const got: number[] = [];
      const app = startApplication(t, {
        token,
        to: (dial) => wsFns[(number + dial) % 2 === 0 ? 0 : 1].url,
        onMessage: ({ id }) => void got.push(offsetOf(id)),
      });
      await app.bridge.ready;
      const cut = async () => {
        cuts += 1;
        const { dials } = app;
        app.socket.terminate();
        await until(() => app.dials > dials && app.bridge.state === "open", {
          ms: 60_000,
        }).catch((error: unknown) => {
          const said = app.errors.map(({ message }) => message);
          throw new Error(`${app.bridge.state}: ${said.join("; ")}`, {
            cause: error,
          });
        });
      };
      const spans: [after: number, to: number][] = [];
      // The first few stay for all of it.
      const stays = number < 3;
      for (let first = true; !done || first; first = false) {
        const { offset: after } = await again(() => app.bridge.join("churn"));
        if (first) started();
        do {
          const wanted = got.length + Math.floor(Math.random() * 200);
          await until(() => done || got.length >= wanted, {
            ms: 120_000,
            every: 40,
          });
          if (stays || Math.random() < 0.15) await cut();
        } while (stays && !done);
        const { offset: to } = await again(() => app.bridge.leave("churn"));
        spans.push([after, to]);
        memberships += 1;
        // Away from it for a while: most are no members most of the time, which keeps this cheap.
        const next = published.length + Math.random() * 600;
        await until(() => done || published.length >= next, {
          ms: 120_000,
          every: 40,
        });
      }
      await settled;
      const wanted = spans.flatMap(([after, to]) =>
        published.filter((offset) => offset > after && offset <= to),
      );
      t.same(app.losses, []);
      if (stays) t.equal(wanted.length, total, "it was there for all of it");
      // One assertion each: a difference is shown as the first place that is wrong.
      const wrong = wanted.findIndex((offset, i) => offset !== got[i]);
      t.same(
        { wrong, got: got.length },
        { wrong: -1, got: wanted.length },
        `member ${number}, ${spans.length} memberships`,
      );
      await app.bridge.close();
    }

    let waiting = 200;
    let allIn: () => void;
    const everybodyIn = new Promise<void>((resolve) => (allIn = resolve));
    const started = () => (waiting -= 1) === 0 && allIn();
    let settle: () => void;
    const settled = new Promise<void>((resolve) => (settle = resolve));
    const members = Array.from({ length: 200 }, (_, number) => member(number));
    await Promise.race([everybodyIn, Promise.all(members)]);
    for (let from = 0; from < total; from += 20)
      await Promise.all(
        Array.from({ length: 20 }, async (_, n) => {
          const { id } = await publish(
            "/v1/groups/churn/messages",
            String(from + n),
          );
          published.push(offsetOf(id));
        }),
      );
    published.sort((a, b) => a - b);
    done = true;
    settle!();
    await Promise.all(members);
    t.equal(new Set(published).size, total);
    t.comment(`${memberships} memberships, ${cuts} cuts`);
    t.ok(cuts > 20 && memberships > 400, "they did come and go");
  },
);
