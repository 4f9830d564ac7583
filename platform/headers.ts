// Which headers pass the gateway: the client's as they are, minus what belongs to one hop (RFC 9110 section 7.6.1)
// and what only the platform may say. Lists are name, value, name, value, as in `rawHeaders`.

import type { IncomingMessage } from "node:http";
import type { FunctionDescription } from "./function-description.js";
import { scfHeaders } from "./scf.js";

const ofOneHop = new Set([
  "connection",
  "keep-alive",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
  "http2-settings",
  "expect", // answered by the gateway
]);

/** Said by the platform; what a client sends under these names is dropped, so it cannot be spoofed. */
function isPlatforms(name: string): boolean {
  return (
    name.startsWith("x-forwarded-") ||
    name.startsWith("x-scf-") ||
    name === "forwarded"
  );
}

function namedByConnection(value: string | undefined): Set<string> | undefined {
  if (value === undefined || /^(keep-alive|close)$/i.test(value))
    return undefined;
  return new Set(value.split(",").map((name) => name.trim().toLowerCase()));
}

function platformHeaders(
  req: IncomingMessage,
  requestId: string,
  description: FunctionDescription,
): string[] {
  return [
    "X-Forwarded-For",
    req.socket.remoteAddress ?? "",
    "X-Forwarded-Proto",
    "encrypted" in req.socket ? "https" : "http",
    "X-Forwarded-Host",
    req.headers.host ?? "",
    ...scfHeaders(description, requestId),
  ];
}

function mayHaveBody(req: IncomingMessage): boolean {
  return !/^(GET|HEAD|DELETE|OPTIONS|TRACE)$/.test(req.method ?? "");
}

/** For a plain request to a function; framing headers of the body included. */
export function requestHeaders(
  req: IncomingMessage,
  requestId: string,
  description: FunctionDescription,
): string[] {
  const raw = req.rawHeaders;
  const named = namedByConnection(req.headers.connection);
  const headers: string[] = [];
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i] ?? "";
    const lower = name.toLowerCase();
    if (ofOneHop.has(lower) || isPlatforms(lower) || named?.has(lower))
      continue;
    headers.push(name, raw[i + 1] ?? "");
  }
  headers.push(...platformHeaders(req, requestId, description));
  if (req.headers["transfer-encoding"] !== undefined)
    headers.push("Transfer-Encoding", "chunked");
  else if (req.headers["content-length"] === undefined && mayHaveBody(req))
    headers.push("Content-Length", "0"); // else Node would send an empty chunked body
  return headers;
}

/** For an upgrade: everything, the hop's own headers too, because this hop is passed through. */
export function upgradeHeaders(
  req: IncomingMessage,
  requestId: string,
  description: FunctionDescription,
): string[] {
  const raw = req.rawHeaders;
  const headers: string[] = [];
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i] ?? "";
    if (!isPlatforms(name.toLowerCase())) headers.push(name, raw[i + 1] ?? "");
  }
  headers.push(...platformHeaders(req, requestId, description));
  return headers;
}

/** The request as if the client had not offered to change protocols. */
export function withoutUpgradeOffer(req: IncomingMessage): string[] {
  const raw = req.rawHeaders;
  const headers: string[] = [];
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i] ?? "";
    if (!/^(connection|upgrade|http2-settings)$/i.test(name))
      headers.push(name, raw[i + 1] ?? "");
  }
  if (/\bclose\b/i.test(req.headers.connection ?? ""))
    headers.push("Connection", "close");
  return headers;
}

/** For the function's answer to a client. */
export function responseHeaders(answer: IncomingMessage): string[] {
  const raw = answer.rawHeaders;
  const named = namedByConnection(answer.headers.connection);
  const headers: string[] = [];
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i] ?? "";
    const lower = name.toLowerCase();
    if (!ofOneHop.has(lower) && !named?.has(lower))
      headers.push(name, raw[i + 1] ?? "");
  }
  return headers;
}

/** The bytes of a request's head (write them as latin1, as they were read). */
export function requestHead(
  req: IncomingMessage,
  headers: readonly string[],
): string {
  let head = `${req.method ?? "GET"} ${req.url ?? "/"} HTTP/1.1\r\n`;
  for (let i = 0; i + 1 < headers.length; i += 2)
    head += `${headers[i]}: ${headers[i + 1]}\r\n`;
  return `${head}\r\n`;
}
