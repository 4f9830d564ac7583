/**
 * Media types of messages, events and replies, whoever sends them: the `Content-Type` decides which frame a body becomes
 * and what it must be; what is not so is refused, never repaired.
 */
import { isUtf8 } from "node:buffer";
import { BridgeError } from "./errors.js";

/** Longest `Content-Type` passed on, in characters; longer ones mean nothing to anybody. */
const CONTENT_TYPE_MAX = 256;

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

/** The bytes; undefined when it is no base64: Node skips what is none, and a message with holes is worse than none. */
export function fromBase64(text: string): Buffer | undefined {
  const bytes = Buffer.from(text, "base64");
  const length = text.replace(/=+$/, "").length;
  return Math.ceil((bytes.length * 4) / 3) === length ? bytes : undefined;
}

/** Half of a surrogate pair has no UTF-8 form; it would arrive as another character. */
export const hasUtf8 = (text: string): boolean => !/\p{Surrogate}/u.test(text);
