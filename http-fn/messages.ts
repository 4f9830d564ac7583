/** Receipts: read one, follow it live, recall its message. */
import type { FastifyReply, FastifyRequest } from "fastify";
import type { Receipt } from "../shared/api.js";
import { BridgeError } from "../shared/errors.js";
import { parseGroupMessageId, parseMessageId } from "../shared/ids.js";
import { isOver } from "../shared/receipts.js";
import { visible, visibleJson } from "../shared/visible.js";
import { accepts, answer, wantsText } from "./answer.js";
import type { Bridge } from "./bridge.js";
import type { ParametersOf } from "./contract.js";
import type { LiveRequests } from "./live-requests.js";
import { beginStream, HEARTBEAT_MS } from "./streaming.js";

export function readReceipt(bridge: Pick<Bridge, "receipt">) {
  return async (request: FastifyRequest, reply: FastifyReply) => {
    reply.header("cache-control", "no-store");
    return answer(
      request,
      reply,
      200,
      await bridge.receipt(messageIdOf(request)),
    );
  };
}

export function recallMessage(bridge: Pick<Bridge, "recall">) {
  return async (request: FastifyRequest, reply: FastifyReply) =>
    answer(request, reply, 200, await bridge.recall(messageIdOf(request)));
}

export interface FollowDeps {
  bridge: Pick<Bridge, "follow">;
  live: LiveRequests;
}

export function followReceipt({ bridge, live }: FollowDeps) {
  return (
    request: FastifyRequest,
    reply: FastifyReply,
    { "Last-Event-ID": seen }: ParametersOf<"followReceipt">,
  ) => {
    const messageId = messageIdOf(request);
    const form = formOf(request);
    return live.during(reply, async (gone) => {
      const receipts = bridge.follow(messageId, gone.signal);
      try {
        // The first one before the head, so that an unknown message is still a proper 404.
        const first = await receipts.next();
        if (first.done) throw new BridgeError("message_not_found");
        if (seen === idOf(first.value) && isOver(first.value))
          return reply.code(204).send();
        await stream(reply, form, first.value, receipts);
        return reply;
      } finally {
        await receipts.return(undefined);
      }
    });
  };
}

/** Writes the head, the first receipt and all that follow. Breaks the answer off when they cannot be had any more. */
async function stream(
  reply: FastifyReply,
  form: Form,
  first: Receipt,
  receipts: AsyncGenerator<Receipt>,
): Promise<void> {
  const raw = beginStream(reply, form.contentType);
  raw.write(form.line(first));
  const heartbeat =
    form.comment === undefined
      ? undefined
      : setInterval(() => raw.write(form.comment), HEARTBEAT_MS);
  let last = first;
  try {
    if (!isOver(first))
      for await (const receipt of receipts) {
        raw.write(form.line(receipt));
        last = receipt;
      }
  } catch {
    // Below: an answer that just ended would look complete.
  } finally {
    clearInterval(heartbeat);
  }
  if (isOver(last)) raw.end();
  else raw.destroy();
}

interface Form {
  contentType: string;
  comment?: string;
  line(receipt: Receipt): string;
}

/** Counts the receipt's changes, so that a client can tell whether it has seen this one. */
const idOf = (receipt: Receipt): string => String(receipt.timeline.length);

const SSE: Form = {
  contentType: "text/event-stream; charset=utf-8",
  comment: ":\n\n",
  line: (receipt) =>
    `event: ${receipt.status}\nid: ${idOf(receipt)}\ndata: ${visibleJson(receipt)}\n\n`,
};
const NDJSON: Form = {
  contentType: "application/x-ndjson; charset=utf-8",
  line: (receipt) => `${visibleJson(receipt)}\n`,
};
const TEXT: Form = {
  contentType: "text/plain; charset=utf-8",
  line: ({ id, status, timeline, ack, reason }) =>
    visible(
      `${timeline.at(-1)?.at ?? ""}  ${status.padEnd(13)}  ${id}  ${ack ?? reason ?? ""}`.trimEnd(),
    ) + "\n",
};

function formOf(request: FastifyRequest): Form {
  const { accept } = request.headers;
  if (accepts(accept, "text/event-stream")) return SSE;
  if (accepts(accept, "application/x-ndjson")) return NDJSON;
  return wantsText(request) ? TEXT : SSE;
}

function messageIdOf(request: FastifyRequest): string {
  const { messageId } = request.params as { messageId: string };
  if (!parseMessageId(messageId) && !parseGroupMessageId(messageId))
    throw new BridgeError("message_not_found");
  return messageId;
}
