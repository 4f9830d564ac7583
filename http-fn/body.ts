/**
 * Request bodies: raw bytes, bounded, never re-serialised. The `Content-Type` decides which frame they become and
 * what they must be; what is not so is refused, never repaired.
 */
import { isUtf8 } from "node:buffer";
import type { IncomingMessage } from "node:http";
import { BridgeError } from "../shared/errors.js";

/** Most bytes of a message (WS-LIM-1); `x-max-bytes` of `MessageBody` in openapi.yaml. */
export const BODY_BYTES_MAX = 262_144;

/** Longest `Content-Type` passed on, in characters; longer ones mean nothing to anybody. */
const CONTENT_TYPE_MAX = 256;

/** How long a body may take, milliseconds: 256 KB in 10 s is 26 KB/s. */
export const BODY_MS_MAX = 10_000;

const EMPTY = Buffer.alloc(0);

/** Reads the whole body. Throws payload_too_large as soon as the limit is known to be passed, request_timeout. */
export function readBody(
  raw: IncomingMessage,
  withinMs = BODY_MS_MAX,
  bytesMax = BODY_BYTES_MAX,
): Buffer | Promise<Buffer> {
  const header = raw.headers["content-length"];
  if (header === undefined && raw.headers["transfer-encoding"] === undefined)
    return EMPTY;
  const declared = header === undefined ? undefined : Number(header);
  if (declared !== undefined && declared > bytesMax)
    throw tooLarge(declared, bytesMax);
  return collect(raw, withinMs, bytesMax);
}

function collect(
  raw: IncomingMessage,
  withinMs: number,
  bytesMax: number,
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    let timer: NodeJS.Timeout | undefined;
    let stopped = false;
    // Nearly every body comes with its headers: by the time of this microtask it is complete and needs no timer.
    queueMicrotask(() => {
      if (stopped) return;
      timer = setTimeout(() => {
        stop();
        raw.resume();
        reject(
          new BridgeError("request_timeout", {
            detail: `The body may take ${withinMs / 1_000} s.`,
          }),
        );
      }, withinMs);
    });
    const stop = () => {
      stopped = true;
      clearTimeout(timer);
      raw.off("data", onData);
      raw.off("end", onEnd);
      raw.off("error", onError);
    };
    const onData = (chunk: Buffer) => {
      length += chunk.length;
      chunks.push(chunk);
      if (length <= bytesMax) return;
      stop();
      // What still comes is read and dropped, so that the answer is not lost in a reset; the request timeout ends it.
      raw.resume();
      reject(tooLarge(length, bytesMax));
    };
    const onEnd = () => {
      stop();
      const [first = EMPTY] = chunks;
      resolve(chunks.length <= 1 ? first : Buffer.concat(chunks, length));
    };
    const onError = (error: Error) => {
      stop();
      reject(
        new BridgeError(
          "bad_request",
          { detail: "The body ended early." },
          error,
        ),
      );
    };
    raw.on("data", onData);
    raw.on("end", onEnd);
    raw.on("error", onError);
  });
}

/** The 413 of a body with more than `limit` bytes. */
export function tooLarge(actual: number, limit: number): BridgeError {
  return new BridgeError("payload_too_large", {
    detail: `The body may have ${limit} bytes.`,
    limit,
    actual,
  });
}

export interface MediaType {
  /** As reported to the client. */
  contentType: string;
  binary: boolean;
  json: boolean;
}

const OCTETS: MediaType = {
  contentType: "application/octet-stream",
  binary: true,
  json: false,
};
const PLAIN: MediaType = {
  contentType: "text/plain",
  binary: false,
  json: false,
};

/** Types seen before; bounded, because callers choose them. */
const known = new Map<string, MediaType>();
const KNOWN_MAX = 200;

/** What a `Content-Type` makes of the body. Throws unsupported_media_type. */
export function mediaTypeOf(header: string | undefined): MediaType {
  if (header === undefined) return OCTETS;
  let type = known.get(header);
  if (type === undefined) {
    type = parseMediaType(header);
    if (known.size < KNOWN_MAX) known.set(header, type);
  }
  return type;
}

function parseMediaType(header: string): MediaType {
  const token = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
  const essence = new RegExp(`^(${token}/${token})[ \\t]*(;|$)`)
    .exec(header)?.[1]
    ?.toLowerCase();
  if (
    essence === undefined ||
    header.length > CONTENT_TYPE_MAX ||
    /[^\t -~]/.test(header)
  )
    throw new BridgeError("unsupported_media_type", {
      detail: "The Content-Type is malformed.",
    });
  // What curl sends when nobody chose a type.
  if (essence === "application/x-www-form-urlencoded") return PLAIN;
  const json =
    essence === "application/json" || /^application\/.+\+json$/.test(essence);
  if (!json && !essence.startsWith("text/"))
    return { contentType: header, binary: true, json: false };
  const charset = /;[ \t]*charset[ \t]*=[ \t]*"?([^";\s]*)/i
    .exec(header)?.[1]
    ?.toLowerCase();
  if (charset !== undefined && !["utf-8", "utf8", "us-ascii"].includes(charset))
    throw new BridgeError("unsupported_media_type", {
      detail: `The charset ${charset} cannot become a text frame.`,
      hint: "Send UTF-8, or application/octet-stream for a binary frame.",
    });
  return { contentType: header, binary: false, json };
}

/** Refuses an encoded body: it would arrive encoded. */
export function checkEncoding(header: string | undefined): void {
  if (header === undefined || header === "identity") return;
  throw new BridgeError("unsupported_media_type", {
    detail: "Content-Encoding is not undone.",
    hint: "Send the body plain.",
  });
}

/** Checks that the bytes are what their type says. Throws invalid_utf8, invalid_json. */
export function checkBody(body: Buffer, type: MediaType): void {
  if (type.binary) return;
  if (!isUtf8(body))
    throw new BridgeError("invalid_utf8", {
      hint: "Send application/octet-stream for a binary frame.",
    });
  if (type.json) parseJson(body);
}

/** Parses UTF-8 JSON. A byte order mark is refused, because the bytes would be passed on with it. */
export function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString("utf8"));
  } catch (error) {
    throw new BridgeError("invalid_json", {
      detail:
        body.length === 0 ? "The body is empty." : (error as Error).message,
    });
  }
}
