import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";

import t, { type Test } from "tap";

import { isAlive } from "../../scripts/programs.js";
import { startRedis, type OwnRedis } from "../../scripts/redis.js";
import { ask } from "../../scripts/resp.js";
import { until } from "../../scripts/lab/until.js";

async function folder(t: Test): Promise<string> {
  const dir = await mkdtemp(path.join(tmpdir(), "bridge-own-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

async function start(t: Test, dir: string): Promise<OwnRedis> {
  const redis = await startRedis({ dir });
  t.teardown(() => redis.stop());
  return redis;
}

const portOf = (redis: OwnRedis) => Number(new URL(redis.url).port);

t.test("what was written is there at the next start", async (t) => {
  const dir = await folder(t);
  const first = await start(t, dir);
  await ask(portOf(first), "SET", "key", "value");
  await Promise.all([first.stop(), first.stop()]);
  t.equal(isAlive(first.pid), false);
  const second = await start(t, dir);
  t.equal(await ask(portOf(second), "GET", "key"), "value");
});

t.test(
  "a second start in the same folder is refused in one line",
  async (t) => {
    const dir = await folder(t);
    const first = await start(t, dir);
    await t.rejects(startRedis({ dir }), {
      message: `Already running: process ${process.pid} uses ${dir}. Stop it first, or give this one a REDIS_URL of its own.`,
    });
    t.equal(await ask(portOf(first), "PING"), "PONG", "the first one goes on");
  },
);

t.test("the lock of a process that is gone does not count", async (t) => {
  const dir = await folder(t);
  const gone = spawn(process.execPath, ["-e", ""]);
  await new Promise((resolve) => gone.once("exit", resolve));
  await writeFile(path.join(dir, "start.lock"), `${gone.pid ?? 0} 12345`);
  const redis = await start(t, dir);
  t.equal(await ask(portOf(redis), "PING"), "PONG");
});

t.test(
  "a server left behind by a killed start is ended, its data kept",
  async (t) => {
    const dir = await folder(t);
    const left = await start(t, dir);
    await ask(portOf(left), "SET", "key", "value");
    await rm(path.join(dir, "start.lock")); // as if its owner were dead
    const redis = await start(t, dir);
    await until(() => !isAlive(left.pid), { message: "the first one is gone" });
    t.equal(await ask(portOf(redis), "GET", "key"), "value");
  },
);
