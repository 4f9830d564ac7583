/**
 * Asks the backend whether a client may come in, before its first socket is accepted: one signed POST, answered while the
 * client waits. The backend may refuse (any 4xx, which the client gets), or let in and say who it is. What is not clearly
 * a yes is a no: without an answer in time nobody comes in, and may try again.
 */
import type { IncomingHttpHeaders } from "node:http";
import { grantedOf, type Granted } from "../../shared/claims.js";
import { BridgeError } from "../../shared/errors.js";
import { randomBase62 } from "../../shared/ids.js";
import type { Lanes } from "../../shared/lanes.js";
import { sparing, type Logger } from "../../shared/logging.js";
import type { WebhookSettings } from "../../shared/webhook-settings.js";
import type { Sent, WebhookSender } from "./sender.js";
import { permissionOf, retryAfterMs } from "./verdict.js";

/** A backend that fails every client is told of this often. */
const tellEveryMs = 10_000;
/** Of what the backend says in a refusal the client gets so much, characters. */
const detailMax = 300;

/** What a client's request says. Nothing of it is proven. */
export interface ClientFacts {
  url: string;
  headers: IncomingHttpHeaders;
}

/** What is known of a connection before the backend is asked, from its token or its preparation. */
export interface Candidate {
  connectionId: string;
  protocol: string;
  userId: string | null;
  groups: readonly string[];
  permissions: readonly string[];
  labels: Readonly<Record<string, string>>;
}

export interface ConnectDeps {
  sender: Pick<WebhookSender, "post" | "ask">;
  lanes: Pick<Lanes, "isProven" | "prove">;
  settings: Pick<WebhookSettings, "origin" | "connectMs" | "connectHeaders">;
  logger: Logger;
}

export class ConnectHook {
  readonly #deps: ConnectDeps;
  readonly #mayTell = sparing(tellEveryMs);

  constructor(deps: ConnectDeps) {
    this.#deps = deps;
  }

  /** Throws connect_refused with the backend's status, connect_unavailable. */
  async ask(
    candidate: Candidate,
    client: ClientFacts,
    gone: AbortSignal,
  ): Promise<Granted> {
    const giveUp = new AbortController();
    const abort = () => giveUp.abort();
    const timer = setTimeout(abort, this.#deps.settings.connectMs);
    gone.addEventListener("abort", abort);
    if (gone.aborted) abort();
    try {
      return await this.#ask(candidate, client, giveUp.signal);
    } catch (error) {
      const isOurs =
        error instanceof BridgeError && error.code === "connect_unavailable";
      // A client that has left says nothing of the backend.
      if (isOurs && !gone.aborted) this.#tell(error);
      throw error;
    } finally {
      clearTimeout(timer);
      gone.removeEventListener("abort", abort);
    }
  }

  async #ask(
    candidate: Candidate,
    client: ClientFacts,
    signal: AbortSignal,
  ): Promise<Granted> {
    const { sender, settings } = this.#deps;
    const { connectionId, userId } = candidate;
    await this.#permitted(signal);
    const sent = await sender.post({
      // Each question is one of its own: the answer may be another one.
      id: `${connectionId}.connect.${randomBase62(8)}`,
      type: "connect",
      subject: connectionId,
      timeMs: Date.now(),
      contentType: "application/json",
      body: JSON.stringify({
        ...candidate,
        ...factsOf(client, settings.connectHeaders),
      }),
      extensions: { connectionid: connectionId, userid: userId },
      signal,
    });
    return read(sent);
  }

  /** Nothing is sent to who has not given permission (docs/webhooks.md). */
  async #permitted(signal: AbortSignal): Promise<void> {
    const { sender, lanes, settings } = this.#deps;
    if (await lanes.isProven()) return;
    const permission = permissionOf(
      await sender.ask({ signal }),
      settings.origin,
    );
    if (!permission.granted) throw unavailable(permission.why);
    await lanes.prove(permission.rate);
  }

  #tell({ cause }: Error): void {
    const level = this.#mayTell() ? "warn" : "debug";
    this.#deps.logger[level](
      { why: cause },
      "the webhook does not say who may connect: clients are refused with 503",
    );
  }
}

function read(sent: Sent): Granted {
  if (sent.kind === "failure")
    throw unavailable(
      sent.failure === "aborted" ? "no answer in time" : sent.reason,
    );
  const { status, body, headers } = sent;
  if (status >= 400 && status < 500) {
    const retryMs = retryAfterMs(headers["retry-after"], Date.now());
    throw new BridgeError("connect_refused", {
      status,
      ...detailOf(sent),
      ...(retryMs > 0 ? { retryAfterSeconds: retryMs / 1_000 } : {}),
    });
  }
  if (status < 200 || status >= 300) throw unavailable(`answered ${status}`);
  if (body.length === 0) return {};
  try {
    return grantedOf(JSON.parse(body.toString("utf8")));
  } catch (error) {
    throw unavailable(`its answer is wrong: ${(error as Error).message}`);
  }
}

/** `why` is for the log, not for the client. */
const unavailable = (why: string): BridgeError =>
  new BridgeError(
    "connect_unavailable",
    { detail: "the backend did not say whether this client may connect" },
    why,
  );

/** Where the client comes from, what it asks for, and the headers that are wanted. No token, in whatever place. */
function factsOf({ url, headers }: ClientFacts, wanted: readonly string[]) {
  const query: Record<string, string[]> = {};
  for (const [name, value] of new URL(url, "http://localhost").searchParams)
    if (!secretQuery.has(name)) (query[name] ??= []).push(value);
  const chosen = wanted.flatMap((name) => {
    const value = headers[name];
    return value === undefined
      ? []
      : [[name, Array.isArray(value) ? value.join(", ") : value] as const];
  });
  return {
    origin: headers.origin ?? null,
    subprotocols: (headers["sec-websocket-protocol"] ?? "")
      .split(",")
      .map((part) => part.trim())
      .filter((part) => part !== "" && !part.startsWith("bearer.")),
    query,
    headers: Object.fromEntries(chosen),
  };
}

const secretQuery = new Set(["token", "resume"]);

/** In the backend's words, where it has some: a problem's detail, or plain text. */
function detailOf({
  contentType = "",
  body,
}: Extract<Sent, { kind: "answer" }>): { detail?: string } {
  let words: unknown = "";
  if (contentType.startsWith("text/plain")) words = body.toString("utf8");
  else if (/^application\/([\w.+-]+\+)?json\b/.test(contentType))
    try {
      const said = JSON.parse(body.toString("utf8")) as { detail?: unknown };
      words = said.detail;
    } catch {
      // It said nothing that we understand.
    }
  if (typeof words !== "string") return {};
  const detail = words.replaceAll(/\p{Cc}+/gu, " ").trim();
  return detail === "" ? {} : { detail: detail.slice(0, detailMax) };
}
