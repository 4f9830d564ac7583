/** The stream of events for backends: what connections do, live, resumable, and honest about what it has lost. */
import type { ServerResponse } from "node:http";
import type { FastifyReply, FastifyRequest } from "fastify";
import type { BridgeEvent, EventGap } from "../shared/api.js";
import type { FeedItem, Following } from "../shared/event-feed.js";
import { visible, visibleJson } from "../shared/visible.js";
import { accepts, wantsText } from "./answer.js";
import type { Bridge } from "./bridge.js";
import type { Chores } from "./chores.js";
import type { ParametersOf } from "./contract.js";
import type { LiveRequests } from "./live-requests.js";
import { beginStream, HEARTBEAT_MS, writePaced } from "./streaming.js";

/** A reader keeps this process awake, so it looks for what is due meanwhile this often, milliseconds. */
const CHORES_EVERY_MS = 1_000;

export interface EventsDeps {
  bridge: Pick<Bridge, "followEvents">;
  live: LiveRequests;
  chores: Chores;
}

export function followEvents({ bridge, live, chores }: EventsDeps) {
  return (
    request: FastifyRequest,
    reply: FastifyReply,
    { lastEventId, type, connection, wait }: ParametersOf<"followEvents">,
  ) => {
    const form = formOf(request);
    const types = type === undefined ? undefined : new Set(type.split(","));
    const wanted = (event: BridgeEvent) =>
      (types === undefined || types.has(event.type)) &&
      (connection === undefined || event.subject === connection);
    return live.during(reply, async (gone) => {
      // Before the head, so that an absent Redis is still a proper 503.
      const following = await bridge.followEvents(
        lastEventId === undefined ? undefined : Number(lastEventId),
        gone.signal,
      );
      const look = setInterval(() => {
        if (chores.due()) void chores.run();
      }, CHORES_EVERY_MS);
      try {
        await stream(reply, { form, following, wanted, wait, gone });
      } finally {
        clearInterval(look);
        following.close();
      }
      return reply;
    });
  };
}

interface Work {
  form: Form;
  following: Following;
  wanted(event: BridgeEvent): boolean;
  wait: number | undefined;
  gone: AbortController;
}

/** Writes until the reader leaves or its time is over. Breaks the answer off when events cannot be had any more. */
async function stream(
  reply: FastifyReply,
  { form, following, wanted, wait, gone }: Work,
): Promise<void> {
  const raw: ServerResponse = beginStream(reply, form.contentType);
  raw.flushHeaders();
  let over = false;
  const timer =
    wait === undefined || wait === 0
      ? undefined
      : setTimeout(() => {
          over = true;
          gone.abort();
        }, wait * 1_000);
  let position = 0;
  let heard = false;
  const heartbeat = setInterval(() => {
    if (!raw.writableNeedDrain) raw.write(form.nothing(position));
  }, HEARTBEAT_MS);
  try {
    for await (const item of following.items) {
      position = item.position;
      if (item.kind === "idle") {
        // Says at once where it stands: a reader that is cut off before its first event can resume, too.
        if (!heard) raw.write(form.nothing(position));
        heard = true;
        if (wait === 0) {
          over = true;
          break;
        }
      } else if (item.kind === "gap")
        await writePaced(raw, form.gap(gapOf(item)), gone.signal);
      else if (wanted(item.event))
        await writePaced(raw, form.event(item.event), gone.signal);
    }
  } catch {
    // Below: an answer that just ended would look complete.
  } finally {
    clearTimeout(timer);
    clearInterval(heartbeat);
  }
  if (over) raw.end();
  else raw.destroy();
}

function gapOf({
  after,
  position,
}: Extract<FeedItem, { kind: "gap" }>): EventGap {
  return {
    specversion: "1.0",
    id: `gap.${after}.${position}`,
    type: "gap",
    source: "urn:push-bridge",
    time: new Date().toISOString(),
    position: String(position),
    data: { after: String(after) },
  };
}

interface Form {
  contentType: string;
  event(event: BridgeEvent): string;
  gap(gap: EventGap): string;
  /** Up to here there is nothing for this reader. */
  nothing(position: number): string;
}

/** Events are the same objects for all who follow, so each is written out once for all of them. */
function once<Event extends object>(write: (event: Event) => string) {
  const written = new WeakMap<Event, string>();
  return (event: Event): string => {
    let text = written.get(event);
    if (text === undefined) {
      text = write(event);
      written.set(event, text);
    }
    return text;
  };
}

const json = once((event: BridgeEvent | EventGap) => visibleJson(event));
const sse = once(
  (event: BridgeEvent | EventGap) =>
    `event: ${event.type}\nid: ${event.position}\ndata: ${json(event)}\n\n`,
);
const ndjson = once((event: BridgeEvent | EventGap) => `${json(event)}\n`);

const SSE: Form = {
  contentType: "text/event-stream; charset=utf-8",
  event: sse,
  gap: sse,
  // No data, so no event; but an EventSource remembers the id.
  nothing: (position) => `:\nid: ${position}\n\n`,
};
const NDJSON: Form = {
  contentType: "application/x-ndjson; charset=utf-8",
  event: ndjson,
  gap: ndjson,
  nothing: () => "\n",
};
/** What a line has room for of what a client said, characters. */
const SAID_MAX = 80;

/** An event in a few words, on one line. */
function factOf(data: BridgeEvent["data"]): string {
  if ("event" in data) {
    const said = data.data ?? `(${data.contentType})`;
    const shown = said.length > SAID_MAX ? `${said.slice(0, SAID_MAX)}…` : said;
    return `${data.event}  ${shown}`.trimEnd();
  }
  if ("reason" in data) return data.reason;
  return "count" in data ? `${data.count}` : data.protocol;
}

const TEXT: Form = {
  contentType: "text/plain; charset=utf-8",
  event: ({ time, type, subject, data }) => {
    const line = `${time}  ${type.padEnd(19)}  ${subject}  ${factOf(data)}`;
    return `${visible(line)}\n`;
  },
  gap: ({ time, type, data }) =>
    `${time}  ${type.padEnd(19)}  events after ${data.after} are not kept any more\n`,
  nothing: () => "",
};

function formOf(request: FastifyRequest): Form {
  const { accept } = request.headers;
  if (accepts(accept, "text/event-stream")) return SSE;
  if (accepts(accept, "application/x-ndjson")) return NDJSON;
  return wantsText(request) ? TEXT : SSE;
}
