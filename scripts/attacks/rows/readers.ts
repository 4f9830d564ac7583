/** C1: bytes read from Redis stay within a small multiple of bytes published, whatever readers do. */
import type { Comeback, Readers } from "../weapons/readers.js";
import { MB, row } from "../row.js";

/** Out of Redis for each byte published: one read for the instance, again for what a socket had no room for, and bells. */
const TIMES_PUBLISHED = 5;
/** What the honest and the sockets' own coming and going read beside it. */
const BESIDE = 10 * MB;

const readersRow = (id: string, title: string, short: Readers, long: Readers) =>
  row<Readers>({
    id,
    title,
    sizes: { short, long },
    attack: async (run, size) => {
      const { haul, redisOut, redisGrowth } = await run.strike("readers", size);
      const published = haul["publishedBytes"] ?? 0;
      run.check(published > 0, "nothing was published");
      run.figure("published", published);
      run.figure("cut", haul["cut"] ?? 0);
      run.atMost(
        "out of Redis for it",
        redisOut,
        TIMES_PUBLISHED * published + BESIDE,
      );
      // What is asked for again and again lies in Redis' buffers, above its maxmemory.
      run.atMost("Redis grew by", redisGrowth, 2 * published + 20 * MB);
    },
  });

const long = { sockets: 200, broadcasts: 60, bytes: 100_000, holdMs: 20_000 };

export const deaf = readersRow(
  "C1a",
  "sockets that do not read, and broadcasts of 100 KB",
  {
    sockets: 100,
    broadcasts: 60,
    bytes: 100_000,
    holdMs: 1_500,
    readEveryMs: 0,
  },
  { ...long, readEveryMs: 0 },
);

export const slow = readersRow(
  "C1b",
  "sockets that read 3 ms in 400, and broadcasts of 100 KB",
  {
    sockets: 100,
    broadcasts: 60,
    bytes: 100_000,
    holdMs: 1_500,
    readEveryMs: 400,
  },
  { ...long, sockets: 300, readEveryMs: 400 },
);

export const allBack = row<Comeback>({
  id: "C1c",
  title: "many come back at once to megabytes that wait",
  world: { maxmemory: "1gb" },
  sizes: {
    short: {
      connections: 40,
      messages: 6,
      bytes: 250_000,
      patienceMs: 15_000,
    },
    long: {
      connections: 200,
      messages: 12,
      bytes: 250_000,
      patienceMs: 60_000,
    },
  },
  attack: async (run, size) => {
    const { haul, redisOut } = await run.strike("comeback", size);
    const { storedBytes = 0, refused = 0, missing = 0, cut = 0 } = haul;
    run.figure("stored", storedBytes);
    run.atMost("dials refused", refused, 0);
    run.atMost("messages missing", missing, 0);
    run.figure("cut", cut);
    run.atMost("out of Redis for it", redisOut, 3 * storedBytes + BESIDE);
  },
});
