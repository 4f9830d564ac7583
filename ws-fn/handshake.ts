/** The handshake, pure: an upgrade request in, what it asks for out, or the reason for refusing it before the 101. */
import { isIP } from "node:net";
import { BridgeError } from "../shared/errors.js";

/** The subprotocol of resumable JSON frames. */
export const bridgeProtocol = "bridge.v1.json";
/** Raw messages for a client that must name a subprotocol, such as a page that sends `bearer.<token>`. */
export const rawProtocol = "bridge.raw";
const bearerPrefix = "bearer.";

/** How far a seq may be ahead of the clock, after a failover to a Redis whose clock was ahead. */
const seqAheadMsMax = 86_400_000;

export interface UpgradeRequest {
  url: string;
  host: string | undefined;
  origin: string | undefined;
  authorization: string | undefined;
  /** `Sec-WebSocket-Protocol` as sent. */
  protocols: string | undefined;
}

/** What a client asks for. */
export interface Asked {
  protocol: "raw" | "bridge.v1.json";
  /** What goes back as `Sec-WebSocket-Protocol`; undefined when none was offered. */
  subprotocol: string | undefined;
  token: string | undefined;
  resume:
    | {
        token: string;
        seq: number;
        /** The last offset received of each group. */
        offsets: ReadonlyMap<string, number>;
      }
    | undefined;
  /** `<who>.<number>`: which attempt of this client it is, so that one it gave up cannot take over a later one. */
  attempt: string | undefined;
  /** Raw only: whether a first frame tells the connection ID. */
  welcome: boolean;
  /** Raw only: seconds between ping frames it asked for. */
  heartbeatMs: number | undefined;
}

export interface HandshakeRules {
  keyless: boolean;
  allowedOrigins: readonly string[];
  /** Its host's pages are of the own origin; "" is none. */
  publicWsUrl: string;
}

const loopbackNames = new Set(["localhost", "127.0.0.1", "[::1]"]);

function hostName(host: string): string {
  return host.replace(/:\d+$/, "").toLowerCase();
}

function isLoopbackOrigin(origin: string): boolean {
  try {
    const { protocol, hostname } = new URL(origin);
    return (
      /^https?:$/.test(protocol) &&
      (loopbackNames.has(hostname) ||
        (isIP(hostname) === 4 && hostname.startsWith("127.")))
    );
  } catch {
    return false;
  }
}

/**
 * The host that is ours, with its port. `Host` says it only with a name that always means this machine: any other one may be
 * a stranger's, who points it at us and serves a page from it. Else it is what is configured.
 */
function ownHost(
  host: string | undefined,
  publicWsUrl: string,
): string | undefined {
  if (host && loopbackNames.has(hostName(host))) return host.toLowerCase();
  return publicWsUrl === "" ? undefined : new URL(publicWsUrl).host;
}

/** Refuses a foreign page, and a name that only pretends to be this host (DNS rebinding). */
function checkOrigin(request: UpgradeRequest, rules: HandshakeRules): void {
  const { host, origin } = request;
  if (rules.keyless && (!host || !loopbackNames.has(hostName(host))))
    throw new BridgeError("forbidden_host", {
      detail: `without API keys only localhost, 127.0.0.1 and [::1] are served`,
    });
  // No Origin: not a browser.
  if (origin === undefined) return;
  if (origin === "null")
    throw new BridgeError("forbidden_origin", {
      detail: 'the origin is "null"',
      hint: "a page opened as a file has no origin; serve it: npx http-server, or python3 -m http.server",
    });
  const own = ownHost(host, rules.publicWsUrl);
  const given = origin.toLowerCase();
  if (own && (given === `http://${own}` || given === `https://${own}`)) return;
  if (rules.allowedOrigins.includes(origin)) return;
  if (rules.keyless && isLoopbackOrigin(origin)) return;
  throw new BridgeError("forbidden_origin", {
    detail: "pages of this origin may not connect",
    hint: "add it to ALLOWED_ORIGINS",
  });
}

