// Where one system is measured: its processes on a Redis of their own, a load generator, and what they used up to now.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { ask } from "../resp.js";
import type { Orders } from "./load-main.js";
import { carryOut } from "./orders.js";
import {
  cpuMicroseconds,
  cpuOfAll,
  type Processes,
  type RedisMasters,
  type RoundRedis,
  type Running,
} from "./processes.js";
import type { Target } from "./speech.js";
import {
  startServers,
  systems,
  type ServerName,
  type SystemName,
} from "./systems.js";

/** Microseconds. */
export interface Cpu {
  http: number;
  ws: number;
  redis: number;
}

export interface Setting {
  wsProcesses: number;
  redisMasters?: RedisMasters | undefined;
  appendOnly: boolean;
  /** Directory for a CPU profile of each server process and Redis' command statistics, if wanted. */
  profiles: string | undefined;
  /** Names the profiles. */
  prefix: string;
}

/** One system, ready for clients. */
export interface Stage {
  system: SystemName;
  redis: RoundRedis;
  wss: Running[];
  /** What the load generator does. */
  load<Name extends keyof Orders>(
    name: Name,
    what: Orders[Name][0],
  ): Promise<Orders[Name][1]>;
  /** Makes that many connections addressable. */
  targets(count: number): Promise<Target[]>;
  /** What all processes used while `work` was done. */
  during<T>(
    work: () => Promise<T>,
  ): Promise<{ result: T; cpu: Cpu; ms: number }>;
}

/** The processes of a stage; the systems that they serve take turns on it. */
export interface Scene {
  as(system: SystemName): Stage;
  /** Before the processes end. */
  close(): Promise<void>;
}

/** The caller stops `processes`. */
export async function setScene(
  servers: ServerName,
  { wsProcesses, redisMasters, appendOnly, profiles, prefix }: Setting,
  processes: Processes,
): Promise<Scene> {
  if (profiles !== undefined) await mkdir(profiles, { recursive: true });
  const redis = await processes.startRedis(appendOnly, redisMasters);
  const started = await startServers(
    servers,
    processes,
    { redisUrl: redis.url, profiles, prefix },
    wsProcesses,
  );
  const { http, wss, pushing } = started;
  // Started last, so that it ends first and the servers have no sockets to drain.
  const generator = await processes.startNode({
    name: "load generator",
    args: [fileURLToPath(new URL("./load-main.js", import.meta.url))],
    ready: /^ready$/m,
    ipc: true,
  });
  const load: Stage["load"] = (name, what) =>
    carryOut(generator.child, { do: name, with: what });
  await load("aim", pushing);
  const used = async (): Promise<Cpu> => ({
    http: await cpuMicroseconds(http.pid),
    ws: await cpuOfAll(wss.map(({ pid }) => pid)),
    redis: await cpuOfAll(redis.servers.map(({ pid }) => pid)),
  });
  return {
    as: (system) => ({
      system,
      redis,
      wss,
      load,
      targets: (count) => started.targets(count, systems[system].speech),
      async during(work) {
        const before = await used();
        const startedAt = performance.now();
        const result = await work();
        const ms = performance.now() - startedAt;
        const after = await used();
        const cpu = {
          http: after.http - before.http,
          ws: after.ws - before.ws,
          redis: after.redis - before.redis,
        };
        return { result, cpu, ms };
      },
    }),
    async close() {
      if (profiles === undefined) return;
      const stats = await Promise.all(
        redis.servers.map(({ port }) => ask(port, "INFO", "commandstats")),
      );
      await writeFile(
        join(profiles, `${prefix}${servers}-redis.txt`),
        stats.map(String).join("\n"),
      );
    },
  };
}
