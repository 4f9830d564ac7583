/** One row in one world: what is normal, the attack, what is left of it when the attacker has gone, and the judgement. */
import { setTimeout as sleep } from "node:timers/promises";

import { carryOut } from "../bench/orders.js";
import { RunScope } from "../faults/scope.js";
import { endChild } from "../programs.js";
import type { HonestFigures } from "./honest-load.js";
import { paceOf, quietAfter, read, type Pace } from "./meter.js";
import type { Form, Row, Run, Struck } from "./row.js";
import type { Haul } from "./weapon.js";
import { startWorker, type World } from "./world.js";

export interface Result {
  readonly row: Row;
  readonly form: Form;
  /** Undefined where the row did not strike. */
  readonly honest: HonestFigures | undefined;
  readonly strikes: readonly Struck[];
  /** Seconds after the attacker's end until all was as before; the longest of the row. Undefined: never, or no strike. */
  readonly quietSeconds: number | undefined;
  readonly figures: readonly (readonly [string, number | string])[];
  /** What is wrong; sound when empty. */
  readonly wrong: readonly string[];
  readonly seconds: number;
}

/** The short form judges no times, so there the attacker has its share of the machine. */
const NICE: Record<Form, number> = { short: 0, long: 19 };
const BEFORE_MS: Record<Form, number> = { short: 500, long: 10_000 };
/** How long the honest are measured after an attack. */
const AFTER_MS: Record<Form, number> = { short: 0, long: 60_000 };
/** How long the world has to become quiet again. */
const QUIET_MS: Record<Form, number> = { short: 15_000, long: 60_000 };
/** Honest p99 while it lasts, at most so many times that of before; below the floor nothing is slow (ms). */
const TIMES_NORMAL = 2;
const FLOOR_MS = 10;

export async function runRow(
  row: Row,
  form: Form,
  world: World,
  print: (line: string) => void,
): Promise<Result> {
  const began = performance.now();
  const scope = new RunScope(print);
  const wrong: string[] = [];
  const figures: [string, number | string][] = [];
  const strikes: Struck[] = [];
  let quiet: number | undefined;
  let before: Pace | undefined;

  const run: Run = {
    world,
    target: world.target,
    form,
    check: (isSo, what) => void (isSo || wrong.push(what)),
    figure: (name, value) => void figures.push([name, value]),
    atMost: (name, value, most) => {
      figures.push([name, value]);
      if (!(value <= most))
        wrong.push(`${name}: ${show(value)}, at most ${show(most)}`);
    },
    scope,
    strike: async (weapon, size) => {
      const attacker = await startWorker(scope, "attacker", NICE[form]);
      if (!before) {
        const from = await read(world);
        await world.honest.begin("before");
        await sleep(BEFORE_MS[form]);
        before = paceOf(from, await read(world));
      }
      await world.honest.begin("while");
      const from = await read(world);
      const lines = logLines(world);
      const haul = await carryOut<Haul>(attacker, {
        weapon,
        target: world.target,
        size,
      });
      const to = await read(world);
      const ms = to.at - from.at;
      const struck = {
        haul,
        redisOut: to.redisOut - from.redisOut,
        redisGrowth: to.redisMemory - from.redisMemory,
        rssGrowth: to.rss - from.rss,
        httpCpuMs: to.httpCpuMs - from.httpCpuMs - before.httpCpu * ms,
        wsCpuMs: to.wsCpuMs - from.wsCpuMs - before.wsCpu * ms,
        logLines: logLines(world) - lines,
      };
      strikes.push(struck);
      await endChild(attacker, "SIGKILL");
      await world.honest.begin("after");
      const { seconds, pace } = await quietAfter(world, before, QUIET_MS[form]);
      if (seconds === undefined)
        wrong.push(
          `${weapon}: it goes on after its attacker: Redis writes ${show(pace.redisOut)} bytes a second, ${show(pace.cpu)} of a core`,
        );
      else quiet = Math.max(quiet ?? 0, seconds);
      await sleep(AFTER_MS[form]);
      return struck;
    },
  };
  let honest: HonestFigures | undefined;
  try {
    await row.attack(run, row.sizes[form]);
    if (before) {
      honest = await world.honest.settle();
      wrong.push(...faultsOf(honest, form));
    }
  } finally {
    await scope.close();
  }
  return {
    row,
    form,
    honest,
    strikes,
    quietSeconds: quiet,
    figures,
    wrong,
    seconds: (performance.now() - began) / 1_000,
  };
}

/** What is wrong with how the honest fared. Only the long form, on a machine of its own, judges their times. */
export function faultsOf(honest: HonestFigures, form: Form): string[] {
  const wrong: string[] = [];
  if (honest.lost > 0) wrong.push(`${honest.lost} honest messages lost`);
  const before = honest.phases["before"];
  if (form === "short" || !before) return wrong;
  if (honest.givenUp > 0)
    wrong.push(`${honest.givenUp} honest pushes never taken`);
  const most = Math.max(FLOOR_MS, TIMES_NORMAL * before.p99);
  for (const name of ["while", "after"]) {
    const p99 = honest.phases[name]?.p99 ?? Infinity;
    if (p99 > most)
      wrong.push(
        `honest p99 ${name}: ${show(p99)} ms, before ${show(before.p99)}`,
      );
  }
  return wrong;
}

/** At most three digits behind the point, and MB where there are many. */
export function show(value: number): string {
  if (value >= 1_000_000) return `${(value / 1_000_000).toFixed(1)} M`;
  return Number.isInteger(value) ? String(value) : value.toFixed(2);
}

function logLines({ httpFn, wsFn }: World): number {
  return httpFn.logs.length + wsFn.logs.length;
}