function invalid(pointer: string, message: string): BridgeError {
  return new BridgeError("invalid_parameter", {
    detail: `${pointer}: ${message}`,
    errors: [{ pointer, message }],
  });
}

/** `<group>:<offset>,…`; a name has neither of the two signs. */
function readOffsets(text: string, latest: number): Map<string, number> {
  const offsets = new Map<string, number>();
  for (const part of text === "" ? [] : text.split(",")) {
    const [, name, digits] = /^([^:]{1,128}):(\d{1,16})$/.exec(part) ?? [];
    if (name === undefined || Number(digits) > latest)
      throw invalid("groups", "must be <group>:<last offset received>, …");
    offsets.set(name, Number(digits));
  }
  return offsets;
}

/** Where sockets are: at `/ws`, at `/`, and where PUBLIC_WS_URL sends clients. The last one is the one to tell. */
function pathsOf(publicWsUrl: string): string[] {
  const own = publicWsUrl === "" ? "/" : new URL(publicWsUrl).pathname;
  return own === "/" ? ["/", "/ws"] : ["/", "/ws", own];
}

/** Reads an upgrade request. Throws forbidden_host, forbidden_origin, not_found, invalid_parameter, bad_request. */
export function readHandshake(
  request: UpgradeRequest,
  rules: HandshakeRules,
): Asked {
  checkOrigin(request, rules);
  const url = URL.canParse(request.url, "http://localhost")
    ? new URL(request.url, "http://localhost")
    : undefined;
  if (!url) throw new BridgeError("bad_request", { detail: "that is no URL" });
  const paths = pathsOf(rules.publicWsUrl);
  if (!paths.includes(url.pathname))
    throw new BridgeError("not_found", {
      detail: `WebSockets are at ${paths.at(-1)}`,
    });

  const offered = (request.protocols ?? "")
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "");
  const named = offered.filter((part) => !part.startsWith(bearerPrefix));
  const subprotocol = named.find(
    (part) => part === bridgeProtocol || part === rawProtocol,
  );
  if (named.length > 0 && subprotocol === undefined)
    throw new BridgeError("bad_request", {
      detail: "none of the offered subprotocols is known",
      hint: `offer ${bridgeProtocol}, or none for raw messages`,
    });

  const query = url.searchParams;
  const bearer = /^Bearer +(\S+)$/i.exec(request.authorization ?? "")?.[1];
  const sub = offered
    .find((part) => part.startsWith(bearerPrefix))
    ?.slice(bearerPrefix.length);
  const token = query.get("token") ?? bearer ?? sub;

  let resume: Asked["resume"];
  const resumeToken = query.get("resume");
  if (resumeToken !== null) {
    const given = query.get("seq") ?? "0";
    const seq = Number(given);
    // A seq follows the clock: one from far ahead was never ours, and would put every later message behind it.
    const latest = (Date.now() + seqAheadMsMax) * 1_000;
    if (!/^\d+$/.test(given) || seq > latest)
      throw invalid("seq", "must be the last seq received, or 0");
    resume = {
      token: resumeToken,
      seq,
      offsets: readOffsets(query.get("groups") ?? "", latest),
    };
  }
  const attempt = query.get("attempt") ?? undefined;
  if (attempt !== undefined && !/^[0-9A-Za-z]{1,32}\.\d{1,9}$/.test(attempt))
    throw invalid("attempt", "must be letters and digits, a dot, a number");
  const heartbeat = query.get("heartbeat");
  const seconds = heartbeat === null ? undefined : Number(heartbeat);
  if (seconds !== undefined && !(seconds >= 1 && seconds <= 3_600))
    throw invalid("heartbeat", "must be seconds from 1 to 3600");
  return {
    protocol: subprotocol === bridgeProtocol ? bridgeProtocol : "raw",
    subprotocol,
    token,
    resume,
    attempt,
    welcome: query.get("welcome") !== "0",
    heartbeatMs: seconds === undefined ? undefined : seconds * 1_000,
  };
}
