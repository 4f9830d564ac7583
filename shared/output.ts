/** The one way to a terminal: nothing in what is said steers it (visible.ts), and no complaint holds a secret (secrets.ts). */
import { withoutSecrets } from "./secrets.js";
import { visibleLines } from "./visible.js";

/** To standard output, with a line end. */
export function say(text: string): void {
  process.stdout.write(`${visibleLines(text)}\n`);
}

/** To standard error, with a line end: what helps a person, as it is. */
export function hint(text: string): void {
  process.stderr.write(`${visibleLines(text)}\n`);
}

/** To standard error: what went wrong, without secrets. An error is told by its stack, and not by what libraries hang on it. */
export function complain(what: unknown): void {
  hint(withoutSecrets(described(what)));
}

function described(what: unknown): string {
  if (!(what instanceof Error)) return String(what);
  const cause =
    what.cause === undefined ? "" : `\ncause: ${described(what.cause)}`;
  return `${what.stack ?? what.message}${cause}`;
}
