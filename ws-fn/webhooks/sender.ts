/**
 * One request to the backend's webhook and what came of it: CloudEvents 1.0 in HTTP binary mode, signed by Standard
 * Webhooks, to permitted addresses only. Never throws for what the other side does, never follows a redirect, takes no
 * more time and no larger answer than it is told. Whether and when to try again is for the caller to say.
 */
import http from "node:http";
import https from "node:https";
import { AddressGuard, AddressRefused, type Resolve } from "./addresses.js";
import { signatureHeaders } from "./signature.js";

/** An answer's body is read up to here: what a frame to the client may hold (WS-LIM-1). */
export const answerBytesMax = 262_144;
/** A kept socket that breaks so soon was closed before it was used. Later the request may have been read, and worked on. */
const staleSocketMs = 1_000;
/** Sockets to the receiver at once; more posts wait, and their time runs. */
const socketsMax = 64;
/** CloudEvents `source`: which system speaks. */
const source = "urn:push-bridge";

export interface SenderOptions {
  url: URL;
  /** One or two live secrets, as bytes. */
  secrets: readonly Buffer[];
  /** `WebHook-Request-Origin`: who we are to the receiver. */
  origin: string;
  /** Addresses and networks besides the public ones. */
  allow: readonly string[];
  /** Loopback is allowed as well. */
  local: boolean;
  /** For the whole exchange, from the resolving of the name to the last byte of the answer. */
  timeoutMs: number;
  /** For tests: how names are resolved. */
  resolve?: Resolve;
  /** For tests: whose certificates are trusted, instead of the usual ones. */
  ca?: string;
}

export interface Post {
  /** CloudEvents `id`; the same at each attempt, and so is `webhook-id`. */
  id: string;
  type: string;
  /** The connection it is about. */
  subject: string;
  /** When it happened, milliseconds since 1970. */
  timeMs: number;
  contentType: string;
  body: string | Buffer;
  /** Extension attributes by name (lower-case letters and digits); null is left out. */
  extensions?: Readonly<Record<string, string | null | undefined>>;
  /** Default: the sender's. */
  timeoutMs?: number;
  /** Gives up; the receiver may have got it. */
  signal?: AbortSignal;
}

export type FailureKind =
  /** The address is not permitted: nothing was sent. */
  | "address"
  /** The name has no address. */
  | "name"
  | "network"
  /** Its certificate, or TLS itself. */
  | "tls"
  | "timeout"
  /** It answered with a redirect, which nobody follows. */
  | "redirect"
  /** We gave up ourselves. */
  | "aborted";

export type Sent =
  | {
      kind: "answer";
      status: number;
      headers: http.IncomingHttpHeaders;
      contentType: string | undefined;
      body: Buffer;
      /** The body went on beyond `answerBytesMax`. */
      truncated: boolean;
    }
  | {
      kind: "failure";
      failure: FailureKind;
      /** In words, for the log. */
      reason: string;
    };

export class WebhookSender {
  readonly #options: SenderOptions;
  readonly #guard: AddressGuard;
  readonly #agent: http.Agent;

  constructor(options: SenderOptions) {
    this.#options = options;
    this.#guard = new AddressGuard(options.allow, options);
    const settings = { keepAlive: true, maxSockets: socketsMax };
    this.#agent =
      options.url.protocol === "https:"
        ? new https.Agent({
            ...settings,
            ...(options.ca && { ca: options.ca }),
          })
        : new http.Agent(settings);
  }

  get timeoutMs(): number {
    return this.#options.timeoutMs;
  }

