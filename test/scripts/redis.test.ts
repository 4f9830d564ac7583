import { spawn } from "node:child_process";
import {
  chmod,
  mkdtemp,
  readdir,
  readFile,
  rm,
  stat,
  writeFile,
} from "node:fs/promises";
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

t.test("what was written is there at the next start", async (t) => {
  const dir = await folder(t);
  const first = await start(t, dir);
  await ask(first, "SET", "key", "value");
  await Promise.all([first.stop(), first.stop()]);
  t.equal(isAlive(first.pid), false);
  const second = await start(t, dir);
  t.equal(await ask(second, "GET", "key"), "value");
});

t.test(
  "a second start in the same folder is refused in one line",
  async (t) => {
    const dir = await folder(t);
    const first = await start(t, dir);
    await t.rejects(startRedis({ dir }), {
      message: `Already running: process ${process.pid} uses ${dir}. Stop it first, or give this one a REDIS_URL of its own.`,
    });
    t.equal(await ask(first, "PING"), "PONG", "the first one goes on");
  },
);

t.test("the lock of a process that is gone does not count", async (t) => {
  const dir = await folder(t);
  const gone = spawn(process.execPath, ["-e", ""]);
  await new Promise((resolve) => gone.once("exit", resolve));
  await writeFile(path.join(dir, "start.lock"), `${gone.pid ?? 0} 12345`);
  const redis = await start(t, dir);
  t.equal(await ask(redis, "PING"), "PONG");
});

t.test(
  "a server left behind by a killed start is ended, its data kept",
  async (t) => {
    const dir = await folder(t);
    const left = await start(t, dir);
    await ask(left, "SET", "key", "value");
    await rm(path.join(dir, "start.lock")); // as if its owner were dead
    const redis = await start(t, dir);
    await until(() => !isAlive(left.pid), { message: "the first one is gone" });
    t.equal(await ask(redis, "GET", "key"), "value");
  },
);

const modeOf = async (file: string) =>
  ((await stat(file)).mode & 0o777).toString(8);

t.test("nobody else reads its directory or asks its server", async (t) => {
  const dir = await folder(t);
  await chmod(dir, 0o755); // as an older version left it
  const redis = await start(t, dir);
  t.equal(await modeOf(dir), "700");
  for (const name of ["redis.conf", "redis.port"])
    t.equal(await modeOf(path.join(dir, name)), "600", name);
  t.match(redis.password, /^[\w-]{43}$/);
  t.match(redis.url, `:${redis.password}@`);
  await t.rejects(ask(redis.port, "PING"), /NOAUTH/);
  await t.rejects(
    ask({ port: redis.port, password: "wrong" }, "PING"),
    /WRONGPASS/,
  );
  t.equal(await ask(redis, "PING"), "PONG");
  for (const pid of await readdir("/proc").catch(() => []))
    if (/^\d+$/.test(pid))
      t.notMatch(
        await readFile(`/proc/${pid}/cmdline`, "latin1").catch(() => ""),
        redis.password,
      );

  const port = redis.port;
  await redis.stop();
  const again = await startRedis({ dir, port, password: redis.password });
  t.teardown(() => again.stop());
  t.equal(again.url, redis.url, "started again under way: the same address");
});

t.test("each run has a password of its own", async (t) => {
  const dir = await folder(t);
  const first = await start(t, dir);
  await first.stop();
  const second = await start(t, dir);
  t.not(second.password, first.password);
});

t.test("a directory of everybody is refused, not closed", async (t) => {
  const dir = await folder(t);
  await chmod(dir, 0o1777);
  await t.rejects(startRedis({ dir }), { message: /BRIDGE_DIR/ });
  t.equal(await modeOf(dir), "777");
});
