/** Idempotency keys: what a key is valid for, and what makes two requests the same one. */
import { createHash } from "node:crypto";

/** Where a key counts: one API key (by name, so that rotation keeps it) and one target. */
export function idempotencyScope(
  apiKeyName: string,
  target: string,
  key: string,
): string {
  return hash([apiKeyName, target, key]);
}

export interface FingerprintParts {
  method: string;
  path: string;
  /** Options that change what is delivered, as given. How long the caller waits for the answer is none. */
  options: readonly (string | number | undefined)[];
  contentType: string;
  body: Buffer;
}

export function fingerprint({
  method,
  path,
  options,
  contentType,
  body,
}: FingerprintParts): string {
  return hash([method, path, JSON.stringify(options), contentType], body);
}

function hash(parts: readonly string[], body?: Buffer): string {
  // NUL occurs in none of the parts, so two lists never read the same.
  const sha256 = createHash("sha256").update(parts.join("\0")).update("\0");
  if (body !== undefined) sha256.update(body);
  return sha256.digest("base64url");
}
