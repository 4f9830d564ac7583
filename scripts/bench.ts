// `npm run bench`: this bridge beside the literal BullMQ pattern, Socket.IO and two bare relays, in interleaved rounds on this machine;
// what the gateway costs; the jitter test.
// Everything runs on loopback in processes that the bench starts and stops itself, each round on a fresh redis-server.
import { execFileSync } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { availableParallelism, cpus } from "node:os";
import { acceptPage, measureAccept, type AcceptRound } from "./bench/accept.js";
import { aimsPage, verdicts } from "./bench/aims.js";
import {
  gatewayPage,
  measureGateway,
  type GatewayRound,
} from "./bench/gateway.js";
import {
  isExact,
  jitterPage,
  measureJitter,
  type JitterResult,
} from "./bench/jitter.js";
import { parseOptions, usage, type Options } from "./bench/options.js";
import { Processes } from "./bench/processes.js";
import { checkRoom } from "./bench/room.js";
import { faultsOf, legend, rowPage, type Results } from "./bench/report.js";
import type { Row } from "./bench/row.js";
import { measureQuickly, measureRows } from "./bench/runner.js";
import { systems } from "./bench/systems.js";

/** Longest time for one system in one round; the literal pattern needs about a minute with the defaults. */
const SYSTEM_TIMEOUT_MS = 300_000;

/** All there is to tell. */
interface Findings {
  machine: string;
  results: Results;
  gateway?: GatewayRound[];
  jitter?: JitterResult;
  accept?: AcceptRound[];
}

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

/** Exit code: 0 when this bridge delivered every message once, else 1. Faults of others and aims not reached are said, not punished. */
async function bench(options: Options): Promise<number> {
  const findings: Findings = { machine: machineFacts(), results: new Map() };
  const { results } = findings;
  console.log(findings.machine);
  console.log(
    `${options.rounds} round(s), Redis ${options.appendOnly ? "with AOF everysec" : "without persistence"}` +
      `${options.isQuick ? "; QUICK: the figures mean little" : ""}`,
  );
  if (options.rows.length > 0) console.log(legend(options.systems));
  for (const { sockets } of options.rows) await checkRoom(sockets);
  await (options.isQuick ? measureQuickly : measureRows)(
    {
      ...options,
      processes,
      bounded,
      async onRow(row) {
        console.log(`\n${rowPage(row, results.get(row) ?? new Map())}`);
        await save(options, findings);
      },
    },
    results,
  );
  if (options.accept) {
    console.error("batch: accepting");
    findings.accept = [];
    for (let round = 0; round < options.accept.rounds; round++)
      findings.accept.push(
        await bounded(measureAccept(options.accept, processes)),
      );
    console.log(`\n${acceptPage(findings.accept)}`);
  }
  if (options.gateway) {
    console.error(`gateway: ${options.gateway.rounds} round(s)`);
    findings.gateway = await bounded(
      measureGateway(options.gateway, processes),
    );
    console.log(`\n${gatewayPage(findings.gateway)}`);
  }
  if (options.jitter) {
    console.error("jitter");
    const { messages, perSecond } = options.jitter;
    findings.jitter = await bounded(
      measureJitter(options.jitter, processes),
      (messages / perSecond) * 1_000 + SYSTEM_TIMEOUT_MS,
    );
    console.log(`\n${jitterPage(options.jitter, findings.jitter)}`);
  }
  const aims = verdicts(results);
  if (aims.length > 0)
    console.log(`\naims, medians (each round)\n${aimsPage(aims)}`);
  await save(options, findings);
  return isExactHere(findings) ? 0 : 1;
}

function isExactHere({ results, jitter }: Findings): boolean {
  const ours = [...results.values()].flatMap((rounds) =>
    [...rounds].flatMap(([name, measured]) =>
      systems[name].servers === "bridge" ? measured : [],
    ),
  );
  return (
    faultsOf(ours).length === 0 && (jitter === undefined || isExact(jitter))
  );
}

/** Written after each row: a run that is stopped leaves what it has. */
async function save(
  { json, rounds, appendOnly, isQuick }: Options,
  { results, ...findings }: Findings,
): Promise<void> {
  if (json === undefined) return;
  const told = (row: Row) => ({
    row: row.name,
    title: row.title,
    systems: Object.fromEntries(results.get(row) ?? []),
  });
  const text = JSON.stringify(
    {
      ...findings,
      rounds,
      appendOnly,
      isQuick,
      rows: [...results.keys()].map(told),
      aims: verdicts(results),
    },
    null,
    2,
  );
  await writeFile(json, `${text}\n`);
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

function machineFacts(): string {
  const redis = execFileSync("redis-server", ["--version"], {
    encoding: "utf8",
  });
  return (
    `${availableParallelism()} cores (${cpus()[0]?.model ?? "unknown"}), ${process.platform} ${process.arch}, ` +
    `Node ${process.versions.node}, Redis ${/v=(\S+)/.exec(redis)?.[1] ?? "unknown"}`
  );
}
