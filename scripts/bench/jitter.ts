// The jitter test: clients on bad lines. Every client is sent every message while its TCP socket is cut again and again
// without a close frame and stays away for a while; counted is what the applications got, and how soon after they were back.
import { setTimeout as sleep } from "node:timers/promises";
import { HttpClient } from "./http-client.js";
import { JitterClient } from "./jitter-client.js";
import { BODY_BYTES, bodyOf, FIRST_NUMBER } from "./message.js";
import type { Processes } from "./processes.js";
import { aligned } from "./report.js";
import { portOf, startBridge, type Prepared } from "./systems.js";

export interface JitterWorkload {
  clients: number;
  /** Each client gets all of them. */
  messages: number;
  /** Messages per second and client. */
  perSecond: number;
  /** Mean time between two cuts of a client's socket, milliseconds. */
  cutEveryMs: number;
  /** How long a client cannot reach anybody after a cut, milliseconds. */
  awayMs: number;
}

/** Latencies in milliseconds; NaN where there was no sample. */
export interface JitterResult {
  /** Accepted by http-fn, of all clients. */
  accepted: number;
  /** Handed to the applications, each counted once. */
  delivered: number;
  /** Handed to an application a second time. */
  duplicates: number;
  /** Handed to an application after a later one. */
  inversions: number;
  cuts: number;
  /** Line back until `welcome`, the client's back-off included. */
  reconnect: Spread;
  /** `welcome` until the last missed message. */
  replay: Spread;
  /** What else went wrong, in words. */
  faults: string[];
}

export interface Spread {
  samples: number;
  p50: number;
  p99: number;
}

const PUBLISHERS = 32;
/** Clients that open at the same time. */
const OPENING_AT_ONCE = 20;
/** Waiting for messages ends when nothing has arrived for this long. */
const PATIENCE_MS = 30_000;
const LOOK_EVERY_MS = 20;
const AGAIN_MS = 100;

/** Redis with an append-only file, http-fn and two ws-fn with their defaults; each dial goes to either of the two. */
export async function measureJitter(
  workload: JitterWorkload,
  processes: Processes,
): Promise<JitterResult> {
  const redis = await processes.startRedis(true);
  const bridge = await startBridge(
    processes,
    { redisUrl: redis.url, profiles: undefined, prefix: "" },
    2,
  );
  const targets = await bridge.prepare(workload.clients);
  const wsPorts = bridge.wss.map(portOf);
  const clients = targets.map(
    (target) => new JitterClient(target, wsPorts, workload),
  );
  try {
    const waiting = clients.values();
    const opener = async (): Promise<void> => {
      for (const client of waiting) await client.open();
    };
    await Promise.all(Array.from({ length: OPENING_AT_ONCE }, opener));
    for (const client of clients) client.startCutting();
    const faults = await publish(workload, bridge.pushing, targets, clients);
    for (const client of clients) client.stopCutting();
    await settled(clients);
    return resultOf(clients, faults);
  } finally {
    await Promise.all(clients.map((client) => client.close()));
    await processes.stop();
  }
}

/** At every beat one message to every client, all answered before the next beat. Returns what was not accepted, in words. */
async function publish(
  { messages, perSecond }: JitterWorkload,
  { port, headers }: { port: number; headers: string },
  targets: readonly Prepared[],
  clients: readonly JitterClient[],
): Promise<string[]> {
  const faults = new Map<string, number>();
  const publishers = await Promise.all(
    Array.from({ length: PUBLISHERS }, () => HttpClient.connect(port)),
  );
  const requests = targets.map(
    ({ connectionId }) =>
      `POST /v1/connections/${connectionId}/messages HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${BODY_BYTES}\r\n${headers}`,
  );
  const startedAt = performance.now();
  try {
    for (let message = 0; message < messages; message++) {
      const dueMs = startedAt + (message / perSecond) * 1_000;
      await sleep(Math.max(0, dueMs - performance.now()));
      const rest = `Idempotency-Key: ${message}\r\n\r\n${bodyOf(FIRST_NUMBER + message)}`;
      const waiting = clients.entries();
      const post = async (publisher: HttpClient): Promise<void> => {
        for (const [index, client] of waiting) {
          const status = await insist(
            publisher,
            (requests[index] ?? "") + rest,
          );
          if (status === 202) client.accepted(message);
          else {
            const fault = `answered ${status}`;
            faults.set(fault, (faults.get(fault) ?? 0) + 1);
          }
        }
      };
      await Promise.all(publishers.map(post));
    }
  } finally {
    for (const publisher of publishers) publisher.close();
  }
  return [...faults].map(([fault, count]) => `${count} ${fault}`);
}

