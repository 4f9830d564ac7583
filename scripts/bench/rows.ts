// The rows of the bench with their sizes: as they are meant, and tiny for a smoke test.
import { batchesRow } from "./batches.js";
import { burstRow } from "./burst.js";
import { castRow } from "./cast.js";
import { connectRow } from "./connect.js";
import { idleRow } from "./idle.js";
import { resumeRow } from "./resume.js";
import type { Pauses, Row } from "./row.js";
import { scaleRow, wideRow } from "./wide.js";

export const rowNames = [
  "wide",
  "burst",
  "idle",
  "connect",
  "resume",
  "broadcast",
  "batch",
  "scale",
] as const;
/** Measured unless others are named. */
export const usualRows = rowNames.filter((name) => name !== "scale");
export type RowName = (typeof rowNames)[number];

/** What the command line says; undefined: the row's own size. */
export interface Sizes {
  sockets: number | undefined;
  messages: number | undefined;
}

const SOCKETS = 5_000;
/** Of `resume` and `scale`. */
const CUT_SOCKETS = 2_000;
const PAUSES: Pauses = { quietMs: 1_000, trailingMs: 1_000 };
const BROADCAST_TRAILING_MS = 300;
/** Messages that nobody reaches: a comeback ends by time. */
const ENDLESS = 100_000;

export function rowsOf(
  names: readonly RowName[],
  isQuick: boolean,
  sizes: Sizes,
): Row[] {
  const build = isQuick ? quickRows : fullRows;
  return names.flatMap((name) => build(sizes)[name]);
}

function fullRows({ sockets, messages }: Sizes): Record<RowName, Row[]> {
  const many = sockets ?? SOCKETS;
  const cast = (sockets: number, isAimed: boolean): Row =>
    castRow({
      sockets,
      casts: 12,
      idleMs: 5_000,
      isAimed,
      ...PAUSES,
      trailingMs: BROADCAST_TRAILING_MS,
    });
  const idle = (sockets: number, isAimed: boolean): Row =>
    idleRow({ sockets, watchedMs: 26_000, isAimed, ...PAUSES });
  const wide = {
    connections: many,
    publishers: 32,
    messages: messages ?? 10_000,
    forMs: 6_000,
    rates: [500, 2_000] as const,
    pacedMs: 5_000,
    ...PAUSES,
  };
  return {
    wide: [wideRow(wide)],
    scale: ([1, 3] as const).flatMap((redisMasters) =>
      [1, 2, 4].map((wsProcesses) =>
        scaleRow(
          { ...wide, connections: sockets ?? CUT_SOCKETS },
          { wsProcesses, redisMasters },
        ),
      ),
    ),
    burst: [
      burstRow({
        connections: 100,
        publishers: 32,
        messages: messages ?? 20_000,
        samples: 1_000,
        ...PAUSES,
      }),
    ],
    idle: [idle(many, true), idle(2 * many, false)],
    connect: [connectRow({ sockets: many, atOnce: 100, ...PAUSES })],
    resume: [
      resumeRow({
        sockets: sockets ?? CUT_SOCKETS,
        comeback: {
          messages: ENDLESS,
          publishers: 32,
          perSecond: 500,
          slotMs: [100, 1_000],
          aroundMs: 1_000,
        },
        ...PAUSES,
      }),
    ],
    broadcast: [cast(many, true), cast(Math.ceil(many / 5), false)],
    batch: [
      batchesRow({
        connections: 100,
        messages: messages ?? 20_000,
        items: 100,
        publishers: 8,
        ...PAUSES,
      }),
    ],
  };
}

function quickRows({ sockets, messages }: Sizes): Record<RowName, Row[]> {
  const many = sockets ?? 40;
  const some = messages ?? 200;
  const pauses: Pauses = { quietMs: 20, trailingMs: 20 };
  const cast = (sockets: number, isAimed: boolean): Row =>
    castRow({ sockets, casts: 2, idleMs: 50, isAimed, ...pauses });
  const idle = (sockets: number, isAimed: boolean): Row =>
    idleRow({ sockets, watchedMs: 200, isAimed, ...pauses });
  const wide = {
    connections: many,
    publishers: 8,
    messages: some,
    forMs: 2_000,
    rates: [200, 400] as const,
    pacedMs: 250,
    ...pauses,
  };
  return {
    wide: [wideRow(wide)],
    scale: [scaleRow(wide, { wsProcesses: 2, redisMasters: 1 })],
    burst: [
      burstRow({
        connections: 10,
        publishers: 8,
        messages: some,
        samples: 20,
        ...pauses,
      }),
    ],
    idle: [idle(many, true), idle(2 * many, false)],
    connect: [connectRow({ sockets: many, atOnce: 10, ...pauses })],
    resume: [
      resumeRow({
        sockets: many,
        comeback: {
          messages: ENDLESS,
          publishers: 8,
          perSecond: 200,
          slotMs: [50, 200],
          aroundMs: 100,
        },
        ...pauses,
      }),
    ],
    broadcast: [cast(many, true), cast(Math.ceil(many / 5), false)],
    batch: [
      batchesRow({
        connections: 10,
        messages: some,
        items: 20,
        publishers: 4,
        ...pauses,
      }),
    ],
  };
}