  /** One attempt. */
  post(post: Post): Promise<Sent> {
    const { secrets, origin } = this.#options;
    const body = Buffer.from(post.body);
    return this.#exchange("POST", post, body, {
      "content-type": post.contentType,
      "content-length": String(body.length),
      "webhook-request-origin": origin,
      ...eventHeaders(post),
      ...signatureHeaders(secrets, post.id, body, Date.now()),
    });
  }

  /** Asks for permission to send (CloudEvents, HTTP 1.1 Web Hooks, section 4). */
  ask({ signal }: { signal?: AbortSignal } = {}): Promise<Sent> {
    const headers = {
      "webhook-request-origin": this.#options.origin,
      "content-length": "0",
    };
    return this.#exchange("OPTIONS", { ...(signal && { signal }) }, undefined, {
      ...headers,
    });
  }

  close(): void {
    this.#agent.destroy();
  }

  #exchange(
    method: string,
    { timeoutMs, signal }: Pick<Post, "timeoutMs" | "signal">,
    body: Buffer | undefined,
    headers: Record<string, string>,
  ): Promise<Sent> {
    const { url } = this.#options;
    const limitMs = timeoutMs ?? this.#options.timeoutMs;
    return new Promise((resolve) => {
      let request: http.ClientRequest | undefined;
      let settled = false;
      const settle = (sent: Sent) => {
        if (settled) return;
        settled = true;
        clearTimeout(timer);
        signal?.removeEventListener("abort", giveUp);
        resolve(sent);
      };
      const fail = (failure: FailureKind, reason: string) => {
        settle({ kind: "failure", failure, reason });
        request?.destroy();
      };
      const giveUp = () => fail("aborted", "this process gave up");
      const timer = setTimeout(
        () => fail("timeout", `no whole answer in ${limitMs / 1_000} s`),
        limitMs,
      );
      if (signal?.aborted) return giveUp();
      signal?.addEventListener("abort", giveUp);
      try {
        this.#guard.checkHost(url.hostname);
      } catch (error) {
        return fail("address", (error as Error).message);
      }
      // Wall clock: a process that stood still must not send again what others have sent meanwhile.
      const startedAt = Date.now();
      const mayRepeat = () =>
        !settled && Date.now() - startedAt < staleSocketMs;
      const attempt = (again: boolean) => {
        const client = url.protocol === "https:" ? https : http;
        const started = client.request(url, {
          method,
          headers: { ...headers, "user-agent": "push-bridge" },
          agent: this.#agent,
          lookup: this.#guard.lookup,
        });
        request = started;
        started.on("response", (response) => read(response, settle, fail));
        started.on("error", (error: NodeJS.ErrnoException) => {
          if (again && started.reusedSocket && isReset(error) && mayRepeat())
            return attempt(false);
          const { failure, reason } = explained(error);
          fail(failure, reason);
        });
        started.end(body);
      };
      attempt(true);
    });
  }
}

const isReset = ({ code }: NodeJS.ErrnoException): boolean =>
  code === "ECONNRESET" || code === "EPIPE";

function read(
  response: http.IncomingMessage,
  settle: (sent: Sent) => void,
  fail: (failure: FailureKind, reason: string) => void,
): void {
  const { statusCode: status = 0, headers } = response;
  if (status >= 300 && status < 400)
    return fail("redirect", `answered ${status}; redirects are not followed`);
  const chunks: Buffer[] = [];
  let bytes = 0;
  const done = (truncated: boolean) =>
    settle({
      kind: "answer",
      status,
      headers,
      contentType: headers["content-type"],
      body: Buffer.concat(chunks).subarray(0, answerBytesMax),
      truncated,
    });
  response.on("data", (chunk: Buffer) => {
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes <= answerBytesMax) return;
    done(true);
    response.destroy();
  });
  response.on("end", () => done(false));
  response.on("error", (error) => {
    const { failure, reason } = explained(error);
    fail(failure, reason);
  });
}

function explained(error: NodeJS.ErrnoException): {
  failure: FailureKind;
  reason: string;
} {
  if (error instanceof AddressRefused)
    return { failure: "address", reason: error.message };
  // One error for each address that was tried.
  const reason =
    error instanceof AggregateError
      ? error.errors.map((each) => (each as Error).message).join("; ")
      : error.message;
  const { code = "", syscall } = error;
  if (syscall === "getaddrinfo" || code === "ENOTFOUND" || code === "ENODATA")
    return { failure: "name", reason };
  if (/TLS|CERT|SIGNED|SSL|EPROTO|UNABLE_TO_|CA_|CRL_/.test(code))
    return { failure: "tls", reason };
  return { failure: "network", reason };
}

/** The attributes of an event as headers (CloudEvents HTTP binding, section 3.1). */
function eventHeaders({
  id,
  type,
  subject,
  timeMs,
  extensions = {},
}: Post): Record<string, string> {
  const attributes: Record<string, string | null | undefined> = {
    ...extensions,
    specversion: "1.0",
    id,
    type,
    source,
    subject,
    time: new Date(timeMs).toISOString(),
  };
  return Object.fromEntries(
    Object.entries(attributes).flatMap(([name, value]) =>
      value === null || value === undefined
        ? []
        : [[`ce-${name}`, headerValue(value)]],
    ),
  );
}

/** Percent-encodes what the HTTP binding says (section 3.1.3.2): space, quote, percent and all but printable ASCII. */
export const headerValue = (value: string): string =>
  value.replace(/[^!-~]|["%]/gu, (character) =>
    [...Buffer.from(character)]
      .map((byte) => `%${byte.toString(16).toUpperCase().padStart(2, "0")}`)
      .join(""),
  );
