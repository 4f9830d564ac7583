/** Request bodies: raw bytes, bounded, never re-serialised. What they must be: shared/media.ts. */
import type { IncomingMessage } from "node:http";
import { BridgeError } from "../shared/errors.js";

/** Most bytes of a message (WS-LIM-1); `x-max-bytes` of `MessageBody` in openapi.yaml. */
export const BODY_BYTES_MAX = 262_144;

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

/** Refuses an encoded body: it would arrive encoded. */
export function checkEncoding(header: string | undefined): void {
  if (header === undefined || header === "identity") return;
  throw new BridgeError("unsupported_media_type", {
    detail: "Content-Encoding is not undone.",
    hint: "Send the body plain.",
  });
}
