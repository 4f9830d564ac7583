/**
 * The configuration of both functions: environment variables in, one typed and frozen object out. Every
 * variable stands in the one table below with its unit, default and reason. A bad value stops the start
 * with one clear line per mistake (contract, section 6).
 */
import { isIP } from "node:net";
import { parseRedisUrl, shownRedisUrl } from "./redis-url.js";
import { keepSecret, withoutSecrets } from "./secrets.js";
import { visible } from "./visible.js";
import { parseProxies } from "./proxies.js";
import {
  connectionQuotas,
  keyQuotas,
  parseQuotas,
  showQuotas,
  userQuotas,
  type ConnectionQuota,
  type KeyQuota,
  type Quotas,
  type UserQuota,
} from "./quota-settings.js";
import { parseTokenKeys, type TokenKeys } from "./token-keys.js";
import {
  parseWebhookAllow,
  parseWebhookEvents,
  parseWebhookHeaders,
  parseWebhookOrigin,
  parseWebhookSecrets,
  parseWebhookUrl,
  secretsOfUrl,
  shownWebhookUrl,
  webhookMistakes,
  type WebhookSettings,
} from "./webhook-settings.js";

/** What a key of `API_KEYS` may do; `admin` may do everything. */
export type Scope = "push" | "connections" | "groups" | "read" | "admin";
const scopes: readonly string[] = [
  "push",
  "connections",
  "groups",
  "read",
  "admin",
] satisfies Scope[];

export interface ApiKey {
  name: string;
  scopes: ReadonlySet<Scope>;
  /** SHA-256 of the key; the key itself is never stored. */
  sha256: Buffer;
  /** Its own quotas, where they are not those of all keys. */
  quotas?: Partial<Quotas<KeyQuota>>;
}

/** One way to say what a value means: turn text into it, or throw a sentence. */
interface Kind<T> {
  parse(text: string): T;
  show?(value: T): string;
}

interface Variable<T> {
  kind: Kind<T>;
  /** Text as it would stand in the environment; "" is "not set". */
  fallback: string;
  /**
   * It holds secrets: what is given is never shown as it is, not in a mistake either, and these pieces of it are taken out
   * of every line from then on. `true`: the whole of it, and what lies between its commas and colons.
   */
  secret?: true | ((text: string) => readonly string[]);
  /** Why the default is what it is, and the unit. */
  why: string;
}

const text: Kind<string> = { parse: (value) => value };

function number(
  min: number,
  max: number,
  unit: string,
  whole = false,
): Kind<number> {
  return {
    parse(value) {
      const parsed = Number(value);
      if (
        value.trim() === "" ||
        !Number.isFinite(parsed) ||
        parsed < min ||
        parsed > max ||
        (whole && !Number.isInteger(parsed))
      )
        throw new Error(
          `must be ${whole ? "a whole number" : "a number"} of ${unit} from ${min} to ${max}`,
        );
      return parsed;
    },
  };
}

function oneOf<T extends string>(...words: T[]): Kind<T> {
  return {
    parse(value) {
      const word = words.find((candidate) => candidate === value);
      if (word === undefined)
        throw new Error(`must be one of ${words.join(", ")}`);
      return word;
    },
  };
}

const flag: Kind<boolean> = {
  parse(value) {
    if (value === "1" || value === "true") return true;
    if (value === "0" || value === "false") return false;
    throw new Error("must be 1 or 0");
  },
  show: (value) => (value ? "1" : "0"),
};

const origins: Kind<readonly string[]> = {
  parse: (value) =>
    value
      .split(",")
      .filter((part) => part !== "")
      .map((part) => {
        let origin: string;
        try {
          origin = new URL(part.trim()).origin;
        } catch {
          origin = "null";
        }
        if (origin === "null" || origin !== part.trim())
          throw new Error(
            `"${part}" is not an origin such as https://app.example`,
          );
        return origin;
      }),
  show: (value) => value.join(","),
};

const redisUrl: Kind<string> = {
  parse(value) {
    parseRedisUrl(value);
    return value;
  },
  show: shownRedisUrl,
};

