// `npm run faults`: breaks what the bridge stands on, heals it, and says what became of every message (Jepsen's check).
// Everything runs on loopback in processes that the runner starts and stops itself, each by its own id.
import { ensureRedisBinary } from "./redis.js";
import { parseOptions, usage, type Options } from "./faults/options.js";
import { summaryOf } from "./faults/report.js";
import { rows } from "./faults/rows.js";
import { Runner } from "./faults/runner.js";

/** Most time for everything, ms: the short form is meant for two minutes of a free machine, the long one for a night. */
const TOTAL_MS = { short: 1_200_000, long: 8 * 3_600_000 };

let runner: Runner | undefined;
let isAbandoned = false;
const abandon = (why: string): void => {
  if (isAbandoned) return;
  isAbandoned = true;
  console.error(`faults: ${why}`);
  void (runner?.close() ?? Promise.resolve()).finally(() => process.exit(1));
};
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => abandon(`stopped by ${signal}`));
}
// Started by `npm run`, the channel says when that process is gone; it does not keep this one alive.
process.once("disconnect", () => abandon("stopped"));
process.channel?.unref();

try {
  const options = parseOptions(process.argv.slice(2), rows);
  if (options === undefined) console.log(usage);
  else if (options.isList) console.log(list(options));
  else process.exitCode = await run(options);
} catch (cause) {
  console.error(
    `faults: ${cause instanceof Error ? cause.message : String(cause)}`,
  );
  process.exitCode = 2;
}
// Everything is closed and said. Left to itself, Node 20 was seen to spend minutes of CPU on taking its heap down here.
process.exit();

/** Exit code: 0 when every row is sound (with --break: when every row fails), else 1. */
async function run(options: Options): Promise<number> {
  await ensureRedisBinary();
  runner = new Runner({
    ...options,
    print: (line) => console.log(line),
    note: (line) => console.error(line),
  });
  const timer = setTimeout(
    () => abandon("it takes too long"),
    TOTAL_MS[options.forms.includes("long") ? "long" : "short"] +
      options.soakMinutes * 60_000,
  );
  const results = await runner.run();
  clearTimeout(timer);
  await runner.close();
  if (isAbandoned) return 1;
  console.log(summaryOf(results));
  const sound = results.filter(({ wrong }) => wrong.length === 0);
  const planned = options.rows.length * options.forms.length;
  const expected = options.isBroken ? 0 : planned;
  return results.length === planned && sound.length === expected ? 0 : 1;
}

function list({ rows: chosen }: Options): string {
  return chosen
    .map(({ id, title, guard }) =>
      [
        id.padEnd(4),
        title,
        ...(guard ? [`(--break: ${guard.name})`] : []),
      ].join(" "),
    )
    .join("\n");
}
