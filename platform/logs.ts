// What the platform says, and what its functions print: cut into lines, bounded in length and in what may pile up.

import type { Readable, Writable } from "node:stream";
import { StringDecoder } from "node:string_decoder";
import { visible } from "../shared/visible.js";

/** What the platform asks of a logger; the shared one fits. */
export interface Log {
  debug(facts: object, message: string): void;
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

const nothing = () => {};
export const silentLog: Log = {
  debug: nothing,
  info: nothing,
  warn: nothing,
  error: nothing,
};

/** One line a function printed. */
export interface PrintedLine {
  readonly functionName: string;
  readonly instanceId: string;
  readonly stream: "stdout" | "stderr";
  readonly line: string;
}

/** A longer line is cut into pieces of this many characters, so that a function cannot fill our memory. */
const MAX_LINE_CHARACTERS = 16_384;

/** Calls `onLine` for each line of a text stream, without its end; the last one also when it does not end. */
export function readLines(
  stream: Readable,
  onLine: (line: string) => void,
): void {
  const decoder = new StringDecoder("utf8");
  let rest = "";
  stream.on("data", (chunk: Buffer) => {
    const lines = (rest + decoder.write(chunk)).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) onLine(line);
    while (rest.length > MAX_LINE_CHARACTERS) {
      onLine(rest.slice(0, MAX_LINE_CHARACTERS));
      rest = rest.slice(MAX_LINE_CHARACTERS);
    }
  });
  stream.on("end", () => {
    if (rest !== "") onLine(rest);
    rest = "";
  });
  stream.on("error", nothing);
}

/** Output that nobody reads may pile up to this many bytes; then lines are dropped, and counted. */
const MAX_PILED_BYTES = 1_048_576;

/** Writes lines to a stream, with nothing in them for a terminal to obey: a function prints what strangers sent. Says how many it dropped as soon as there is room again. */
export function boundedLines(target: Writable): (line: string) => void {
  let dropped = 0;
  target.on("error", nothing); // whoever read it may be gone
  return (line) => {
    if (target.writableLength > MAX_PILED_BYTES) {
      dropped++;
      return;
    }
    if (dropped > 0) target.write(`(${dropped} lines dropped)\n`);
    dropped = 0;
    target.write(`${visible(line)}\n`);
  };
}
