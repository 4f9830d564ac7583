/**
 * Tokens: JWTs that say who a client is (jose; HS256 and EdDSA, keys by `kid`). Made for prepared connections and for
 * resuming; checked at the handshake.
 */
import {
  createLocalJWKSet,
  createRemoteJWKSet,
  decodeProtectedHeader,
  errors,
  importJWK,
  jwtVerify,
  SignJWT,
  type JSONWebKeySet,
  type JWTPayload,
  type JWTVerifyGetKey,
} from "jose";
import { readFile } from "node:fs/promises";
import { randomBytes } from "node:crypto";
import { BridgeError } from "./errors.js";
import { signHmac, verifyHmac, type HmacKey } from "./hmac-tokens.js";
import { keys } from "./keys.js";
import type { RedisLink } from "./redis.js";

const algorithms = ["HS256", "EdDSA"];
/** A resume token outlives every resume window; a connection that is gone answers 410 whatever the token says. */
const resumeSeconds = 7 * 86_400;

/** What a token says. */
export interface TokenClaims {
  /** Its connection; without one a new connection is made. */
  connectionId: string | undefined;
  userId: string;
  groups: string[];
  permissions: string[];
  /** True for a resume token of ours. */
  resume: boolean;
  /** When it runs out, milliseconds since the epoch; undefined: with its connection. */
  expiresAtMs: number | undefined;
}

interface Signer {
  alg: string;
  kid: string;
  key: Awaited<ReturnType<typeof importJWK>>;
  /** Set when it signs with a secret. */
  hmac: HmacKey | undefined;
}

interface LoadedKeys {
  verify: JWTVerifyGetKey;
  sign: Signer;
  /** The secrets among those that verify. */
  hmac: readonly HmacKey[];
}

function strings(value: unknown): string[] {
  return Array.isArray(value)
    ? value.filter((item): item is string => typeof item === "string")
    : [];
}

export class Tokens {
  readonly #source: string;
  readonly #keyless: boolean;
  readonly #redis: RedisLink;
  #keys: Promise<LoadedKeys> | undefined;
  #loaded: LoadedKeys | undefined;

  /** `source` is TOKEN_KEYS: a JWKS file or URL, or `kid:base64,…` with the first key signing. */
  constructor(source: string, keyless: boolean, redis: RedisLink) {
    this.#source = source;
    this.#keyless = keyless;
    this.#redis = redis;
  }

  #load(): Promise<LoadedKeys> {
    this.#keys ??= this.#read().then(
      (loaded) => (this.#loaded = loaded),
      (error: unknown) => {
        this.#keys = undefined;
        throw error;
      },
    );
    return this.#keys;
  }

  async #read(): Promise<LoadedKeys> {
    const source = this.#source;
    if (/^https?:\/\//.test(source)) {
      const verify = fetched(createRemoteJWKSet(new URL(source)));
      // Public keys verify; what we sign ourselves needs a secret of our own.
      const own = await this.#generated();
      return keysOf(own, either(own, verify), own);
    }
    if (source === "") {
      const own = await this.#generated();
      return keysOf(own, localKeys(own), own);
    }
    if (/^[^/.:]+:[A-Za-z0-9+/=_-]+(,|$)/.test(source)) {
      const set: JSONWebKeySet = {
        keys: source.split(",").map((part) => {
          const [kid = "", secret = ""] = part.split(":");
          return {
            kty: "oct",
            kid,
            alg: "HS256",
            k: Buffer.from(secret, "base64").toString("base64url"),
          };
        }),
      };
      return keysOf(set, localKeys(set), set);
    }
    const set = await readKeys(source);
    const own = set.keys.some((key) => "k" in key || "d" in key)
      ? set
      : await this.#generated();
    return own === set
      ? keysOf(set, localKeys(set), set)
      : keysOf(own, either(own, localKeys(set)), own);
  }

  /** One secret for all instances, kept in Redis, made by whoever comes first. */
  async #generated(): Promise<JSONWebKeySet> {
    const read = () => this.#redis.command("GET", keys.tokenSecret);
    let k = await read();
    // Looked for first: a Redis that is full refuses a SET even where it would change nothing.
    if (typeof k !== "string") {
      const fresh = randomBytes(32).toString("base64url");
      await this.#redis.command("SET", keys.tokenSecret, fresh, "NX");
      k = await read();
    }
    return {
      keys: [{ kty: "oct", kid: "bridge", alg: "HS256", k: String(k) }],
    };
  }

  /** Whether a client without a token may be told that it could have one. */
  get keyless(): boolean {
    return this.#keyless;
  }

  async #sign(payload: JWTPayload, expiresAtSeconds?: number): Promise<string> {
    const { sign } = this.#loaded ?? (await this.#load());
    if (sign.hmac)
      return signHmac(
        expiresAtSeconds === undefined
          ? payload
          : { ...payload, exp: expiresAtSeconds },
        sign.hmac,
      );
    const jwt = new SignJWT(payload)
      .setProtectedHeader({ alg: sign.alg, kid: sign.kid, typ: "JWT" })
      .setIssuedAt();
    if (expiresAtSeconds !== undefined) jwt.setExpirationTime(expiresAtSeconds);
    return jwt.sign(sign.key);
  }

  /** The token of a prepared connection. It lives as long as its connection, so it has no `exp` of its own. */
  forConnection(connectionId: string, userId: string): Promise<string> {
    return this.#sign({
      cid: connectionId,
      ...(userId === "" ? {} : { sub: userId }),
    });
  }

  /** What brings a client back to its connection; never longer than the token it came with. */
  forResume(connectionId: string, expiresAtMs?: number): Promise<string> {
    const latest = Math.floor(Date.now() / 1_000) + resumeSeconds;
    const expires =
      expiresAtMs === undefined
        ? latest
        : Math.min(latest, Math.floor(expiresAtMs / 1_000));
    return this.#sign(
      {
        cid: connectionId,
        use: "resume",
        ...(expiresAtMs === undefined ? {} : { lim: expires }),
      },
      expires,
    );
  }

  /** Checks a token. Throws token_invalid, token_expired, token_keys_unavailable, redis_unavailable. */
  async verify(token: string): Promise<TokenClaims> {
    let payload: JWTPayload;
    try {
      const { verify, hmac } = this.#loaded ?? (await this.#load());
      const plain = verifyHmac(token, hmac);
      if (plain) payload = plain;
      else {
        decodeProtectedHeader(token);
        ({ payload } = await jwtVerify(token, verify, { algorithms }));
      }
    } catch (error) {
      if (error instanceof BridgeError) throw error;
      if (error instanceof errors.JWTExpired)
        throw new BridgeError("token_expired", {
          detail: "the token has expired",
        });
      throw new BridgeError(
        "token_invalid",
        { detail: "the token is not valid" },
        error,
      );
    }
    const resume = payload["use"] === "resume";
    const { cid, lim } = payload;
    // The `exp` of a resume token bounds its use, not the socket it opens; `lim` is that of the first token.
    const limit = resume ? lim : payload.exp;
    return {
      connectionId: typeof cid === "string" ? cid : undefined,
      userId: typeof payload.sub === "string" ? payload.sub : "",
      groups: strings(payload["groups"]),
      permissions: strings(payload["permissions"]),
      resume,
      expiresAtMs: typeof limit === "number" ? limit * 1_000 : undefined,
    };
  }
}

