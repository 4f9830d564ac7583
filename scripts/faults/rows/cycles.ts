/** A27: sessions that are made, used and abandoned, and what is left of them in Redis. */
import { existsSync } from "node:fs";

import { startProcess } from "../../lab/processes.js";
import { singleRedis } from "../../lab/redis.js";
import { ROOT } from "../../lab/root.js";
import { row } from "../row.js";

/** Prints its findings as JSON; by itself, because it speaks to Redis as the functions do. */
const GENERATOR = "dist/scripts/lab/cycles.js";
/** Memory after all windows may be so much above that before. */
const GROWTH_MAX = 0.05;

interface Findings {
  keysBefore: number;
  keysAfter: number;
  left: string[];
  memoryBefore: number;
  memoryAfter: number;
  bytesPerDeadSession: number;
}

export const abandoned = row({
  id: "A27",
  title: "sessions made, used and abandoned",
  world: { redis: "single" },
  sizes: { short: { count: 300 }, long: { count: 20_000 } },
  async inject(run, { count }) {
    if (!existsSync(`${ROOT}${GENERATOR}`)) {
      return run.skip(`${GENERATOR} is not part of this build`);
    }
    const { scope } = run.world;
    // Its own: keys and memory are counted.
    const redis = await singleRedis(scope, { config: { appendonly: "no" } });
    const generator = await startProcess(scope, {
      args: [GENERATOR, redis.url, String(count)],
    });
    const { code } = await generator.exited;
    await redis.stop();
    if (code !== 0) throw new Error(generator.logs.slice(-3).join(" "));
    const found = JSON.parse(generator.logs.join("\n")) as Findings;
    run.fault(count);
    const growth = found.memoryAfter / found.memoryBefore - 1;
    run.figure("keys left", found.left.length);
    run.figure(
      "memory",
      `${growth < 0 ? "" : "+"}${(growth * 100).toFixed(1)} %`,
    );
    run.figure("bytes a dead session", Math.round(found.bytesPerDeadSession));
    run.check(
      found.left.length === 0 && found.keysAfter <= found.keysBefore,
      `${found.keysAfter - found.keysBefore} keys more, such as ${found.left[0] ?? "no session's"}`,
    );
    run.check(growth <= GROWTH_MAX, "memory is back where it was");
  },
});
