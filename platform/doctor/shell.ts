// Reads the few lines of shell a bootstrap consists of: which program they start with which script. Nothing is run, and
// what is not understood is left out.

import { basename, resolve } from "node:path";

export interface StartCommand {
  /** From 1. */
  readonly line: number;
  /** As it is written there, variables put in. */
  readonly program: string;
  /** The script it is given, absolute; undefined where there is none or it cannot be told. */
  readonly script: string | undefined;
}

const PREPARING =
  /^(\[|\[\[|test|set|unset|export|mkdir|cp|mv|rm|ln|chmod|chown|echo|printf|source|\.|if|then|else|elif|fi|for|while|do|done|case|esac|ulimit|umask|sleep|trap|wait|true|false|shopt|read)$/;
const PREFIX = /^(exec|env|nohup|time)$/;
const INTERPRETER = /^(node|python|php|java|deno|bun|ruby|bash|sh)[\d.]*$/;
/** Options whose value is the next word. */
const TAKES_VALUE = /^(-r|--require|--import|--loader|-C|-cp|-classpath)$/;
/** Options after which there is no script. */
const NO_SCRIPT = /^(-m|-c|-e|-p|--eval|--print)$/;

/**
 * The last command that starts something. What the lines before it assign ends up in `variables`; `folder` stands
 * wherever the script asks for its own folder.
 */
export function readStart(
  lines: readonly string[],
  folder: string,
  variables: Map<string, string>,
): StartCommand | undefined {
  let found: StartCommand | undefined;
  let cwd = folder;
  for (const [index, text] of lines.entries())
    for (const words of splitCommands(text)) {
      const rest = words.map((word) => expand(word, folder, variables));
      if (rest[0] === "export") rest.shift();
      takeAssignments(rest, variables);
      const [program, ...args] = rest;
      if (program === undefined || PREPARING.test(program)) continue;
      if (program === "cd") cwd = resolve(cwd, args[0] ?? "");
      else {
        const script = scriptOf(program, args);
        found = {
          line: index + 1,
          program,
          script: script === undefined ? undefined : resolve(cwd, script),
        };
      }
    }
  return found;
}

/** Takes `NAME=value` and words like `exec` off the front. */
function takeAssignments(
  words: string[],
  variables: Map<string, string>,
): void {
  for (let word = words[0]; word !== undefined; word = words[0]) {
    const [, name, value] = /^([A-Za-z_]\w*)=(.*)$/.exec(word) ?? [];
    if (name !== undefined) variables.set(name, value ?? "");
    else if (!PREFIX.test(word)) return;
    words.shift();
  }
}

function scriptOf(program: string, args: readonly string[]) {
  if (!INTERPRETER.test(basename(program)))
    return program.includes("/") ? program : undefined; // a program of the folder, or one on the PATH
  for (let at = 0; at < args.length; at++) {
    const word = args[at] ?? "";
    if (NO_SCRIPT.test(word)) return undefined;
    if (TAKES_VALUE.test(word)) at++;
    else if (!word.startsWith("-")) return word;
  }
  return undefined;
}

/** One line's commands, each as its words: at `;` and `&&`, what follows `||` left out, outside of quotes and $( … ). */
function splitCommands(text: string): string[][] {
  const commands: string[][] = [[]];
  let word = "";
  let quote = "";
  let depth = 0;
  const endWord = () => {
    if (word !== "") commands.at(-1)?.push(word);
    word = "";
  };
  for (const [index, sign] of [...text.replace(/\r$/, "")].entries()) {
    const isPlain = depth === 0 && quote === "";
    if (sign === "(" && word.endsWith("$") && quote !== "'") depth++;
    else if (sign === ")" && depth > 0) depth--;
    else if (depth === 0 && quote !== "" && sign === quote) quote = "";
    else if (isPlain && (sign === '"' || sign === "'")) quote = sign;
    else if (isPlain && sign === "#" && word === "") break;
    else if (isPlain && text.startsWith("||", index)) break;
    else if (isPlain && /[\s;&]/.test(sign)) {
      endWord();
      if (!/\s/.test(sign)) commands.push([]);
      continue;
    }
    word += sign;
  }
  endWord();
  return commands.filter((words) => words.length > 0);
}

function expand(
  word: string,
  folder: string,
  variables: ReadonlyMap<string, string>,
): string {
  return word
    .replace(/["']/g, "")
    .replace(/^((?:\w+=)?)\$\(cd .*pwd(?: -P)?\)/, `$1${folder}`)
    .replace(/\$\(dirname [^)]*\)/g, folder)
    .replace(/^\/var\/user(?=\/|$)/, folder)
    .replace(
      /\$\{(\w+)(?::?-([^}]*))?\}|\$(\w+)/g,
      (_, braced?: string, fallback?: string, plain?: string) =>
        variables.get(braced ?? plain ?? "") ?? fallback ?? "",
    );
}
