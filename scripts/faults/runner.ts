/**
 * Runs rows side by side, a bounded number at a time. A lane keeps its world for the next row that wants an equal one,
 * because starting four processes and a Redis costs more than most rows do.
 */
import { setTimeout as sleep } from "node:timers/promises";

import { Ledger } from "./ledger.js";
import { lineOf } from "./report.js";
import type { Row } from "./row.js";
import { runRow, type Form, type Result } from "./run.js";
import { RunScope } from "./scope.js";
import { startWorld, type World } from "./world.js";

/** Windows, leases and retention of the short form; the long one runs with the shipped defaults. */
const ENV: Record<Form, Readonly<Record<string, string>>> = {
  short: {
    LEASE_SECONDS: "5",
    RESUME_SECONDS: "30",
    HEARTBEAT_SECONDS: "5",
    DRAIN_SECONDS: "0.5",
    ENDED_SECONDS: "60",
    RECEIPT_SECONDS: "120",
  },
  long: {},
};
/** So many rows may wait for a world that another lane has, before this lane starts an equal one. */
const ROWS_WORTH_A_WORLD = 5;
/** How long a world that is just starting may take to notice that it is over, ms. */
const STARTING_MS = 10_000;
/** Most time for one row, s, where it does not say. */
const LIMIT_SECONDS = { short: 300, long: 1_800 };

export interface RunnerOptions {
  readonly rows: readonly Row[];
  readonly forms: readonly Form[];
  readonly lanes: number;
  readonly isBroken: boolean;
  /** A line for whoever looks on; a row's own comes as soon as it ends. */
  readonly print: (line: string) => void;
  /** What a failing row's processes said last. */
  readonly note: (line: string) => void;
}

interface Standing {
  key: string;
  world: World;
  scope: RunScope;
}

export class Runner {
  readonly #options: RunnerOptions;
  readonly #scopes = new Set<RunScope>();
  /** Settles when the world that is being started stands or has failed. */
  #starting: Promise<unknown> = Promise.resolve();
  #isStopped = false;

  constructor(options: RunnerOptions) {
    this.#options = options;
  }

  /** Every row in every form. Never rejects: what throws fails its row. */
  async run(): Promise<Result[]> {
    const results: Result[] = [];
    for (const form of this.#options.forms) {
      const waiting = [...this.#options.rows];
      const held = new Map<object, string>();
      const lane = async () => {
        const me = {};
        let standing: Standing | undefined;
        for (;;) {
          const row = take(
            waiting,
            standing?.key,
            new Set(held.values()),
            (one) => this.#keyOf(one),
          );
          if (!row || this.#isStopped) break;
          held.set(me, this.#keyOf(row));
          if (standing && standing.key !== this.#keyOf(row)) {
            await this.#end(standing.scope);
            standing = undefined;
          }
          const ended = await this.#one(row, form, standing);
          standing = ended.standing;
          if (!standing) held.delete(me);
          results.push(ended.result);
          if (!this.#isStopped) this.#options.print(lineOf(ended.result));
        }
        held.delete(me);
        if (standing) await this.#end(standing.scope);
      };
      await Promise.all(Array.from({ length: this.#options.lanes }, lane));
    }
    return results;
  }

  /** Ends all that was started and what is just being started; rows under way fail and none begins. */
  async close(): Promise<void> {
    this.#isStopped = true;
    const scopes = [...this.#scopes];
    await Promise.all(scopes.map((scope) => scope.close()));
    await Promise.race([
      this.#starting,
      sleep(STARTING_MS, undefined, { ref: false }),
    ]);
    // What came up meanwhile was ended as it came: this waits for that.
    await Promise.all(scopes.map((scope) => this.#end(scope)));
  }

  async #one(
    row: Row,
    form: Form,
    before: Standing | undefined,
  ): Promise<{ result: Result; standing: Standing | undefined }> {
    const rowScope = this.#scope();
    const began = performance.now();
    let standing = before;
    let result: Result;
    try {
      if (!standing) {
        const scope = this.#scope();
        // Known before it stands, so that what is half started ends, too.
        standing = { key: this.#keyOf(row), scope, world: undefined as never };
        // One world after the other: all at once, none of them stands for long.
        const starting = this.#starting.then(() => {
          if (this.#isStopped) throw new Error("stopped");
          const spec = this.#specOf(row);
          const { env, shortEnv } = spec;
          return startWorld(
            scope,
            form === "short" ? { ...spec, env: { ...env, ...shortEnv } } : spec,
            ENV[form],
          );
        });
        this.#starting = starting.catch(() => undefined);
        standing.world = await starting;
      } else await standing.world.restore();
      const { world } = standing;
      result = await bounded(
        runRow(row, form, world, rowScope, this.#options.isBroken),
        (row.limitSeconds ?? LIMIT_SECONDS)[form],
      );
    } catch (error) {
      result = {
        row,
        form,
        faults: 0,
        verdict: new Ledger().verdict(),
        recoveries: [],
        figures: [],
        wrong: [error instanceof Error ? error.message : String(error)],
        seconds: (performance.now() - began) / 1_000,
      };
    }
    await this.#end(rowScope);
    // Whatever is wrong may be the world's: the next row does not inherit it.
    const isSound = result.wrong.length === 0;
    if (standing && (!isSound || row.isAlone === true)) {
      if (!isSound && !this.#options.isBroken) standing.scope.fail();
      await this.#end(standing.scope);
      standing = undefined;
    }
    return { result, standing };
  }

  #specOf(row: Row) {
    return (this.#options.isBroken && row.guard?.world) || row.world;
  }

  #keyOf(row: Row): string {
    return JSON.stringify(this.#specOf(row));
  }

  #scope(): RunScope {
    const scope = new RunScope(this.#options.note);
    this.#scopes.add(scope);
    return scope;
  }

  async #end(scope: RunScope): Promise<void> {
    await scope.close();
    this.#scopes.delete(scope);
  }
}

/**
 * The first row of an equal world, else one of a world that nobody has. A second equal world is worth its start only
 * where many rows wait for it.
 */
function take(
  waiting: Row[],
  key: string | undefined,
  held: ReadonlySet<string>,
  keyOf: (row: Row) => string,
): Row | undefined {
  let index = waiting.findIndex((row) => keyOf(row) === key);
  if (index < 0) index = waiting.findIndex((row) => !held.has(keyOf(row)));
  if (index < 0 && waiting.length > ROWS_WORTH_A_WORLD) index = 0;
  return index < 0 ? undefined : waiting.splice(index, 1)[0];
}

async function bounded<T>(work: Promise<T>, seconds: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(new Error(`It took longer than ${seconds} s`)),
      seconds * 1_000,
    );
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
