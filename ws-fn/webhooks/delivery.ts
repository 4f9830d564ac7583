/**
 * Works along one lane: the first event is posted until the receiver has taken it or time is up, then the next one. What
 * an answer means: verdict.ts; what all lanes know of the receiver, and the order: shared/lane-scripts.ts.
 */
import { randomBase62 } from "../../shared/ids.js";
import type { BegunLane } from "../../shared/events.js";
import type {
  Failed,
  Failure,
  LaneItem,
  Lanes,
  Step,
  StoredEvent,
} from "../../shared/lanes.js";
import { sparing, type Logger } from "../../shared/logging.js";
import { requestOf } from "./request.js";
import type { Sent, WebhookSender } from "./sender.js";
import { permissionOf, verdictOf } from "./verdict.js";

/** What became of an event. `answered` and `refused` may be told twice; the receiver's answer is the same event's. */
export type Outcome =
  | Answered
  /** A client's event only: the receiver does not want it. */
  | (Omit<Answered, "kind"> & { kind: "refused" })
  /** It is tried again in `delayMs`, or later. */
  | { kind: "later"; why: string; attempts: number; delayMs: number }
  | { kind: "given_up"; why: string; attempts: number };

interface Answered {
  kind: "answered";
  status: number;
  contentType: string | undefined;
  body: Buffer;
  /** The body went on beyond what is read. */
  truncated: boolean;
}

/** Must have done its work when it resolves: the event is removed then. When it rejects, the event is posted again. */
export type OnOutcome = (
  event: StoredEvent,
  outcome: Outcome,
) => Promise<void> | void;

export interface DeliveryDeps {
  lanes: Lanes;
  sender: Pick<WebhookSender, "post" | "ask">;
  origin: string;
  giveUpMs: number;
  /** Every lane may come now. */
  promote: () => Promise<void>;
  onOutcome?: OnOutcome;
  logger: Logger;
}

/** Lanes that come again spread over this at most, so that they do not come all at once. */
const spreadMsMax = 30_000;
/** Trouble of single lanes is told this often. */
const tellEveryMs = 10_000;
/** A long outage is told at its 1st, 2nd, 4th, … try, and then every so many: an hour of them. */
const tellEveryTry = 60;

export class Delivery {
  readonly #deps: DeliveryDeps;
  readonly #mayTellFirst = sparing(tellEveryMs);

  constructor(deps: DeliveryDeps) {
    this.#deps = deps;
  }

  /** Until the lane is over (nothing), or has to come again (in so many ms). Rejects while Redis is away. */
  async run(lane: BegunLane, signal: AbortSignal): Promise<number | undefined> {
    const { lanes } = this.#deps;
    const token = randomBase62(12);
    for (let step = await lanes.take(lane, token); ;) {
      if (step.recovered) await this.#recovered(step.recovered);
      if (signal.aborted) return 0;
      let next: Step | number | undefined;
      switch (step.what) {
        case "none":
        case "fenced":
        case "empty":
          return undefined;
        case "wait":
          return spread(step.ms);
        case "pause":
          return step.ms + Math.random() * step.spreadMs;
        case "ask":
          next = await this.#ask(lane, token, signal);
          break;
        case "old":
          next = await this.#giveUp(lane, token, step.item, step.why);
          break;
        case "post":
          next = await this.#post(lane, token, step, signal);
      }
      if (typeof next !== "object") return next;
      step = next;
    }
  }

