/** Shutdown: named steps in order, all of them even when one fails, within one deadline. */
import type { Logger } from "./logging.js";

export interface Step {
  name: string;
  run(): unknown;
}

/**
 * Runs every step in order; a step that fails is logged and the next one runs. Resolves true when all went
 * well within `deadlineMs`, false otherwise.
 */
export async function runShutdown(
  steps: readonly Step[],
  deadlineMs: number,
  logger: Pick<Logger, "error" | "info">,
): Promise<boolean> {
  let clean = true;
  const all = (async () => {
    for (const step of steps) {
      try {
        await step.run();
      } catch (error) {
        clean = false;
        logger.error({ err: error, step: step.name }, "shutdown step failed");
      }
    }
  })();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<"late">((resolve) => {
    timer = setTimeout(() => resolve("late"), deadlineMs);
  });
  const outcome = await Promise.race([all, late]);
  clearTimeout(timer);
  if (outcome === "late") {
    logger.error({ deadlineMs }, "shutdown did not finish in time");
    return false;
  }
  return clean;
}
