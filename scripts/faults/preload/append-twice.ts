/**
 * Loaded into a function before its own code (`--import`): the append loses its guard against being executed twice
 * (delivery rule 3). For `--break` only; the functions themselves know nothing of it.
 */
import {
  appendFullScript,
  appendManyScript,
  appendScript,
} from "../../../shared/log-scripts.js";

const GUARD = "if not fresh then";

for (const script of [appendScript, appendFullScript, appendManyScript]) {
  if (!script.lua.includes(GUARD)) {
    throw new Error(`${script.name} has no such line: ${GUARD}`);
  }
  Object.assign(script, { lua: script.lua.replace(GUARD, "if false then") });
}
