/**
 * Quotas with the built processes, two of each, on one Redis: who takes too much hears 429 with the name of the quota from all
 * of them, what it takes in Redis is bounded, and nobody else notices.
 */
import { createHash, randomBytes } from "node:crypto";
import { request } from "node:http";
import { SignJWT } from "jose";
import t from "tap";
import { WebSocket } from "ws";
import { startApplication } from "../../scripts/lab/application.js";
import { backendOf } from "../../scripts/lab/backend.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";
import type { BatchResult, Problem } from "../../shared/api.js";

const names = 4_000;
const connects = 60;
const redis = await singleRedis(t);
const sha256 = (text: string) =>
  createHash("sha256").update(text).digest("hex");
const secret = randomBytes(32);
const env = {
  REDIS_URL: redis.url,
  LOG_LEVEL: "silent",
  API_KEYS: `greedy:push:${sha256("greedy")}:names=${names},honest:admin:${sha256("honest")}`,
  TOKEN_KEYS: `k:${secret.toString("base64")}`,
  USER_QUOTAS: `connects=${connects}/3600`,
  CONNECTION_QUOTAS: "publishes=5/3600",
};
const [http1, http2, ws1, ws2] = await Promise.all([
  startHttpFn(t, env),
  startHttpFn(t, env),
  startWsFn(t, env),
  startWsFn(t, env),
]);
const as = (key: string) => ({ authorization: `Bearer ${key}` });
const honest = backendOf(t, http1.url);

/** A client with acks, and pushes to it one after the other until `done`; all of them are accepted and arrive. */
async function honestWhile(done: Promise<unknown>) {
  const { connectionId, token } = (
    await honest.ask("POST", "/v1/connections", { headers: as("honest") })
  ).json<{ connectionId: string; token: string }>();
  const application = startApplication(t, { token, to: () => ws1.url });
  await application.bridge.ready;
  let over = false;
  void done.finally(() => {
    over = true;
  });
  const statuses = new Set<number>();
  let count = 0;
  while (!over) {
    const { status } = await honest.push(connectionId, `${count++}`, {
      headers: as("honest"),
    });
    statuses.add(status);
  }
  await application.has(count);
  return { count, statuses: [...statuses] };
}

const usedBytes = async () =>
  Number(
    /^used_memory:(\d+)/m.exec(String(await redis.cli("INFO", "memory")))?.[1],
  );

/** Empty messages to new names at both http-fn in turn, until one batch of them is refused whole by each. */
async function newNames() {
  const backends = [backendOf(t, http1.url), backendOf(t, http2.url)];
  const before = await usedBytes();
  const taken = [0, 0];
  const found = {
    quotas: new Set<string | undefined>(),
    statuses: new Set<number>(),
  };
  for (let round = 0, idle = 0; idle < 2; round++) {
    const at = round % 2;
    const items = Array.from({ length: 200 }, (_, i) => ({
      to: { group: `new-${round}-${i}` },
      data: "",
    }));
    const answer = await backends[at]?.ask("POST", "/v1/batch", {
      body: JSON.stringify(items),
      headers: { ...as("greedy"), "content-type": "application/json" },
    });
    const results = answer?.json<BatchResult[]>() ?? [];
    let some = 0;
    for (const { status, problem } of results) {
      found.statuses.add(status);
      if (status === 202) some += 1;
      else found.quotas.add(problem?.quota);
    }
    taken[at] = (taken[at] ?? 0) + some;
    idle = some === 0 ? idle + 1 : 0;
  }
  const all = (taken[0] ?? 0) + (taken[1] ?? 0);
  return { ...found, taken, all, bytes: ((await usedBytes()) - before) / all };
}

t.test(
  "a key that makes up names is stopped, at all processes together",
  async (t) => {
    const attack = newNames();
    const { count, statuses } = await honestWhile(attack);
    const { all, taken, bytes, quotas, ...found } = await attack;
    t.same([...found.statuses].sort(), [202, 429]);
    t.same([...quotas], ["names"]);
    // What is under way in a batch, and a sixteenth for each process, may be more than the limit.
    t.ok(
      all >= names && all <= names * 1.25,
      `${taken.join(" + ")} of ${names}`,
    );
    t.ok(bytes < 1_000, `${Math.round(bytes)} bytes for each in Redis`);
    t.same(statuses, [202], `${count} honest pushes meanwhile`);
    t.comment(
      `${all} names of ${names}, ${Math.round(bytes)} bytes each, ${count} honest pushes`,
    );
    const known = await backendOf(t, http2.url).ask(
      "POST",
      "/v1/groups/new-0-0/messages",
      {
        body: "x",
        headers: as("greedy"),
      },
    );
    t.equal(known.status, 202, "a name that there is goes on");
  },
);