const apiKeys: Kind<readonly ApiKey[]> = {
  parse: (value) =>
    value
      .split(",")
      .filter((part) => part !== "")
      .map((part) => {
        const [name, scopeList, hash, quotaList, ...rest] = part
          .trim()
          .split(":");
        if (!name || !scopeList || !hash || rest.length > 0)
          throw new Error(
            "each key is name:scope+scope:sha256hex, or name:scope+scope:sha256hex:quota=limit/seconds+quota=…; keys are separated by commas",
          );
        const wanted = scopeList.split("+");
        const unknown = wanted.find((scope) => !scopes.includes(scope));
        if (unknown !== undefined)
          throw new Error(
            `key "${name}" names the scope "${unknown}"; there are ${scopes.join(", ")}`,
          );
        if (!/^[0-9a-f]{64}$/i.test(hash))
          throw new Error(
            `key "${name}" needs the SHA-256 of the key in 64 hex digits: printf %s "$KEY" | sha256sum`,
          );
        return {
          name,
          scopes: new Set(wanted as Scope[]),
          sha256: Buffer.from(hash, "hex"),
          ...(quotaList === undefined
            ? {}
            : { quotas: quotasOfKey(name, quotaList) }),
        };
      }),
  show: (value) =>
    value
      .map(
        ({ name, scopes, quotas }) =>
          `${name}:${[...scopes].join("+")}:***${quotas ? `:${showQuotas(quotas)}` : ""}`,
      )
      .join(","),
};

function quotasOfKey(name: string, text: string): Partial<Quotas<KeyQuota>> {
  try {
    return parseQuotas(text, keyQuotas);
  } catch (error) {
    throw new Error(`key "${name}": ${(error as Error).message}`, {
      cause: error,
    });
  }
}

/** What is not named stays as it is by default. */
const quotas = <Name extends string>(
  usual: Quotas<Name>,
): Kind<Quotas<Name>> => ({
  parse: (value) => ({ ...usual, ...parseQuotas(value, usual) }),
  show: showQuotas,
});

const wsUrl: Kind<string> = {
  parse(value) {
    if (value === "") return value;
    if (!/^wss?:\/\/[^/]/.test(value))
      throw new Error("must begin with ws:// or wss://");
    return value.replace(/\/$/, "");
  },
};

const seconds = (min: number, max: number) => number(min, max, "seconds");

