/**
 * Who may ask for what. With API keys: a Bearer key whose scopes include the operation's. Without: only requests
 * that reached the bridge under a loopback name, and no browser page of another site.
 */
import * as crypto from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import type { ApiKey, Scope } from "../shared/config.js";
import { BridgeError } from "../shared/errors.js";

export interface GateOptions {
  apiKeys: readonly ApiKey[];
  /** Origins of browser pages besides the own one; matters only without keys, where nothing else tells pages apart. */
  allowedOrigins: readonly string[];
}

/**
 * Lets a request pass and returns the name of its key ("" without keys), or throws unauthorized, forbidden,
 * forbidden_host, forbidden_origin. `scope` undefined: an operation for everybody.
 */
export type Gate = (
  headers: IncomingHttpHeaders,
  scope: Scope | undefined,
) => string;

export function createGate({ apiKeys, allowedOrigins }: GateOptions): Gate {
  if (apiKeys.length > 0)
    return (headers, scope) =>
      scope === undefined ? "" : admit(apiKeys, headers, scope);
  const origins = new Set(allowedOrigins);
  return (headers, scope) => {
    checkHost(headers.host);
    if (scope !== undefined) checkSite(headers, origins);
    return "";
  };
}

/** One call instead of an object where Node has it (20.12): a third of this function's time. */
const sha256: (text: string) => Buffer =
  typeof crypto.hash === "function"
    ? (text) => crypto.hash("sha256", text, "buffer")
    : (text) => crypto.createHash("sha256").update(text).digest();

function admit(
  apiKeys: readonly ApiKey[],
  headers: IncomingHttpHeaders,
  scope: Scope,
): string {
  const token = /^Bearer +([!-~]+)$/i.exec(headers.authorization ?? "")?.[1];
  if (token === undefined)
    throw new BridgeError("unauthorized", {
      hint: "Send Authorization: Bearer <key>.",
    });
  const digest = sha256(token);
  // Every key is compared, in constant time, so that the answer's time tells nothing about them.
  let found: ApiKey | undefined;
  for (const key of apiKeys)
    if (crypto.timingSafeEqual(digest, key.sha256)) found = key;
  if (found === undefined)
    throw new BridgeError("unauthorized", { detail: "This key is unknown." });
  if (!found.scopes.has(scope) && !found.scopes.has("admin"))
    throw new BridgeError("forbidden", {
      detail: `The key "${found.name}" lacks the scope "${scope}".`,
    });
  return found.name;
}

const LOOPBACK_HOST = /^(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?$/i;
const LOOPBACK_ORIGIN =
  /^https?:\/\/(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?$/;

/** Against DNS rebinding: a page elsewhere can point its own name at 127.0.0.1, but then `Host` carries that name. */
function checkHost(host: string | undefined): void {
  if (host !== undefined && LOOPBACK_HOST.test(host)) return;
  throw new BridgeError("forbidden_host", {
    hint: "Ask for localhost, 127.0.0.1 or [::1], or configure API_KEYS.",
  });
}

/** Against cross-site requests of browsers, which need no preflight for a plain POST. Without browser headers: fine. */
function checkSite(
  headers: IncomingHttpHeaders,
  origins: ReadonlySet<string>,
): void {
  const { origin } = headers;
  if (origin !== undefined) {
    if (LOOPBACK_ORIGIN.test(origin) || origins.has(origin)) return;
    throw new BridgeError("forbidden_origin", {
      hint:
        origin === "null"
          ? "Serve the page over http from localhost instead of opening the file."
          : "Add the origin to ALLOWED_ORIGINS.",
    });
  }
  const site = headers["sec-fetch-site"];
  if (site === undefined || site === "same-origin" || site === "none") return;
  throw new BridgeError("forbidden_origin", {
    hint: "Ask from a page of the bridge's own origin.",
  });
}
