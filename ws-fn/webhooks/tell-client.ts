/** Tells the client that waits for it what became of its event: on whatever instance, and whether it is there now or not. */
import type { Answers } from "../../shared/answers.js";
import { BridgeError } from "../../shared/errors.js";
import type { RedisMemory } from "../../shared/redis-memory.js";
import type { OnOutcome, Outcome } from "./delivery.js";

const nothing = Buffer.alloc(0);

export function tellClient({
  answers,
  memory,
}: {
  answers: Pick<Answers, "store" | "keepMs">;
  memory: Pick<RedisMemory, "admit">;
}): OnOutcome {
  return async ({ id, type, subject, time, data }, outcome) => {
    if (type !== "event" || !("event" in data) || data.ref === undefined)
      return;
    // Nobody waits for so long, and nobody may say it again.
    if (Date.now() - Date.parse(time) > answers.keepMs) return;
    const answer = {
      status: "status" in outcome ? outcome.status : 0,
      contentType:
        ("contentType" in outcome ? outcome.contentType : undefined) ??
        "application/octet-stream",
      truncated: "truncated" in outcome && outcome.truncated,
      kind: outcome.kind,
      body: bodyOf(outcome),
    };
    try {
      await memory.admit(subject, answer.body.length);
      await answers.store(subject, id, answer);
    } catch (error) {
      // The backend has taken it: an answer for which there is no room is no reason to send it again.
      if (!(error instanceof BridgeError && error.code === "redis_full"))
        throw error;
    }
  };
}

function bodyOf(outcome: Outcome): Buffer {
  if (outcome.kind === "later")
    return Buffer.from(String(Math.round(outcome.delayMs)));
  return "body" in outcome ? outcome.body : nothing;
}
