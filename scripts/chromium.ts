// A browser for the tests that need a real one: Chromium or Chrome from the PATH, installed when there is none.

import { existsSync } from "node:fs";

import { findProgram, installPackage } from "./programs.js";

/** Where macOS keeps it, outside every PATH. */
const MACOS = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome";

/** The full path of a Chromium-like browser, if there is one. Installs nothing. */
export function findChromium(): Promise<string | undefined> {
  const found = findProgram(
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
  );
  return Promise.resolve(found ?? (existsSync(MACOS) ? MACOS : undefined));
}

/** The same, installed with the system's package manager when there is none; undefined where that is not possible. */
export async function ensureChromium(): Promise<string | undefined> {
  const found = await findChromium();
  if (found) return found;
  const packages = { "apt-get": "chromium", dnf: "chromium", apk: "chromium" };
  return (await installPackage(packages)) ? findChromium() : undefined;
}
