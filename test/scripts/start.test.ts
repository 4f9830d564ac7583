// `npm start` as a newcomer uses it: with curl and `npm run listen`, ended by Ctrl-C, by force, or by a mistake.

import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";

import t, { type Test } from "tap";

import { isAlive } from "../../scripts/programs.js";
import { readPassword } from "../../scripts/redis.js";
import { ask } from "../../scripts/resp.js";
import { startProcess, type TestProcess } from "../../scripts/lab/processes.js";
import { until } from "../../scripts/lab/until.js";

const run = promisify(execFile);

/** A build may have to come first, on a busy machine. */
const READY_MS = 120_000;

async function folder(t: Test): Promise<string> {
  const dir = await mkdtemp(path.join(tmpdir(), "bridge-start-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

function npmStart(
  t: Test,
  env: Readonly<Record<string, string>>,
): Promise<TestProcess> {
  return startProcess(t, {
    name: "npm start",
    args: ["scripts/bootstrap.mjs", "start"],
    env: { GATEWAY_PORT: "0", ...env },
    ownGroup: true,
  });
}

/** Waits until the stack is up: its address, and every process of it that has to be gone in the end. */
async function untilReady(stack: TestProcess, dir: string) {
  const [, origin = ""] = await stack.waitForLine(/^ready (\S+)$/, READY_MS);
  const [, port] = await stack.waitForLine(/^Redis .*:(\d+) /);
  const redis = { port: Number(port), password: readPassword(dir) };
  const info = String(await ask(redis, "INFO", "server"));
  const redisPid = Number(/process_id:(\d+)/.exec(info)?.[1]);
  const instances = (await curlJson(`${origin}/_platform/instances`)) as {
    pid: number;
  }[];
  return {
    origin,
    pids: [stack.pid, redisPid, ...instances.map(({ pid }) => pid)],
  };
}

async function curl(...args: string[]): Promise<string> {
  const { stdout } = await run("curl", ["-sS", "--max-time", "20", ...args]);
  return stdout;
}

async function curlJson(...args: string[]): Promise<unknown> {
  return JSON.parse(await curl(...args)) as unknown;
}

async function nobodyLeft(t: Test, pids: number[]): Promise<void> {
  await until(() => !pids.some(isAlive), {
    ms: 20_000,
    message: `none of ${pids.join(", ")} runs`,
  }).catch(() => undefined);
  t.strictSame(pids.filter(isAlive), [], "no process is left");
}

t.test("from npm start to a message that arrived, to Ctrl-C", async (t) => {
  const dir = await folder(t);
  const stack = await npmStart(t, { BRIDGE_DIR: dir });
  const { origin, pids } = await untilReady(stack, dir);
  const isReadyLine = (line: string) => line.startsWith("ready ");
  t.equal(stack.logs.filter(isReadyLine).length, 1);

  // The lines that are printed are meant to be copied as they are.
  const [, url = ""] = await stack.waitForLine(
    /^listen +npm run listen -- --url '(.+)'$/,
  );
  const [, push = ""] = await stack.waitForLine(/^push +(curl .+)$/);
  const listener = await startProcess(t, {
    name: "npm run listen",
    args: ["dist/scripts/listen.js", "--url", url],
  });
  const [connectionId] = await listener.waitForLine(/^c_\w+$/, 20_000);
  await run("sh", ["-c", push]);
  t.ok(await listener.waitForLine(/^hello$/), "curl -d hello");

  const answer = await curl(
    ...["-d", "and hello again", "-H", "Prefer: wait=5", "-i"],
    `${origin}/v1/connections/${connectionId}/messages`,
  );
  t.match(answer, /^HTTP\/1.1 200 [^]*"status":"delivered"/);
  t.ok(await listener.waitForLine(/^and hello again$/));

  const second = await npmStart(t, { BRIDGE_DIR: dir });
  t.same(await second.exited, { code: 1, signal: null });
  t.match(second.logs.at(-1), /^Already running: process \d+ uses /);

  listener.kill("SIGINT");
  stack.killGroup("SIGINT");
  t.match(await stack.exited, { code: 0 });
  await nobodyLeft(t, pids);
});

t.test("killing what npm started ends all of it", async (t) => {
  const dir = await folder(t);
  const stack = await npmStart(t, { BRIDGE_DIR: dir });
  const { pids } = await untilReady(stack, dir);
  stack.kill("SIGKILL");
  await stack.exited;
  await nobodyLeft(t, pids);
});

t.test("a port that is taken is said, and nothing is left", async (t) => {
  const dir = await folder(t);
  const taken = net.createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => taken.once("listening", resolve));
  t.teardown(() => taken.close());
  const { port } = taken.address() as net.AddressInfo;
  const stack = await npmStart(t, {
    BRIDGE_DIR: dir,
    GATEWAY_PORT: String(port),
  });
  t.match(await stack.exited, { code: 1 });
  t.match(stack.logs.at(-1), new RegExp(`^port ${port} is taken`));
  const [, redisPort] = await stack.waitForLine(/^Redis .*:(\d+) /);
  await t.rejects(ask(Number(redisPort), "PING"), { code: "ECONNREFUSED" });
});

t.test(
  "every bad variable gets its line, before anything starts",
  async (t) => {
    const dir = await folder(t);
    const stack = await npmStart(t, {
      BRIDGE_DIR: dir,
      GATEWAY_PORT: "http",
      REDIS_URL: "localhost",
      LOG_LEVEL: "loud",
    });
    t.match(await stack.exited, { code: 1 });
    const names = stack.logs.slice(-3).map((line) => /^\w+/.exec(line)?.[0]);
    t.strictSame(names.sort(), ["GATEWAY_PORT", "LOG_LEVEL", "REDIS_URL"]);

    const nobody = await npmStart(t, {
      REDIS_URL: "redis://:secret@127.0.0.1:1",
    });
    t.match(await nobody.exited, { code: 1 });
    t.match(nobody.logs.at(-1), /^Redis does not answer at /);
    t.notMatch(nobody.logs.join("\n"), "secret");
  },
);