/** Every variable, with unit, default and reason. */
const variables = {
  PORT: {
    kind: number(0, 65_535, "port", true),
    fallback: "9000",
    why: "the port the platform calls (WS-BOOT-2); 0 picks a free one",
  },
  HOST: {
    kind: text,
    fallback: "",
    why: "0.0.0.0 with an API key, 127.0.0.1 without",
  },
  REDIS_URL: {
    kind: redisUrl,
    fallback: "redis://127.0.0.1:6379",
    secret: secretsOfUrl,
    why: "redis://, rediss://, redis+sentinel://host,host/name, redis+cluster://host,host",
  },
  API_KEYS: {
    kind: apiKeys,
    fallback: "",
    secret: true,
    why: "name:scope+scope:sha256hex,…; none: loopback only. Behind a hash a key may have quotas of its own: …:messages=1000/10+bytes=off",
  },
  KEY_QUOTAS: {
    kind: quotas(keyQuotas),
    fallback: "",
    why: "what each API key may do, limit/seconds: rates, and what lives (stored to idempotency); keyless: all callers together",
  },
  USER_QUOTAS: {
    kind: quotas(userQuotas),
    fallback: "",
    why: "what each user of a token may do by itself, over all connections",
  },
  CONNECTION_QUOTAS: {
    kind: quotas(connectionQuotas),
    fallback: "",
    why: "what each connection may publish by itself; a second's frames are limited besides (welcome)",
  },
  TOKEN_KEYS: {
    kind: {
      parse: parseTokenKeys,
      show: (value: TokenKeys) => (value.kind === "generated" ? "" : "***"),
    },
    fallback: "",
    secret: true,
    why: "a JWKS (file or https URL) or kid:base64,… of 32 bytes at least; unset: one secret generated into Redis",
  },
  TOKEN_ISSUER: {
    kind: text,
    fallback: "",
    why: "the iss of tokens that are not ours; none: any",
  },
  TOKEN_AUDIENCE: {
    kind: text,
    fallback: "",
    why: "what the aud of tokens that are not ours must name; none: anything",
  },
  REVOKED_SECONDS: {
    kind: seconds(60, 31_536_000),
    fallback: "2592000",
    why: "how long it is kept in mind that a token was revoked: longer than your longest token lives",
  },
  ALLOW_ANONYMOUS: {
    kind: {
      parse: (value: string) => (value === "" ? undefined : flag.parse(value)),
      show: (value: boolean | undefined) => (value ? "1" : "0"),
    },
    fallback: "",
    why: "clients without a token; on only when keyless",
  },
  ALLOWED_ORIGINS: {
    kind: origins,
    fallback: "",
    why: "origins of pages besides the own one, separated by commas",
  },
  PUBLIC_WS_URL: {
    kind: wsUrl,
    fallback: "",
    why: "what url in POST /v1/connections begins with; default from Host",
  },
  MAX_SOCKETS: {
    kind: number(0, 1_000_000, "sockets", true),
    fallback: "0",
    why: "sockets in one ws-fn process, 0 is any number; scf_bootstrap says 1 (WS-LIFE-3)",
  },
  MAX_CONNECTIONS: {
    kind: number(0, 1_000_000, "connections", true),
    fallback: "0",
    why: "TCP connections to one process; 0 is what its file descriptors allow, less 64 for Redis and files. When it is reached, who has shown no credentials and is silent longest makes room",
  },
  MAX_CONNECTIONS_PER_ADDRESS: {
    kind: number(0, 1_000_000, "connections", true),
    fallback: "0",
    why: "… from one client address (of IPv6 a /64); 0 is half of them, and any number from loopback; proxies of TRUST_PROXY are not counted, their clients' sockets are",
  },
  TRUST_PROXY: {
    kind: {
      parse: parseProxies,
      show: (value: readonly string[]) => value.join(","),
    },
    fallback: "",
    why: "addresses and networks (CIDR) of the proxies whose X-Forwarded-For, X-Forwarded-Proto and X-Scf-Request-Id are believed, separated by commas; none: nobody's. Under the local platform: loopback",
  },
  RESUME_SECONDS: {
    kind: seconds(0.1, 86_400),
    fallback: "120",
    why: "how long a connection without a socket waits for its client",
  },
  PREPARED_SECONDS: {
    kind: seconds(0.1, 604_800),
    fallback: "3600",
    why: "how long a prepared connection waits for its first client",
  },
  ENDED_SECONDS: {
    kind: seconds(0.1, 604_800),
    fallback: "3600",
    why: "how long an ended connection answers 410 before 404",
  },
  TTL_DEFAULT_SECONDS: {
    kind: seconds(0, 604_800),
    fallback: "3600",
    why: "how long a message waits for its client when the push does not say",
  },
  RECEIPT_SECONDS: {
    kind: seconds(0.1, 604_800),
    fallback: "3600",
    why: "how long a receipt can be read after its final state",
  },
  IDEMPOTENCY_SECONDS: {
    kind: seconds(1, 604_800),
    fallback: "86400",
    why: "how long an Idempotency-Key is remembered",
  },
  EVENTS_MAX: {
    kind: number(100, 10_000_000, "events", true),
    fallback: "100000",
    why: "events kept for GET /v1/events, about 400 bytes each; a reader further behind is told of the gap",
  },
  EVENTS_MAX_BYTES: {
    kind: number(1_048_576, 17_179_869_184, "bytes", true),
    fallback: "134217728",
    why: "the same in bytes: clients' own events may be large; three times as much as 100,000 small ones need",
  },
  EVENTS_SHARE: {
    kind: number(0, 1, "what is kept as a share"),
    fallback: "0.1",
    why: "how much of EVENTS_MAX and EVENTS_MAX_BYTES one user, or a connection without one, may say in EVENTS_SECONDS, and as much again at once: nobody pushes out what others said; 0 is any",
  },
  EVENTS_SECONDS: {
    kind: seconds(1, 604_800),
    fallback: "3600",
    why: "how long an event is kept: what a restart of its reader takes, with ample room",
  },
  LEASE_SECONDS: {
    kind: seconds(0.5, 600),
    fallback: "15",
    why: "a ws-fn process that does not renew its lease for this long counts as dead, and its connections as away; renewed at a third of it",
  },
  HEARTBEAT_SECONDS: {
    kind: seconds(0.2, 3_600),
    fallback: "20",
    why: "time between data-frame pings (WS-CLOSE-13); below half of any sensible idle timeout",
  },
  EXECUTION_SECONDS: {
    kind: seconds(0, 604_800),
    fallback: "0",
    why: "the platform's execution timeout, before which a socket is moved (WS-CLOSE-14); 0 is none",
  },
  DRAIN_RATE: {
    kind: number(0.1, 1_000_000, "sockets a second"),
    fallback: "100",
    why: "sockets that an instance which goes sends away in a second; less than a third of the resumes that one ws-fn took on a busy core",
  },
  DRAIN_SECONDS: {
    kind: seconds(0, 600),
    fallback: "15",
    why: "longest time over which a drain is spread, whatever the rate; with 9 s for who does not move it ends before the 30 s of Kubernetes",
  },
  SLOW_SECONDS: {
    kind: seconds(0.2, 3_600),
    fallback: "30",
    why: "a socket that takes nothing for this long is closed with 4008",
  },
  SLOW_BYTES: {
    kind: number(1_024, 1_073_741_824, "bytes", true),
    fallback: "1048576",
    why: "unsent bytes of one socket at which its run stops writing",
  },
  LOG_MAX_MESSAGES: {
    kind: number(1, 10_000_000, "messages", true),
    fallback: "10000",
    why: "messages that may wait for one connection; more answers 429 log_full",
  },
  LOG_MAX_BYTES: {
    kind: number(262_144, 4_294_967_296, "bytes", true),
    fallback: "67108864",
    why: "bytes that may wait for one connection; more answers 429 log_full",
  },
  REDIS_MEMORY_HIGH: {
    kind: number(0, 1, "maxmemory as a share"),
    fallback: "0.85",
    why: "share of Redis's maxmemory from which on pushes and new connections answer 503 redis_full; the rest is for those who drain; 0 is off",
  },
  GROUP_HISTORY_SECONDS: {
    kind: seconds(1, 86_400),
    fallback: "300",
    why: "how long a group's message can be made up for by a member that was away",
  },
  GROUP_HISTORY_MESSAGES: {
    kind: number(1, 100_000, "messages", true),
    fallback: "1000",
    why: "messages of a group's history",
  },
  GROUP_HISTORY_BYTES: {
    kind: number(262_144, 1_073_741_824, "bytes", true),
    fallback: "16777216",
    why: "bytes of a group's history",
  },
  WEBHOOK_URL: {
    kind: {
      parse: parseWebhookUrl,
      show: (value: URL | undefined) => (value ? shownWebhookUrl(value) : ""),
    },
    fallback: "",
    secret: secretsOfUrl,
    why: "where events are delivered; none: nowhere",
  },
  WEBHOOK_SECRETS: {
    kind: {
      parse: parseWebhookSecrets,
      show: (value: readonly Buffer[]) =>
        value.map(() => "whsec_***").join(","),
    },
    fallback: "",
    secret: true,
    why: "whsec_<base64>, one, or two while the receiver changes to the new one; every delivery is signed with each",
  },
  WEBHOOK_EVENTS: {
    kind: {
      parse: parseWebhookEvents,
      show: (value: ReadonlySet<string>) => [...value].join(","),
    },
    fallback: "connected,event,disconnected,message.undelivered",
    why: "what the webhook is told of; connect besides these asks it before a client is let in",
  },
  WEBHOOK_ORIGIN: {
    kind: { parse: parseWebhookOrigin },
    fallback: "",
    why: "WebHook-Request-Origin: who asks the receiver for permission; default the host of PUBLIC_WS_URL, else push-bridge",
  },
  WEBHOOK_ALLOW: {
    kind: {
      parse: parseWebhookAllow,
      show: (value: readonly string[]) => value.join(","),
    },
    fallback: "",
    why: "addresses and networks (CIDR) besides the public ones that the webhook may be at; keyless: loopback as well",
  },
  WEBHOOK_TIMEOUT_SECONDS: {
    kind: seconds(0.1, 60),
    fallback: "15",
    why: "for one delivery from name to last byte; Standard Webhooks advises 15 to 30",
  },
  WEBHOOK_CONNECT_SECONDS: {
    kind: seconds(0.1, 25),
    fallback: "5",
    why: "for the question whether a client may connect (connect in WEBHOOK_EVENTS); then it gets 503. Well below the 30 s that clients give a handshake",
  },
  WEBHOOK_CONNECT_HEADERS: {
    kind: {
      parse: parseWebhookHeaders,
      show: (value: readonly string[]) => value.join(","),
    },
    fallback: "user-agent,accept-language,x-forwarded-for",
    why: "headers of the client's request that go with this question; never Authorization, Cookie or a token",
  },
  WEBHOOK_GIVE_UP_SECONDS: {
    kind: seconds(1, 604_800),
    fallback: "86400",
    why: "an event that the receiver has not taken for this long is given up, with an error in the log; a day outlasts a bad night",
  },
  WEBHOOK_PENDING_BYTES: {
    kind: number(1_048_576, 4_294_967_296, "bytes", true),
    fallback: "67108864",
    why: "what may wait for the receiver, about 1.1 kB for each connection and 400 bytes for each event; clients' own events get four fifths of it",
  },
  DURABILITY: {
    kind: oneOf("local", "replica"),
    fallback: "local",
    why: "what a 202 waits for when the push does not say: the master, or a replica as well (then 503 without one)",
  },
  LOG_LEVEL: {
    kind: oneOf("trace", "debug", "info", "warn", "error", "fatal", "silent"),
    fallback: "info",
    why: "pino's levels",
  },
  BRIDGE_LOCAL: {
    kind: flag,
    fallback: "0",
    why: "1 under the local platform: ends with its standard input, any HOST although keyless",
  },
} satisfies Record<string, Variable<unknown>>;

