/**
 * What a row needs inside a function and the function has not: modules of the runner's own, loaded before main.js by
 * NODE_OPTIONS. Nothing of them is in the product.
 */
import { tmpdir } from "node:os";
import path from "node:path";

type Env = Readonly<Record<string, string>>;

/** A function whose event loop stands still from SIGUSR2 until the file is gone that `blockFile` names. */
export const blockable: Env = preload("block");

/** An append that is executed twice appends twice (delivery rule 3). */
export const appendingTwice: Env = preload("append-twice");

/** What the event loop of a process waits for; it has to be there before the signal. */
export function blockFile(pid: number): string {
  return path.join(tmpdir(), `bridge-faults-${pid}.block`);
}

/** One line of the process for each time it is blocked, counted from 1. */
export function blockedLine(time: number): RegExp {
  return new RegExp(`^blocked ${time}$`);
}

function preload(...names: ("block" | "append-twice")[]): Env {
  const files = names.map(
    (name) => new URL(`./preload/${name}.js`, import.meta.url).href,
  );
  return { NODE_OPTIONS: files.map((file) => `--import=${file}`).join(" ") };
}
