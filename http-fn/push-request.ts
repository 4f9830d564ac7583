/**
 * What a push is made of, wherever it came from: options, type and body in, a checked `Push` out. The single push reads
 * its options from headers and query, an item of a batch has them in its own object.
 */
import type { Durability } from "../shared/api.js";
import type { MediaType } from "./body.js";
import type { Push } from "./bridge.js";
import { invalidParameter } from "./contract.js";
import { fingerprint, idempotencyScope } from "./idempotency.js";

/** Farthest `at`, milliseconds: as far as `delay`, a week. */
const DUE_MS_MAX = 604_800_000;

/** The options every push has. */
export interface PushOptions {
  ttl?: number;
  topic?: string;
  delay?: number;
  at?: string;
  durability?: Durability;
  idempotencyKey?: string;
}

/** What holds when a push does not say. */
export interface PushDefaults {
  ttlDefaultSeconds: number;
  durability: Durability;
}

export interface PushRequest {
  connectionId: string;
  options: PushOptions;
  type: MediaType;
  body: Buffer;
  apiKeyName: string;
  /** Where mistakes in the options are, as a JSON pointer: `/query`, `/body/3`. */
  pointer: string;
}

/** Throws invalid_parameter. */
export function toPush(
  { connectionId, options, type, body, apiKeyName, pointer }: PushRequest,
  defaults: PushDefaults,
): Push {
  const dueAtMs = dueAt(options, pointer);
  const push: Push = {
    connectionId,
    body,
    contentType: type.contentType,
    binary: type.binary,
    ttlSeconds: options.ttl ?? defaults.ttlDefaultSeconds,
  };
  if (options.topic !== undefined) push.topic = options.topic;
  if (dueAtMs !== undefined) push.dueAtMs = dueAtMs;
  if ((options.durability ?? defaults.durability) === "replica")
    push.durability = "replica";
  if (options.idempotencyKey !== undefined)
    push.idempotency = {
      key: idempotencyScope(
        apiKeyName,
        `connection:${connectionId}`,
        options.idempotencyKey,
      ),
      // An item of a batch is the same request as the single push of it.
      fingerprint: fingerprint({
        method: "POST",
        path: `/v1/connections/${connectionId}/messages`,
        options: [
          options.ttl,
          options.topic,
          options.delay,
          options.at,
          // Only when given, so that fingerprints from before it existed stay the same.
          ...(options.durability === undefined ? [] : [options.durability]),
        ],
        contentType: type.contentType,
        body,
      }),
    };
  return push;
}

/** Throws invalid_parameter. */
export function checkOptions({
  options,
  pointer,
}: Pick<PushRequest, "options" | "pointer">): void {
  dueAt(options, pointer);
}

function dueAt(
  { delay, at }: PushOptions,
  pointer: string,
): number | undefined {
  if (delay === undefined && at === undefined) return undefined;
  if (delay !== undefined && at !== undefined)
    throw invalidParameter(
      `${pointer}/at`,
      "excludes delay; give one of the two",
    );
  const now = Date.now();
  const due = at === undefined ? now + (delay ?? 0) * 1_000 : Date.parse(at);
  if (Number.isNaN(due))
    throw invalidParameter(`${pointer}/at`, "is no moment in time");
  if (due > now + DUE_MS_MAX)
    throw invalidParameter(`${pointer}/at`, "must be within a week", {
      limit: DUE_MS_MAX / 1_000,
      actual: Math.round((due - now) / 1_000),
    });
  return due > now ? Math.round(due) : undefined;
}
