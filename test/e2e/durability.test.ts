/** `durability=replica` with the built processes: what the 202 and the receipt say, and what a retry may rely on. */
import t from "tap";
import { startApplication } from "../../scripts/lab/application.js";
import { backendOf } from "../../scripts/lab/backend.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { replicatedRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";

const patience = { ms: 20_000, every: 50 };

t.test("a push that waits for a replica", async (t) => {
  const { master, replica } = await replicatedRedis(t);
  const env = { REDIS_URL: master.url, LOG_LEVEL: "error" };
  const [httpFn, always, wsFn] = await Promise.all([
    startHttpFn(t, env),
    startHttpFn(t, { ...env, DURABILITY: "replica" }),
    startWsFn(t, env),
  ]);
  const backend = backendOf(t, httpFn.url);
  const { connectionId, token } = await backend.prepare();
  const application = startApplication(t, { token, to: () => wsFn.url });
  await application.bridge.ready;
  const push = (body: string, query: string, key?: string) =>
    backend.push(connectionId, body, {
      query,
      headers: key === undefined ? {} : { "idempotency-key": key },
    });
  const told = async (id: string) => (await backend.receipt(id)).durability;
  /** On a machine this busy a replica may miss the deadline: as a good backend does, with a key. */
  const accepted = async (body: string, query: string) => {
    const answer = await until(async () => {
      const answer = await push(body, query, body);
      return answer.status === 503 ? undefined : answer;
    }, patience);
    return {
      answered: answer.status,
      ...answer.json<{ id: string; durability: string }>(),
    };
  };

  const plain = await backend.accepted(connectionId, "plain");
  t.equal(plain.durability, "local");
  t.equal(await told(plain.id), "local");
  const safe = await accepted("safe", "?durability=replica");
  t.match(safe, { answered: 202, durability: "replica" });
  t.equal(await told(safe.id), "replica");
  const waited = await accepted("waited", "?durability=replica&wait=20");
  t.match(waited, { answered: 200, durability: "replica", ack: "client" });
  const later = await accepted("later", "?durability=replica&delay=0.5");
  t.match(later, { answered: 202, durability: "replica" });
  t.equal(await told(later.id), "replica");
  await application.has(4);
  t.equal(await told(later.id), "replica");

  const other = backendOf(t, always.url);
  const { connectionId: another } = await other.prepare();
  const byDefault = await until(async () => {
    const answer = await other.push(another, "default", {
      headers: { "idempotency-key": "default" },
    });
    return answer.status === 202 ? answer.json() : undefined;
  }, patience);
  t.equal(byDefault["durability"], "replica");
  const lowered = await other.push(another, "x", {
    query: "?durability=local",
  });
  t.equal(lowered.json()["durability"], "local");

  replica.freeze();
  for (const query of ["?durability=replica", "?durability=replica&wait=20"]) {
    const key = `short ${query}`;
    const short = await push(key, query, key);
    t.equal(short.status, 503);
    t.match(short.json(), { code: "outcome_unknown" });
    t.match(short.headers["retry-after"], /^[1-9]/);
    const again = await push(key, query, key);
    t.equal(again.status, 503, "a retry claims nothing that it did not see");
    t.match(again.json(), { code: "outcome_unknown" });
  }
  t.equal((await push("local", "")).status, 202, "who does not ask is served");
  replica.thaw();
  for (const query of ["?durability=replica", "?durability=replica&wait=20"]) {
    const key = `short ${query}`;
    const answer = await until(async () => {
      const answer = await push(key, query, key);
      return answer.status < 300 ? answer : undefined;
    }, patience);
    t.equal(answer.headers["idempotency-replayed"], "true");
    t.match(answer.json(), { durability: "replica" });
  }
  await application.has(7);
  t.same(
    application.texts,
    [
      "plain",
      "safe",
      "waited",
      "later",
      "short ?durability=replica",
      "short ?durability=replica&wait=20",
      "local",
    ],
    "every one once, retries and all",
  );

  await replica.stop();
  const refused = await until(async () => {
    const answer = await push("unstored", "?durability=replica");
    return answer.json()["code"] === "no_replica" ? answer : undefined;
  }, patience);
  t.equal(refused.status, 503);
  const before = await master.cli("XLEN", `bridge:{${connectionId}}:index`);
  t.match((await push("unstored", "?durability=replica")).json(), {
    code: "no_replica",
  });
  t.equal(
    await master.cli("XLEN", `bridge:{${connectionId}}:index`),
    before,
    "nothing was stored",
  );
});

