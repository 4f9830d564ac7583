/** Headers that every HTTP answer of both functions has. */

/** A year, in seconds: the least that browsers' own lists take. */
const HSTS_SECONDS = 31_536_000;

const plain: Readonly<Record<string, string>> = Object.freeze({
  // A browser takes the type as it is said: a JSON answer with HTML in it stays JSON.
  "X-Content-Type-Options": "nosniff",
});

const secure: Readonly<Record<string, string>> = Object.freeze({
  ...plain,
  // Not for subdomains: they are not ours to speak for.
  "Strict-Transport-Security": `max-age=${HSTS_SECONDS}`,
});

/**
 * `isSecure`: the client's line is TLS. Only then does a browser heed HSTS and may a server send it (RFC 6797, 7.2 and
 * 8.1), and a bridge on localhost must not keep its neighbours on other ports from plain HTTP.
 */
export const protectionHeaders = (
  isSecure: boolean,
): Readonly<Record<string, string>> => (isSecure ? secure : plain);

/** `PUBLIC_WS_URL`, where one is configured, is an address that clients reach by TLS. */
export const isSecureUrl = (publicWsUrl: string): boolean =>
  publicWsUrl.startsWith("wss://");

/** As they stand in the head of an answer on a bare socket. */
export const headerLines = (
  headers: Readonly<Record<string, string>>,
): string =>
  Object.entries(headers)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join("");
