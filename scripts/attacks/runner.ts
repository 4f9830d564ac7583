/** Runs rows, a bounded number side by side. A lane keeps its world for its next row as long as nothing was wrong in it. */
import { setTimeout as sleep } from "node:timers/promises";

import { RunScope } from "../faults/scope.js";
import type { Options } from "./options.js";
import { lineOf } from "./report.js";
import type { Row } from "./row.js";
import { runRow, type Result } from "./run.js";
import { startWorld, type World } from "./world.js";

export interface RunnerOptions extends Pick<
  Options,
  "rows" | "form" | "lanes" | "isBroken"
> {
  /** A line for whoever looks on; a row's own comes as soon as it ends. */
  readonly print: (line: string) => void;
  /** What a failing row's processes said last. */
  readonly note: (line: string) => void;
}

interface Standing {
  readonly key: string;
  readonly scope: RunScope;
  readonly world: World;
}

/** So long may a world take to notice that it is ended while it starts. */
const STARTING_MS = 10_000;
/** Most time for one row, s. */
const LIMIT_SECONDS = { short: 120, long: 400 };

export class Runner {
  readonly #options: RunnerOptions;
  readonly #scopes = new Set<RunScope>();
  #isStopped = false;
  #underWay: Promise<unknown> = Promise.resolve();

  constructor(options: RunnerOptions) {
    this.#options = options;
  }

  /** Every row, in the order of the list. Never rejects: what throws fails its row. */
  run(): Promise<Result[]> {
    const results = this.#run();
    this.#underWay = results;
    return results;
  }

  async #run(): Promise<Result[]> {
    const { rows, lanes, print } = this.#options;
    const waiting = [...rows];
    const results: Result[] = [];
    await Promise.all(
      Array.from({ length: lanes }, async () => {
        let standing: Standing | undefined;
        while (!this.#isStopped) {
          const key = standing?.key;
          const same = waiting.findIndex((row) => this.#keyOf(row) === key);
          const [row] = waiting.splice(Math.max(0, same), 1);
          if (!row) break;
          if (standing && same < 0) {
            await this.#end(standing.scope);
            standing = undefined;
          }
          const outcome = await this.#one(row, standing);
          standing = outcome.standing;
          results.push(outcome.result);
          print(lineOf(outcome.result));
        }
        if (standing) await this.#end(standing.scope);
      }),
    );
    const place = ({ row }: Result) => rows.indexOf(row);
    return results.sort((a, b) => place(a) - place(b));
  }

  /** Ends everything, whatever is under way; rows under way fail and none begins. */
  async close(): Promise<void> {
    this.#isStopped = true;
    const scopes = [...this.#scopes];
    await Promise.all(scopes.map((scope) => this.#end(scope)));
    // A world that was just starting hands its last parts to a scope that has ended.
    await Promise.race([this.#underWay, sleep(STARTING_MS)]);
    await Promise.all(scopes.map((scope) => scope.close()));
  }

  async #one(
    row: Row,
    before: Standing | undefined,
  ): Promise<{ result: Result; standing: Standing | undefined }> {
    const { form, note } = this.#options;
    const began = performance.now();
    let scope = before?.scope;
    let standing = before;
    let result: Result;
    try {
      if (!standing) {
        scope = new RunScope(note);
        this.#scopes.add(scope);
        const world = await startWorld(scope, this.#specOf(row));
        standing = { key: this.#keyOf(row), scope, world };
      }
      result = await bounded(
        runRow(row, form, standing.world, note),
        LIMIT_SECONDS[form],
      );
    } catch (error) {
      result = {
        row,
        form,
        honest: undefined,
        strikes: [],
        quietSeconds: undefined,
        figures: [],
        wrong: [error instanceof Error ? error.message : String(error)],
        seconds: (performance.now() - began) / 1_000,
      };
    }
    // What is wrong may go on: the next row does not inherit it.
    if (result.wrong.length > 0 && scope) {
      await this.#end(scope);
      standing = undefined;
    }
    return { result, standing };
  }

  #specOf(row: Row) {
    const { world = {}, guard } = row;
    return this.#options.isBroken && guard
      ? { ...world, env: { ...world.env, ...guard.env } }
      : world;
  }

  #keyOf(row: Row): string {
    return JSON.stringify(this.#specOf(row));
  }

  async #end(scope: RunScope): Promise<void> {
    await scope.close();
    this.#scopes.delete(scope);
  }
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
