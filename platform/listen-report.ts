// What the port shim wrote down about a function's listens, and the sentence that it makes when none of them was the
// one that the platform waits for [WS-BOOT-2].

import { readFile, rm } from "node:fs/promises";
import { accepts } from "./ports.js";

/** Where every Web function has to listen [WS-BOOT-2]. */
export const PLATFORM_PORT = 9_000;

interface Listen {
  readonly port: number;
  readonly host?: string;
}

export class ListenReport {
  readonly file: string;

  constructor(file: string) {
    this.file = file;
  }

  /** What the function did instead of listening on port 9000 of all addresses, as the end of a sentence. */
  async whatInstead(): Promise<string> {
    const listens = await this.#read();
    const loopback = listens.find(({ port }) => port === PLATFORM_PORT);
    if (loopback?.host !== undefined)
      return `it listens on ${loopback.host} only, where nothing outside its instance reaches it: listen on 0.0.0.0`;
    const other = listens.at(-1);
    if (other !== undefined) return `it listens on port ${other.port} instead`;
    if (await accepts(PLATFORM_PORT))
      return `something listens on port ${PLATFORM_PORT} of this machine itself: where many instances share one machine only Node functions can have that port hard-coded, others take it from PORT, or need the rule network=own`;
    return "it does not listen at all";
  }

  remove(): void {
    rm(this.file, { force: true }).catch(() => {});
  }

  async #read(): Promise<Listen[]> {
    try {
      const text = await readFile(this.file, "utf8");
      const lines = text.split("\n").filter((line) => line !== "");
      return lines.map((line) => JSON.parse(line) as Listen);
    } catch {
      return [];
    }
  }
}
