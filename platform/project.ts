// Anybody's functions: a folder with an `scf_bootstrap` is one function, a folder of such folders is several.

import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import {
  FUNCTION_FILE,
  readFunctionFile,
  type FunctionFile,
} from "./function-file.js";
import type { FunctionSetup } from "./platform.js";
import type { Rules } from "./rules.js";

export interface ProjectOptions {
  readonly rules: Pick<Rules, "profile" | "maxExecutionSeconds">;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Of functions without a file. */
  readonly protocol?: "HTTP" | "WS";
  /** Instances of each function kept ready. Default 0: the first request is a cold start, as it would be. */
  readonly prewarm?: number;
}

export interface Project {
  readonly functions: readonly FunctionSetup[];
  readonly notes: readonly string[];
}

/** The functions of a folder and where they are reached, or one line per mistake. */
export async function readProject(
  folder: string,
  options: ProjectOptions,
): Promise<Project | string[]> {
  const directories = isFunction(folder) ? [folder] : await inside(folder);
  if (directories.length === 0)
    return [
      `${resolve(folder)}: no scf_bootstrap here or in a folder of it, so there is no function to run.`,
    ];
  const files = await Promise.all(
    directories.map((directory) => readFunctionFile(directory, options)),
  );
  const mistakes = files.filter((file) => Array.isArray(file)).flat();
  const good = files.filter((file): file is FunctionFile => "notes" in file);
  const names = good.map(({ description }) => description.name);
  for (const name of new Set(names))
    if (names.indexOf(name) !== names.lastIndexOf(name))
      mistakes.push(`${name}: two functions have this name.`);
  if (mistakes.length > 0) return mistakes;

  const isAlone = directories.length === 1 && directories[0] === folder;
  const plain = good.filter((file) => file.description.protocol === "HTTP");
  const functions = good.map(({ description }): FunctionSetup => {
    const atRoot =
      isAlone || (plain.length === 1 && description.protocol === "HTTP");
    return {
      description,
      route: atRoot ? "/" : `/${basename(description.directory)}`,
      isRouteStripped: !atRoot,
      prewarm: options.prewarm ?? 0,
    };
  });
  return { functions, notes: good.flatMap(({ notes }) => notes) };
}

function isFunction(directory: string): boolean {
  return (
    existsSync(join(directory, "scf_bootstrap")) ||
    existsSync(join(directory, FUNCTION_FILE))
  );
}

async function inside(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(
    () => [],
  );
  return entries
    .filter((entry) => !entry.name.startsWith("."))
    .map((entry) => join(folder, entry.name))
    .filter((directory) => isFunction(directory))
    .sort();
}