t.test("users, groups and everybody, until a replica has it", async (t) => {
  const { master, replica } = await replicatedRedis(t);
  const env = { REDIS_URL: master.url, LOG_LEVEL: "error" };
  const [httpFn, wsFn] = await Promise.all([
    startHttpFn(t, env),
    startWsFn(t, env),
  ]);
  const backend = backendOf(t, httpFn.url);
  const { token } = await backend.prepare({ userId: "ann", groups: ["room"] });
  const application = startApplication(t, { token, to: () => wsFn.url });
  await application.bridge.ready;
  const targets = {
    "somebody who is there": {
      path: "users/ann/messages",
      to: { user: "ann" },
    },
    "somebody who is not": { path: "users/bob/messages", to: { user: "bob" } },
    "a group": { path: "groups/room/messages", to: { group: "room" } },
    everybody: { path: "broadcast", to: { broadcast: true } },
  };
  const each = Object.entries(targets);
  const ask = (path: string, key: string, query = "") =>
    backend.ask("POST", `/v1/${path}?durability=replica${query}`, {
      body: key,
      headers: { "idempotency-key": key, "content-type": "text/plain" },
    });
  /** As a good backend does it. */
  const accepted = (path: string, key: string, query = "") =>
    until(async () => {
      const answer = await ask(path, key, query);
      return answer.status < 300 ? answer : undefined;
    }, patience);
  const safe = { durability: "replica" };

  for (const [name, { path, to }] of each) {
    for (const [query, status] of [
      ["", "queued"],
      ["&delay=600", "scheduled"],
    ] as const) {
      const answer = await accepted(path, `${name} ${status}`, query);
      const { id } = answer.json<{ id: string }>();
      t.match(answer.json(), { ...safe, to, status }, name);
      t.match(await backend.receipt(id), safe, "the receipt says so, too");
    }
    const local = await backend.ask("POST", `/v1/${path}?durability=local`, {
      body: "local",
    });
    const { id } = local.json<{ id: string }>();
    t.match(local.json(), { durability: "local" });
    t.equal((await backend.receipt(id)).durability, "local");
  }
  const due = await accepted("users/ann/messages", "soon", "&delay=0.3");
  t.match(due.json(), safe);
  await until(() => application.texts.includes("soon"), patience);
  const dueId = due.json<{ id: string }>().id;
  t.match(await backend.receipt(dueId), safe, "also when it was due");
  const batch = await until(async () => {
    const answer = await backend.ask("POST", "/v1/batch", {
      body: JSON.stringify(
        each.map(([name, { to }]) => ({
          to,
          data: `batch ${name}`,
          durability: "replica",
          idempotencyKey: `batch ${name}`,
        })),
      ),
      headers: { "content-type": "application/json" },
    });
    const results = answer.json<{ status: number }[]>();
    return results.every(({ status }) => status === 202) ? results : undefined;
  }, patience);
  t.match(
    batch,
    each.map(([, { to }]) => ({ accepted: { ...safe, to } })),
  );

  replica.freeze();
  for (const [name, { path }] of each) {
    for (const attempt of ["short", "a retry"]) {
      const answer = await ask(path, `short ${name}`);
      t.equal(answer.status, 503, `${attempt}: ${name}`);
      t.match(answer.json(), { code: "outcome_unknown" });
    }
  }
  replica.thaw();
  for (const [name, { path }] of each) {
    const answer = await accepted(path, `short ${name}`);
    t.equal(answer.headers["idempotency-replayed"], "true", name);
    t.match(answer.json(), safe);
  }

  await replica.stop();
  for (const [name, { path }] of each) {
    const refused = await until(async () => {
      const answer = await ask(path, `unstored ${name}`);
      return answer.json()["code"] === "no_replica" ? answer : undefined;
    }, patience);
    t.equal(refused.status, 503, name);
  }
  const explained = await ask("broadcast", "unstored", "&explain=1");
  t.match(explained.json(), { status: 503, problem: { code: "no_replica" } });
});
