// The row `idle`: sockets that nobody says anything to: what they take of memory, of the CPU and of Redis.
import { setTimeout as sleep } from "node:timers/promises";
import { ask } from "../resp.js";
import { residentBytes } from "./processes.js";
import { plain, type Measured, type Pauses, type Row } from "./row.js";
import type { Stage } from "./stage.js";
import { systemNames } from "./systems.js";

export interface IdleWorkload extends Pauses {
  sockets: number;
  /** How long they are watched: longer than the slowest heartbeat of any system, 25 s. */
  watchedMs: number;
  isAimed: boolean;
}

const OPENING_AT_ONCE = 50;
/** BullMQ's stock Workers take a Redis connection each, and Redis takes 10,000. */
const LITERAL_MAX = 9_000;

export function idleRow(workload: IdleWorkload): Row {
  const { sockets, watchedMs, isAimed } = workload;
  return {
    name: "idle",
    isAimed,
    title: `idle: ${sockets} sockets without messages, watched for ${watchedMs / 1_000} s; the clients answer pings`,
    systems: systemNames.filter(
      (system) => system !== "literal" || sockets <= LITERAL_MAX,
    ),
    wsProcesses: 1,
    sockets,
    columns: [
      plain("ws process", "KB/socket", "kilobytes", 1),
      plain("Redis", "KB/socket", "redisKilobytes", 2),
      {
        title: "CPU = http + ws + Redis",
        unit: "% of a core",
        cell: (median) =>
          `${median("percent").toFixed(2)} = ${["Http", "Ws", "Redis"].map((part) => median(`percent${part}`).toFixed(2)).join(" + ")}`,
      },
      plain("Redis commands", "/s", "commands", 1),
      plain("of them scripts", "/s", "scripts", 1),
      plain("Redis", "connections", "redisConnections"),
    ],
    measure: (stage) => measureIdle(stage, workload),
  };
}

async function measureIdle(
  stage: Stage,
  { sockets, watchedMs, quietMs }: IdleWorkload,
): Promise<Measured> {
  const { redis, wss } = stage;
  const open = async (count: number): Promise<void> => {
    const targets = await stage.targets(count);
    await stage.load("open", { targets, atOnce: OPENING_AT_ONCE });
    await sleep(quietMs);
  };
  const resident = async (): Promise<number> => {
    const each = await Promise.all(wss.map(({ pid }) => residentBytes(pid)));
    return each.reduce((sum, one) => sum + one, 0);
  };
  // The first tenth loads code and grows pools: its memory is not counted.
  const first = Math.ceil(sockets / 10);
  const counted = sockets - first;
  await open(first);
  const before = [await resident(), await usedMemory(redis.port)] as const;
  await open(counted);
  const after = [await resident(), await usedMemory(redis.port)] as const;

  const commandsBefore = await commandCounts(redis.port);
  const { cpu, ms } = await stage.during(() => sleep(watchedMs));
  const commandsAfter = await commandCounts(redis.port);
  const percent = (microseconds: number): number => microseconds / ms / 10;
  const perSecond = (count: number): number => (count * 1_000) / ms;
  return {
    figures: {
      kilobytes: (after[0] - before[0]) / 1_024 / counted,
      redisKilobytes: (after[1] - before[1]) / 1_024 / counted,
      percent: percent(cpu.http + cpu.ws + cpu.redis),
      percentHttp: percent(cpu.http),
      percentWs: percent(cpu.ws),
      percentRedis: percent(cpu.redis),
      commands: perSecond(
        // Without the INFO that counts.
        Math.max(0, commandsAfter.all - commandsBefore.all - 1),
      ),
      scripts: perSecond(commandsAfter.scripts - commandsBefore.scripts),
      redisConnections: await redisConnections(redis.port),
    },
    faults: [],
  };
}

async function usedMemory(port: number): Promise<number> {
  const info = String(await ask(port, "INFO", "memory"));
  return Number(/^used_memory:(\d+)/m.exec(info)?.[1]);
}

/** Commands that Redis has carried out, those inside of scripts included, and the scripts among them. */
async function commandCounts(
  port: number,
): Promise<{ all: number; scripts: number }> {
  const info = String(await ask(port, "INFO", "commandstats"));
  let all = 0;
  let scripts = 0;
  for (const [, name = "", calls] of info.matchAll(
    /^cmdstat_([^:]+):calls=(\d+)/gm,
  )) {
    all += Number(calls);
    if (/^(eval|fcall)/.test(name)) scripts += Number(calls);
  }
  return { all, scripts };
}

async function redisConnections(port: number): Promise<number> {
  const list = String(await ask(port, "CLIENT", "LIST"));
  return list.trim().split("\n").length - 1; // without the one that asks
}