type Variables = typeof variables;
type Values = {
  [Name in keyof Variables]: ReturnType<Variables[Name]["kind"]["parse"]>;
};

/** The effective configuration. Durations carry their unit in the name. */
export interface Config {
  readonly host: string;
  readonly port: number;
  readonly redisUrl: string;
  readonly apiKeys: readonly ApiKey[];
  /** No API key at all: loopback only, no cross-site browser requests. */
  readonly keyless: boolean;
  readonly keyQuotas: Quotas<KeyQuota>;
  readonly userQuotas: Quotas<UserQuota>;
  readonly connectionQuotas: Quotas<ConnectionQuota>;
  readonly tokenKeys: TokenKeys;
  /** "": any. */
  readonly tokenIssuer: string;
  /** "": any. */
  readonly tokenAudience: string;
  readonly allowAnonymous: boolean;
  readonly allowedOrigins: readonly string[];
  readonly publicWsUrl: string;
  readonly maxSockets: number;
  /** 0: as many as the file descriptors allow. */
  readonly maxConnections: number;
  /** 0: half of them. */
  readonly maxConnectionsPerAddress: number;
  /** Networks of proxies that are believed. */
  readonly trustProxy: readonly string[];
  readonly resumeMs: number;
  readonly preparedMs: number;
  readonly endedMs: number;
  readonly ttlDefaultSeconds: number;
  readonly receiptMs: number;
  readonly idempotencyMs: number;
  readonly revokedMs: number;
  readonly eventsMax: number;
  readonly eventsMaxBytes: number;
  readonly eventsMs: number;
  /** 0: any. */
  readonly eventsShare: number;
  readonly leaseMs: number;
  readonly heartbeatMs: number;
  readonly executionMs: number;
  readonly drainRate: number;
  readonly drainMs: number;
  readonly slowMs: number;
  readonly slowBytes: number;
  readonly logMaxMessages: number;
  readonly logMaxBytes: number;
  /** Share of maxmemory; 0 never refuses. */
  readonly redisMemoryHigh: number;
  readonly groupHistoryMs: number;
  readonly groupHistoryMessages: number;
  readonly groupHistoryBytes: number;
  /** Undefined: there is no webhook. */
  readonly webhook: WebhookSettings | undefined;
  readonly durability: Values["DURABILITY"];
  readonly logLevel: Values["LOG_LEVEL"];
  readonly local: boolean;
}

