/**
 * TOKEN_KEYS, read and fully checked before anything starts: which keys tokens are checked and signed with. What is wrong
 * is told with the key's `kid`, never with anything that may be the secret.
 */
import { readFileSync } from "node:fs";
import { createPublicKey, type JsonWebKey } from "node:crypto";
import type { JSONWebKeySet, JWK } from "jose";

/** A key is at least so long, bytes: as long as what HS256 makes of it (RFC 7518, 3.2). */
const secretBytesMin = 32;
/** RFC 7518, 3.3. */
const rsaBitsMin = 2_048;
/** A `kid` longer than this is not shown: it may be a secret in the wrong place. */
const shownKidMax = 20;
const kidPattern = /^[0-9A-Za-z_.-]{1,64}$/;
/** The `kid` of the secret that is kept in Redis. */
export const generatedKid = "bridge";

/** What foreign keys may sign with. */
export const publicAlgorithms = ["RS256", "PS256", "ES256", "EdDSA"];

/** Where the keys come from. */
export type TokenKeys =
  /** Not set: one secret, made once and kept in Redis. */
  | { kind: "generated" }
  | { kind: "secrets"; set: JSONWebKeySet }
  | { kind: "file"; path: string }
  | { kind: "url"; url: URL };

/** `key "<kid>"` where that is no secret for certain, else which one it is. */
const nameOf = (kid: unknown, at: number): string =>
  typeof kid === "string" && kidPattern.test(kid) && kid.length <= shownKidMax
    ? `key "${kid}"`
    : `key ${at + 1}`;

const isLoopback = (host: string) =>
  host === "localhost" || host === "[::1]" || /^127(\.\d{1,3}){3}$/.test(host);

/** Reads TOKEN_KEYS. Throws a sentence that says what is wrong and shows no secret. A file is read and checked, too. */
export function parseTokenKeys(given: string): TokenKeys {
  const text = given.trim();
  if (text === "") return { kind: "generated" };
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(text)) return addressOf(text);
  if (/^[[{"]/.test(text))
    throw new Error(
      "is JSON itself; put the JWKS into a file and name the file, or use kid:base64,…",
    );
  if (/^\.{0,2}\//.test(text) || /^[^:,]*\.json$/.test(text)) {
    readKeyFile(text);
    return { kind: "file", path: text };
  }
  return { kind: "secrets", set: { keys: secretsOf(text) } };
}

function addressOf(text: string): TokenKeys {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url) throw new Error("is no valid URL");
  const { protocol, hostname, username, password } = url;
  if (protocol !== "https:" && !(protocol === "http:" && isLoopback(hostname)))
    throw new Error("a JWKS is fetched by https (http on loopback only)");
  if (username !== "" || password !== "")
    throw new Error("a JWKS is public: its URL has no user and password");
  return { kind: "url", url };
}

function secretsOf(text: string): JWK[] {
  const kids = new Set<string>();
  return text.split(",").map((part, at) => {
    const [kid = "", secret, ...rest] = part.trim().split(":");
    const name = nameOf(kid, at);
    if (secret === undefined || rest.length > 0)
      throw new Error(
        `${name} is not kid:base64 (a JWKS file is named by a path that begins with / or ./ or ends with .json)`,
      );
    if (!kidPattern.test(kid))
      throw new Error(
        `${name}: a kid is 1 to 64 letters, digits and _ . - before the colon`,
      );
    if (!/^[0-9A-Za-z+/_-]+={0,2}$/.test(secret))
      throw new Error(`${name}: what follows the colon is not base64`);
    if (kids.has(kid)) throw new Error(`${name} is there twice`);
    kids.add(kid);
    return checkKey(
      {
        kty: "oct",
        kid,
        alg: "HS256",
        k: Buffer.from(secret, "base64").toString("base64url"),
      },
      name,
    );
  });
}

/** Reads and checks the file of a JWKS. Throws a sentence. */
export function readKeyFile(path: string): JSONWebKeySet {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new Error(`its file cannot be read (${code ?? "unknown error"})`, {
      cause: error,
    });
  }
  return checkKeySet(text);
}

/** Every key of a set that is ours to write is one that we can use. Throws a sentence. */
export function checkKeySet(text: string): JSONWebKeySet {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    // What the parser says shows a piece of the text.
    throw new Error("its file is not JSON");
  }
  const keys = keysIn(parsed);
  const kids = new Set<unknown>();
  for (const [at, key] of keys.entries()) {
    const name = nameOf(key.kid, at);
    if (key.kid !== undefined && !kidPattern.test(key.kid))
      throw new Error(`${name}: a kid is 1 to 64 letters, digits and _ . -`);
    if (key.kid === undefined && keys.length > 1)
      throw new Error(`${name} has no kid, which only a single key may lack`);
    if (key.kid === generatedKid)
      throw new Error(`${name}: this kid is taken, it names a key of ours`);
    if (kids.has(key.kid)) throw new Error(`${name} is there twice`);
    kids.add(key.kid);
    checkKey(key, name);
  }
  return { keys };
}

