/** What the variables WEBHOOK_… may say, and what they say together. A bad value is a sentence that is thrown. */
import { isIP } from "node:net";

/** What the webhook can be told of; `connect` is asked before a client is let in, the others are delivered. */
export const webhookEvents = [
  "connect",
  "connected",
  "event",
  "disconnected",
  "message.undelivered",
] as const;
export type WebhookEvent = (typeof webhookEvents)[number];

/** Where events are delivered, and how. */
export interface WebhookSettings {
  readonly url: URL;
  /** One or two live secrets, as bytes. */
  readonly secrets: readonly Buffer[];
  readonly events: ReadonlySet<WebhookEvent>;
  /** Who we are to the receiver. */
  readonly origin: string;
  /** Addresses and networks that are allowed besides the public ones. */
  readonly allow: readonly string[];
  /** Loopback is allowed as well. */
  readonly local: boolean;
  readonly timeoutMs: number;
  /** The same for the question whether a client may connect. */
  readonly connectMs: number;
  /** Headers of a client's request that this question tells; lower-case names. */
  readonly connectHeaders: readonly string[];
  readonly giveUpMs: number;
  /** What may wait for the receiver. */
  readonly pendingBytes: number;
}

export function parseWebhookUrl(value: string): URL | undefined {
  if (value === "") return undefined;
  let url: URL;
  try {
    url = new URL(value);
  } catch {
    throw new Error("is no URL such as https://backend.example/hooks");
  }
  if (url.protocol !== "https:" && url.protocol !== "http:")
    throw new Error("must begin with https:// (or http://, see WEBHOOK_ALLOW)");
  if (url.username !== "" || url.password !== "")
    throw new Error("must not hold a user name or a password");
  if (url.hash !== "") throw new Error("must not hold a fragment");
  return url;
}

/** As it may be shown: where it goes. Path and query are what receivers such as chat services know their callers by. */
export function shownWebhookUrl({ origin, pathname, search }: URL): string {
  return pathname === "/" && search === "" ? `${origin}/` : `${origin}/***`;
}

/** A segment of a path that is as long as this was made by a machine. */
const SEGMENT_LENGTH_MIN = 16;

/** What in a URL must not be shown, read without asking whether it is one: credentials, path, query, fragment. */
export function secretsOfUrl(text: string): readonly string[] {
  const [, userinfo = "", rest = ""] =
    /^[^/]*\/\/(?:(.*)@)?[^/?#]*(.*)$/s.exec(text) ?? [];
  const [, beforePath = ""] = /^([^?#]*)/.exec(rest) ?? [];
  const found = [
    userinfo,
    ...userinfo.split(":"),
    userinfo.slice(userinfo.indexOf(":") + 1),
    rest,
    beforePath,
    ...beforePath
      .split("/")
      .filter((segment) => segment.length >= SEGMENT_LENGTH_MIN),
    ...rest
      .slice(beforePath.length)
      .split(/[?&#]/)
      .map((pair) => pair.slice(pair.indexOf("=") + 1)),
  ];
  return found.flatMap((piece) => [piece, decoded(piece)]);
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

const secretPattern = /^whsec_([A-Za-z0-9+/]+={0,2})$/;

export const parseWebhookSecrets = (value: string): readonly Buffer[] => {
  const secrets = listed(value).map((part) => {
    const [, base64] = secretPattern.exec(part) ?? [];
    const secret = Buffer.from(base64 ?? "", "base64");
    if (secret.length < 24 || secret.length > 64)
      throw new Error(
        'each secret is whsec_ and 24 to 64 random bytes in base64: echo "whsec_$(openssl rand -base64 32)"',
      );
    return secret;
  });
  if (secrets.length > 2)
    throw new Error("there are one or two secrets, separated by a comma");
  return secrets;
};

export function parseWebhookEvents(value: string): ReadonlySet<WebhookEvent> {
  const known: readonly string[] = webhookEvents;
  const words = listed(value);
  const unknown = words.find((word) => !known.includes(word));
  if (unknown !== undefined)
    throw new Error(
      `there is no "${unknown}"; there are ${webhookEvents.join(", ")}`,
    );
  return new Set(words as WebhookEvent[]);
}

export const parseWebhookAllow = (value: string): readonly string[] =>
  listed(value).map((part) => {
    if (!networkOf(part))
      throw new Error(
        `"${part}" is no address and no network such as 10.0.0.0/8`,
      );
    return part;
  });

/** A name for `WebHook-Request-Origin`: a DNS expression. */
export function parseWebhookOrigin(value: string): string {
  if (value !== "" && !/^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/i.test(value))
    throw new Error("must be a name such as bridge.example");
  return value;
}

/** Credentials are nobody's but the bridge's; the last two say nothing of a client. */
const secretHeaders = new Set([
  "authorization",
  "proxy-authorization",
  "cookie",
  "sec-websocket-protocol",
  "sec-websocket-key",
]);

export const parseWebhookHeaders = (value: string): readonly string[] =>
  listed(value).map((part) => {
    const name = part.toLowerCase();
    if (!/^[a-z0-9!#$%&'*+.^_`|~-]+$/.test(name))
      throw new Error(`"${part}" is no name of a header`);
    if (secretHeaders.has(name)) throw new Error(`${name} is never passed on`);
    return name;
  });

const listed = (value: string): string[] =>
  value
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "");

/** An address or a network in CIDR form; undefined when it is neither. */
export function networkOf(
  text: string,
): { address: string; bits: number; family: "ipv4" | "ipv6" } | undefined {
  const [address = "", bits, ...rest] = text.split("/");
  const version = isIP(address);
  const most = version === 4 ? 32 : 128;
  if (version === 0 || rest.length > 0 || address.includes("%"))
    return undefined;
  if (bits !== undefined && !/^\d{1,3}$/.test(bits)) return undefined;
  const length = bits === undefined ? most : Number(bits);
  if (length > most) return undefined;
  return { address, bits: length, family: version === 4 ? "ipv4" : "ipv6" };
}

/** What does not fit together, one line each. */
export function webhookMistakes(
  settings: {
    url: URL | undefined;
    secrets: readonly Buffer[];
    allow: readonly string[];
  },
  keyless: boolean,
): string[] {
  const { url, secrets, allow } = settings;
  const mistakes: string[] = [];
  if (!url) return mistakes;
  if (secrets.length === 0)
    mistakes.push(
      "WEBHOOK_SECRETS: needed with WEBHOOK_URL, so that the receiver can tell who sends",
    );
  if (url.protocol === "http:" && !keyless && allow.length === 0)
    mistakes.push(
      "WEBHOOK_URL: must begin with https://; http:// is for addresses of your own that WEBHOOK_ALLOW names",
    );
  return mistakes;
}