/** Bad configuration: `lines` has one sentence per mistake. */
export class ConfigError extends Error {
  readonly lines: readonly string[];
  constructor(lines: readonly string[]) {
    super(lines.join("\n"));
    this.name = "ConfigError";
    this.lines = lines;
  }
}

function isLoopback(host: string): boolean {
  if (host === "localhost" || host === "::1") return true;
  return isIP(host) === 4 && host.startsWith("127.");
}

const names = Object.keys(variables) as (keyof Variables)[];

/** The pieces of a list such as `kid:secret,…`; a piece that is as short as a name is taken for one. */
const piecesOf = (text: string): readonly string[] => [
  text,
  ...text.split(/[\s,:]+/).filter((piece) => piece.length >= PIECE_LENGTH_MIN),
];
const PIECE_LENGTH_MIN = 16;

function readValues(env: Record<string, string | undefined>): Values {
  const mistakes: string[] = [];
  const values: Record<string, unknown> = {};
  for (const name of names) {
    const variable: Variable<unknown> = variables[name];
    const given = env[name];
    const source =
      given === undefined || given === "" ? variable.fallback : given;
    if (variable.secret !== undefined)
      keepSecret(
        ...(variable.secret === true
          ? piecesOf(source)
          : variable.secret(source)),
      );
    try {
      values[name] = variable.kind.parse(source);
    } catch (error) {
      const shown = variable.secret ? "***" : JSON.stringify(source);
      // A secret that landed in the wrong variable is one all the same.
      mistakes.push(
        visible(
          withoutSecrets(`${name}=${shown}: ${(error as Error).message}`),
        ),
      );
    }
  }
  if (mistakes.length > 0) throw new ConfigError(mistakes);
  return values as Values;
}

