/**
 * POST many messages in one request: items in, one result each out, in the same order. Of NDJSON every line is taken as
 * it arrives and its result goes out while the next ones are still on their way. Items are as independent as single
 * pushes: a bad one stops none of the others, and what was accepted stays accepted whatever becomes of the request.
 */
import { isUtf8 } from "node:buffer";
import type { FastifyReply, FastifyRequest } from "fastify";
import type { BatchItem, BatchResult, ErrorCode } from "../shared/api.js";
import { BridgeError, toProblem, type ErrorData } from "../shared/errors.js";
import {
  checkBody,
  fromBase64,
  hasUtf8,
  mediaTypeOf,
  parseJson,
  type MediaType,
} from "../shared/media.js";
import { visible, visibleJson } from "../shared/visible.js";
import { accepts, toBridgeError, wantsText } from "./answer.js";
import { BODY_BYTES_MAX, checkEncoding, readBody, tooLarge } from "./body.js";
import type { Bridge } from "./bridge.js";
import { invalidParameter, type ParametersOf } from "./contract.js";
import type { KeyQuotas } from "./key-quotas.js";
import { readLines, type Ending, type Line } from "./lines.js";
import type { LiveRequests } from "./live-requests.js";
import { send, toPush, type PushDefaults } from "./push-request.js";
import { beginStream } from "./streaming.js";

/** What one batch may be. `x-max-…` of `BatchItems` in openapi.yaml say the same. */
export const BATCH_LIMITS = {
  /** Items: their results together stay well below the 6 MB that an answer may have on the platform. */
  items: 10_000,
  /** Bytes of the body: what the platform lets through in one request. */
  bytes: 6_291_456,
  /** Bytes of one item: the largest message as base64, or as a JSON string with three bytes for each, and its options. */
  itemBytes: 3 * BODY_BYTES_MAX + 8_192,
  /** Items that wait for Redis at the same time: enough that it is never idle, few enough that others come between. */
  itemsInFlight: 500,
  /** Bytes that do so. */
  bytesInFlight: 2_097_152,
} as const;

export interface BatchDeps extends PushDefaults {
  bridge: Pick<Bridge, "push" | "pushToUser" | "publish" | "explain">;
  quotas: KeyQuotas;
  live: LiveRequests;
  checkItem: (value: unknown, where: string) => void;
  /** How long the body may take, and how long it may be silent; milliseconds. */
  withinMs: number;
  idleMs: number;
}

export function pushBatch(deps: BatchDeps) {
  return (
    request: FastifyRequest,
    reply: FastifyReply,
    { explain }: ParametersOf<"pushBatch">,
    apiKeyName: string,
  ) => {
    checkEncoding(request.headers["content-encoding"]);
    const lines = isNdjson(request.headers["content-type"]);
    const batch = new Batch(deps, apiKeyName, request.id, explain === 1);
    return deps.live.during(reply, async (gone) => {
      const { signal } = gone;
      const items = lines
        ? undefined
        : arrayOf(
            await readBody(request.raw, deps.withinMs, BATCH_LIMITS.bytes),
          );
      const sink = new Sink(reply, formOf(request, lines));
      if (items === undefined) {
        const ending = await readLines(
          request.raw,
          (line) => (signal.aborted ? "stop" : batch.take(line, sink)),
          {
            bytes: BATCH_LIMITS.bytes,
            lineBytes: BATCH_LIMITS.itemBytes,
            withinMs: deps.withinMs,
            idleMs: deps.idleMs,
          },
        );
        batch.end(ending, sink);
      } else
        for (const item of items) {
          const answer = batch.take(item, sink);
          if (answer !== "on") await answer;
        }
      await sink.close();
      return reply;
    });
  };
}

function isNdjson(contentType: string | undefined): boolean {
  const essence = contentType?.split(";", 1)[0]?.trim().toLowerCase();
  if (essence === "application/x-ndjson" || essence === "application/ndjson")
    return true;
  if (essence === "application/json") return false;
  throw new BridgeError("unsupported_media_type", {
    detail: "A batch is application/x-ndjson or application/json.",
    hint: "Send one JSON object per line as application/x-ndjson.",
  });
}

