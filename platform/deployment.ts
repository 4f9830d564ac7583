// A function's folder made ready to start on this machine: its `scf_bootstrap` is checked as the platform would, and
// `/var/lang/nodeNN/bin/node` in it becomes a local Node. The folder itself is never changed.

import { constants, existsSync } from "node:fs";
import {
  access,
  mkdir,
  readdir,
  readFile,
  symlink,
  writeFile,
} from "node:fs/promises";
import { delimiter, dirname, join, resolve } from "node:path";
import { StartError } from "./start-error.js";

const BOOTSTRAP = "scf_bootstrap";
/** Where the platform keeps its interpreters. */
const LANG = "/var/lang";
/** The Node versions that have been there at one time or another. */
const nodeVersions = ["10", "12", "14", "16", "18", "20", "22", "24", "26"];
const ELF = "\u007fELF";

export interface DeployOptions {
  readonly name: string;
  readonly directory: string;
  /** A folder for what has to be made; whoever gives it removes it. */
  readonly folder: string;
  /** Of the function, for what is looked for on its PATH. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** A bootstrap that leaves its interpreter to the PATH is refused [WS-BOOT-3]. */
  readonly strict: boolean;
}

export interface Deployment {
  /** Where to start `scf_bootstrap`, and its working directory. */
  readonly directory: string;
  /** What the reader should know, one line each. */
  readonly notes: readonly string[];
}

/** Rejects with a `StartError` 445 whose message says what is wrong with the bootstrap. */
export async function deploy(options: DeployOptions): Promise<Deployment> {
  const directory = resolve(options.directory);
  const refuse = (why: string) =>
    new StartError(445, `${options.name}: ${why}`);
  const file = join(directory, BOOTSTRAP);
  if (!existsSync(file)) throw refuse(`${file} is missing [WS-BOOT-1].`);
  await access(file, constants.X_OK).catch(() => {
    throw refuse(`${file} is not executable: chmod 755 it [WS-BOOT-1].`);
  });
  const text = await readFile(file, "latin1");
  if (text.startsWith(ELF)) return { directory, notes: [] };
  const wrong = whatIsWrong(text);
  if (wrong !== undefined) throw refuse(`${file}: ${wrong}`);

  const notes: string[] = [];
  const bare = /^[^#\n]*?(?:^|[\s;&|])(node|python3?)\s+[^\s]/m.exec(text)?.[1];
  if (bare !== undefined && !text.includes(`${LANG}/`)) {
    const said = `${options.name}: its bootstrap leaves "${bare}" to the PATH; the documents ask for an absolute path such as ${LANG}/node20/bin/node [WS-BOOT-3].`;
    if (options.strict) throw new StartError(445, said);
    notes.push(said);
  }
  const languages = new Map<string, string>();
  for (const [, name = "", version = ""] of text.matchAll(
    /\/var\/lang\/([A-Za-z]+)([\d.]*)/g,
  )) {
    const language = `${name}${version}`;
    if (languages.has(language) || existsSync(join(LANG, language))) continue;
    const bin = join(options.folder, "lang", language, "bin");
    const mapped = await mapLanguage(bin, name, version, options.env);
    if (mapped === undefined)
      throw refuse(
        `its bootstrap names ${LANG}/${language}, and there is no such interpreter here: node (${nodeVersions.join(", ")}) and an installed python3 are mapped [WS-BOOT-3].`,
      );
    languages.set(language, dirname(bin));
    notes.push(`${options.name}: ${LANG}/${language} is ${mapped} here.`);
  }
  if (languages.size === 0) return { directory, notes };

  const copy = join(options.folder, "code", options.name);
  await mkdir(copy, { recursive: true });
  for (const entry of await readdir(directory))
    if (entry !== BOOTSTRAP)
      await linkOnce(join(directory, entry), join(copy, entry));
  const rewritten = text.replace(
    /\/var\/lang\/[A-Za-z]+[\d.]*/g,
    (path) => languages.get(path.slice(LANG.length + 1)) ?? path,
  );
  await writeFile(join(copy, BOOTSTRAP), rewritten, {
    encoding: "latin1",
    mode: 0o755,
  });
  return { directory: copy, notes };
}

function whatIsWrong(text: string): string | undefined {
  const [first = ""] = text.split("\n", 1);
  if (!first.startsWith("#!"))
    return "its first line must be #!/bin/bash [WS-BOOT-3].";
  if (first.endsWith("\r"))
    return "its lines end with CR LF, so its interpreter is not found: save it with LF [WS-BOOT-3].";
  const [interpreter = ""] = first.slice(2).trim().split(/\s+/);
  if (interpreter.startsWith(`${LANG}/`) || existsSync(interpreter))
    return undefined;
  return `its first line names ${interpreter}, which does not exist [WS-BOOT-3].`;
}

/** Puts a local interpreter where the bootstrap will look; what it is, or undefined when there is none. */
async function mapLanguage(
  bin: string,
  name: string,
  version: string,
  env: Readonly<Record<string, string | undefined>>,
): Promise<string | undefined> {
  if (name === "node" && nodeVersions.includes(version)) {
    const { execPath } = process;
    await mkdir(bin, { recursive: true });
    await linkOnce(execPath, join(bin, "node"));
    for (const tool of ["npm", "npx"]) {
      const beside = join(dirname(execPath), tool);
      if (existsSync(beside)) await linkOnce(beside, join(bin, tool));
    }
    return `Node ${process.versions.node} (${execPath})`;
  }
  if (name !== "python") return undefined;
  const python = onPath("python3", env["PATH"]);
  if (python === undefined) return undefined;
  await mkdir(bin, { recursive: true });
  for (const called of ["python", "python3", `python${dotted(version)}`])
    await linkOnce(python, join(bin, called));
  return python;
}

/** `310` is 3.10. */
function dotted(version: string): string {
  return version.includes(".") || version.length < 2
    ? version
    : `${version[0]}.${version.slice(1)}`;
}

function onPath(program: string, path = ""): string | undefined {
  return path
    .split(delimiter)
    .filter((folder) => folder !== "")
    .map((folder) => join(folder, program))
    .find((file) => existsSync(file));
}

async function linkOnce(target: string, link: string): Promise<void> {
  await symlink(target, link).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "EEXIST") throw error;
  });
}
