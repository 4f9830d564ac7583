// Who may see and change the platform: programs on this machine may read; a page may read, and anybody may change
// something, only with the token of this start. A website can make a browser send requests here; what such requests
// look like is what is refused below.

import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import type { IncomingMessage } from "node:http";
import type { Problem } from "./problem.js";

/** Where the cookie goes, and nowhere else. */
const ROOT = "/_platform";
const TOKEN_BYTES = 24;

const localAddresses = new Set(["127.0.0.1", "::1", "::ffff:127.0.0.1"]);
const localHosts = new Set(["localhost", "127.0.0.1", "[::1]"]);

/** Somebody who may be here at all. */
export interface Visitor {
  /** It is a browser: it says from where a request comes. */
  readonly isBrowser: boolean;
  readonly hasToken: boolean;
  /** The request was made by a page of this origin, which says so. */
  readonly fromOwnPage: boolean;
}

export class Guard {
  readonly token = randomBytes(TOKEN_BYTES).toString("base64url");

  /** Who asks, or why it gets nothing. */
  admit(req: IncomingMessage): Visitor | Problem {
    if (!localAddresses.has(req.socket.remoteAddress ?? ""))
      return {
        code: "forbidden_host",
        detail: "Only clients on this machine may read this.",
      };
    const { origin, "sec-fetch-site": site, host = "" } = req.headers;
    // A name that was rebound to 127.0.0.1 makes a foreign page look like one of ours, but for its Host.
    const name = host.replace(/:\d+$/, "").toLowerCase();
    if (!localHosts.has(name))
      return {
        code: "forbidden_host",
        detail: `The Host must be localhost, 127.0.0.1 or [::1], not "${name}".`,
      };
    const isForeign =
      (origin !== undefined && origin !== `http://${host}`) ||
      (site !== undefined && site !== "same-origin" && site !== "none");
    if (isForeign && !this.#isWelcome(req))
      return {
        code: "forbidden_origin",
        detail: "Other pages may not read this.",
      };
    return {
      isBrowser: origin !== undefined || site !== undefined,
      hasToken: this.#isOurs(bearer(req)) || this.#isOurs(cookie(req)),
      fromOwnPage: origin === `http://${host}`,
    };
  }

  /** Why this visitor may not read; undefined when it may. */
  whyNotRead(visitor: Visitor): Problem | undefined {
    if (!visitor.isBrowser || visitor.hasToken) return undefined;
    return {
      code: "forbidden_origin",
      detail: "A page needs the token: open the address that was printed.",
    };
  }

  /** Why this visitor may not see the page; undefined when it may. */
  whyNoPage(visitor: Visitor): Problem | undefined {
    if (visitor.hasToken) return undefined;
    return {
      code: "token_invalid",
      detail:
        "Open the address with ?token= that was printed when the platform started.",
    };
  }

  /** Why this visitor may not change anything; undefined when it may. */
  whyNoChange(req: IncomingMessage, visitor: Visitor): Problem | undefined {
    if (!visitor.hasToken)
      return {
        code: "token_invalid",
        detail: "Changes need Authorization: Bearer <token>.",
      };
    // A cookie comes by itself, so it proves nothing about who made the request.
    if (!this.#isOurs(bearer(req)) && !visitor.fromOwnPage)
      return {
        code: "forbidden_origin",
        detail: "Changes with a cookie come from the platform's own page only.",
      };
    return undefined;
  }

  /** The header that gives the page its cookie, if this address carries the right token. */
  cookieFor(req: IncomingMessage): string | undefined {
    if (!this.#isOurs(tokenInAddress(req))) return undefined;
    return `${cookieName(req)}=${this.token}; Path=${ROOT}; HttpOnly; SameSite=Strict`;
  }

  /** A link to the page, clicked elsewhere: from another site, but by somebody who knows the token. */
  #isWelcome(req: IncomingMessage): boolean {
    return (
      req.headers.origin === undefined &&
      req.headers["sec-fetch-mode"] === "navigate" &&
      this.#isOurs(tokenInAddress(req))
    );
  }

  #isOurs(token: string | undefined): boolean {
    if (token === undefined) return false;
    return timingSafeEqual(digest(token), digest(this.token));
  }
}

/** Of equal length whatever was sent, as the comparison wants it. */
function digest(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}

function tokenInAddress(req: IncomingMessage): string | undefined {
  const query = /\?(.*)$/s.exec(req.url ?? "")?.[1];
  return new URLSearchParams(query).get("token") ?? undefined;
}

function bearer(req: IncomingMessage): string | undefined {
  return /^Bearer (.+)$/i.exec(req.headers.authorization ?? "")?.[1];
}

/** Cookies do not tell ports apart, so two platforms on one machine would overwrite each other's. */
function cookieName(req: IncomingMessage): string {
  return `platform-${req.socket.localPort ?? 0}`;
}

function cookie(req: IncomingMessage): string | undefined {
  const name = `${cookieName(req)}=`;
  return req.headers.cookie
    ?.split(/; */)
    .find((part) => part.startsWith(name))
    ?.slice(name.length);
}
