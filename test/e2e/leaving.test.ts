/** An instance that leaves under load, and a client that does not read, with the built processes. */
import { readFile } from "node:fs/promises";
import t from "tap";
import { WebSocket } from "ws";
import { startApplication } from "../../scripts/lab/application.js";
import { backendOf } from "../../scripts/lab/backend.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { publish, tally } from "../fixtures/publishers.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";

/** Pages of /proc/<pid>/statm, on every Linux that Node runs on but for exotic kernels. */
const PAGE_BYTES = 4_096;
const MB = 1_048_576;

t.test("SIGTERM drains without loss under load", async (t) => {
  const total = 2_000;
  const redis = await singleRedis(t);
  const env = { REDIS_URL: redis.url, LOG_LEVEL: "warn", DRAIN_SECONDS: "1" };
  const [httpFn, leaving, staying] = await Promise.all([
    startHttpFn(t, env),
    startWsFn(t, env),
    startWsFn(t, env),
  ]);
  const backend = backendOf(t, httpFn.url);
  const { connectionId, token } = await backend.prepare();
  const application = startApplication(t, {
    token,
    to: (dial) => (dial === 0 ? leaving.url : staying.url),
  });
  await application.bridge.ready;
  let drains = 0;
  const old = application.socket;
  old.on("message", (data: Buffer) => {
    if (data.includes('"type":"drain"')) drains += 1;
  });
  const oldClosed = new Promise<number>((resolve) => {
    old.once("close", (code: number) => resolve(code));
  });
  const raw = await backend.prepare();
  const socket = new WebSocket(`${leaving.url}/ws${new URL(raw.url).search}`);
  t.teardown(() => socket.terminate());
  const rawClosed = new Promise<number>((resolve) => {
    socket.once("close", (code: number) => resolve(code));
  });
  await new Promise((resolve) => socket.once("message", resolve));

  const load = publish(backend, connectionId, { total });
  load.upTo(total);
  await load.reached(total / 4);
  leaving.kill("SIGTERM");
  t.equal(await rawClosed, 1012, "a raw client is told to come back");
  t.equal(await oldClosed, 1000, "the client left by itself");
  await load.done;
  await application.has(total);
  t.equal(drains, 1);
  t.equal(application.dials, 2);
  t.same(tally(application.texts, total), {
    lost: 0,
    disordered: 0,
    repeated: 0,
  });
  t.same(application.losses, []);
  t.same(application.errors, []);
  t.match(await leaving.exited, { code: 0 });
  const inspected = await backend.ask("GET", `/v1/connections/${connectionId}`);
  t.equal(inspected.json()["state"], "open");
});

t.test(
  "a client that does not read costs no memory and loses nothing",
  async (t) => {
    const count = 80;
    const body = "x".repeat(250_000);
    const redis = await singleRedis(t);
    const env = { REDIS_URL: redis.url, LOG_LEVEL: "warn", SLOW_SECONDS: "2" };
    const [httpFn, wsFn] = await Promise.all([
      startHttpFn(t, env),
      startWsFn(t, env),
    ]);
    const backend = backendOf(t, httpFn.url);
    const { connectionId, token } = await backend.prepare();
    const application = startApplication(t, { token, to: () => wsFn.url });
    await application.bridge.ready;
    await backend.accepted(connectionId, "before");
    await application.has(1);

    const residentBytes = async () => {
      const [, pages = "0"] = (
        await readFile(`/proc/${wsFn.pid}/statm`, "utf8").catch(() => "")
      ).split(" ");
      return Number(pages) * PAGE_BYTES;
    };
    const began = await residentBytes();
    const closed = new Promise<number>((resolve) => {
      application.socket.once("close", (code: number) => resolve(code));
    });
    application.socket.pause();
    for (let index = 0; index < count; index += 1) {
      await backend.accepted(connectionId, `${index} ${body}`);
    }
    let most = await residentBytes();
    await until(
      async () => {
        most = Math.max(most, await residentBytes());
        return wsFn.logs.some((line) => line.includes("does not read"));
      },
      { ms: 30_000, every: 100, message: "ws-fn gave the slow reader up" },
    );
    // Generous: the garbage of what did go out, and one page of the log. Holding the mail would be much more.
    const grown = Math.round((most - began) / MB);
    if (began > 0) t.ok(grown < 100, `ws-fn grew by ${grown} MB`);

    application.socket.resume();
    t.equal(await closed, 4008);
    await application.has(count + 1, 30_000);
    t.same(
      application.texts.map((text) => text?.split(" ")[0]),
      ["before", ...Array.from({ length: count }, (_, index) => `${index}`)],
    );
    t.same(application.losses, []);
  },
);
