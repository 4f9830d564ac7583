/** Guards inside the functions that `--break` can turn off: each is a module that is loaded before the function's own. */

/** What a world's environment says to load it. */
export function without(
  guard: "append-once",
): Readonly<Record<string, string>> {
  const file = { "append-once": "./breaks/append.js" }[guard];
  return { NODE_OPTIONS: `--import=${new URL(file, import.meta.url).href}` };
}
