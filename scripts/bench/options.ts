// The command line of the bench.
import { parseArgs } from "node:util";
import type { BatchWorkload } from "./batch.js";
import type { CastWorkload } from "./cast.js";
import type { GatewayWorkload } from "./gateway.js";
import type { JitterWorkload } from "./jitter.js";
import type { Workload } from "./measure.js";
import { systemNames, type SystemName } from "./systems.js";

export const usage = `npm run bench -- [options]
  --only a,b       systems: ${systemNames.join(", ")}; gateway: what the platform's gateway costs; batch: single
                   POSTs beside batches (default: all);
                   jitter: every message to clients whose sockets are cut again and again, once (about a minute; only when named);
                   broadcast: one message to 1,000 and to 5,000 sockets, beside Socket.IO (only when named)
  --rounds n       interleaved rounds, the medians are shown (default 3)
  --messages n     messages of the loaded phase (default 20000); of jitter to each client (default 120)
  --clients n      clients of jitter (default 500), sockets of broadcast
  --sockets n      idle sockets for memory and Redis connections (default 1000)
  --appendonly     Redis with an append-only file, synced every second (default: no persistence)
  --json file      writes every figure of every round
  --profile dir    writes CPU profiles of the server processes and Redis' command statistics (last round)
  --quick          one small round: a smoke test, its figures mean little`;

/** No systems to compare, but parts of the page. */
const GATEWAY = "gateway";
const BATCH = "batch";
/** Measured unless others are named. */
const PARTS: readonly string[] = [GATEWAY, BATCH];
const JITTER = "jitter";
const CAST = "broadcast";
/** Measured only when named. */
const LONG_PARTS: readonly string[] = [JITTER, CAST];

/** As published for other servers, so that the figures can be laid beside each other. */
const BAD_LINE = { perSecond: 2, cutEveryMs: 15_000, awayMs: 2_000 };
/** The same in a tenth of the time. */
const QUICK_LINE = { perSecond: 20, cutEveryMs: 1_000, awayMs: 100 };

export interface Options extends Workload {
  only: SystemName[];
  /** What the gateway is measured with, if it is. */
  gateway: GatewayWorkload | undefined;
  /** The jitter test, if it is wanted. */
  jitter: JitterWorkload | undefined;
  /** What batches are measured with, if they are. */
  batch: BatchWorkload | undefined;
  /** What broadcasts are measured with, if they are. */
  cast: CastWorkload | undefined;
  rounds: number;
  json: string | undefined;
}

/** Throws an Error with one clear line on a mistake; undefined when only help is wanted. */
export function parseOptions(args: string[]): Options | undefined {
  const { values } = parseArgs({
    args,
    options: {
      only: { type: "string", default: [...systemNames, ...PARTS].join(",") },
      rounds: { type: "string" },
      messages: { type: "string" },
      clients: { type: "string" },
      sockets: { type: "string" },
      appendonly: { type: "boolean", default: false },
      json: { type: "string" },
      profile: { type: "string" },
      quick: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) return undefined;
  const { quick } = values;
  const parts = values.only.split(",");
  const rounds = count("rounds", values.rounds, quick ? 1 : 3);
  return {
    only: parts
      .filter((part) => !PARTS.includes(part) && !LONG_PARTS.includes(part))
      .map(systemName),
    gateway: parts.includes(GATEWAY)
      ? {
          rounds,
          messages: quick ? 2_000 : 20_000,
          samples: quick ? 100 : 1_000,
          connects: quick ? 2 : 5,
        }
      : undefined,
    jitter: parts.includes(JITTER)
      ? {
          clients: count("clients", values.clients, quick ? 20 : 500),
          messages: count("messages", values.messages, quick ? 20 : 120),
          ...(quick ? QUICK_LINE : BAD_LINE),
        }
      : undefined,
    batch: parts.includes(BATCH)
      ? {
          rounds,
          messages: quick ? 2_000 : 20_000,
          connections: quick ? 20 : 100,
          publishers: quick ? 8 : 32,
          profiles: values.profile,
        }
      : undefined,
    cast: parts.includes(CAST)
      ? {
          rounds,
          sockets:
            values.clients !== undefined
              ? [count("clients", values.clients, 0)]
              : quick
                ? [40]
                : [1_000, 5_000],
          casts: quick ? 2 : 12,
          idleMs: quick ? 500 : 5_000,
          profiles: values.profile,
        }
      : undefined,
    rounds,
    messages: count("messages", values.messages, quick ? 2_000 : 20_000),
    sockets: count("sockets", values.sockets, quick ? 100 : 1_000),
    idleSamples: quick ? 100 : 1_000,
    connections: quick ? 20 : 100,
    publishers: quick ? 8 : 32,
    appendOnly: values.appendonly,
    json: values.json,
    profiles: values.profile,
  };
}

function systemName(text: string): SystemName {
  const name = systemNames.find((known) => known === text);
  if (name === undefined) {
    throw new Error(
      `--only ${text}: unknown; choose from ${[...systemNames, ...PARTS, ...LONG_PARTS].join(", ")}`,
    );
  }
  return name;
}

function count(option: string, text: string | undefined, otherwise: number) {
  if (text === undefined) return otherwise;
  const number = Number(text);
  if (!Number.isInteger(number) || number < 1 || number > 1_000_000) {
    throw new Error(`--${option} ${text}: a whole number from 1 to 1000000`);
  }
  return number;
}
