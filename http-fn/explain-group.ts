/**
 * Explains a publish to a group or to everybody without doing it: whom it would reach and where, as far as a bounded look
 * at the members tells.
 */
import type { Connection, Explanation } from "../shared/api.js";
import type { BridgeError } from "../shared/errors.js";
import { groupTarget } from "../shared/group-receipts.js";
import { everybody } from "../shared/keys.js";
import { isFor } from "../shared/selection.js";
import type { Stores } from "../shared/stores.js";
import type { Publish } from "./bridge.js";

/** Members that are looked at, and in one step; `ExplainedMembers` in openapi.yaml says the first. */
const lookedMax = 1_000;
const pageMax = 250;
/** Members that are shown. */
const shownMax = 100;

/** What would become of a publish, but for what holds for every push. */
export interface Reach extends Pick<
  Explanation,
  "to" | "recipients" | "online" | "members"
> {
  /** What is stored under its idempotency key. */
  stored: string;
  /** When the history gives it up, counted from when it is published. */
  historyMs: number;
  full: BridgeError | undefined;
}

export async function explainGroup(
  { fanout, memberships }: Pick<Stores, "fanout" | "memberships">,
  { group, selection, idempotency, dueAtMs }: Publish,
): Promise<Reach> {
  const [{ recipients: total }, room] = await Promise.all([
    fanout.count(group),
    fanout.room(group, idempotency?.key),
  ]);
  const matched: Connection[] = [];
  let looked = 0;
  let after: string | null = "";
  while (after !== null && looked < lookedMax) {
    const page: Awaited<ReturnType<typeof memberships.page>> =
      await memberships.page(group, after, pageMax);
    looked += page.items.length;
    for (const one of page.items)
      if (
        isFor(selection, {
          id: one.connectionId,
          userId: one.userId ?? "",
          labels: one.labels,
          groups: new Set([everybody, ...one.groups]),
        })
      )
        matched.push(one);
    after = page.next;
  }
  const instances = new Map<string, number>();
  for (const { state, instance } of matched)
    if (state === "open" && instance !== null)
      instances.set(instance, (instances.get(instance) ?? 0) + 1);
  return {
    to: groupTarget(group),
    recipients: matched
      .slice(0, shownMax)
      .map(({ connectionId, state, instance, protocol, pending }) => ({
        connection: connectionId,
        state,
        instance,
        protocol,
        pending,
        pendingBytes: null,
        problem: null,
      })),
    online: matched.filter(({ state }) => state === "open").length,
    members: {
      total,
      looked,
      matched: matched.length,
      instances: [...instances]
        .map(([instance, online]) => ({ instance, online }))
        .sort((a, b) => b.online - a.online),
    },
    stored: room.stored,
    historyMs: room.historyMs,
    full: dueAtMs === undefined ? undefined : room.full,
  };
}
