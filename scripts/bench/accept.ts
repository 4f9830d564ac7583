// What a batch saves: the same messages as single POSTs and as batches, to the same http-fn, in turns. Nobody is connected,
// so that what is measured is accepting: HTTP, checks, Redis, answers. Every message has to be accepted.
import { createHash, randomBytes } from "node:crypto";
import { Agent } from "node:http";
import { fileURLToPath } from "node:url";
import { batchLine, postBatch } from "./batch-post.js";
import { HttpClient } from "./http-client.js";
import { BODY_BYTES, bodyOf, FIRST_NUMBER } from "./message.js";
import { cpuMicroseconds, type Processes } from "./processes.js";
import { medianOf } from "./medians.js";
import { aligned } from "./report.js";
import { profiling } from "./systems.js";

export interface AcceptWorkload {
  rounds: number;
  /** Messages of each way and round. */
  messages: number;
  connections: number;
  /** Callers that post single messages at the same time. */
  publishers: number;
  /** Directory for a CPU profile of http-fn, if wanted. */
  profiles: string | undefined;
}

/** Accepted messages a second, and microseconds of http-fn's and Redis' CPU for each. */
interface Way {
  messagesPerSecond: number;
  cpuHttp: number;
  cpuRedis: number;
}

const ways = ["one caller", "many callers", "batch", "two batches"] as const;
type WayName = (typeof ways)[number];
export type AcceptRound = Record<WayName, Way>;

/** Items of one batch. */
const ITEMS = 2_000;
const LISTENING = /^listening \S+:(\d+)$/m;

/** Measures one round; the caller stops `processes` when this rejects. */
export async function measureAccept(
  workload: AcceptWorkload,
  processes: Processes,
): Promise<AcceptRound> {
  const round = await measureRound(workload, processes);
  await processes.stop();
  return round;
}

async function measureRound(
  workload: AcceptWorkload,
  processes: Processes,
): Promise<AcceptRound> {
  const { connections, messages, publishers } = workload;
  const redis = await processes.startRedis(false);
  const key = randomBytes(24).toString("base64url");
  const keyHash = createHash("sha256").update(key).digest("hex");
  const http = await processes.startNode({
    name: "http-fn",
    args: [
      ...profiling("batch-http", workload.profiles),
      fileURLToPath(new URL("../../http-fn/main.js", import.meta.url)),
    ],
    env: {
      REDIS_URL: redis.url,
      HOST: "127.0.0.1",
      PORT: "0",
      API_KEYS: `bench:push+connections+read:${keyHash}`,
      TOKEN_KEYS: `bench:${randomBytes(32).toString("base64")}`,
      LOG_MAX_MESSAGES: "1000000",
      LOG_MAX_BYTES: "1000000000",
    },
    ready: LISTENING,
  });
  const port = Number(http.ready[1]);
  const authorization = `Bearer ${key}`;
  const targets = await Promise.all(
    Array.from({ length: connections }, () => prepare(port, authorization)),
  );

  let number = FIRST_NUMBER;
  const singles = async (callers: number, count: number): Promise<void> => {
    const clients = await Promise.all(
      Array.from({ length: callers }, () => HttpClient.connect(port)),
    );
    let left = count;
    const publish = async (client: HttpClient): Promise<void> => {
      while (left-- > 0) {
        const target = targets[left % connections] ?? "";
        const status = await client.send(
          `POST /v1/connections/${target}/messages HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nContent-Type: application/json\r\n` +
            `Content-Length: ${BODY_BYTES}\r\nAuthorization: ${authorization}\r\n\r\n${bodyOf(number++)}`,
        );
        if (status !== 202) throw new Error(`a push was answered ${status}`);
      }
    };
    await Promise.all(clients.map(publish));
    for (const client of clients) client.close();
  };
  const agent = new Agent({ keepAlive: true });
  const batches = async (callers: number, count: number): Promise<void> => {
    let left = count;
    const publish = async (): Promise<void> => {
      while (left > 0) {
        const items = Math.min(ITEMS, left);
        left -= items;
        let body = "";
        for (let item = 0; item < items; item++)
          body += batchLine(
            targets[item % connections] ?? "",
            bodyOf(number++),
          );
        const accepted = await postBatch({ agent, port, authorization }, body);
        if (accepted !== items)
          throw new Error(`${accepted} of ${items} items were accepted`);
      }
    };
    await Promise.all(Array.from({ length: callers }, publish));
  };
  const work: Record<WayName, (count: number) => Promise<void>> = {
    "one caller": (count) => singles(1, count),
    "many callers": (count) => singles(publishers, count),
    batch: (count) => batches(1, count),
    "two batches": (count) => batches(2, count),
  };
  const round: Partial<AcceptRound> = {};
  // One caller waits most of the time: fewer messages tell as much.
  const counts: Record<WayName, number> = {
    "one caller": Math.ceil(messages / 10),
    "many callers": messages,
    batch: messages,
    "two batches": messages,
  };
  const pids = [http, ...redis.servers].map(({ pid }) => pid);
  // Code gets hot on all ways before any counts.
  for (const way of ways) await work[way](Math.ceil(counts[way] / 2));
  for (const way of ways) {
    const count = counts[way];
    const before = await Promise.all(pids.map(cpuMicroseconds));
    const startedAt = performance.now();
    await work[way](count);
    const seconds = (performance.now() - startedAt) / 1_000;
    const after = await Promise.all(pids.map(cpuMicroseconds));
    const [cpuHttp = NaN, cpuRedis = NaN] = after.map(
      (time, index) => (time - (before[index] ?? NaN)) / count,
    );
    round[way] = { messagesPerSecond: count / seconds, cpuHttp, cpuRedis };
  }
  agent.destroy();
  return round as AcceptRound;
}

async function prepare(port: number, authorization: string): Promise<string> {
  const response = await fetch(`http://127.0.0.1:${port}/v1/connections`, {
    method: "POST",
    headers: { authorization },
  });
  return ((await response.json()) as { connectionId: string }).connectionId;
}

/** The page's part about batches. */
export function acceptPage(rounds: readonly AcceptRound[]): string {
  const median = (way: WayName, figure: keyof Way): number =>
    medianOf(rounds.map((round) => round[way][figure]));
  const rate = (way: WayName) => median(way, "messagesPerSecond");
  const titles: Record<WayName, string> = {
    "one caller": "single POSTs, one caller",
    "many callers": "single POSTs, many callers",
    batch: `batches of ${ITEMS}, one caller`,
    "two batches": `batches of ${ITEMS}, two callers`,
  };
  const ratio = (way: WayName, to: WayName) =>
    `${(rate(way) / rate(to)).toFixed(1)}`;
  return [
    ...aligned([
      ["accepting only", "accepted/s", "CPU http + Redis, µs/message"],
      ...ways.map((way) => [
        titles[way],
        rate(way).toFixed(0),
        `${median(way, "cpuHttp").toFixed(1)} + ${median(way, "cpuRedis").toFixed(1)}`,
      ]),
    ]),
    `batch / single, one caller each: ${ratio("batch", "one caller")} (aim ≥ 5)`,
    `batch / single, as many callers as it takes: ${ratio("two batches", "many callers")}`,
  ].join("\n");
}
