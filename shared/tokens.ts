/**
 * Tokens: JWTs that say who a client is (jose). Two kinds are ours, told from all others by their type (RFC 8725, 3.11) and
 * by a key that is ours: those of prepared connections, and those for coming back. All others say who a user is, and must
 * run out.
 */
import {
  decodeProtectedHeader,
  errors,
  importJWK,
  jwtVerify,
  SignJWT,
  type JSONWebKeySet,
  type JWK,
  type JWTPayload,
} from "jose";
import { randomBytes } from "node:crypto";
import {
  ClaimError,
  isPermission,
  readClaims,
  readOwnClaims,
  type Claims,
  type OwnClaims,
} from "./claims.js";
import { BridgeError } from "./errors.js";
import { signHmac, verifyHmac, type HmacKey } from "./hmac-tokens.js";
import { Kept } from "./kept.js";
import { tokenTag } from "./ids.js";
import { keys } from "./keys.js";
import type { RedisLink } from "./redis.js";
import type { Origin } from "./revocations.js";
import {
  algorithmsOf,
  generatedKid,
  publicAlgorithms,
  readKeyFile,
  usableKeys,
  type TokenKeys,
} from "./token-keys.js";

/** How far clocks may differ, seconds. */
const toleranceSeconds = 5;
export const toleranceMs = toleranceSeconds * 1_000;
/** A resume token outlives every resume window; a connection that is gone answers 410 whatever the token says. */
const resumeSeconds = 7 * 86_400;

/** `typ` of our tokens. */
const connectionType = "bridge-connection+jwt";
const resumeType = "bridge-resume+jwt";
const ownTypes: readonly unknown[] = [connectionType, resumeType];

/** A file is read again, and an address asked again, after this long, milliseconds. */
const fileRefreshMs = 10_000;
const urlRefreshMs = 300_000;
/** Keys of an address that does not answer for this long are not trusted any more, milliseconds. */
const urlStaleMs = 3_600_000;
const urlTimeoutMs = 5_000;
/** A JWKS is a few kilobytes. */
const urlBytesMax = 1_048_576;

/** What a token says. */
export interface TokenClaims {
  /** Which token it is: ours for a prepared connection or for coming back, or one that says who a user is. */
  kind: "connection" | "resume" | "user";
  /** Its connection; a user's token has none, and a new connection is made. */
  connectionId: string | undefined;
  /** The epoch in which a resume token was given. */
  epoch: number | undefined;
  userId: string;
  groups: string[];
  permissions: string[];
  /** When it runs out, milliseconds since 1970; undefined: with its connection. */
  expiresAtMs: number | undefined;
  /** The key that signed it. */
  kid: string;
  /** The token that its client came with first: itself, unless it is for coming back. Undefined: it came without one. */
  origin: Origin | undefined;
}

export interface TokenRules {
  keys: TokenKeys;
  /** TOKEN_ISSUER; "": any. */
  issuer: string;
  /** TOKEN_AUDIENCE; "": any. */
  audience: string;
  /** Keys in a file or at an address are loaded again after this long, milliseconds. Default 10,000 and 300,000. */
  refreshMs?: number;
  /** Keys that could not be loaded again. */
  failed?: (error: unknown) => void;
}

interface Signer {
  alg: string;
  kid: string;
  key: Awaited<ReturnType<typeof importJWK>>;
  /** Set when it signs with a secret. */
  hmac: HmacKey | undefined;
}

interface OwnKeys {
  sign: Signer;
  set: JSONWebKeySet;
  /** The secrets among them. */
  hmac: readonly HmacKey[];
}

const invalid = (detail: string, cause?: unknown) =>
  new BridgeError("token_invalid", { detail }, cause);
/** Says nothing of a token when the keys it could be checked with cannot be had. */
const unavailable = (detail: string, cause?: unknown) =>
  new BridgeError("token_keys_unavailable", { detail }, cause);

export class Tokens {
  /** A resume token that was given this long ago is renewed while its socket is open, milliseconds. */
  readonly renewMs: number = (resumeSeconds / 2) * 1_000;
  readonly #rules: TokenRules;
  readonly #redis: RedisLink;
  readonly #own: Kept<OwnKeys>;
  /** Keys of others, with ours where both are in one file. Undefined: there are none but ours. */
  readonly #foreign: Kept<JSONWebKeySet> | undefined;

