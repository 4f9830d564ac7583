/**
 * What became of a message to a group or to everybody. Nobody acks to its sender: the receipt ends at `sent`, with the
 * number of sockets it was handed to, summed over all instances.
 */
import type { Receipt, Status, TimelineEntry } from "./api.js";
import { parseScheduledGroup, type Fanout } from "./fanout.js";
import type { GroupRoute } from "./ids.js";
import { everybody } from "./keys.js";

const time = (ms: number) => new Date(ms).toISOString();

/** Where a message goes, in the words of openapi.yaml. */
export const groupTarget = (group: string): Receipt["to"] =>
  group === everybody ? { broadcast: true } : { group };

/** The receipt now; undefined when there is no such message, or its time is over. */
export async function groupReceipt(
  fanout: Fanout,
  id: string,
  route: GroupRoute,
  receiptMs: number,
): Promise<Receipt | undefined> {
  const facts = await fanout.facts(
    route.group,
    route.kind === "offset"
      ? { offset: route.offset }
      : { scheduledId: route.scheduledId },
  );
  if (!facts) return undefined;
  const timeline: TimelineEntry[] = [];
  const push = (status: Status, atMs: number) =>
    timeline.push({ status, at: time(atMs) });
  const { record, nowMs } = facts;
  const waited = record === "" ? undefined : parseScheduledGroup(record);
  if (waited) push("scheduled", waited.accepted);
  let expiresAtMs = waited?.expires ?? 0;
  let recipients = waited?.recipients ?? null;
  let online = waited?.online ?? 0;
  let sent = 0;
  let durable = waited?.durable ?? false;
  /** When nothing more becomes of it; undefined while something may. */
  let overMs: number | undefined;
  if (facts.kind === "waiting") {
    if (record.startsWith("r")) {
      overMs = Number(record.split(":")[1]);
      push("recalled", overMs);
    } else if (expiresAtMs < nowMs && expiresAtMs > (waited?.due ?? 0)) {
      overMs = expiresAtMs;
      push("expired", overMs);
    }
  } else {
    ({ expiresAtMs, sent } = facts);
    durable ||= facts.offset <= facts.durable;
    if (!waited) ({ recipients, online } = facts);
    push("queued", Math.floor(facts.offset / 1_000));
    if (facts.sentAtMs !== undefined) {
      overMs = facts.sentAtMs;
      push("sent", overMs);
    } else if (facts.undeliverable) {
      overMs = expiresAtMs;
      push("undeliverable", overMs);
    } else if (expiresAtMs < nowMs) {
      overMs = expiresAtMs;
      push("expired", overMs);
    }
  }
  if (overMs !== undefined && overMs + receiptMs < nowMs) return undefined;
  const { status } = timeline.at(-1) as TimelineEntry;
  return {
    id,
    status,
    to: groupTarget(route.group),
    recipients,
    online,
    expiresAt: time(expiresAtMs),
    durability: durable ? "replica" : "local",
    ack: null,
    reason: status === "undeliverable" ? "not_connected" : null,
    sent,
    timeline,
  };
}