/** The status of an upgrade, and the body of its refusal. */
const dial = (origin: string, token: string) =>
  new Promise<{
    status: number;
    retryAfter: string | undefined;
    problem: Problem | undefined;
  }>((resolve, reject) => {
    const upgrade = request(
      `${origin.replace("ws:", "http:")}/ws?token=${token}`,
      {
        headers: {
          connection: "Upgrade",
          upgrade: "websocket",
          "sec-websocket-version": "13",
          "sec-websocket-key": randomBytes(16).toString("base64"),
        },
      },
    );
    upgrade.on("error", reject);
    upgrade.on("upgrade", (_response, socket) => {
      socket.destroy();
      resolve({ status: 101, retryAfter: undefined, problem: undefined });
    });
    upgrade.on("response", (response) => {
      let text = "";
      response.on("data", (part) => (text += String(part)));
      response.on("end", () =>
        resolve({
          status: response.statusCode ?? 0,
          retryAfter: response.headers["retry-after"],
          problem: JSON.parse(text) as Problem,
        }),
      );
    });
    upgrade.end();
  });

const tokenOf = (sub: string) =>
  new SignJWT({ sub })
    .setProtectedHeader({ alg: "HS256", kid: "k" })
    .setExpirationTime("1h")
    .sign(secret);

t.test(
  "a user that connects again and again is stopped, at all processes together",
  async (t) => {
    const ann = await tokenOf("ann");
    const open = async () => {
      const statuses: number[] = [];
      for (let i = 0; i < connects + 20; i++) {
        const { status, ...refusal } = await dial(
          i % 2 ? ws1.url : ws2.url,
          ann,
        );
        statuses.push(status);
        if (status === 101) continue;
        t.equal(status, 429);
        t.match(refusal, {
          retryAfter: String,
          problem: {
            code: "quota_exceeded",
            quota: "connects",
            limit: connects,
          },
        });
      }
      return statuses.filter((status) => status === 101).length;
    };
    const attack = open();
    const { statuses } = await honestWhile(attack);
    t.equal(await attack, connects);
    t.same(statuses, [202]);
    t.equal(
      (await dial(ws1.url, await tokenOf("ben"))).status,
      101,
      "another user",
    );
  },
);

t.test(
  "a client that publishes too much is told which quota it has used up",
  async (t) => {
    const wish = { permissions: ["publish:*"], userId: "cat" };
    const clients = await Promise.all(
      [ws1, ws2].map(async ({ url }) => {
        const { token } = (
          await honest.ask("POST", "/v1/connections", {
            body: JSON.stringify(wish),
            headers: { ...as("honest"), "content-type": "application/json" },
          })
        ).json<{ token: string }>();
        const socket = new WebSocket(
          `${url}/ws?token=${token}`,
          "bridge.v1.json",
        );
        t.teardown(() => socket.terminate());
        const results: { ref: string; error?: Problem }[] = [];
        socket.on("message", (data: Buffer) => {
          const frame = JSON.parse(data.toString()) as {
            type: string;
            ref: string;
          };
          if (frame.type === "result" || frame.type === "error")
            results.push(frame);
        });
        await new Promise((resolve, reject) => {
          socket.once("open", resolve);
          socket.once("error", reject);
        });
        return { socket, results };
      }),
    );
    const [greedy, other] = clients;
    const publish = (socket: WebSocket | undefined, ref: number) =>
      socket?.send(
        JSON.stringify({
          type: "publish",
          group: "room",
          data: "x",
          ref: String(ref),
        }),
      );
    for (let i = 0; i < 8; i++) publish(greedy?.socket, i);
    await until(() => greedy?.results.length === 8, { ms: 20_000 });
    t.same(
      greedy?.results.map(({ error }) => error?.quota),
      [
        ...Array.from({ length: 5 }, () => undefined),
        "publishes",
        "publishes",
        "publishes",
      ],
    );
    t.match(greedy?.results[7], {
      error: {
        code: "quota_exceeded",
        status: 429,
        limit: 5,
        retryAfter: Number,
      },
    });
    publish(other?.socket, 0);
    await until(() => other?.results.length === 1, { ms: 20_000 });
    t.notOk(other?.results[0]?.error, "another connection goes on");
  },
);
