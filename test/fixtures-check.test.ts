// The fixtures that can go wrong by themselves: real servers, the faulty network, processes.

import { once } from "node:events";
import net from "node:net";

import t from "tap";

import { isAlive } from "../scripts/programs.js";
import { startProcess } from "../scripts/lab/processes.js";
import { startProxy } from "../scripts/lab/proxy.js";
import {
  clusterRedis,
  sentinelRedis,
  singleRedis,
} from "../scripts/lab/redis.js";
import type { Scope } from "../scripts/lab/scope.js";
import { until } from "../scripts/lab/until.js";

/** A scope whose teardown the test runs itself, to look at what is left. */
function ownScope(): Scope & { end(): Promise<void> } {
  const handlers: (() => unknown)[] = [];
  return {
    teardown: (handler) => void handlers.unshift(handler),
    passing: () => true,
    comment: () => undefined,
    end: async () => {
      for (const handler of handlers) await handler();
    },
  };
}

t.test("until gives the first truthy answer", async (t) => {
  let asked = 0;
  t.equal(await until(() => (asked += 1) > 2 && "yes", { every: 1 }), "yes");
  t.equal(asked, 3);
});

t.test("until says what it waited for and what it saw", async (t) => {
  await t.rejects(
    until(() => Promise.reject(new Error("not yet")), {
      ms: 30,
      every: 5,
      message: "the sun rises",
    }),
    { message: /until the sun rises; last: Error: not yet/ },
  );
});

t.test("a Redis that is killed comes back with its data", async (t) => {
  const redis = await singleRedis(t);
  const firstPid = redis.pid;
  t.equal(await redis.cli("SET", "key", "value"), "OK");
  await redis.stop("SIGKILL");
  await t.rejects(redis.cli("PING"), { code: "ECONNREFUSED" });
  await redis.start();
  t.equal(await redis.cli("GET", "key"), "value");
  t.not(redis.pid, firstPid);
  t.same(await redis.cli("LRANGE", "none", "0", "-1"), []);
  await t.rejects(redis.cli("NONSENSE"), { message: /unknown command/ });
});

t.test("a frozen Redis takes bytes and answers when thawed", async (t) => {
  const redis = await singleRedis(t, { config: { maxmemory: "50mb" } });
  redis.freeze();
  let answered = false;
  const answer = redis.cli("PING").then((reply) => {
    answered = true;
    return reply;
  });
  const socket = net.connect(redis.port, "127.0.0.1");
  t.teardown(() => socket.destroy());
  await once(socket, "connect"); // the kernel accepts for it
  t.equal(answered, false);
  redis.thaw();
  t.equal(await answer, "PONG");
});

t.test("the end of a test ends its servers, frozen ones too", async (t) => {
  const scope = ownScope();
  const redis = await singleRedis(scope);
  const child = await startProcess(scope, {
    args: ["-e", "setInterval(() => {}, 1000); console.log('up')"],
  });
  await child.waitForLine(/^up$/);
  redis.freeze();
  child.kill("SIGSTOP");
  await scope.end();
  t.equal(isAlive(redis.pid), false);
  t.equal(isAlive(child.pid), false);
});

const linuxOnly = process.platform === "linux" ? {} : { skip: "Linux only" };

t.test("a crash of the starter ends its servers", linuxOnly, async (t) => {
  const code = `
    import { spawn } from "node:child_process";
    const { pid } = spawn("setpriv", ["--pdeathsig", "TERM", "sleep", "600"]);
    console.log("pid", pid);
    setInterval(() => {}, 1000);`;
  const parent = await startProcess(t, {
    args: ["--input-type=module", "-e", code],
  });
  const match = await parent.waitForLine(/^pid (\d+)$/);
  const pid = Number(match[1]);
  await until(() => isAlive(pid));
  parent.kill("SIGKILL");
  await parent.exited;
  t.ok(await until(() => !isAlive(pid), { message: "the child is gone" }));
});