function webhookOf(
  values: Values,
  keyless: boolean,
): WebhookSettings | undefined {
  const url = values.WEBHOOK_URL;
  const secrets = values.WEBHOOK_SECRETS;
  const allow = values.WEBHOOK_ALLOW;
  const mistakes = webhookMistakes({ url, secrets, allow }, keyless);
  if (mistakes.length > 0) throw new ConfigError(mistakes);
  if (!url) return undefined;
  const { PUBLIC_WS_URL: publicUrl } = values;
  const ownHost =
    publicUrl === "" ? "push-bridge" : new URL(publicUrl).hostname;
  return Object.freeze({
    url,
    secrets,
    events: values.WEBHOOK_EVENTS,
    origin: values.WEBHOOK_ORIGIN || ownHost,
    allow,
    local: keyless,
    timeoutMs: values.WEBHOOK_TIMEOUT_SECONDS * 1_000,
    connectMs: values.WEBHOOK_CONNECT_SECONDS * 1_000,
    connectHeaders: values.WEBHOOK_CONNECT_HEADERS,
    giveUpMs: values.WEBHOOK_GIVE_UP_SECONDS * 1_000,
    pendingBytes: values.WEBHOOK_PENDING_BYTES,
  });
}

/** The local platform is a process of this machine, and says its headers itself whatever its clients send. */
function trustedProxies(values: Values): readonly string[] {
  const { TRUST_PROXY: given, BRIDGE_LOCAL: local } = values;
  return given.length === 0 && local ? ["127.0.0.0/8", "::1/128"] : given;
}

/**
 * Reads the environment once. Throws `ConfigError` with one line per mistake.
 */
