// `npm run bench`: this bridge beside the literal BullMQ pattern and two bare relays, in interleaved rounds on this machine;
// what the gateway costs; the jitter test.
// Everything runs on loopback in processes that the bench starts and stops itself, each round on a fresh redis-server.
import { execFileSync } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { availableParallelism, cpus } from "node:os";
import {
  batchPage,
  measureBatch,
  type BatchRound,
  type BatchWorkload,
} from "./bench/batch.js";
import {
  casters,
  castFaults,
  castPage,
  checkRoom,
  measureCast,
  type CastRounds,
  type CastWorkload,
} from "./bench/cast.js";
import {
  gatewayPage,
  measureGateway,
  type GatewayRound,
  type GatewayWorkload,
} from "./bench/gateway.js";
import {
  isExact,
  jitterPage,
  measureJitter,
  type JitterResult,
  type JitterWorkload,
} from "./bench/jitter.js";
import { measure } from "./bench/measure.js";
import { parseOptions, usage, type Options } from "./bench/options.js";
import { Processes } from "./bench/processes.js";
import { faultsOf, page, ratios, type Rounds } from "./bench/report.js";

/** Longest time for one system in one round; the literal pattern needs about 15 s with the defaults. */
const SYSTEM_TIMEOUT_MS = 300_000;

const NONE: Rounds = new Map();

const processes = new Processes();
let isAbandoned = false;
const abandon = (): void => {
  isAbandoned = true;
  void processes.close().finally(() => process.exit(1));
};
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.once(signal, abandon);
}
// Started by `npm run`, the channel says when that process is gone; it does not keep this one alive.
process.once("disconnect", abandon);
process.channel?.unref();

try {
  const options = parseOptions(process.argv.slice(2));
  if (options === undefined) console.log(usage);
  else process.exitCode = await bench(options);
} catch (cause) {
  const reason = cause instanceof Error ? cause.message : String(cause);
  console.error(`bench: ${isAbandoned ? "stopped" : reason}`);
  process.exitCode = 2;
} finally {
  await processes.close();
}

/** Exit code: 0 when every system delivered every message, else 1. Aims not reached are said, not punished. */
async function bench(options: Options): Promise<number> {
  const machine = machineFacts();
  console.log(machine.join("\n"));
  const rounds = options.only.length > 0 ? await benchSystems(options) : NONE;
  const gateway = options.gateway && (await benchGateway(options.gateway));
  const jitter = options.jitter && (await benchJitter(options.jitter));
  const batch = options.batch && (await benchBatch(options.batch));
  const cast = options.cast && (await benchCast(options.cast));
  if (options.json !== undefined) {
    const { only } = options;
    const workload = {
      ...options,
      only: undefined,
      gateway: undefined,
      batch: undefined,
      cast: undefined,
    };
    await writeFile(
      options.json,
      `${JSON.stringify({ machine, only, workload, rounds: Object.fromEntries(rounds), ratios: ratios(rounds), gateway, batch, jitter, cast: cast && Object.fromEntries(cast) }, null, 2)}\n`,
    );
  }
  const exact =
    [...rounds.values()].every((measured) => faultsOf(measured).length === 0) &&
    (jitter === undefined || isExact(jitter)) &&
    (cast === undefined || castFaults(cast).length === 0);
  return exact ? 0 : 1;
}

async function benchSystems(options: Options): Promise<Rounds> {
  const { connections, publishers, messages, idleSamples, sockets } = options;
  console.log(
    `${options.rounds} round(s); loaded: ${messages} messages of 200 bytes, ${publishers} publishers, ${connections} connections; ` +
      `idle: ${idleSamples} messages one at a time; first: after a second of silence; ${sockets} idle sockets; ` +
      `Redis ${options.appendOnly ? "with AOF everysec" : "without persistence"}\n`,
  );
  const rounds: Rounds = new Map(options.only.map((system) => [system, []]));
  for (let round = 1; round <= options.rounds; round++) {
    for (const [system, measured] of rounds) {
      console.error(`round ${round} of ${options.rounds}: ${system}`);
      measured.push(await bounded(measure(system, options, processes)));
    }
  }
  console.log(page(rounds));
  return rounds;
}

async function benchGateway(
  workload: GatewayWorkload,
): Promise<GatewayRound[]> {
  console.error(`gateway: ${workload.rounds} round(s)`);
  const rounds = await bounded(measureGateway(workload, processes));
  console.log(`\n${gatewayPage(rounds)}`);
  return rounds;
}

async function benchBatch(workload: BatchWorkload): Promise<BatchRound[]> {
  const rounds: BatchRound[] = [];
  for (let round = 1; round <= workload.rounds; round++) {
    console.error(`batch: round ${round} of ${workload.rounds}`);
    rounds.push(await bounded(measureBatch(workload, processes)));
  }
  console.log(`\n${batchPage(rounds)}`);
  return rounds;
}

async function benchCast(workload: CastWorkload): Promise<CastRounds> {
  for (const sockets of workload.sockets) await checkRoom(sockets);
  const rounds: CastRounds = new Map(
    workload.sockets.map((sockets) => [sockets, []]),
  );
  for (let round = 1; round <= workload.rounds; round++)
    for (const [sockets, measured] of rounds) {
      console.error(
        `broadcast: round ${round} of ${workload.rounds}, ${sockets} sockets`,
      );
      measured.push(
        await bounded(
          measureCast(workload, sockets, processes),
          casters.length * SYSTEM_TIMEOUT_MS,
        ),
      );
    }
  console.log(`\n${castPage(rounds)}`);
  return rounds;
}

async function benchJitter(workload: JitterWorkload): Promise<JitterResult> {
  console.error("jitter");
  const publishingMs = (workload.messages / workload.perSecond) * 1_000;
  const result = await bounded(
    measureJitter(workload, processes),
    publishingMs + SYSTEM_TIMEOUT_MS,
  );
  console.log(`\n${jitterPage(workload, result)}`);
  return result;
}

async function bounded<T>(
  measuring: Promise<T>,
  ms = SYSTEM_TIMEOUT_MS,
): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error("a round took too long")), ms);
  });
  try {
    return await Promise.race([measuring, late]);
  } finally {
    clearTimeout(timer);
  }
}

function machineFacts(): string[] {
  const redis = execFileSync("redis-server", ["--version"], {
    encoding: "utf8",
  });
  return [
    `${availableParallelism()} cores (${cpus()[0]?.model ?? "unknown"}), ${process.platform} ${process.arch}, ` +
      `Node ${process.versions.node}, Redis ${/v=(\S+)/.exec(redis)?.[1] ?? "unknown"}`,
  ];
}
