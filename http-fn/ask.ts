/**
 * Asking the browser: a push with `expect=reply` is answered with what the client says to it, as it said it. The wait is
 * as long as `wait`; a retry with the same Idempotency-Key waits on, or gets the reply that came meanwhile.
 */
import type { FastifyReply } from "fastify";
import type { Reply } from "../shared/replies.js";
import type { Bridge, Pushed } from "./bridge.js";
import { invalidParameter } from "./contract.js";
import type { LiveRequests } from "./live-requests.js";
import type { AnyPush } from "./push-request.js";

/** Seconds that a reply is waited for when the push does not say; as in openapi.yaml. */
const WAIT_SECONDS_DEFAULT = 10;
/** A reply is taken for so much longer than it is waited for: the wait itself decides when it is over. */
const MARGIN_MS = 5_000;
/** The same with an idempotency key: a sender whose first request broke may come back. */
const RETRY_MARGIN_MS = 60_000;

export interface AskOptions {
  expect?: "reply";
  delay?: number;
  at?: string;
}

/**
 * How long a push asks for a reply, milliseconds; undefined when it does not. `waitMs` is undefined when the push does not
 * say. Throws invalid_parameter.
 */
export function askOf(
  { expect, delay, at }: AskOptions,
  waitMs: number | undefined,
): number | undefined {
  if (expect === undefined) return undefined;
  if (delay !== undefined || at !== undefined)
    throw invalidParameter(
      "/query/expect",
      "excludes delay and at: nobody waits for what is not due yet",
    );
  if (waitMs === 0)
    throw invalidParameter("/query/wait", "must be at least 1 with expect");
  return waitMs ?? WAIT_SECONDS_DEFAULT * 1_000;
}

/** How long the reply to a push is taken, milliseconds. */
export const replyMsOf = (waitMs: number, push: AnyPush): number =>
  waitMs + (push.idempotency ? RETRY_MARGIN_MS : MARGIN_MS);

/** Waits for the reply and answers with it. Throws reply_timeout, reply_impossible, outcome_unknown. */
export async function answerWithReply(
  reply: FastifyReply,
  { bridge, live }: { bridge: Pick<Bridge, "reply">; live: LiveRequests },
  pushed: Pushed,
  ask: { waitMs: number; replyMs: number; hasKey: boolean },
): Promise<FastifyReply> {
  const { waitMs, ...question } = ask;
  reply.header("preference-applied", `wait=${waitMs / 1_000}`);
  if (pushed.replayed !== undefined)
    reply.header("idempotency-replayed", "true");
  const said: Reply = await live.during(reply, async (gone) => {
    const timer = setTimeout(() => gone.abort(), waitMs);
    try {
      return await bridge.reply(pushed, question, gone.signal);
    } finally {
      clearTimeout(timer);
    }
  });
  return reply
    .code(200)
    .headers({
      "content-type": said.contentType,
      "reply-connection": said.connectionId,
      "cache-control": "no-store",
      // A client chose the bytes: should a page ever show this answer, nothing in it may run (nosniff is on all answers).
      "content-security-policy": "default-src 'none'; sandbox",
    })
    .send(said.body);
}
