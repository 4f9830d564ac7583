/**
 * Tokens under a secret of ours (HS256), checked and signed at once with Node's own HMAC: jose does both through WebCrypto,
 * a thread and a few promises for each, which was a third of a connect. Only the plain form is taken here; what looks
 * otherwise in any way is left to jose (tokens.ts), which says what is wrong with it.
 */
import { createHmac, timingSafeEqual } from "node:crypto";

/** A token's three parts (RFC 7515, 3.1). */
const compact = /^([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)$/;
/** Header parameters of the plain form. */
const plainHeader = new Set(["alg", "kid", "typ"]);

export interface HmacKey {
  kid: string;
  secret: Buffer;
}

type Json = Record<string, unknown>;

function parse(part: string): Json | undefined {
  try {
    const value: unknown = JSON.parse(
      Buffer.from(part, "base64url").toString("utf8"),
    );
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? (value as Json)
      : undefined;
  } catch {
    return undefined;
  }
}

const digest = (text: string, { secret }: HmacKey): Buffer =>
  createHmac("sha256", secret).update(text).digest();

const encode = (value: Json): string =>
  Buffer.from(JSON.stringify(value)).toString("base64url");

/** A signed token of that `typ`, with `iat`. */
export function signHmac(type: string, payload: Json, key: HmacKey): string {
  const header = encode({ alg: "HS256", kid: key.kid, typ: type });
  const iat = Math.floor(Date.now() / 1_000);
  const text = `${header}.${encode({ ...payload, iat })}`;
  return `${text}.${digest(text, key).toString("base64url")}`;
}

/**
 * Type, payload and key of a valid token; undefined for one that jose has to look at. It may have run out up to
 * `toleranceSeconds` ago.
 */
export function verifyHmac(
  token: string,
  keys: readonly HmacKey[],
  toleranceSeconds: number,
): { type: unknown; payload: Json; kid: string } | undefined {
  const [, head = "", body = "", signature = ""] = compact.exec(token) ?? [];
  const header = parse(head);
  if (header?.["alg"] !== "HS256") return undefined;
  if (!Object.keys(header).every((name) => plainHeader.has(name)))
    return undefined;
  const key = keys.find(({ kid }) => kid === header["kid"]);
  if (!key) return undefined;
  const given = Buffer.from(signature, "base64url");
  const right = digest(`${head}.${body}`, key);
  if (given.length !== right.length || !timingSafeEqual(given, right))
    return undefined;
  const payload = parse(body);
  if (!payload || payload["nbf"] !== undefined) return undefined;
  const { exp } = payload;
  // Seconds since 1970, and over at that second (RFC 7519, 4.1.4).
  const isOver =
    exp !== undefined &&
    (typeof exp !== "number" ||
      exp <= Math.floor(Date.now() / 1_000) - toleranceSeconds);
  return isOver ? undefined : { type: header["typ"], payload, kid: key.kid };
}
