// Measures the rows: each round of each row on fresh processes, the systems in turns; or, quickly, all rows on the same processes.
import type { Processes } from "./processes.js";
import type { Results } from "./report.js";
import type { Row } from "./row.js";
import { setScene } from "./stage.js";
import { systems, type SystemName } from "./systems.js";

export interface Running {
  rows: readonly Row[];
  systems: readonly SystemName[];
  rounds: number;
  appendOnly: boolean;
  profiles: string | undefined;
  processes: Processes;
  /** Longest time for one system in one round of one row. */
  bounded<T>(measuring: Promise<T>): Promise<T>;
  /** A row is measured. */
  onRow(row: Row): Promise<void>;
}

/** Fills `results` row by row. The caller stops `processes` when this rejects. */
export async function measureRows(
  running: Running,
  results: Results,
): Promise<void> {
  for (const row of running.rows) {
    const names = systemsOf(row, running);
    if (names.length === 0) continue;
    results.set(row, new Map(names.map((name) => [name, []])));
    for (let round = 1; round <= running.rounds; round++)
      for (const name of names) {
        console.error(
          `${row.name}: round ${round} of ${running.rounds}, ${name}`,
        );
        await running.bounded(measureFresh(row, name, running, results));
      }
    await running.onRow(row);
  }
}

/** One round, the systems of the same programs one after the other on the same processes, with all rows. */
export async function measureQuickly(
  running: Running,
  results: Results,
): Promise<void> {
  const { rows, processes } = running;
  for (const row of rows) results.set(row, new Map());
  const programs = new Set(
    running.systems.map((name) => systems[name].servers),
  );
  for (const servers of programs) {
    const setting = { ...running, wsProcesses: 2, prefix: "quick-" };
    const scene = await setScene(servers, setting, processes);
    for (const name of running.systems) {
      if (systems[name].servers !== servers) continue;
      console.error(`quick: ${name}`);
      const stage = scene.as(name);
      for (const row of rows) {
        if (!systemsOf(row, running).includes(name)) continue;
        const measured = await running.bounded(row.measure(stage));
        await stage.load("close", null);
        results.get(row)?.set(name, [measured]);
      }
    }
    await scene.close();
    await processes.stop();
  }
  for (const row of rows) await running.onRow(row);
}

async function measureFresh(
  row: Row,
  name: SystemName,
  { processes, ...setting }: Running,
  results: Results,
): Promise<void> {
  const { wsProcesses, redisMasters } = row;
  const prefix = `${row.name}-${name}-`;
  const scene = await setScene(
    systems[name].servers,
    { ...setting, wsProcesses, redisMasters, prefix },
    processes,
  );
  const measured = await row.measure(scene.as(name));
  await scene.close();
  await processes.stop();
  results.get(row)?.get(name)?.push(measured);
}

function systemsOf(
  row: Row,
  { systems }: Pick<Running, "systems">,
): SystemName[] {
  return systems.filter((name) => row.systems.includes(name));
}
