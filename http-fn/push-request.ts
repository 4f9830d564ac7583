/**
 * What a push is made of, wherever it came from: options, type and body in, a checked `Push` out. The single push reads
 * its options from headers and query, an item of a batch has them in its own object.
 */
import type { Durability, Target } from "../shared/api.js";
import { BridgeError } from "../shared/errors.js";
import { isConnectionId } from "../shared/ids.js";
import type { MediaType } from "./body.js";
import type { Bridge, Push, Pushed, UserPush } from "./bridge.js";
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
  to: Target;
  options: PushOptions;
  type: MediaType;
  body: Buffer;
  apiKeyName: string;
  /** Where mistakes in the options are, as a JSON pointer: `/query`, `/body/3`. */
  pointer: string;
}

/** Throws invalid_parameter, and connection_not_found for what cannot be a connection. */
export function toPush(
  { to, options, type, body, apiKeyName, pointer }: PushRequest,
  defaults: PushDefaults,
): Push | UserPush {
  const dueAtMs = dueAt(options, pointer);
  const { ttl, topic, durability, idempotencyKey } = options;
  const [name, path] =
    "connection" in to
      ? [`connection:${to.connection}`, `connections/${to.connection}`]
      : [`user:${to.user}`, `users/${encodeURIComponent(to.user)}`];
  const message = {
    body,
    contentType: type.contentType,
    binary: type.binary,
    ttlSeconds: ttl ?? defaults.ttlDefaultSeconds,
    ...(topic === undefined ? {} : { topic }),
    ...(dueAtMs === undefined ? {} : { dueAtMs }),
    ...(idempotencyKey === undefined
      ? {}
      : {
          idempotency: {
            key: idempotencyScope(apiKeyName, name, idempotencyKey),
            // An item of a batch is the same request as the single push of it.
            fingerprint: fingerprint({
              method: "POST",
              path: `/v1/${path}/messages`,
              options: [
                ttl,
                topic,
                options.delay,
                options.at,
                // Only when given, so that fingerprints from before it existed stay the same.
                ...(durability === undefined ? [] : [durability]),
              ],
              contentType: type.contentType,
              body,
            }),
          },
        }),
  };
  if ("user" in to) {
    // A default for all pushes must not shut users out; the answer says what was reached.
    if (durability === "replica")
      throw invalidParameter(
        `${pointer}/durability`,
        "replica is not offered for users; push to their connections",
      );
    return { ...message, userId: to.user };
  }
  if (!isConnectionId(to.connection))
    throw new BridgeError("connection_not_found");
  return {
    ...message,
    connectionId: to.connection,
    ...((durability ?? defaults.durability) === "replica"
      ? { durability: "replica" }
      : {}),
  };
}

/** Sends a push to where it goes; `issued` as in `Bridge.push`. */
export function send(
  bridge: Pick<Bridge, "push" | "pushToUser">,
  push: Push | UserPush,
  issued?: () => void,
): Promise<Pushed> {
  return "userId" in push ? bridge.pushToUser(push) : bridge.push(push, issued);
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
