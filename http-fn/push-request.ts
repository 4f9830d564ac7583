/**
 * What a push is made of, wherever it came from: options, type and body in, a checked `Push` out. The single push reads
 * its options from headers and query, an item of a batch has them in its own object.
 */
import type { Durability, Target } from "../shared/api.js";
import { BridgeError } from "../shared/errors.js";
import { isConnectionId } from "../shared/ids.js";
import { everybody } from "../shared/keys.js";
import type { MediaType } from "../shared/media.js";
import type { Bridge, Publish, Push, Pushed, UserPush } from "./bridge.js";
import { invalidParameter } from "./contract.js";
import { fingerprint, idempotencyScope } from "./idempotency.js";
import { selectionOf, type SelectionOptions } from "./selection.js";

/** Farthest `at`, milliseconds: as far as `delay`, a week. */
const DUE_MS_MAX = 604_800_000;

/** A push as it goes to the bridge, whoever it is for. */
export type AnyPush = Push | UserPush | Publish;

/** The options a push may have, wherever it goes. */
export interface PushOptions extends SelectionOptions {
  ttl?: number;
  topic?: string;
  delay?: number;
  at?: string;
  durability?: Durability;
  idempotencyKey?: string;
  expect?: "reply";
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
): AnyPush {
  const dueAtMs = dueAt(options, pointer);
  const { ttl, topic, durability, idempotencyKey } = options;
  if (
    "connection" in to &&
    options.filter === undefined &&
    options.except === undefined &&
    topic === undefined &&
    dueAtMs === undefined &&
    idempotencyKey === undefined &&
    (durability ?? defaults.durability) === "local"
  ) {
    // The same as below for nearly all pushes, at a fraction of the cost.
    refuseUnknown(to.connection);
    return {
      connectionId: to.connection,
      body,
      contentType: type.contentType,
      binary: type.binary,
      ttlSeconds: ttl ?? defaults.ttlDefaultSeconds,
    };
  }
  const [name, path] = namesOf(to);
  const filter = textOf(options.filter);
  const except = textOf(options.except);
  const selecting = "group" in to || "broadcast" in to ? [filter, except] : [];
  const message = {
    body,
    contentType: type.contentType,
    binary: type.binary,
    ttlSeconds: ttl ?? defaults.ttlDefaultSeconds,
    ...(topic === undefined ? {} : { topic }),
    ...(dueAtMs === undefined ? {} : { dueAtMs }),
    ...((durability ?? defaults.durability) === "replica"
      ? { durability: "replica" as const }
      : {}),
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
                ...(options.expect === undefined ? [] : [options.expect]),
                ...selecting,
              ],
              contentType: type.contentType,
              body,
            }),
          },
        }),
  };
  if ("group" in to || "broadcast" in to) {
    refuseForGroups(options, pointer);
    const selection = selectionOf(options, pointer);
    return {
      ...message,
      group: "group" in to ? to.group : everybody,
      ...(selection === undefined ? {} : { selection }),
    };
  }
  refuseSelection(options, pointer);
  if ("user" in to) return { ...message, userId: to.user };
  refuseUnknown(to.connection);
  return { ...message, connectionId: to.connection };
}

function refuseUnknown(connectionId: string): void {
  if (!isConnectionId(connectionId))
    throw new BridgeError("connection_not_found");
}

/** As it stands in the query of a single push, so that an item of a batch is the same request. */
const textOf = (
  given: PushOptions["filter"] | PushOptions["except"],
): string | undefined =>
  given === undefined || typeof given === "string"
    ? given
    : Array.isArray(given)
      ? given.join(",")
      : JSON.stringify(given);

/** A target in the scope of idempotency keys, and in paths. */
function namesOf(to: Target): [name: string, path: string] {
  if ("connection" in to)
    return [`connection:${to.connection}`, `connections/${to.connection}`];
  if ("user" in to)
    return [`user:${to.user}`, `users/${encodeURIComponent(to.user)}`];
  const group = "group" in to ? to.group : everybody;
  return [`group:${group}`, `groups/${group}`];
}

/** What means something for a connection or a user only. */
function refuseForGroups({ topic }: PushOptions, pointer: string): void {
  if (topic !== undefined)
    throw invalidParameter(
      `${pointer}/topic`,
      "is for connections and users: nothing of a group is pending that it could replace",
    );
}

/** What means something for a group only; a single push elsewhere has no such parameters. */
function refuseSelection(options: PushOptions, pointer: string): void {
  for (const name of ["filter", "except"] as const)
    if (options[name] !== undefined)
      throw invalidParameter(
        `${pointer}/${name}`,
        "is for groups and broadcast",
      );
}

/** Sends a push to where it goes; `issued` as in `Bridge.push`. */
export function send(
  bridge: Pick<Bridge, "push" | "pushToUser" | "publish">,
  push: AnyPush,
  issued?: () => void,
): Promise<Pushed> {
  if ("group" in push) return bridge.publish(push, issued);
  return "userId" in push
    ? bridge.pushToUser(push, issued)
    : bridge.push(push, issued);
}

/** Throws invalid_parameter. */
export function checkOptions({
  options,
  pointer,
}: Pick<PushRequest, "options" | "pointer">): void {
  dueAt(options, pointer);
  selectionOf(options, pointer);
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