/** An item of a JSON array, with a name of its own so that a string in the array is no line. */
interface Parsed {
  item: unknown;
}

function arrayOf(body: Buffer): Parsed[] {
  checkBody(body, { contentType: "", binary: false, json: false });
  const items = parseJson(body);
  if (!Array.isArray(items))
    throw new BridgeError("invalid_body", {
      errors: [{ pointer: "/body", message: "must be an array of items" }],
    });
  if (items.length > BATCH_LIMITS.items)
    throw new BridgeError("payload_too_large", {
      detail: "The batch has too many items; none of them was taken.",
      limit: BATCH_LIMITS.items,
      actual: items.length,
    });
  return items.map((item: unknown) => ({ item }));
}

/** One batch under way. */
class Batch {
  readonly #deps: BatchDeps;
  readonly #apiKeyName: string;
  readonly #requestId: string;
  readonly #explain: boolean;
  /** For a target whose last push may still be overtaken: when it cannot be any more. */
  readonly #turns = new Map<string, Promise<void>>();
  /** The index of the last item for each target. */
  readonly #latest = new Map<string, number>();
  #count = 0;
  #inFlight = 0;
  #bytesInFlight = 0;
  /** Resolves when there is room again. */
  #room: Promise<void> | undefined;
  #makeRoom: () => void = () => undefined;

  constructor(
    deps: BatchDeps,
    apiKeyName: string,
    requestId: string,
    explain: boolean,
  ) {
    this.#deps = deps;
    this.#explain = explain;
    this.#apiKeyName = apiKeyName;
    this.#requestId = requestId;
  }

  /** Takes one item; its result goes to `sink`. */
  take(given: Line | Parsed, sink: Sink): "on" | "stop" | Promise<void> {
    if (this.#count >= BATCH_LIMITS.items) return "stop";
    const index = this.#count++;
    const bytes = Buffer.isBuffer(given) ? given.length : 0;
    this.#inFlight += 1;
    this.#bytesInFlight += bytes;
    const place = sink.place();
    const done = (result: BatchResult): void => {
      sink.put(place, result);
      this.#inFlight -= 1;
      this.#bytesInFlight -= bytes;
      if (this.#room && this.#hasRoom) {
        this.#room = undefined;
        this.#makeRoom();
      }
    };
    const refused = (error: unknown): void =>
      done(this.#refused(index, toBridgeError(error)));
    // No async function: a promise more for each item is felt.
    try {
      this.#push(index, given).then(done, refused);
    } catch (error) {
      refused(error);
    }
    if (this.#hasRoom) return "on";
    this.#room ??= new Promise((resolve) => {
      this.#makeRoom = resolve;
    });
    return this.#room;
  }

  get #hasRoom(): boolean {
    return (
      this.#inFlight < BATCH_LIMITS.itemsInFlight &&
      this.#bytesInFlight < BATCH_LIMITS.bytesInFlight
    );
  }

  #refused(index: number, error: BridgeError): BatchResult {
    const problem = toProblem(error, this.#requestId);
    return { index, status: problem.status, problem };
  }

