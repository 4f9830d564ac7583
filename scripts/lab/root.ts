/** The project's folder, seen from a source (tests) and from dist (scripts). */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** With a slash at its end. */
export const ROOT = projectFolder();

function projectFolder(): string {
  for (let up = "../"; ; up += "../") {
    const folder = fileURLToPath(new URL(up, import.meta.url));
    if (existsSync(`${folder}package.json`)) return folder;
    if (folder === "/") throw new Error("There is no package.json above");
  }
}