/** The keys of what should be a JWKS. Throws a sentence. */
function keysIn(parsed: unknown): JWK[] {
  const { keys } = (parsed ?? {}) as { keys?: unknown };
  if (!Array.isArray(keys) || keys.length === 0)
    throw new Error('it is no JWKS: {"keys": [ … ]} with at least one key');
  for (const [at, key] of keys.entries())
    if (typeof key !== "object" || key === null || Array.isArray(key))
      throw new Error(`key ${at + 1} is no object`);
  return keys as JWK[];
}

/** The algorithms that a key's type leaves; its `alg` leaves one of them. Empty: not a key for what we do. */
export function algorithmsOf({ kty, crv, alg, use }: JWK): string[] {
  if (use !== undefined && use !== "sig") return [];
  const byType =
    kty === "oct"
      ? ["HS256"]
      : kty === "RSA"
        ? ["RS256", "PS256"]
        : kty === "EC" && crv === "P-256"
          ? ["ES256"]
          : kty === "OKP" && crv === "Ed25519"
            ? ["EdDSA"]
            : [];
  // RFC 9864 names EdDSA by its curve.
  const wanted = alg === "Ed25519" ? "EdDSA" : alg;
  return wanted === undefined
    ? byType
    : byType.filter((algorithm) => algorithm === wanted);
}

function checkKey(key: JWK, name: string): JWK {
  if (algorithmsOf(key).length === 0)
    throw new Error(
      `${name}: kty, crv, alg and use must be of one of HS256 (oct), RS256 or PS256 (RSA), ES256 (EC P-256), EdDSA (OKP Ed25519)`,
    );
  if (key.kty === "oct") {
    const bytes =
      typeof key.k === "string" ? Buffer.from(key.k, "base64url").length : 0;
    if (bytes < secretBytesMin)
      throw new Error(
        `${name} has a secret of ${bytes} bytes, at least ${secretBytesMin} are needed: openssl rand -base64 32`,
      );
    return key;
  }
  let bits: number | undefined;
  try {
    bits = createPublicKey({ key: key as JsonWebKey, format: "jwk" })
      .asymmetricKeyDetails?.modulusLength;
  } catch {
    throw new Error(`${name} is no valid ${key.kty ?? ""} key`);
  }
  if (key.kty === "RSA" && (bits ?? 0) < rsaBitsMin)
    throw new Error(
      `${name} is an RSA key of ${bits ?? 0} bits, at least ${rsaBitsMin} are needed`,
    );
  return key;
}

/** What of a set that others write is a key for us; what we cannot use is none of our business. Throws when there is none. */
export function usableKeys(parsed: unknown): JSONWebKeySet {
  const keys = keysIn(parsed).filter((key, at) => {
    if (key.kty === "oct" || key.kid === generatedKid) return false;
    try {
      checkKey(key, nameOf(key.kid, at));
      return true;
    } catch {
      return false;
    }
  });
  if (keys.length === 0)
    throw new Error(
      `it has no key of ${publicAlgorithms.join(", ")} to check with`,
    );
  return { keys };
}
