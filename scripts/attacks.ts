// `npm run attacks`: attacks the bridge behind its door, and says how the honest fare meanwhile and afterwards.
// Everything runs on loopback, bounded, in processes that the runner starts and stops itself, each by its own id.
import { jsonOf, summaryOf, tableOf } from "./attacks/report.js";
import { parseOptions, usage, type Options } from "./attacks/options.js";
import { rows } from "./attacks/rows.js";
import { Runner } from "./attacks/runner.js";
import { ensureRedisBinary } from "./redis.js";

/** Most time for everything, ms. */
const TOTAL_MS = { short: 900_000, long: 2 * 3_600_000 };

let runner: Runner | undefined;
let isAbandoned = false;
const abandon = (why: string): void => {
  if (isAbandoned) return;
  isAbandoned = true;
  console.error(`attacks: ${why}`);
  void (runner?.close() ?? Promise.resolve()).finally(() => process.exit(1));
};
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => abandon(`stopped by ${signal}`));
}
process.once("disconnect", () => abandon("stopped"));
process.channel?.unref();

try {
  const options = parseOptions(process.argv.slice(2), rows);
  if (options === undefined) console.log(usage);
  else if (options.isList) console.log(list(options));
  else process.exitCode = await run(options);
} catch (cause) {
  console.error(
    `attacks: ${cause instanceof Error ? cause.message : String(cause)}`,
  );
  process.exitCode = 2;
}
process.exit();

/** Exit code: 0 when every row is sound (with --break: when every row fails), else 1. */
async function run(options: Options): Promise<number> {
  await ensureRedisBinary();
  runner = new Runner({
    ...options,
    print: (line) => (options.isJson ? console.error : console.log)(line),
    note: (line) => console.error(line),
  });
  const timer = setTimeout(
    () => abandon("it takes too long"),
    TOTAL_MS[options.form],
  );
  const results = await runner.run();
  clearTimeout(timer);
  await runner.close();
  if (isAbandoned) return 1;
  console.log(options.isJson ? jsonOf(results) : tableOf(results));
  if (!options.isJson) console.log(summaryOf(results));
  const sound = results.filter(({ wrong }) => wrong.length === 0);
  const expected = options.isBroken ? 0 : options.rows.length;
  return results.length === options.rows.length && sound.length === expected
    ? 0
    : 1;
}

function list({ rows: chosen }: Options): string {
  return chosen
    .map(({ id, title, guard }) =>
      [
        id.padEnd(5),
        title,
        ...(guard ? [`(--break: ${guard.name})`] : []),
      ].join(" "),
    )
    .join("\n");
}
