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

/**
 * What a JSON text may be, whoever sends it. Reading takes up to 0.2 µs for each array and object, most where they lie in one
 * another, and nobody else is served meanwhile: 6 MB of `[[[[` took 1.5 s. A string or a number costs no more than its bytes.
 */
export const JSON_LIMITS = {
  /** Arrays and objects in one another. A text with fewer bytes than this cannot pass it, nor the other one. */
  depth: 2_048,
  /** Arrays and objects in all: 40 ms at worst, and 20 for each item of the largest batch. */
  containers: 200_000,
} as const;

/** Counts brackets outside strings, without building anything: 1.5 ns for a byte. Throws invalid_json, with the limit that is passed. */
function checkSize(body: Buffer): void {
  let depth = 0;
  let containers = 0;
  let quoted = false;
  for (let i = 0; i < body.length; i++) {
    const byte = body[i];
    if (quoted) {
      if (byte === 0x5c) i += 1;
      else if (byte === 0x22) quoted = false;
    } else if (byte === 0x22) quoted = true;
    else if (byte === 0x5b || byte === 0x7b) {
      containers += 1;
      depth += 1;
      if (depth > JSON_LIMITS.depth)
        throw new BridgeError("invalid_json", {
          detail: `Arrays and objects lie more than ${JSON_LIMITS.depth} deep in one another.`,
          limit: JSON_LIMITS.depth,
        });
      if (containers > JSON_LIMITS.containers)
        throw new BridgeError("invalid_json", {
          detail: `There are more than ${JSON_LIMITS.containers} arrays and objects.`,
          limit: JSON_LIMITS.containers,
        });
    } else if (byte === 0x5d || byte === 0x7d) depth -= 1;
  }
}

/**
 * Parses UTF-8 JSON within `JSON_LIMITS`. A byte order mark is refused, because the bytes would be passed on with it.
 * Throws invalid_json.
 */
export function parseJson(body: Buffer): unknown {
  if (body.length > JSON_LIMITS.depth) checkSize(body);
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
