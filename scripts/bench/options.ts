// The command line of the bench.
import { parseArgs } from "node:util";
import type { AcceptWorkload } from "./accept.js";
import type { GatewayWorkload } from "./gateway.js";
import type { JitterWorkload } from "./jitter.js";
import type { Row } from "./row.js";
import { rowNames, rowsOf, usualRows, type RowName } from "./rows.js";
import { systemNames, type SystemName } from "./systems.js";

export const usage = `npm run bench -- [options]
  --only a,b       rows (default: the first seven, about half an hour a round):
                   wide: messages spread over thousands of connections, saturated and paced
                   burst: many messages over 100 connections; one at a time as well
                   idle: sockets without messages: memory, CPU, Redis commands
                   connect: a storm of new connections
                   resume: all sockets cut at once, while messages go on
                   broadcast: one message to 1,000 and to 5,000 sockets
                   batch: batches beside single POSTs, and delivered to open sockets
                   scale: wide over 1, 2 and 4 ws-fn processes (only when named)
                   gateway: what the local platform's gateway costs (only when named)
                   jitter: clients whose sockets are cut again and again (only when named, once)
  --systems a,b    ${systemNames.join(", ")} (default: all)
  --rounds n       interleaved rounds of each row, the medians are shown (default 3)
  --sockets n      of wide, idle (and twice as many), connect, resume, broadcast and scale
                   (default 5000; resume and scale 2000)
  --messages n     at most, of wide saturated, burst and batch (default 10000, 20000, 20000);
                   of jitter to each client (default 120)
  --clients n      clients of jitter (default 500)
  --appendonly     Redis with an append-only file, synced every second (default: no persistence)
  --json file      writes every figure of every round
  --profile dir    writes CPU profiles of the server processes and Redis' command statistics (last round)
  --quick          every row once in a tiny form, on the same processes: a smoke test, its figures mean little`;

const GATEWAY = "gateway";
const JITTER = "jitter";
/** Measured only when named: no rows with systems to compare. */
const PARTS: readonly string[] = [GATEWAY, JITTER];

/** As published for other servers, so that the figures can be laid beside each other. */
const BAD_LINE = { perSecond: 2, cutEveryMs: 15_000, awayMs: 2_000 };
/** The same in a tenth of the time. */
const QUICK_LINE = { perSecond: 20, cutEveryMs: 1_000, awayMs: 100 };

export interface Options {
  rows: Row[];
  systems: SystemName[];
  rounds: number;
  isQuick: boolean;
  appendOnly: boolean;
  /** Directory for profiles, if wanted. */
  profiles: string | undefined;
  json: string | undefined;
  /** What the gateway is measured with, if it is. */
  gateway: GatewayWorkload | undefined;
  /** The jitter test, if it is wanted. */
  jitter: JitterWorkload | undefined;
  /** What accepting of batches is measured with, if it is. */
  accept: AcceptWorkload | undefined;
}

/** Throws an Error with one clear line on a mistake; undefined when only help is wanted. */
export function parseOptions(args: string[]): Options | undefined {
  const { values } = parseArgs({
    args,
    options: {
      only: { type: "string", default: usualRows.join(",") },
      systems: { type: "string", default: systemNames.join(",") },
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
  const parts = values.only
    .split(",")
    .map((part) => oneOf("only", part, [...rowNames, ...PARTS]));
  const rounds = count("rounds", values.rounds) ?? (quick ? 1 : 3);
  const messages = count("messages", values.messages);
  const names = rowNames.filter((name) => parts.includes(name));
  return {
    rows: rowsOf(names satisfies RowName[], quick, {
      sockets: count("sockets", values.sockets),
      messages,
    }),
    systems: values.systems
      .split(",")
      .map((name) => oneOf("systems", name, systemNames)),
    rounds,
    isQuick: quick,
    appendOnly: values.appendonly,
    profiles: values.profile,
    json: values.json,
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
          clients: count("clients", values.clients) ?? (quick ? 20 : 500),
          messages: messages ?? (quick ? 20 : 120),
          ...(quick ? QUICK_LINE : BAD_LINE),
        }
      : undefined,
    accept: parts.includes("batch")
      ? {
          rounds,
          messages: quick ? 500 : 20_000,
          connections: quick ? 20 : 100,
          publishers: quick ? 8 : 32,
          profiles: values.profile,
        }
      : undefined,
  };
}

function oneOf<Name extends string>(
  option: string,
  text: string,
  names: readonly Name[],
): Name {
  const name = names.find((known) => known === text);
  if (name === undefined)
    throw new Error(
      `--${option} ${text}: unknown; choose from ${names.join(", ")}`,
    );
  return name;
}

function count(option: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const number = Number(text);
  if (!Number.isInteger(number) || number < 1 || number > 1_000_000) {
    throw new Error(`--${option} ${text}: a whole number from 1 to 1000000`);
  }
  return number;
}