export function parseConfig(env: Record<string, string | undefined>): Config {
  const values = readValues(env);
  const keyless = values.API_KEYS.length === 0;
  const host = values.HOST || (keyless ? "127.0.0.1" : "0.0.0.0");
  if (keyless && !isLoopback(host) && !values.BRIDGE_LOCAL)
    throw new ConfigError([
      `HOST="${host}": without API_KEYS only a loopback address is served; set API_KEYS or HOST=127.0.0.1`,
    ]);
  const webhook = webhookOf(values, keyless);
  return Object.freeze({
    host,
    port: values.PORT,
    redisUrl: values.REDIS_URL,
    apiKeys: values.API_KEYS,
    keyless,
    keyQuotas: values.KEY_QUOTAS,
    userQuotas: values.USER_QUOTAS,
    connectionQuotas: values.CONNECTION_QUOTAS,
    tokenKeys: values.TOKEN_KEYS,
    tokenIssuer: values.TOKEN_ISSUER,
    tokenAudience: values.TOKEN_AUDIENCE,
    allowAnonymous: values.ALLOW_ANONYMOUS ?? keyless,
    allowedOrigins: values.ALLOWED_ORIGINS,
    publicWsUrl: values.PUBLIC_WS_URL,
    maxSockets: values.MAX_SOCKETS,
    maxConnections: values.MAX_CONNECTIONS,
    maxConnectionsPerAddress: values.MAX_CONNECTIONS_PER_ADDRESS,
    trustProxy: trustedProxies(values),
    resumeMs: values.RESUME_SECONDS * 1_000,
    preparedMs: values.PREPARED_SECONDS * 1_000,
    endedMs: values.ENDED_SECONDS * 1_000,
    ttlDefaultSeconds: values.TTL_DEFAULT_SECONDS,
    receiptMs: values.RECEIPT_SECONDS * 1_000,
    idempotencyMs: values.IDEMPOTENCY_SECONDS * 1_000,
    revokedMs: values.REVOKED_SECONDS * 1_000,
    eventsMax: values.EVENTS_MAX,
    eventsMaxBytes: values.EVENTS_MAX_BYTES,
    eventsMs: values.EVENTS_SECONDS * 1_000,
    eventsShare: values.EVENTS_SHARE,
    leaseMs: values.LEASE_SECONDS * 1_000,
    heartbeatMs: values.HEARTBEAT_SECONDS * 1_000,
    executionMs: values.EXECUTION_SECONDS * 1_000,
    drainRate: values.DRAIN_RATE,
    drainMs: values.DRAIN_SECONDS * 1_000,
    slowMs: values.SLOW_SECONDS * 1_000,
    slowBytes: values.SLOW_BYTES,
    logMaxMessages: values.LOG_MAX_MESSAGES,
    logMaxBytes: values.LOG_MAX_BYTES,
    redisMemoryHigh: values.REDIS_MEMORY_HIGH,
    groupHistoryMs: values.GROUP_HISTORY_SECONDS * 1_000,
    groupHistoryMessages: values.GROUP_HISTORY_MESSAGES,
    groupHistoryBytes: values.GROUP_HISTORY_BYTES,
    webhook,
    durability: values.DURABILITY,
    logLevel: values.LOG_LEVEL,
    local: values.BRIDGE_LOCAL,
  });
}

/** `--print-config`: every variable with its effective value, secrets masked, and why. */
export function printConfig(env: Record<string, string | undefined>): string {
  const values = readValues(env);
  const config = parseConfig(env);
  const effective: Record<string, unknown> = {
    ...values,
    HOST: config.host,
    ALLOW_ANONYMOUS: config.allowAnonymous,
    TRUST_PROXY: config.trustProxy,
  };
  const rows = names.map((name) => {
    const variable: Variable<unknown> = variables[name];
    const value = effective[name];
    const shown = variable.kind.show
      ? variable.kind.show(value)
      : String(value);
    const masked =
      variable.secret && !variable.kind.show && shown !== "" ? "***" : shown;
    const left = visible(withoutSecrets(`${name}=${masked}`));
    return [left, `# ${variable.why}`] as const;
  });
  const width = Math.max(...rows.map(([left]) => left.length));
  return rows
    .map(([left, right]) => `${left.padEnd(width)}  ${right}`)
    .join("\n");
}