  async #post(
    lane: BegunLane,
    token: string,
    { item, probe }: Extract<Step, { what: "post" }>,
    signal: AbortSignal,
  ): Promise<Step | number | undefined> {
    const { lanes, sender, giveUpMs, logger } = this.#deps;
    const { event } = item;
    const sent = await sender.post({ ...requestOf(item), signal });
    // Nobody knows whether it was taken: whoever comes next posts it again.
    if (sent.kind === "failure" && sent.failure === "aborted") return 0;
    const verdict = verdictOf(sent, event.type, Date.now());
    if (verdict.kind !== "again") {
      await this.#tell(event, {
        kind: verdict.kind === "taken" ? "answered" : "refused",
        ...answerOf(sent),
      });
      if (item.attempts > 0)
        logger.info(
          { ...nameOf(event), attempts: item.attempts + 1 },
          "the webhook has taken what it had not before",
        );
      return lanes.done(lane, token, item);
    }
    const failed = await lanes.failed(lane, token, {
      ...verdict,
      was: probe ? "probe" : "",
    });
    if (!failed) return undefined;
    this.#failed(item, verdict, failed);
    if (Date.now() - item.position / 1_000 > giveUpMs)
      return this.#giveUp(
        lane,
        token,
        { ...item, attempts: failed.attempts },
        verdict.why,
      );
    const { attempts } = failed;
    const delayMs = later(failed);
    await this.#tell(event, {
      kind: "later",
      why: verdict.why,
      attempts,
      delayMs,
    });
    return delayMs;
  }

  async #ask(
    lane: BegunLane,
    token: string,
    signal: AbortSignal,
  ): Promise<Step | number | undefined> {
    const { lanes, sender, origin, logger } = this.#deps;
    const sent = await sender.ask({ signal });
    if (sent.kind === "failure" && sent.failure === "aborted") return 0;
    const permission = permissionOf(sent, origin);
    if (permission.granted) {
      const { rate } = permission;
      logger.info(
        { origin, ...(rate > 0 && { perMinute: rate }) },
        "the webhook gives permission to send",
      );
      const step = await lanes.proven(lane, token, rate);
      await this.#callAll();
      return step;
    }
    const failed = await lanes.failed(lane, token, {
      ...permission,
      was: "ask",
    });
    if (!failed) return undefined;
    this.#down(permission, failed);
    return later(failed);
  }

  async #giveUp(
    lane: BegunLane,
    token: string,
    item: LaneItem,
    why: string,
  ): Promise<Step> {
    const { attempts, event, position } = item;
    this.#deps.logger.error(
      {
        ...nameOf(event),
        attempts,
        why,
        ageSeconds: Math.round((Date.now() - position / 1_000) / 1_000),
      },
      "given up: the webhook will not get this event",
    );
    await this.#tell(event, { kind: "given_up", why, attempts });
    return this.#deps.lanes.given(lane, token, item);
  }

  async #tell(event: StoredEvent, outcome: Outcome): Promise<void> {
    const { onOutcome, logger } = this.#deps;
    try {
      await onOutcome?.(event, outcome);
    } catch (error) {
      // An answer must not be lost: the event stays, and is posted again.
      if (outcome.kind === "answered" || outcome.kind === "refused")
        throw error;
      logger.debug({ err: error, ...nameOf(event) }, "not told");
    }
  }

  async #recovered({
    mode,
    sinceMs,
    failures,
  }: NonNullable<Step["recovered"]>): Promise<void> {
    this.#deps.logger.info(
      { was: mode, failures, seconds: (Date.now() - sinceMs) / 1_000 },
      "the webhook takes events again",
    );
    await this.#callAll();
  }

  /** Lanes come by themselves as well, later. */
  async #callAll(): Promise<void> {
    const { promote, logger } = this.#deps;
    await promote().catch((error: unknown) =>
      logger.debug({ err: error }, "lanes were not called"),
    );
  }

  #failed(
    { event, attempts: before }: LaneItem,
    { why }: Pick<Failure, "why">,
    failed: Failed,
  ): void {
    if (failed.change) return this.#down({ why }, failed);
    const { attempts, waiting, delayMs } = failed;
    const worth = before === 0 ? this.#mayTellFirst() : isPower(attempts);
    this.#deps.logger[worth ? "warn" : "debug"](
      {
        ...nameOf(event),
        attempts,
        why,
        waiting,
        nextSeconds: delayMs / 1_000,
      },
      "the webhook did not take an event: it and what follows of its connection wait",
    );
  }

  #down({ why }: Pick<Failure, "why">, failed: Failed): void {
    const { change, mode = "down", failures, delayMs, waiting } = failed;
    if (!change) return;
    const worth =
      change === "down" || isPower(failures) || failures % tellEveryTry === 0;
    const level = mode === "gone" || mode === "unproven" ? "error" : "warn";
    this.#deps.logger[worth ? level : "debug"](
      { mode, why, failures, waiting, nextSeconds: delayMs / 1_000 },
      change === "down"
        ? says[mode](this.#deps.origin)
        : "the webhook is still not taking events",
    );
  }
}

/** What an operator should know at night. */
const says: Record<NonNullable<Failed["mode"]>, (origin: string) => string> = {
  down: () =>
    "the webhook is down: all events wait, and one at a time is tried",
  throttled: () => "the webhook asked for a pause: all events wait",
  gone: () =>
    "the webhook is gone (410): all events wait for an hour; set another WEBHOOK_URL, or none",
  unproven: (origin) =>
    `the webhook gives no permission: all events wait until OPTIONS is answered with WebHook-Allowed-Origin: ${origin} (or *)`,
};

const nameOf = ({ id, type, subject }: StoredEvent) => ({ id, type, subject });

function answerOf(sent: Sent): Omit<Answered, "kind"> {
  if (sent.kind !== "answer") throw new Error("there is no answer");
  const { status, contentType, body, truncated } = sent;
  return { status, contentType, body, truncated };
}

const isPower = (n: number): boolean => (n & (n - 1)) === 0;

/** Lanes of a receiver that is down come apart from each other; a lane of its own comes in its own time. */
const later = ({ mode, delayMs }: Failed): number =>
  mode === undefined ? delayMs : spread(delayMs);

const spread = (ms: number): number =>
  ms + Math.random() * Math.min(ms, spreadMsMax);