  constructor(rules: TokenRules, redis: RedisLink) {
    this.#rules = rules;
    this.#redis = redis;
    const { keys: from, refreshMs, failed } = rules;
    const never = { refreshMs: Infinity };
    const whenFailed = failed ? { failed } : {};
    switch (from.kind) {
      case "generated":
        this.#own = new Kept(() => this.#generated(), never);
        break;
      case "secrets":
        this.#own = new Kept(() => ownOf(from.set), never);
        break;
      case "file": {
        const refresh = {
          refreshMs: refreshMs ?? fileRefreshMs,
          ...whenFailed,
        };
        const file = new Kept(() => readFile(from.path), refresh);
        this.#foreign = file;
        this.#own = new Kept(async () => {
          const mine = (await file.get()).keys.filter(canSign);
          return mine.length > 0 ? ownOf({ keys: mine }) : this.#generated();
        }, refresh);
        break;
      }
      case "url":
        this.#own = new Kept(() => this.#generated(), never);
        this.#foreign = new Kept(() => fetchKeys(from.url), {
          refreshMs: refreshMs ?? urlRefreshMs,
          staleMs: urlStaleMs,
          ...whenFailed,
        });
    }
  }

  /** One secret for all instances, kept in Redis, made by whoever comes first. Throws token_keys_unavailable. */
  async #generated(): Promise<OwnKeys> {
    const read = () => this.#redis.command("GET", keys.tokenSecret);
    let k = await read();
    // Looked for first: a Redis that is full refuses a SET even where it would change nothing.
    if (typeof k !== "string") {
      const fresh = randomBytes(32).toString("base64url");
      await this.#redis.command("SET", keys.tokenSecret, fresh, "NX");
      k = await read();
    }
    // A Redis that answers nothing twice is none to take a secret from.
    if (typeof k !== "string" || !/^[0-9A-Za-z_-]{43}$/.test(k))
      throw unavailable("Redis has no secret to sign tokens with");
    return ownOf({
      keys: [{ kty: "oct", kid: generatedKid, alg: "HS256", k }],
    });
  }

  /** Whether it is the key that our own tokens are signed with now. Throws token_keys_unavailable, redis_unavailable. */
  async signsWith(kid: string): Promise<boolean> {
    return (await this.#own.get()).sign.kid === kid;
  }

  async #sign(
    type: string,
    payload: JWTPayload,
    expiresAtSeconds?: number,
  ): Promise<string> {
    const { sign } = this.#own.now ?? (await this.#own.get());
    if (sign.hmac)
      return signHmac(
        type,
        expiresAtSeconds === undefined
          ? payload
          : { ...payload, exp: expiresAtSeconds },
        sign.hmac,
      );
    const jwt = new SignJWT(payload)
      .setProtectedHeader({ alg: sign.alg, kid: sign.kid, typ: type })
      .setIssuedAt();
    if (expiresAtSeconds !== undefined) jwt.setExpirationTime(expiresAtSeconds);
    return jwt.sign(sign.key);
  }

  /** The token of a prepared connection. It lives as long as its connection, so it has no `exp` of its own. */
  forConnection(connectionId: string, userId: string): Promise<string> {
    return this.#sign(connectionType, {
      cid: connectionId,
      ...(userId === "" ? {} : { sub: userId }),
    });
  }

  /**
   * What brings a client back to its connection, given to the socket of `epoch`: good until a later one was used. For a
   * week, but never longer than the token it came with, `expiresAtMs`; `origin` is that token, which may be revoked.
   */
  forResume(
    connectionId: string,
    epoch: number,
    expiresAtMs?: number,
    origin?: Origin,
  ): Promise<string> {
    const latest = Math.floor(Date.now() / 1_000) + resumeSeconds;
    const expires =
      expiresAtMs === undefined
        ? latest
        : Math.min(latest, Math.floor(expiresAtMs / 1_000));
    return this.#sign(
      resumeType,
      {
        cid: connectionId,
        epc: epoch,
        ...(expiresAtMs === undefined
          ? {}
          : { lim: Math.floor(expiresAtMs / 1_000) }),
        ...(origin && {
          org: [origin.kid, origin.token, origin.issuedAt, origin.userId],
        }),
      },
      expires,
    );
  }

  /** Checks a token. Throws token_invalid, token_expired, token_keys_unavailable, redis_unavailable. */
  async verify(token: string): Promise<TokenClaims> {
    try {
      const own = this.#own.now ?? (await this.#own.get());
      const plain = verifyHmac(token, own.hmac, toleranceSeconds);
      const { type, payload, kid, isOwnKey } =
        plain === undefined
          ? await this.#verify(token, own)
          : { ...plain, isOwnKey: true };
      return isOwnKey && ownTypes.includes(type)
        ? ownToken(type, kid, payload)
        : userToken(payload, kid, isOwnKey, this.#rules);
    } catch (error) {
      if (error instanceof BridgeError) throw error;
      if (error instanceof errors.JWTExpired)
        throw new BridgeError("token_expired", {
          detail: "the token has expired",
        });
      if (error instanceof ClaimError)
        throw invalid(`a claim of the token is wrong: ${error.message}`);
      throw invalid("the token is not valid", error);
    }
  }

  async #verify(token: string, own: OwnKeys) {
    const { kid, alg = "", typ } = decodeProtectedHeader(token);
    const wanted = { kid, alg };
    let key = keyIn(own.set, wanted);
    const isOwnKey = key !== undefined;
    // A key of others opens no connection of ours, whatever its tokens call themselves.
    if (!key && ownTypes.includes(typ))
      throw invalid("no key of ours signed it");
    if (!key && this.#foreign)
      key =
        keyIn(await this.#foreign.get(), wanted) ??
        keyIn(await this.#foreign.again(), wanted);
    if (!key) throw new errors.JWKSNoMatchingKey();
    const { payload } = await jwtVerify(token, await imported(key, alg), {
      // The key's type has decided already; this keeps jose from anything else.
      algorithms: ["HS256", ...publicAlgorithms, "Ed25519"],
      clockTolerance: toleranceSeconds,
    });
    return { type: typ, payload, kid: key.kid ?? "", isOwnKey };
  }
}

const milliseconds = (seconds: number | undefined) =>
  seconds === undefined ? undefined : seconds * 1_000;

/** Ours: for the connection that it names. */
function ownToken(
  type: unknown,
  kid: string,
  payload: JWTPayload,
): TokenClaims {
  const { cid, epc, lim, org, exp, ...claims } = readOwnClaims(payload);
  const isResume = type === resumeType;
  if (isResume && epc === undefined) throw new ClaimError("there is no epc");
  return {
    kind: isResume ? "resume" : "connection",
    connectionId: cid,
    epoch: isResume ? epc : undefined,
    ...who(claims),
    // The `exp` of a resume token bounds its use, not the socket it opens; `lim` is that of the first token.
    expiresAtMs: milliseconds(isResume ? lim : exp),
    kid,
    origin: isResume ? org && fromResume(org) : originOf(kid, claims),
  };
}

function originOf(kid: string, { jti, iat = 0, sub = "" }: Claims): Origin {
  return {
    kid,
    token: jti === undefined ? "" : tokenTag(jti),
    issuedAt: iat,
    userId: sub,
  };
}

const fromResume = ([kid, token, issuedAt, userId]: NonNullable<
  OwnClaims["org"]
>): Origin => ({ kid, token, issuedAt, userId });

/** Not ours, or of no type of ours: says who a user is. */
function userToken(
  payload: JWTPayload,
  kid: string,
  isOwnKey: boolean,
  { issuer, audience }: TokenRules,
): TokenClaims {
  const claims = readClaims(payload);
  if (claims.exp === undefined) throw new ClaimError("there is no exp");
  if (issuer !== "" && payload.iss !== issuer)
    throw new ClaimError("iss is not that of TOKEN_ISSUER");
  if (audience !== "" && ![payload.aud ?? []].flat().includes(audience))
    throw new ClaimError("aud does not name that of TOKEN_AUDIENCE");
  // Others' `cid` may mean anything. Who signs with our key means ours.
  if (isOwnKey && "cid" in payload)
    throw new ClaimError(
      `cid is for tokens of the type ${connectionType} (header parameter typ)`,
    );
  return {
    kind: "user",
    connectionId: undefined,
    epoch: undefined,
    ...who(claims),
    expiresAtMs: milliseconds(claims.exp),
    kid,
    origin: originOf(kid, claims),
  };
}

const who = ({ sub = "", groups = [], permissions = [] }: Claims) => ({
  userId: sub,
  groups,
  permissions: permissions.filter(isPermission),
});

const canSign = (key: JWK): boolean => "k" in key || "d" in key;

/** The one key of a set that the header of a token means; its type decides which algorithms it is for. */
function keyIn(
  { keys: all }: JSONWebKeySet,
  { kid, alg }: { kid: string | undefined; alg: string },
): JWK | undefined {
  const name = alg === "Ed25519" ? "EdDSA" : alg;
  const [key, ...more] = all.filter(
    (one) =>
      algorithmsOf(one).includes(name) &&
      (one.kid === kid ||
        (all.length === 1 && (one.kid === undefined || kid === undefined))),
  );
  return more.length === 0 ? key : undefined;
}

/** Imported keys, for checking: a set is kept for a while, and importing takes longer than checking. */
const importedKeys = new WeakMap<JWK, ReturnType<typeof importJWK>>();

function imported(key: JWK, alg: string): ReturnType<typeof importJWK> {
  // An RSA key may be for two algorithms; the other one is imported each time.
  const [usual] = algorithmsOf(key);
  const known = alg === usual ? importedKeys.get(key) : undefined;
  if (known) return known;
  const { kty, k, n, e, crv, x, y } = key;
  const asPublic = JSON.parse(
    JSON.stringify({ kty, k, n, e, crv, x, y }),
  ) as JWK;
  const importing = importJWK(asPublic, alg);
  if (alg === usual) importedKeys.set(key, importing);
  return importing;
}

/** The keys of the file. Throws token_keys_unavailable. */
function readFile(path: string): Promise<JSONWebKeySet> {
  try {
    return Promise.resolve(readKeyFile(path));
  } catch (error) {
    return Promise.reject(
      unavailable("the file of TOKEN_KEYS cannot be read", error),
    );
  }
}

/** The keys at the address. Throws token_keys_unavailable. */
async function fetchKeys(url: URL): Promise<JSONWebKeySet> {
  try {
    const response = await fetch(url, {
      redirect: "error",
      signal: AbortSignal.timeout(urlTimeoutMs),
      headers: { accept: "application/jwk-set+json, application/json" },
    });
    if (!response.ok) throw new Error(`it answers ${response.status}`);
    let text = "";
    const decoder = new TextDecoder();
    for await (const piece of response.body ?? []) {
      text += decoder.decode(piece as Uint8Array, { stream: true });
      if (text.length > urlBytesMax) throw new Error("its answer is too large");
    }
    return usableKeys(JSON.parse(text));
  } catch (error) {
    throw unavailable("the address of TOKEN_KEYS does not answer", error);
  }
}

/** The secrets of a set. */
const hmacKeys = (set: JSONWebKeySet): HmacKey[] =>
  set.keys.flatMap((key) =>
    algorithmsOf(key).includes("HS256") && typeof key.k === "string"
      ? [{ kid: key.kid ?? "", secret: Buffer.from(key.k, "base64url") }]
      : [],
  );

/** The first of them signs. */
async function ownOf(set: JSONWebKeySet): Promise<OwnKeys> {
  const jwk = set.keys.find(canSign);
  const [alg] = jwk ? algorithmsOf(jwk) : [];
  if (!jwk || alg === undefined)
    throw unavailable("TOKEN_KEYS has no key that can sign");
  const [hmac] = hmacKeys({ keys: [jwk] });
  const key = await importJWK(jwk, alg);
  return {
    sign: { alg, kid: jwk.kid ?? "", key, hmac },
    set,
    hmac: hmacKeys(set),
  };
}
