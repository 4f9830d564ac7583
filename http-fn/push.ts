/** POST a message to a connection: options and body in, 202 out, or 200 when the caller waits for the final state. */
import type { FastifyReply, FastifyRequest } from "fastify";
import type { Accepted, Receipt } from "../shared/api.js";
import { BridgeError } from "../shared/errors.js";
import { isConnectionId } from "../shared/ids.js";
import { isFinal } from "../shared/receipts.js";
import { answer } from "./answer.js";
import { checkBody, checkEncoding, mediaTypeOf, readBody } from "./body.js";
import type { Bridge, Push, Pushed, StoredAnswer } from "./bridge.js";
import { invalidParameter, type ParametersOf } from "./contract.js";
import { fingerprint, idempotencyScope } from "./idempotency.js";
import type { LiveRequests } from "./live-requests.js";

/** Longest wait, seconds; also the maximum of `wait` in openapi.yaml. Below every usual gateway timeout. */
const WAIT_SECONDS_MAX = 60;

/** Farthest `at`, milliseconds: as far as `delay`, a week. */
const DUE_MS_MAX = 604_800_000;

export interface PushDeps {
  bridge: Pick<Bridge, "push" | "settle" | "follow">;
  ttlDefaultSeconds: number;
  durability: "local" | "replica";
  live: LiveRequests;
}

type Options = ParametersOf<"pushToConnection">;

export function pushToConnection({
  bridge,
  ttlDefaultSeconds,
  durability,
  live,
}: PushDeps) {
  return async (
    request: FastifyRequest,
    reply: FastifyReply,
    options: Options,
    apiKeyName: string,
  ): Promise<FastifyReply> => {
    const { connectionId } = request.params as { connectionId: string };
    if (!isConnectionId(connectionId))
      throw new BridgeError("connection_not_found");
    const type = mediaTypeOf(request.headers["content-type"]);
    checkEncoding(request.headers["content-encoding"]);
    const dueAtMs = dueAt(options);
    const waitMs = waitOf(options);
    const body = await readBody(request.raw);
    checkBody(body, type);

    const push: Push = {
      connectionId,
      body,
      contentType: type.contentType,
      binary: type.binary,
      ttlSeconds: options.ttl ?? ttlDefaultSeconds,
    };
    if (options.topic !== undefined) push.topic = options.topic;
    if (dueAtMs !== undefined) push.dueAtMs = dueAtMs;
    if (waitMs > 0) push.waitMs = waitMs;
    if ((options.durability ?? durability) === "replica")
      push.durability = "replica";
    if (options.idempotencyKey !== undefined)
      push.idempotency = {
        key: idempotencyScope(
          apiKeyName,
          `connection:${connectionId}`,
          options.idempotencyKey,
        ),
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

    const pushed = await bridge.push(push);
    reply.header("location", `/v1/messages/${pushed.messageId}`);
    if (pushed.replayed !== undefined)
      return replay(request, reply, pushed, pushed.replayed);
    if (waitMs === 0) return answer(request, reply, 202, pushed.accepted);

    reply.header("preference-applied", `wait=${waitMs / 1_000}`);
    const receipt = await live.during(reply, (gone) =>
      lastReceipt(bridge, pushed, waitMs, gone),
    );
    const final = receipt !== undefined && isFinal(receipt.status);
    const value = final ? receipt : accepted(pushed.accepted, receipt);
    const status = final ? 200 : 202;
    if (push.idempotency !== undefined)
      await bridge.settle(push, { status, body: JSON.stringify(value) });
    return answer(request, reply, status, value);
  };
}

/** The first answer again. */
export function replay(
  request: FastifyRequest,
  reply: FastifyReply,
  { accepted: first }: Pushed,
  stored: StoredAnswer | true,
): FastifyReply {
  reply.header("idempotency-replayed", "true");
  return stored === true
    ? answer(request, reply, 202, first)
    : answer(request, reply, stored.status, JSON.parse(stored.body) as object);
}

/** The receipt when it is final, else the last one seen in time; undefined when none was. */
async function lastReceipt(
  bridge: Pick<Bridge, "follow">,
  { messageId }: Pushed,
  waitMs: number,
  gone: AbortController,
): Promise<Receipt | undefined> {
  const timer = setTimeout(() => gone.abort(), waitMs);
  let last: Receipt | undefined;
  try {
    for await (const receipt of bridge.follow(messageId, gone.signal)) {
      last = receipt;
      if (isFinal(receipt.status)) break;
    }
  } catch {
    // The message is accepted, whatever happened to the waiting; the 202 says so, and the receipt can be read.
  } finally {
    clearTimeout(timer);
  }
  return last;
}

/** The 202 after a wait in vain: what was accepted, as it stands now. */
function accepted(first: Accepted, receipt: Receipt | undefined): Accepted {
  return receipt === undefined ? first : { ...first, status: receipt.status };
}

/** When a message is due; undefined: now. Throws invalid_parameter. */
export function dueAt({
  delay,
  at,
}: Pick<Options, "delay" | "at">): number | undefined {
  if (delay === undefined && at === undefined) return undefined;
  if (delay !== undefined && at !== undefined)
    throw invalidParameter("/query/at", "excludes delay; give one of the two");
  const now = Date.now();
  const due = at === undefined ? now + (delay ?? 0) * 1_000 : Date.parse(at);
  if (Number.isNaN(due))
    throw invalidParameter("/query/at", "is no moment in time");
  if (due > now + DUE_MS_MAX)
    throw invalidParameter("/query/at", "must be within a week", {
      limit: DUE_MS_MAX / 1_000,
      actual: Math.round((due - now) / 1_000),
    });
  return due > now ? Math.round(due) : undefined;
}

function waitOf({ wait, Prefer }: Options): number {
  const preferred = Prefer === undefined ? undefined : preferredWait(Prefer);
  if (wait !== undefined && preferred !== undefined && wait !== preferred)
    throw invalidParameter("/query/wait", "differs from the header Prefer");
  return (wait ?? preferred ?? 0) * 1_000;
}

/**
 * `wait` of a `Prefer` header, seconds; the first one counts, at most the maximum. Other preferences, and a wait
 * that is no number, are ignored (RFC 7240, section 2).
 */
export function preferredWait(prefer: string): number | undefined {
  // Cut by hand: a pattern for this would be slow on hostile input.
  for (const preference of prefer.split(",")) {
    const [name = "", value = ""] = (preference.split(";", 1)[0] ?? "").split(
      "=",
    );
    if (name.trim().toLowerCase() !== "wait") continue;
    const digits = /^("?)(\d{1,9})\1$/.exec(value.trim())?.[2];
    return digits === undefined
      ? undefined
      : Math.min(Number(digits), WAIT_SECONDS_MAX);
  }
  return undefined;
}
