/** H1, H5, H6: what one socket may say counts as it is parsed, in whatever pieces it comes. */
import { keys } from "../../../shared/keys.js";
import type { Controls, Frames, Publishes } from "../weapons/senders.js";
import { MB, row, type Run } from "../row.js";

/** Frames a second of one socket (WS-LIM-2), and the seconds until it is sent away for them. */
const FRAMES_PER_SECOND = 10;
const FAST_SECONDS = 3;
/** What a second counts that begins before the other ends, and the socket's own `connected` and `disconnected`. */
const SLACK = 2 * FRAMES_PER_SECOND + 2;

const stored = async ({ world }: Run) =>
  Number(await world.redis.cli("XLEN", keys.events));

const framesRow = (id: string, title: string, short: Frames, long: Frames) =>
  row<Frames>({
    id,
    title,
    sizes: { short, long },
    attack: async (run, size) => {
      const before = await stored(run);
      const { haul } = await run.strike("frames", size);
      run.figure("sent", haul["sent"] ?? 0);
      run.figure("close code", haul["closeCode"] ?? "none");
      const seconds = Math.ceil((size.writes * 10 + size.holdMs) / 1_000);
      run.atMost(
        "events stored",
        (await stored(run)) - before,
        FRAMES_PER_SECOND * Math.max(seconds, FAST_SECONDS) + SLACK,
      );
    },
  });

export const oneWrite = framesRow(
  "H1a",
  "10,000 frames in one write",
  { atOnce: 10_000, writes: 1, bytes: 10, holdMs: 1_500 },
  { atOnce: 10_000, writes: 1, bytes: 10, holdMs: 10_000 },
);

export const sustained = framesRow(
  "H1b",
  "3,000 frames a second for as long as it may",
  { atOnce: 30, writes: 150, bytes: 10, holdMs: 500 },
  { atOnce: 30, writes: 3_000, bytes: 10, holdMs: 2_000 },
);

export const publisher = row<Publishes>({
  id: "H5c",
  title: "a publish:* socket, an empty message to a new group with each frame",
  sizes: {
    short: { frames: 5_000, bytes: 0, holdMs: 1_500 },
    long: { frames: 10_000, bytes: 0, holdMs: 20_000 },
  },
  attack: async (run, size) => {
    const { haul, redisGrowth } = await run.strike("publishes", size);
    run.figure("close code", haul["closeCode"] ?? "none");
    run.figure("taken", haul["taken"] ?? 0);
    const seconds = Math.ceil(size.holdMs / 1_000);
    run.atMost(
      "messages published",
      haul["taken"] ?? 0,
      FRAMES_PER_SECOND * Math.max(seconds, FAST_SECONDS) + SLACK,
    );
    run.atMost("stored", redisGrowth, 2 * MB);
  },
});

const controlsRow = (id: string, title: string, opcode: number) =>
  row<Controls>({
    id,
    title,
    sizes: {
      short: { opcode, most: 20_000_000, ms: 8_000 },
      long: { opcode, most: 40_000_000, ms: 20_000 },
    },
    attack: async (run, size) => {
      const { haul, wsCpuMs } = await run.strike("controls", size);
      run.figure("sent", haul["sent"] ?? 0);
      run.figure("close code", haul["closeCode"] ?? "none");
      run.atMost("pongs answered", haul["pongs"] ?? 0, 1_000);
      // One that is not sent away is read for as long as it sends.
      const isOver = haul["closeCode"] !== undefined || haul["cut"] === 1;
      run.check(isOver, "it may go on for ever");
      run.atMost("CPU of ws-fn, share", wsCpuMs / size.ms, 0.5);
    },
  });

export const pongs = controlsRow("H6a", "pongs that nobody asked for", 10);
export const pings = controlsRow("H6b", "pings without end", 9);