  /** When not all of it was read: says from which item on nothing was taken. */
  end(ending: Ending, sink: Sink): void {
    if (ending === "complete" || ending === "gone") return;
    const index = this.#count;
    const detail = `Items before ${index} were taken, as their results say; this one and all after it were not.`;
    const rest: Record<typeof ending, [code: ErrorCode, data: ErrorData]> = {
      too_many_bytes: ["payload_too_large", { limit: BATCH_LIMITS.bytes }],
      stopped:
        index >= BATCH_LIMITS.items
          ? ["payload_too_large", { limit: BATCH_LIMITS.items }]
          : ["request_timeout", { hint: "The function is closing." }],
      too_slow: ["request_timeout", {}],
    };
    const [code, data] = rest[ending];
    const error = new BridgeError(code, { detail, ...data });
    sink.put(sink.place(), { ...this.#refused(index, error), rest: true });
  }

  /** Throws what is wrong with the item itself. */
  #push(index: number, given: Line | Parsed): Promise<BatchResult> {
    const pointer = `/body/${index}`;
    const item = itemOf(given);
    if (typeof item === "object" && item !== null && "expect" in item)
      throw invalidParameter(
        `${pointer}/expect`,
        "is for a push of its own: a batch waits for nobody",
      );
    this.#deps.checkItem(item, pointer);
    const options = item as BatchItem;
    const type = mediaTypeOf(options.contentType ?? usualType(options));
    const body = bodyOf(options, type, pointer);
    const push = toPush(
      {
        to: options.to,
        options,
        type,
        body,
        apiKeyName: this.#apiKeyName,
        pointer,
      },
      this.#deps,
    );
    const { bridge } = this.#deps;
    if (this.#explain)
      return bridge.explain(push).then((explanation) => ({
        index,
        status: 200,
        explanation,
      }));
    const { quotas } = this.#deps;
    const counted = quotas.admit(this.#apiKeyName, push);
    // One map for all: no prefix of these begins the ID of a connection.
    const target =
      "userId" in push
        ? `u:${push.userId}`
        : "group" in push
          ? `g:${push.group}`
          : push.connectionId;
    this.#latest.set(target, index);
    if (!("group" in push))
      push.overtaken = () => this.#latest.get(target) !== index;
    return this.#inTurn(target, (issued) => send(bridge, push, issued)).then(
      ({ accepted, replayed }) => {
        if (replayed !== undefined)
          return { index, status: 202, replayed: true, accepted };
        quotas.accepted(this.#apiKeyName, push, counted, accepted);
        return { index, status: 202, accepted };
      },
    );
  }

  /** Starts `push` when what the batch has for the same target before it cannot be overtaken any more. */
  #inTurn<T>(
    target: string,
    push: (issued: () => void) => Promise<T>,
  ): Promise<T> {
    const before = this.#turns.get(target);
    if (before !== undefined) {
      const issued = this.#takeTurn(target);
      return before.then(() => push(issued)).finally(issued);
    }
    let isIssued = false;
    let issued = () => {
      isIssued = true;
    };
    const pushed = push(() => issued());
    // Nearly all are issued at once, and nobody has to wait for them.
    if (isIssued) return pushed;
    issued = this.#takeTurn(target);
    return pushed.finally(issued);
  }

  /** What comes later for the target waits until what this returns is called. */
  #takeTurn(target: string): () => void {
    const turns = this.#turns;
    let end: () => void = () => undefined;
    const turn = new Promise<void>((resolve) => {
      end = resolve;
    }).then(() => {
      if (turns.get(target) === turn) turns.delete(target);
    });
    turns.set(target, turn);
    return end;
  }
}

function itemOf(given: Line | Parsed): unknown {
  if ("item" in given) return given.item;
  if (!Buffer.isBuffer(given))
    throw tooLarge(given.bytes, BATCH_LIMITS.itemBytes);
  if (!isUtf8(given)) throw new BridgeError("invalid_utf8");
  return parseJson(given);
}

type Content = Pick<BatchItem, "data" | "dataBase64" | "json">;

const usualType = ({ dataBase64, json }: Content): string =>
  json !== undefined
    ? "application/json"
    : dataBase64 !== undefined
      ? "application/octet-stream"
      : "text/plain";

/** The bytes of the message. Throws what a single push with them would. */
function bodyOf(
  { data, dataBase64, json }: Content,
  type: MediaType,
  pointer: string,
): Buffer {
  const given =
    Number(data !== undefined) +
    Number(dataBase64 !== undefined) +
    Number(json !== undefined);
  if (given > 1)
    throw new BridgeError("invalid_body", {
      errors: [
        { pointer, message: "give one of data, dataBase64 and json, not two" },
      ],
    });
  let body: Buffer;
  if (dataBase64 !== undefined) {
    const bytes = fromBase64(dataBase64);
    if (bytes === undefined)
      throw new BridgeError("invalid_body", {
        errors: [{ pointer: `${pointer}/dataBase64`, message: "is no base64" }],
      });
    body = bytes;
  } else {
    const text = json === undefined ? (data ?? "") : JSON.stringify(json);
    if (!hasUtf8(text))
      throw new BridgeError("invalid_utf8", {
        errors: [
          { pointer: `${pointer}/data`, message: "has a lone surrogate" },
        ],
      });
    body = Buffer.from(text);
  }
  if (body.length > BODY_BYTES_MAX) throw tooLarge(body.length, BODY_BYTES_MAX);
  if (dataBase64 !== undefined || (type.json && json === undefined))
    checkBody(body, type);
  return body;
}

interface Form {
  contentType: string;
  /** Before the first result, between two, after each and at the end. */
  open: string;
  between: string;
  after: string;
  close: string;
  text(result: BatchResult): string;
}

const json = (result: BatchResult): string => visibleJson(result);

const NDJSON: Form = {
  contentType: "application/x-ndjson; charset=utf-8",
  open: "",
  between: "",
  after: "\n",
  close: "",
  text: json,
};
const ARRAY: Form = {
  contentType: "application/json; charset=utf-8",
  open: "[",
  between: ",\n",
  after: "",
  close: "]\n",
  text: json,
};
const TEXT: Form = {
  contentType: "text/plain; charset=utf-8",
  open: "",
  between: "",
  after: "\n",
  close: "",
  text({ index, status, accepted, explanation, problem, rest }) {
    const words = accepted
      ? [accepted.status.padEnd(13), accepted.id]
      : explanation
        ? [
            `would answer ${explanation.status}`,
            `${explanation.recipients.length} recipients`,
          ]
        : [
            (problem?.code ?? "").padEnd(13),
            rest ? "(and all after it)" : "",
            problem?.detail ?? problem?.title ?? "",
          ];
    return visible(
      [
        String(index).padStart(5),
        String(status),
        ...words.filter((word) => word !== ""),
      ].join("  "),
    );
  },
};

/** As the caller wants it, else as the caller speaks. */
function formOf(request: FastifyRequest, lines: boolean): Form {
  const { accept } = request.headers;
  if (accepts(accept, "application/x-ndjson")) return NDJSON;
  if (accepts(accept, "application/json")) return ARRAY;
  if (wantsText(request)) return TEXT;
  return lines ? NDJSON : ARRAY;
}

/**
 * Results on their way out, in the order of their places. What a slow reader has not taken is kept: it is bounded by the
 * number of items, and to stop reading instead would leave a caller that sends first and reads then waiting for ever.
 */
class Sink {
  readonly #raw: FastifyReply["raw"];
  readonly #form: Form;
  readonly #texts: (string | undefined)[] = [];
  #next = 0;
  #flushing = false;
  #closed: (() => void) | undefined;

