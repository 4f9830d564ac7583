/** A29: hours of everything, one fault after the other, and what memory does meanwhile. Only with `--soak`. */
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

import { row, type Row, type Run } from "../row.js";

/** Between two faults, ms; a soak of a few minutes has at least so many. */
const FAULT_EVERY_MS = 30_000;
const FAULTS_MIN = 6;
/** Low, because the ledger remembers every message of the whole soak. */
const RATE = 60;
const CLIENTS = 20;
const SAMPLE_EVERY_MS = 2_000;
/** How long something is frozen or silent, ms. */
const SILENT_MS = 2_000;
/** The last quarter may have so much more than the second; the first one warms up. */
const GROWTH_MAX = 1.5;

interface Sample {
  hours: number;
  mib: number;
}

export function soak(minutes: number): Row {
  const size = { minutes };
  const limit = minutes * 60 + 900;
  return row({
    id: "A29",
    title: `${minutes} minutes of mixed faults`,
    world: { redis: "single", front: "proxy" },
    sizes: { short: size, long: size },
    limitSeconds: { short: limit, long: limit },
    inject: (run) => inject(run, minutes * 60_000),
  });
}

async function inject(run: Run, lengthMs: number): Promise<void> {
  const { world } = run;
  const clients = await run.clients(CLIENTS);
  const load = run.load(clients, { rate: RATE });
  const began = performance.now();
  const everyMs = Math.min(FAULT_EVERY_MS, lengthMs / FAULTS_MIN);
  // The two that no fault ends: what they take is watched.
  const watched = [world.httpFns[1], world.wsFns[1]];
  const samples = watched.map((): Sample[] => []);
  let isOver = false;
  const watching = (async () => {
    while (!isOver) {
      for (const [index, { process }] of watched.entries()) {
        const mib = await residentMiB(process.pid);
        const hours = (performance.now() - began) / 3_600_000;
        if (mib !== undefined) samples[index]?.push({ hours, mib });
      }
      await sleep(SAMPLE_EVERY_MS);
    }
  })();
  const [http] = world.httpFns;
  const [ws] = world.wsFns;
  const faults: (() => Promise<void>)[] = [
    async () => {
      for (const one of clients) one.cut();
      return Promise.resolve();
    },
    async () => {
      await ws.end();
      await ws.replace();
    },
    async () => {
      world.single.freeze();
      await sleep(SILENT_MS);
      world.single.thaw();
    },
    async () => {
      await http.end();
      await http.replace();
    },
    async () => {
      ws.proxy?.pause();
      await sleep(SILENT_MS);
      ws.proxy?.resume();
    },
    async () => {
      await ws.end("SIGTERM");
      await ws.replace();
    },
    async () => {
      for (const { proxy } of world.wsFns) proxy?.cutInside();
      return Promise.resolve();
    },
  ];
  try {
    for (let turn = 0; performance.now() - began < lengthMs; turn += 1) {
      const due = performance.now() + everyMs;
      run.fault();
      await faults[turn % faults.length]?.();
      await run.healed(clients);
      await sleep(Math.max(0, due - performance.now()));
    }
  } finally {
    isOver = true;
    await watching;
  }
  await load.stop();
  for (const [index, { process }] of watched.entries()) {
    const all = samples[index] ?? [];
    const quarter = (nth: number) =>
      mean(
        all
          .slice((all.length * nth) / 4, (all.length * (nth + 1)) / 4)
          .map(({ mib }) => mib),
      );
    const warm = all.slice(all.length / 4);
    run.figure(`${process.name} MiB`, Math.round(quarter(3)));
    run.figure(`${process.name} MiB/h`, slope(warm));
    run.check(
      !(quarter(3) > GROWTH_MAX * quarter(1)),
      `${process.name} grew from ${quarter(1)} to ${quarter(3)} MiB`,
    );
  }
}

/** Undefined where there is no /proc. */
async function residentMiB(pid: number): Promise<number | undefined> {
  const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
  const kib = /^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1];
  return kib === undefined ? undefined : Number(kib) / 1_024;
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** MiB an hour, by least squares. */
function slope(samples: readonly Sample[]): number {
  const hours = mean(samples.map((one) => one.hours));
  const mib = mean(samples.map((one) => one.mib));
  const over = samples.reduce(
    (sum, one) => sum + (one.hours - hours) * (one.mib - mib),
    0,
  );
  const under = samples.reduce((sum, one) => sum + (one.hours - hours) ** 2, 0);
  return over / under;
}
