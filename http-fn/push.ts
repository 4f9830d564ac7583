/**
 * POST a message to a connection, a user, a group or everybody: options and body in, 202 out, or 200 when the caller waits
 * for the final state or for a reply.
 */
import type { FastifyReply, FastifyRequest } from "fastify";
import type { Accepted, Receipt, Target } from "../shared/api.js";
import { checkBody, mediaTypeOf } from "../shared/media.js";
import { isFinal } from "../shared/receipts.js";
import { answer } from "./answer.js";
import { answerWithReply, askOf, replyMsOf } from "./ask.js";
import { checkEncoding, readBody } from "./body.js";
import type { Bridge, Pushed, StoredAnswer } from "./bridge.js";
import { invalidParameter, type ParametersOf } from "./contract.js";
import type { KeyQuotas } from "./key-quotas.js";
import type { LiveRequests } from "./live-requests.js";
import {
  checkOptions,
  send,
  toPush,
  type PushDefaults,
} from "./push-request.js";
import type { SelectionOptions } from "./selection.js";

/** Longest wait, seconds; also the maximum of `wait` in openapi.yaml. Below every usual gateway timeout. */
const WAIT_SECONDS_MAX = 60;

export interface PushDeps extends PushDefaults {
  bridge: Pick<
    Bridge,
    | "push"
    | "pushToUser"
    | "publish"
    | "settle"
    | "follow"
    | "explain"
    | "reply"
  >;
  quotas: KeyQuotas;
  live: LiveRequests;
  /** How long a body may take, milliseconds. */
  bodyMs: number;
}

/** Each operation takes its own of these; a group has no `wait`, a connection no `filter`. */
type Options = ParametersOf<"pushToConnection"> & SelectionOptions;

/** `target` reads from the path where it goes; it throws what is wrong with that. */
export function pushTo(
  target: (request: FastifyRequest) => Target,
  { bridge, quotas, live, bodyMs, ...defaults }: PushDeps,
) {
  return async (
    request: FastifyRequest,
    reply: FastifyReply,
    options: Options,
    apiKeyName: string,
  ): Promise<FastifyReply> => {
    const to = target(request);
    const type = mediaTypeOf(request.headers["content-type"]);
    checkEncoding(request.headers["content-encoding"]);
    const wait = waitOf(options);
    const waitMs = wait ?? 0;
    const askMs = askOf(options, wait);
    // Wrong options are refused before the body is read.
    const given = {
      to,
      options,
      type,
      apiKeyName,
      pointer: "/query",
    };
    checkOptions(given);
    const body = await readBody(request.raw, bodyMs);
    checkBody(body, type);
    const push = toPush({ ...given, body }, defaults);
    const replyMs = askMs === undefined ? 0 : replyMsOf(askMs, push);
    if (askMs !== undefined && !("group" in push)) push.replyMs = replyMs;
    if (options.explain === 1) {
      reply.header("cache-control", "no-store");
      return answer(request, reply, 200, await bridge.explain(push));
    }
    // Who asks waits for the reply, and so may every repetition of the request at the same time.
    if (waitMs > 0 && askMs === undefined && !("group" in push))
      push.waitMs = waitMs;

    const counted = quotas.admit(apiKeyName, push);
    quotas.tell(apiKeyName, reply);
    const pushed = await send(bridge, push);
    if (pushed.replayed === undefined)
      quotas.accepted(apiKeyName, push, counted, pushed.accepted);
    reply.header("location", `/v1/messages/${pushed.messageId}`);
    if (askMs !== undefined)
      return answerWithReply(reply, { bridge, live }, pushed, {
        waitMs: askMs,
        replyMs,
        hasKey: push.idempotency !== undefined,
      });
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
    if (push.idempotency !== undefined && !("group" in push))
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

/** Milliseconds; undefined when the push does not say. */
function waitOf({ wait, Prefer }: Options): number | undefined {
  const preferred = Prefer === undefined ? undefined : preferredWait(Prefer);
  if (wait !== undefined && preferred !== undefined && wait !== preferred)
    throw invalidParameter("/query/wait", "differs from the header Prefer");
  const seconds = wait ?? preferred;
  return seconds === undefined ? undefined : seconds * 1_000;
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
