/**
 * The webhook of this instance, put together: the sender, and the Worker that delivers what waits. Any number of instances
 * deliver at once; with none awake, events wait in Redis.
 */
import { Lanes } from "../../shared/lanes.js";
import type { Logger } from "../../shared/logging.js";
import type { Stores } from "../../shared/stores.js";
import {
  shownWebhookUrl,
  type WebhookSettings,
} from "../../shared/webhook-settings.js";
import { Delivery, type OnOutcome } from "./delivery.js";
import { WebhookSender } from "./sender.js";

/** Lanes whose job was lost are looked for this often. */
const sweepEveryMs = 5_000;
/** Until Redis answers at the start, the Worker is tried again after this long. */
const startAgainMs = 250;

export interface Webhooks {
  /** For what is asked and not delivered (`connect`). */
  readonly sender: WebhookSender;
  readonly lanes: Lanes;
  /** Ends what is under way within seconds; what is not done is left to others. Any time, twice. */
  close(): Promise<void>;
}

/** Starts delivering. `onOutcome` hears what became of each event. */
export function startWebhooks({
  stores: { redis, webhooks },
  settings,
  logger,
  onOutcome,
  everyMs = sweepEveryMs,
}: {
  stores: Pick<Stores, "redis" | "webhooks">;
  settings: WebhookSettings;
  logger: Logger;
  onOutcome?: OnOutcome;
  everyMs?: number;
}): Webhooks {
  const lanes = new Lanes(redis, settings);
  const sender = new WebhookSender(settings);
  const delivery = new Delivery({
    lanes,
    sender,
    origin: settings.origin,
    giveUpMs: settings.giveUpMs,
    promote: () => webhooks.promote(),
    ...(onOutcome && { onOutcome }),
    logger,
  });
  let closing: Promise<void> | undefined;
  let timer: NodeJS.Timeout | undefined;

  async function round(): Promise<void> {
    let started = false;
    try {
      await webhooks.start((lane, signal) => delivery.run(lane, signal));
      started = true;
      // Whoever appended them may have died, or been frozen, before it added their jobs.
      let lost;
      do {
        lost = await lanes.lost();
        await webhooks.add(lost);
      } while (lost.length > 0 && !closing);
    } catch (error) {
      logger.debug({ err: error }, "webhooks wait for Redis");
    }
    if (!closing)
      timer = setTimeout(
        () => void round(),
        started ? everyMs * (0.75 + Math.random() / 2) : startAgainMs,
      );
  }
  void round();
  logger.info(
    { url: shownWebhookUrl(settings.url), events: [...settings.events] },
    "delivering to the webhook",
  );

  return {
    sender,
    lanes,
    close: () =>
      (closing ??= (async () => {
        clearTimeout(timer);
        await webhooks.close();
        sender.close();
      })()),
  };
}