  constructor(reply: FastifyReply, form: Form) {
    this.#form = form;
    // A caller that left is no error; what it sent completely is still done.
    this.#raw = beginStream(reply, form.contentType);
    this.#raw.flushHeaders();
  }

  /** Reserves the next place, which `put` fills. */
  place(): number {
    return this.#texts.push(undefined) - 1;
  }

  put(place: number, result: BatchResult): void {
    this.#texts[place] = this.#form.text(result);
    if (this.#flushing) return;
    this.#flushing = true;
    // One write for all that Redis answered together.
    setImmediate(() => this.#flush());
  }

  #flush(): void {
    this.#flushing = false;
    const { open, between, after } = this.#form;
    let out = "";
    for (;;) {
      const text = this.#texts[this.#next];
      if (text === undefined) break;
      this.#texts[this.#next] = undefined;
      out += (this.#next === 0 ? open : between) + text + after;
      this.#next += 1;
    }
    if (out !== "") this.#raw.write(out);
    if (this.#next === this.#texts.length) this.#closed?.();
  }

  /** Resolves when everything is out. */
  async close(): Promise<void> {
    if (this.#next < this.#texts.length)
      await new Promise<void>((resolve) => {
        this.#closed = resolve;
      });
    const { open, close } = this.#form;
    this.#raw.end(this.#texts.length === 0 ? open + close : close);
  }
}
