/** http-fn as a process: what it prints, how it starts and ends. Needs the build, no Redis. */
import { createServer, type AddressInfo } from "node:net";
import { once } from "node:events";
import t from "tap";
import type { Problem } from "../../shared/api.js";
import { startHttpFn, startProcess } from "../../scripts/lab/processes.js";

/** Nobody listens there: port 1 is reserved (tcpmux). */
const NO_REDIS = { REDIS_URL: "redis://127.0.0.1:1", LOG_LEVEL: "fatal" };
const MAIN = { args: ["dist/http-fn/main.js"], name: "http-fn" };

t.test(
  "it listens without Redis, says so when asked, and ends in good order",
  async (t) => {
    const http = await startHttpFn(t, NO_REDIS);
    const health = await fetch(`${http.url}/healthz`);
    t.equal(health.status, 200);
    const ready = await fetch(`${http.url}/readyz`);
    t.equal(ready.status, 503);
    t.equal(ready.headers.get("retry-after"), "1");
    t.equal(((await ready.json()) as Problem).code, "redis_unavailable");
    for (const path of [
      "/",
      "/page.js",
      "/client.js",
      "/docs",
      "/openapi.json",
    ])
      t.equal((await fetch(http.url + path)).status, 200, path);
    http.kill("SIGTERM");
    t.match(await http.exited, { code: 0 });
  },
);

t.test(
  "under the local platform it ends with its standard input",
  async (t) => {
    const http = await startProcess(t, {
      ...MAIN,
      env: { ...NO_REDIS, PORT: "0", BRIDGE_LOCAL: "1" },
    });
    t.match(await http.exited, { code: 0 });
  },
);

t.test("bad configuration stops the start, one line per mistake", async (t) => {
  const http = await startProcess(t, {
    ...MAIN,
    env: { PORT: "many", TTL_DEFAULT_SECONDS: "-1" },
  });
  t.match(await http.exited, { code: 1 });
  t.match(http.logs, [/^PORT="many": /, /^TTL_DEFAULT_SECONDS="-1": /]);
});

t.test("a taken port stops the start with one line", async (t) => {
  const taken = createServer().listen(0, "127.0.0.1");
  t.teardown(() => taken.close());
  await once(taken, "listening");
  const { port } = taken.address() as AddressInfo;
  const http = await startProcess(t, {
    ...MAIN,
    env: { ...NO_REDIS, PORT: String(port) },
  });
  t.match(await http.exited, { code: 1 });
  t.match(http.logs, [/port is taken/]);
  t.equal(http.logs.length, 1);
});

t.test("--print-config shows the effective values", async (t) => {
  const http = await startProcess(t, {
    name: "http-fn",
    args: [...MAIN.args, "--print-config"],
  });
  t.match(await http.exited, { code: 0 });
  t.ok(http.logs.some((line) => line.startsWith("PORT=9000 ")));
});
