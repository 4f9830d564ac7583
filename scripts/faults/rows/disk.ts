/** A15: the disk of the append-only file is full, and then it is not. */
import { execFile } from "node:child_process";
import { mkdtemp, rmdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";

import type { Answer } from "../../lab/backend.js";
import type { TestRedis } from "../../lab/redis.js";
import { until } from "../../lab/until.js";
import { row } from "../row.js";

const run = promisify(execFile);

/** Room for the file's base and little more. */
const SMALL = "2m";
const LARGE = "256m";
/** Of a message that is there to fill, bytes. */
const FILLER_BYTES = 100_000;

/** Has Redis begin its append-only file anew in this directory. */
async function moveFile(redis: TestRedis, directory: string): Promise<void> {
  await redis.cli("CONFIG", "SET", "appendonly", "no");
  await redis.cli("CONFIG", "SET", "dir", directory);
  await redis.cli("CONFIG", "SET", "appendonly", "yes");
  await until(
    async () => {
      const info = String(await redis.cli("INFO", "persistence"));
      return (
        info.includes("aof_enabled:1") &&
        info.includes("aof_rewrite_in_progress:0") &&
        info.includes("aof_rewrite_scheduled:0")
      );
    },
    { ms: 30_000, message: "the append-only file is there" },
  );
}

export const diskFull = row({
  id: "A15",
  title: "disk of the append-only file full, then not",
  world: { redis: "single" },
  sizes: {
    short: { clients: 6, messages: 40, rounds: 1 },
    long: { clients: 100, messages: 600, rounds: 5 },
  },
  async inject(row, { clients: count, messages, rounds }) {
    const redis = row.world.single;
    const disk = await mkdtemp(path.join(tmpdir(), "bridge-disk-"));
    row.world.scope.teardown(() => rmdir(disk).catch(() => undefined));
    const mount = (...options: string[]) =>
      run("mount", ["-o", options.join(), "-t", "tmpfs", "none", disk]);
    try {
      await mount(`size=${SMALL}`);
    } catch {
      row.skip("a small file system cannot be mounted by this user");
      return;
    }
    row.world.scope.teardown(() => run("umount", ["-l", disk]));
    const [, home] = (await redis.cli("CONFIG", "GET", "dir")) as string[];
    await moveFile(redis, disk);
    const clients = await row.clients(count);
    const [backend] = row.world.backends;
    const other = new Set<number | undefined>();
    let slowest = 0;
    const heard = (answer: Answer | undefined, ms: number) => {
      slowest = Math.max(slowest, ms);
      const { status } = answer ?? {};
      if (status !== 202 && status !== 503) other.add(status);
    };
    const { connectionId } = await backend.prepare();
    for (let round = 0; round < rounds; round += 1) {
      const load = row.load(clients, { rate: 200, heard });
      await load.more(messages);
      row.fault();
      // Somebody else's messages fill it: to one who is not there.
      let { id } = await backend.accepted(connectionId, "the last one?");
      await until(
        async () => {
          const filler = await backend.push(connectionId, filling());
          if (filler.status === 202) ({ id } = filler.json<{ id: string }>());
          return filler.status === 503;
        },
        { ms: 60_000, every: 1, message: "writes are refused" },
      );
      const receipt = await backend.receipt(id);
      row.check(receipt.status === "queued", "receipts can be read");
      const list = await backend.ask("GET", `/v1/connections/${connectionId}`);
      row.check(list.status === 200, "connections can be read");
      await mount("remount", `size=${LARGE}`);
      await until(
        async () =>
          String(await redis.cli("INFO", "persistence")).includes(
            "aof_last_write_status:ok",
          ),
        { ms: 30_000, message: "Redis writes again" },
      );
      await row.healed(clients);
      await load.stop();
      if (round + 1 < rounds) {
        await moveFile(redis, home ?? "");
        await mount("remount", `size=${SMALL}`);
        await moveFile(redis, disk);
      }
    }
    await backend.ask("DELETE", `/v1/connections/${connectionId}`);
    await moveFile(redis, home ?? "");
    row.figure("slowest answer s", slowest / 1_000);
    row.check(
      other.size === 0,
      `answered ${[...other].join()} instead of 202 or 503`,
    );
  },
});

/** Bytes that a log's own limits are not bothered by, in a body that is a text. */
function filling(): string {
  return "x".repeat(FILLER_BYTES);
}
