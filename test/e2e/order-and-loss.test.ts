/**
 * Order and no loss, with the built processes over real sockets and real Redis: 5,000 messages from 16 publishers while
 * the client's socket is cut, and while the owner is killed. Shipped defaults throughout.
 */
import t, { type Test } from "tap";
import { startApplication } from "../../scripts/lab/application.js";
import { backendOf } from "../../scripts/lab/backend.js";
import {
  startHttpFn,
  startWsFn,
  type TestFunction,
} from "../../scripts/lab/processes.js";
import { startProxy } from "../../scripts/lab/proxy.js";
import { publish, randomPoints, tally } from "../fixtures/publishers.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";

const TOTAL = 5_000;
/** Publishers may run this far ahead of the next fault: enough to keep them busy, so few that faults meet them. */
const AHEAD = 150;

const nothingWrong = { lost: 0, disordered: 0, repeated: 0 };
const quiet = { LOG_LEVEL: "warn" };

async function setup(t: Test) {
  const redis = await singleRedis(t);
  const env = { REDIS_URL: redis.url, ...quiet };
  const http = await startHttpFn(t, env);
  const backend = backendOf(t, http.url);
  const prepared = await backend.prepare();
  return { env, backend, ...prepared };
}

t.test(
  "twenty cuts at random moments, each to the other instance",
  async (t) => {
    const { env, backend, connectionId, token } = await setup(t);
    const instances = await Promise.all([startWsFn(t, env), startWsFn(t, env)]);
    const proxies = await Promise.all(
      instances.map(({ port }) => startProxy(t, port)),
    );
    const application = startApplication(t, {
      token,
      to: (dial) => `ws://127.0.0.1:${proxies[dial % 2]?.port ?? 0}`,
    });
    await application.bridge.ready;

    const cuts = () => proxies.reduce((sum, { seen }) => sum + seen.cuts, 0);
    const load = publish(backend, connectionId, { total: TOTAL });
    for (const point of randomPoints(20, TOTAL - AHEAD)) {
      load.upTo(point + AHEAD);
      await load.reached(point);
      const before = cuts();
      await until(
        () => {
          for (const proxy of proxies) proxy.cutAll();
          return cuts() > before;
        },
        { every: 1, ms: 20_000, message: "there was something to cut" },
      );
      // Every other cut may be followed by one into the handshake of the resume itself.
      if (point % 2 === 0) continue;
      await until(() => application.bridge.state === "open", { ms: 20_000 });
    }
    load.upTo(TOTAL);
    await load.done;
    await application.has(TOTAL);
    t.ok(cuts() >= 20, `${cuts()} cuts, ${application.dials} dials`);
    t.same(tally(application.texts, TOTAL), nothingWrong);
    t.same(application.losses, []);
    t.same(application.errors, []);
  },
);

t.test("ten owners killed", async (t) => {
  const { env, backend, connectionId, token } = await setup(t);
  const instances: [TestFunction, TestFunction] = [
    await startWsFn(t, env),
    await startWsFn(t, env),
  ];
  let owner = 0 as 0 | 1;
  const application = startApplication(t, {
    token,
    to: () => instances[owner].url,
  });
  await application.bridge.ready;

  const load = publish(backend, connectionId, { total: TOTAL });
  for (const point of randomPoints(10, TOTAL - AHEAD)) {
    load.upTo(point + AHEAD);
    await load.reached(point);
    const killed: 0 | 1 = owner;
    owner = killed === 0 ? 1 : 0;
    instances[killed].kill("SIGKILL");
    await instances[killed].exited;
    instances[killed] = await startWsFn(t, env);
    await until(() => application.bridge.state === "open", { ms: 20_000 });
  }
  load.upTo(TOTAL);
  await load.done;
  await application.has(TOTAL);
  t.same(tally(application.texts, TOTAL), nothingWrong);
  t.same(application.losses, []);
});
