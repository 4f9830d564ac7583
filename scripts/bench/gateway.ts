// What the platform's gateway costs: one echo function behind it and without it, in turns, and how long a connect takes
// when a process has to start for it and when one waits.
import { once } from "node:events";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { WebSocket } from "ws";
import { medianOf } from "./medians.js";
import type { Processes } from "./processes.js";
import { aligned } from "./report.js";

export interface GatewayWorkload {
  rounds: number;
  /** Messages of the loaded phase, in each round and each way. */
  messages: number;
  /** Messages one at a time. */
  samples: number;
  /** Connects of each kind and round. */
  connects: number;
}

/** Milliseconds, and messages a second. */
interface Way {
  messagesPerSecond: number;
  p50: number;
  p99: number;
  connect: number;
}

export interface GatewayRound {
  direct: Way;
  gateway: Way;
  /** Connect with a process start. */
  cold: number;
}

const CONNECTIONS = 4;
/** Messages of one connection under way at a time. */
const WINDOW = 32;
const MESSAGE = Buffer.alloc(200, "x");
const LISTENING = /^listening \S+:(\d+)$/m;
/** Longest wait for anything. */
const DEADLINE_MS = 60_000;

/** Runs all rounds; the caller stops `processes` when this rejects. */
export async function measureGateway(
  workload: GatewayWorkload,
  processes: Processes,
): Promise<GatewayRound[]> {
  const folder = await mkdtemp(join(tmpdir(), "bench-"));
  try {
    const script = fileURLToPath(new URL("./echo-main.js", import.meta.url));
    const bootstrap = join(folder, "scf_bootstrap");
    await writeFile(bootstrap, `#!/bin/bash\nexec node "${script}"\n`);
    await chmod(bootstrap, 0o755);
    const rounds: GatewayRound[] = [];
    for (let round = 0; round < workload.rounds; round++)
      rounds.push(await measureRound(folder, script, workload, processes));
    return rounds;
  } finally {
    await processes.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

async function measureRound(
  folder: string,
  script: string,
  workload: GatewayWorkload,
  processes: Processes,
): Promise<GatewayRound> {
  const start = async (name: string, args: string[]): Promise<number> => {
    const { ready } = await processes.startNode({
      name,
      args,
      ready: LISTENING,
    });
    return Number(ready[1]);
  };
  const platform = (prewarm: number): Promise<number> => {
    const main = fileURLToPath(new URL("./gateway-main.js", import.meta.url));
    return start("gateway", [main, folder, String(prewarm)]);
  };
  const cold = await connects(await platform(0), workload.connects, () =>
    Promise.resolve(),
  );
  await processes.stop();

  const ports = {
    direct: await start("echo", [script]),
    gateway: await platform(CONNECTIONS),
  };
  const measureWay = async (way: "direct" | "gateway"): Promise<Way> => {
    const port = ports[way];
    const settle = way === "direct" ? Promise.resolve.bind(Promise) : prewarmed;
    // First, while no instance has served: the platform takes a used one before a fresh one.
    const connect = await connects(port, workload.connects, settle);
    const sockets = await Promise.all(
      Array.from({ length: CONNECTIONS }, () => open(port)),
    );
    await echoAll(sockets, workload.messages); // code gets hot on both ways alike
    const seconds = await echoAll(sockets, workload.messages);
    const times = await oneByOne(sockets[0], workload.samples);
    await Promise.all(sockets.map(close));
    return {
      messagesPerSecond: workload.messages / seconds,
      p50: quantile(times, 0.5),
      p99: quantile(times, 0.99),
      connect,
    };
  };
  await prewarmed(ports.gateway); // or its processes would start beside the direct way
  const direct = await measureWay("direct");
  const gateway = await measureWay("gateway");
  await processes.stop();
  return { direct, gateway, cold };
}

/** Median time of a connect; the sockets stay open meanwhile, so that none is served by a used instance. */
async function connects(
  port: number,
  count: number,
  settle: (port: number) => Promise<unknown>,
): Promise<number> {
  const sockets: WebSocket[] = [];
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    await settle(port);
    const before = performance.now();
    sockets.push(await open(port));
    times.push(performance.now() - before);
  }
  await Promise.all(sockets.map(close));
  return medianOf(times);
}

interface InstanceLine {
  functionName: string;
  state: string;
}

/** Waits until instances are ready to be connected to, and no others are being started beside them. */
async function prewarmed(port: number): Promise<void> {
  const deadline = Date.now() + DEADLINE_MS;
  while (Date.now() < deadline) {
    const answer = await fetchInstances(port);
    const states = answer
      .filter(({ functionName }) => functionName === "ws-fn")
      .map(({ state }) => state);
    const isReady = states.filter((state) => state === "ready").length;
    if (isReady >= CONNECTIONS && !states.includes("initialising")) return;
    await sleep(20);
  }
  throw new Error("the platform has no prewarmed instances");
}

async function fetchInstances(port: number): Promise<InstanceLine[]> {
  const asked = request({
    host: "127.0.0.1",
    port,
    path: "/_platform/instances",
  });
  asked.end();
  const [answer] = (await once(asked, "response")) as [AsyncIterable<Buffer>];
  const chunks: Buffer[] = [];
  for await (const chunk of answer) chunks.push(chunk);
  return JSON.parse(Buffer.concat(chunks).toString()) as InstanceLine[];
}

async function open(port: number): Promise<WebSocket> {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/ws`, {
    perMessageDeflate: false,
  });
  await once(socket, "open", { signal: AbortSignal.timeout(DEADLINE_MS) });
  return socket;
}

async function close(socket: WebSocket): Promise<void> {
  socket.close(1000);
  await once(socket, "close", { signal: AbortSignal.timeout(DEADLINE_MS) });
}

/** Sends so many messages over all sockets, a window of them at a time on each; seconds until the last echo. */
async function echoAll(
  sockets: readonly WebSocket[],
  messages: number,
): Promise<number> {
  const each = Math.ceil(messages / sockets.length);
  const before = performance.now();
  await Promise.all(sockets.map((socket) => echo(socket, each)));
  return (performance.now() - before) / 1_000;
}

function echo(socket: WebSocket, messages: number): Promise<void> {
  return new Promise((resolve, reject) => {
    let sent = 0;
    let heard = 0;
    const onMessage = (): void => {
      heard++;
      if (sent < messages) {
        sent++;
        socket.send(MESSAGE);
      } else if (heard === messages) {
        socket.off("message", onMessage).off("close", onClose);
        resolve();
      }
    };
    const onClose = (): void => reject(new Error("the echo's line ended"));
    socket.on("message", onMessage).on("close", onClose);
    for (; sent < Math.min(WINDOW, messages); sent++) socket.send(MESSAGE);
  });
}

async function oneByOne(
  socket: WebSocket | undefined,
  samples: number,
): Promise<number[]> {
  const times: number[] = [];
  if (socket === undefined) return times;
  for (let i = 0; i < samples; i++) {
    const before = performance.now();
    await echo(socket, 1);
    times.push(performance.now() - before);
  }
  return times;
}

function quantile(values: number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return (
    sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? NaN
  );
}

/** Both ways side by side, and the ratios of their medians with every round. */
export function gatewayPage(rounds: GatewayRound[]): string {
  const row = (title: string, way: "direct" | "gateway"): string[] => {
    const of = (figure: keyof Way) =>
      medianOf(rounds.map((round) => round[way][figure]));
    return [
      title,
      of("messagesPerSecond").toFixed(0),
      `${of("p50").toFixed(3)} / ${of("p99").toFixed(3)}`,
      of("connect").toFixed(1),
    ];
  };
  const cold = medianOf(rounds.map((round) => round.cold));
  const ratio = (title: string, figure: keyof Way): string[] => {
    const each = rounds.map(
      ({ gateway, direct }) => gateway[figure] / direct[figure],
    );
    const all = each.map((one) => one.toFixed(2)).join(", ");
    return [title, medianOf(each).toFixed(2), `(${all})`];
  };
  return [
    aligned([
      ["echo", "messages", "one by one p50 / p99", "connect"],
      ["", "/s", "ms", "ms"],
      row("direct", "direct"),
      row("through the gateway, prewarmed", "gateway"),
      ["through the gateway, cold", "", "", cold.toFixed(1)],
    ]),
    aligned([
      ratio("messages/s, gateway / direct", "messagesPerSecond"),
      ratio("one by one p50, gateway / direct", "p50"),
    ]),
  ]
    .map((block) => block.join("\n"))
    .join("\n\n");
}