/** Keys by `kid`; jose's own set leaves symmetric keys out. */
function localKeys(set: JSONWebKeySet): JWTVerifyGetKey {
  const secrets = set.keys.filter((key) => key.kty === "oct");
  const others = createLocalJWKSet({
    keys: set.keys.filter((key) => key.kty !== "oct"),
  });
  return (header, token) => {
    if (header?.alg !== "HS256") return others(header, token);
    const secret =
      secrets.find((key) => key.kid === header.kid) ??
      (secrets.length === 1 && header.kid === undefined
        ? secrets[0]
        : undefined);
    if (!secret) throw new errors.JWKSNoMatchingKey();
    return importJWK(secret, "HS256");
  };
}

/** Says nothing of a token when the keys it could be checked with cannot be had. */
const unavailable = (detail: string, cause: unknown) =>
  new BridgeError("token_keys_unavailable", { detail }, cause);

async function readKeys(file: string): Promise<JSONWebKeySet> {
  try {
    return JSON.parse(await readFile(file, "utf8")) as JSONWebKeySet;
  } catch (error) {
    throw unavailable("the file of TOKEN_KEYS cannot be read", error);
  }
}

/** A key that is not in the set is the token's fault; a set that does not come is not. */
function fetched(keys: JWTVerifyGetKey): JWTVerifyGetKey {
  return async (header, token) => {
    try {
      return await keys(header, token);
    } catch (error) {
      if (
        error instanceof errors.JWKSNoMatchingKey ||
        error instanceof errors.JWKSMultipleMatchingKeys ||
        error instanceof errors.JOSENotSupported
      )
        throw error;
      throw unavailable("the address of TOKEN_KEYS does not answer", error);
    }
  };
}

function either(own: JSONWebKeySet, theirs: JWTVerifyGetKey): JWTVerifyGetKey {
  const ours = localKeys(own);
  return (header, token) =>
    header?.kid === "bridge" ? ours(header, token) : theirs(header, token);
}

/** The secrets of a set. */
const hmacKeys = (set: JSONWebKeySet): HmacKey[] =>
  set.keys.flatMap(({ kty, alg, kid, k }) =>
    kty === "oct" && (alg ?? "HS256") === "HS256" && typeof k === "string"
      ? [{ kid: kid ?? "", secret: Buffer.from(k, "base64url") }]
      : [],
  );

async function keysOf(
  own: JSONWebKeySet,
  verify: JWTVerifyGetKey,
  secrets: JSONWebKeySet,
): Promise<LoadedKeys> {
  return { verify, sign: await signer(own), hmac: hmacKeys(secrets) };
}

async function signer(set: JSONWebKeySet): Promise<Signer> {
  const jwk = set.keys.find((key) => "k" in key || "d" in key);
  if (!jwk) throw new Error("TOKEN_KEYS has no key that can sign");
  const alg = jwk.alg ?? (jwk.kty === "oct" ? "HS256" : "EdDSA");
  const [hmac] = alg === "HS256" ? hmacKeys({ keys: [jwk] }) : [];
  return { alg, kid: jwk.kid ?? "", key: await importJWK(jwk, alg), hmac };
}