t.test("waiting for a line that never comes shows what came", async (t) => {
  const child = await startProcess(t, {
    name: "short",
    args: ["-e", "console.log('one'); console.error('two'); process.exit(3)"],
  });
  await t.rejects(child.waitForLine(/three/), {
    message: /short ended without \/three\/:[^]*(one|two)/,
  });
  t.same(await child.exited, { code: 3, signal: null });
});

t.test("the proxy loses exactly the reply it was told to lose", async (t) => {
  const redis = await singleRedis(t);
  const proxy = await startProxy(t, redis.port);
  const client = connect(t, proxy.port);
  client.write("PING\r\n");
  await client.received("+PONG");
  const cut = proxy.cutAfterReply(/INCR/);
  client.write("INCR counter\r\n");
  await cut;
  await client.closed;
  t.equal(client.text(), "+PONG\r\n", "the answer never came");
  t.equal(await redis.cli("GET", "counter"), "1", "and yet it happened");
  t.match(proxy.seen, { connections: 1, cuts: 1, toClient: 7, swallowed: 4 });

  const next = connect(t, proxy.port);
  next.write("INCR counter\r\n");
  await next.received(":2");
});

t.test("the proxy holds back, delays and cuts", async (t) => {
  const redis = await singleRedis(t);
  const proxy = await startProxy(t, redis.port);
  const client = connect(t, proxy.port);
  proxy.pause();
  client.write("PING\r\n");
  await redis.cli("PING"); // a round trip past the proxy: ours would have been back by now
  t.equal(client.text(), "");
  proxy.resume();
  await client.received("+PONG");

  proxy.delay(30);
  const start = Date.now();
  client.write("ECHO late\r\n");
  await client.received("late");
  t.ok(Date.now() - start >= 50, "30 ms each way, give or take a tick");

  proxy.cutAll();
  const error = await client.closed;
  t.match(error, { code: "ECONNRESET" }, "without a FIN");
});

t.test("the proxy passes on an orderly end and big chunks", async (t) => {
  const redis = await singleRedis(t);
  const proxy = await startProxy(t, redis.port);
  const client = connect(t, proxy.port);
  const value = "x".repeat(3_000_000);
  client.write(`*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$${value.length}\r\n`);
  client.write(`${value}\r\nGET big\r\n`);
  await until(() => client.text().length > value.length, {
    message: "it is back",
  });
  client.write("QUIT\r\n");
  t.equal(await client.closed, undefined, "no error");
  t.equal(proxy.seen.cuts, 0);
});

t.test("three Sentinels agree on another master", async (t) => {
  const redis = await sentinelRedis(t);
  const [first] = redis.nodes;
  t.equal(await redis.master(), first);
  await redis.failover();
  t.not(await redis.master(), first);
  t.match(redis.url, /^redis\+sentinel:\/\/(127.0.0.1:\d+,?){3}\/bridge$/);
});

t.test("a Cluster covers every slot, replicas included", async (t) => {
  const cluster = await clusterRedis(t, { replicas: 1 });
  t.equal(cluster.masters.length, 3);
  t.equal(cluster.replicas.length, 3);
  const answers = await Promise.all(
    cluster.masters.map((node) =>
      node.cli("SET", "key", "value").catch((error: Error) => error.message),
    ),
  );
  t.equal(answers.filter((answer) => answer === "OK").length, 1);
  t.equal(answers.filter((text) => /^MOVED \d+ /.test(String(text))).length, 2);
});

/** A bare client that keeps what it received. */
function connect(t: Scope, port: number) {
  const socket = net.connect(port, "127.0.0.1");
  let text = "";
  let error: Error | undefined;
  socket.setEncoding("latin1").on("data", (chunk: string) => (text += chunk));
  socket.on("error", (cause) => (error = cause));
  const closed = new Promise<Error | undefined>((resolve) => {
    socket.once("close", () => resolve(error));
  });
  t.teardown(() => socket.destroy());
  return {
    write: (line: string) => void socket.write(line),
    text: () => text,
    received: (part: string) => until(() => text.includes(part)),
    closed,
  };
}