/** As a good backend posts: with a key, and again after a 503, which an overloaded Redis causes. The last status. */
async function insist(client: HttpClient, request: string): Promise<number> {
  const deadline = performance.now() + PATIENCE_MS;
  let status = await client.send(request);
  while (status === 503 && performance.now() < deadline) {
    await sleep(AGAIN_MS);
    status = await client.send(request);
  }
  return status;
}

/** Resolves when every client has everything, or when nothing more comes. */
async function settled(clients: readonly JitterClient[]): Promise<void> {
  const missing = (): number => sum(clients, ({ missing }) => missing);
  let last = missing();
  let movedAt = performance.now();
  while (last > 0 && performance.now() - movedAt < PATIENCE_MS) {
    await sleep(LOOK_EVERY_MS);
    const now = missing();
    if (now !== last) movedAt = performance.now();
    last = now;
  }
}

function resultOf(
  clients: readonly JitterClient[],
  faults: string[],
): JitterResult {
  const told = sum(clients, ({ faults }) => faults.length);
  const [first] = clients.flatMap(({ faults }) => faults);
  return {
    accepted: sum(clients, ({ acceptedCount }) => acceptedCount),
    delivered: sum(clients, ({ delivered }) => delivered),
    duplicates: sum(clients, ({ duplicates }) => duplicates),
    inversions: sum(clients, ({ inversions }) => inversions),
    cuts: sum(clients, ({ cuts }) => cuts),
    reconnect: spread(clients.flatMap(({ reconnects }) => reconnects)),
    replay: spread(clients.flatMap(({ replays }) => replays)),
    faults:
      first === undefined
        ? faults
        : [...faults, `${told} of the clients, first: ${first}`],
  };
}

function sum(
  clients: readonly JitterClient[],
  of: (client: JitterClient) => number,
): number {
  return clients.reduce((total, client) => total + of(client), 0);
}

function spread(values: number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const quantile = (share: number): number =>
    sorted[Math.ceil(sorted.length * share) - 1] ?? NaN;
  return { samples: sorted.length, p50: quantile(0.5), p99: quantile(0.99) };
}

/** Whether every application got everything once and in order. */
export function isExact(result: JitterResult): boolean {
  return (
    result.accepted === result.delivered &&
    result.duplicates + result.inversions + result.faults.length === 0
  );
}

export function jitterPage(
  { clients, messages, perSecond, cutEveryMs, awayMs }: JitterWorkload,
  result: JitterResult,
): string {
  const { accepted, delivered, duplicates, inversions, cuts } = result;
  const ms = ({ samples, p50, p99 }: Spread): string =>
    `${p50.toFixed(0)} / ${p99.toFixed(0)} ms (${samples})`;
  const share = (100 * delivered) / accepted;
  const percent = delivered === accepted ? "100" : share.toFixed(4);
  return [
    `jitter: ${clients} clients on two ws-fn, ${messages} messages to each at ${perSecond}/s; each TCP socket cut by RST about every ` +
      `${cutEveryMs / 1_000} s, away for ${awayMs / 1_000} s`,
    ...aligned([
      ["delivered", `${percent} % (${delivered} of ${accepted})`],
      ["duplicates to the application", String(duplicates)],
      ["inversions", String(inversions)],
      ["cuts", String(cuts)],
      ["line back to welcome, p50 / p99", ms(result.reconnect)],
      ["welcome to last missed message, p50 / p99", ms(result.replay)],
    ]),
    ...result.faults.map((fault) => `FAULTY ${fault}`),
  ].join("\n");
}
