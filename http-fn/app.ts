/** The HTTP function as a fastify app: every route of openapi.yaml that is ours, and the one error shape. No listening. */
import type { IncomingMessage } from "node:http";
import {
  fastify,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
} from "fastify";
import type { ErrorCode } from "../shared/api.js";
import type { ApiKey } from "../shared/config.js";
import { ConnectionRoom } from "../shared/connection-room.js";
import { BridgeError } from "../shared/errors.js";
import { HttpGuard, type REQUEST_LIMITS } from "../shared/http-guard.js";
import type { Logger } from "../shared/logging.js";
import {
  headerLines,
  isSecureUrl,
  protectionHeaders,
} from "../shared/protection.js";
import { proxiesOf, type Proxies } from "../shared/proxies.js";
import { SampledLog } from "../shared/sampled-log.js";
import { answer, answerProblem, toBridgeError } from "./answer.js";
import { pushBatch } from "./batch.js";
import { BODY_BYTES_MAX, BODY_MS_MAX } from "./body.js";
import type { Bridge } from "./bridge.js";
import { createChores } from "./chores.js";
import {
  closeConnection,
  connectionIdOf,
  inspectConnection,
  listConnections,
  listPending,
  prepareConnection,
} from "./connections.js";
import {
  METHODS,
  type Contract,
  type OperationId,
  type ParametersOf,
} from "./contract.js";
import { createGate } from "./credentials.js";
import { KeyQuotas } from "./key-quotas.js";
import { renderDocs } from "./docs.js";
import { sayFarewell } from "./farewell.js";
import { followEvents } from "./events.js";
import {
  addMember,
  addUser,
  readGroup,
  removeMember,
  removeUser,
  toEverybody,
  toGroup,
} from "./groups.js";
import { createLiveRequests } from "./live-requests.js";
import { followReceipt, readReceipt, recallMessage } from "./messages.js";
import { pushTo } from "./push.js";
import { revokeTokens } from "./tokens.js";
import { readPresence, signOutUser, userIdReader } from "./users.js";

/** A file served as it is. */
export interface Asset {
  contentType: string;
  text: string;
}

export interface AppDeps {
  bridge: Bridge;
  contract: Contract;
  logger: Pick<Logger, "debug" | "info" | "warn" | "error">;
  apiKeys: readonly ApiKey[];
  /** Default: those that are usual, counted by this process alone. */
  quotas?: KeyQuotas;
  allowedOrigins: readonly string[];
  publicWsUrl: string;
  /** Whose X-Scf-Request-Id and X-Forwarded-* are believed. Default: nobody's. */
  proxies?: Proxies;
  /** Room for connections. Default: what the process's descriptors allow. */
  room?: ConnectionRoom;
  /** What one connection may ask, where tests change it. */
  requests?: Partial<typeof REQUEST_LIMITS>;
  ttlDefaultSeconds: number;
  /** What a push's answer waits for when the push does not say. */
  durability: "local" | "replica";
  /** What stands at `/`, `/page.js` and `/client.js`; those left out answer 404. */
  assets?: Partial<Record<"page" | "pageScript" | "clientScript", Asset>>;
  /** Checks every answer against openapi.yaml and answers 500 when it is not so. Default off; on in tests. */
  checkAnswers?: boolean;
  /** Limits that tests shorten. */
  timeouts?: Partial<typeof TIMEOUTS>;
}

/** How slow a caller may be, milliseconds. Waiting for an answer is not limited by these. */
export const TIMEOUTS = {
  /** Request line and headers: a client sends them in one packet; slowloris does not. */
  headersMs: 5_000,
  /** The body of a push or another request with one message or less. */
  requestMs: BODY_MS_MAX,
  /** The body of a batch, which may be sent as its items come up. */
  batchMs: 60_000,
  /** Silence inside the body of a batch. */
  batchIdleMs: 10_000,
  /** How often the two are looked at. */
  checkMs: 1_000,
  /** Idle keep-alive: longer than the 60 s of usual gateways, so that it is they who hang up. */
  keepAliveMs: 72_000,
  /** A function that goes answers for so much longer before it closes kept connections: busy callers are back sooner. */
  farewellMs: 500,
};

/** Bytes of request line and headers together. */
const HEADER_BYTES_MAX = 8_192;

/** Longest path segment that is looked at, characters: a user ID of 128 characters with four bytes each, encoded. */
const PATH_PARAM_MAX = 1_536;

/**
 * Refusals that end their connection, whoever asked: the bytes behind them may be anything. Of who has shown no credentials any
 * refusal does.
 */
const LAST: ReadonlySet<ErrorCode> = new Set([
  "unauthorized",
  "forbidden_host",
  "forbidden_origin",
  "bad_request",
  "request_timeout",
  "payload_too_large",
]);

/** Answers that last. */
const STREAMS: ReadonlySet<OperationId> = new Set([
  "followReceipt",
  "followEvents",
]);

type Handler<Id extends OperationId> = (
  request: FastifyRequest,
  reply: FastifyReply,
  parameters: ParametersOf<Id>,
  apiKeyName: string,
) => unknown;

/** Builds the app; `close()` answers waits, ends streams, and lets callers go before it stops listening. */
export function buildApp(deps: AppDeps): FastifyInstance {
  const { bridge, contract, logger } = deps;
  const protection = protectionHeaders(isSecureUrl(deps.publicWsUrl));
  const timeouts = { ...TIMEOUTS, ...deps.timeouts };
  const gate = createGate(deps);
  const quotas = deps.quotas ?? new KeyQuotas(deps);
  const live = createLiveRequests();
  const chores = createChores((withinMs) => bridge.lookAfter(withinMs));
  const proxies = deps.proxies ?? proxiesOf([]);
  const lines = new SampledLog({
    onLeftOut: (leftOut) => logger.info(leftOut, "lines left out"),
  });
  const guard = new HttpGuard({
    room: deps.room ?? new ConnectionRoom({ max: 0, perAddress: 0 }),
    proxies,
    onRefusal: ({ status, code, data }) =>
      lines.say(code, () =>
        logger.info({ status, code, detail: data.detail }, "request refused"),
      ),
    headerLines: headerLines(protection),
    ...(deps.requests && { limits: deps.requests }),
  });
  const app = fastify({
    logger: false,
    genReqId: requestIds(proxies),
    bodyLimit: BODY_BYTES_MAX,
    serverFactory: (handle) =>
      guard.createServer(
        {
          // The last resort, and the one for bodies that nobody reads; those that are read are timed where they are read.
          requestTimeout: timeouts.batchMs + timeouts.headersMs,
          keepAliveTimeout: timeouts.keepAliveMs,
          headersTimeout: timeouts.headersMs,
          connectionsCheckingInterval: timeouts.checkMs,
          maxHeaderSize: HEADER_BYTES_MAX,
        },
        handle,
      ),
    // The guard has its own.
    clientErrorHandler: () => undefined,
    routerOptions: { maxParamLength: PATH_PARAM_MAX },
    // Requests that come while the function closes are still served; the listener is gone anyway.
    return503OnClosing: false,
    frameworkErrors: (error, request, reply) =>
      void fail(error, request, reply),
  });
  app.addHook("onClose", (_app, done) => {
    lines.flush();
    done();
  });

  // Handlers read the body themselves, so that nobody's bytes are read before the credentials are checked. fastify need not
  // know that there may be one: its way to a parser costs every push, even where the parser does nothing.
  for (const method of ["POST", "PUT", "DELETE"])
    app.addHttpMethod(method, { hasBody: false, overrideExisting: true });

  function fail(
    error: unknown,
    request: FastifyRequest,
    reply: FastifyReply,
  ): FastifyReply {
    const known = toBridgeError(error);
    const line = {
      requestId: request.id,
      method: request.method,
      route: request.routeOptions.url ?? "(none)",
      status: known.status,
      code: known.code,
    };
    // A caller that hung up, or was cut off, is answered by nobody and has its own line where that was our doing.
    if (request.raw.socket.destroyed) logger.debug(line, "caller left");
    // A full Redis is told once when it begins and once when it ends (redis-memory.ts), whatever publishers do meanwhile.
    else if (known.code === "redis_full") logger.debug(line, "request refused");
    // A client that does not reply is no failure of ours.
    else if (known.status < 500 || known.code === "reply_timeout")
      lines.say(known.code, () => logger.info(line, "request refused"));
    else {
      const err = known.cause ?? known;
      // Our own mistake needs its stack; an absent Redis is one incident, whoever asks meanwhile.
      if (known.code === "internal")
        logger.error({ ...line, err }, "request failed");
      else
        lines.say(known.code, () =>
          logger.warn(
            {
              ...line,
              cause: err instanceof Error ? err.message : String(err),
            },
            "request failed",
          ),
        );
    }
    const { socket } = request.raw;
    if (
      known.status < 500 &&
      (LAST.has(known.code) || !guard.isProven(socket))
    ) {
      reply.header("connection", "close");
      guard.last(socket);
    }
    return answerProblem(known, request, reply.headers(protection));
  }
  app.setErrorHandler(fail);

  /** Routes an operation of openapi.yaml: credentials, parameters, then the handler. */
  function serve<Id extends OperationId>(id: Id, handle: Handler<Id>): void {
    const { method, path, scope, parameters } = contract.operation(id);
    app.route({
      method,
      url: path.replaceAll(/\{(\w+)\}/g, ":$1"),
      // HEAD of a stream would last as long as the stream.
      exposeHeadRoute: method === "GET" && !STREAMS.has(id),
      handler(request, reply) {
        reply.headers(protection);
        const apiKeyName = gate(request.headers, scope);
        if (scope !== undefined) guard.proven(request.raw.socket);
        if (scope !== undefined) quotas.enter(apiKeyName, reply);
        const given = parameters(request.raw, request.query);
        // What has no scope must answer without Redis.
        if (scope !== undefined && chores.due())
          return chores
            .run()
            .then(() => handle(request, reply, given, apiKeyName));
        return handle(request, reply, given, apiKeyName);
      },
    });
  }

  const bodyMs = timeouts.requestMs;
  const push = { ...deps, quotas, live, bodyMs };
  const userIdOf = userIdReader(contract.schema("UserId", "invalid_parameter"));
  serve(
    "pushToConnection",
    pushTo((request) => ({ connection: connectionIdOf(request) }), push),
  );
  serve(
    "pushToUser",
    pushTo((request) => ({ user: userIdOf(request) }), push),
  );
  serve(
    "pushBatch",
    pushBatch({
      ...deps,
      quotas,
      live,
      checkItem: contract.schema("BatchItem"),
      withinMs: timeouts.batchMs,
      idleMs: timeouts.batchIdleMs,
    }),
  );
  serve("publishToGroup", pushTo(toGroup, push));
  serve("broadcast", pushTo(toEverybody, push));
  serve("readGroup", readGroup(bridge));
  serve("addMember", addMember({ bridge, quotas }));
  serve("removeMember", removeMember(bridge));
  serve("addUserToGroup", addUser({ bridge, quotas, userIdOf }));
  serve("removeUserFromGroup", removeUser({ bridge, userIdOf }));
  serve("readReceipt", readReceipt(bridge));
  serve("recallMessage", recallMessage(bridge));
  serve("followReceipt", followReceipt({ bridge, live }));
  serve(
    "prepareConnection",
    prepareConnection({
      ...deps,
      proxies,
      quotas,
      bodyMs,
      operation: contract.operation("prepareConnection"),
    }),
  );
  serve("listConnections", listConnections(bridge));
  serve("inspectConnection", inspectConnection(bridge));
  serve("closeConnection", closeConnection(bridge));
  serve("listPending", listPending(bridge));
  serve("readPresence", readPresence({ bridge, userIdOf }));
  serve("signOutUser", signOutUser({ bridge, userIdOf }));
  serve("revokeTokens", revokeTokens(bridge));

  serve("followEvents", followEvents({ bridge, live, chores }));

  serve("health", (request, reply) =>
    answer(request, reply, 200, { status: "ok" }),
  );
  serve("readiness", async (request, reply) => {
    await bridge.ready();
    return answer(request, reply, 200, { status: "ready" });
  });
  const once = (
    id: OperationId,
    contentType: string,
    render: () => string,
    headers: Readonly<Record<string, string>> = STATIC_HEADERS,
  ) => {
    let text: string | undefined;
    serve(id, (_request, reply) => {
      text ??= render();
      return reply
        .headers({ ...headers, "content-type": contentType })
        .send(text);
    });
  };
  once("openapiYaml", "application/yaml; charset=utf-8", () => contract.yaml);
  once("openapiJson", "application/json; charset=utf-8", () =>
    JSON.stringify(contract.document),
  );
  once("docs", "text/html; charset=utf-8", () => renderDocs(contract));
  for (const id of ["page", "pageScript", "clientScript"] as const) {
    const asset = deps.assets?.[id];
    if (asset !== undefined)
      once(
        id,
        asset.contentType,
        () => asset.text,
        id === "clientScript" ? LIBRARY_HEADERS : STATIC_HEADERS,
      );
  }

  const methodsAt = routedMethods(app, contract);
  app.setNotFoundHandler((request) => {
    gate(request.headers, undefined);
    const allow = methodsAt(request.url);
    if (allow === undefined)
      throw new BridgeError("not_found", {
        hint: "/docs lists what there is.",
      });
    // A message posted to whom it is for: one word is missing.
    const messages = `${request.url.split("?", 1)[0]}/messages`;
    const isPush =
      request.method === "POST" && methodsAt(messages)?.includes("POST");
    throw new BridgeError("method_not_allowed", {
      allow,
      ...(isPush && { hint: "Messages go to …/messages." }),
    });
  });

  sayFarewell(app, {
    ms: timeouts.farewellMs,
    endWaits: () => live.close(),
  });
  if (deps.checkAnswers) checkAnswers(app, contract);
  if ("isLevelEnabled" in logger && (logger as Logger).isLevelEnabled("debug"))
    app.addHook("onResponse", (request, reply, done) => {
      const { id: requestId, method } = request;
      const route = request.routeOptions.url ?? "(none)";
      if (reply.statusCode < 400)
        logger.debug(
          { requestId, method, route, status: reply.statusCode },
          "request served",
        );
      done();
    });
  return app;
}

/** On every page: nothing from elsewhere, not inside a foreign frame. */
const STATIC_HEADERS = {
  "content-security-policy":
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self' ws: wss:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "cache-control": "no-cache",
};

/** The library is for everybody's pages, and a browser imports a module of another origin only where that one says so. */
const LIBRARY_HEADERS = {
  ...STATIC_HEADERS,
  "access-control-allow-origin": "*",
  "cross-origin-resource-policy": "cross-origin",
};

/** Any other text may be a secret, and stands in every line of its request. */
const uuid = /^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$/i;

/** The platform's request ID (a UUID) where the platform says it, so that both logs tell the same story; else one of our own. */
function requestIds(proxies: Proxies): (raw: IncomingMessage) => string {
  const start = Date.now().toString(36);
  let count = 0;
  return (raw) => {
    const given = raw.headers["x-scf-request-id"];
    return typeof given === "string" &&
      uuid.test(given) &&
      proxies.isTrusted(raw.socket.remoteAddress)
      ? given
      : `${start}-${(count++).toString(36)}`;
  };
}

/** For a URL the `Allow` of its path; undefined when no path of ours matches. */
function routedMethods(app: FastifyInstance, { document }: Contract) {
  const paths = Object.keys(document.paths).flatMap((path) => {
    const url = path.replaceAll(/\{(\w+)\}/g, ":$1");
    const allow = METHODS.map((method) => method.toUpperCase()).filter(
      (method) => app.hasRoute({ method: method as "GET", url }),
    );
    const pattern = new RegExp(
      `^${path.replaceAll(".", "\\.").replaceAll(/\{\w+\}/g, "[^/]+")}$`,
    );
    return allow.length > 0 ? [{ pattern, allow: allow.join(", ") }] : [];
  });
  return (url: string): string | undefined => {
    const path = url.split("?", 1)[0] ?? "";
    return paths.find(({ pattern }) => pattern.test(path))?.allow;
  };
}

function checkAnswers(app: FastifyInstance, contract: Contract): void {
  app.addHook("onSend", (request, reply, payload, done) => {
    const type = reply.getHeader("content-type");
    const mistakes = contract.checkAnswer({
      method: request.method,
      path: request.routeOptions.url?.replaceAll(/:(\w+)/g, "{$1}"),
      status: reply.statusCode,
      // A reply is a client's: openapi.yaml says only that it may be of any type.
      contentType: reply.hasHeader("reply-connection")
        ? "*/*"
        : typeof type === "string"
          ? type
          : undefined,
      // fastify cuts the body of an answer to HEAD off after this hook.
      body:
        typeof payload === "string" && request.method !== "HEAD" ? payload : "",
    });
    if (mistakes.length > 0)
      done(new Error(`answer breaks openapi.yaml: ${mistakes.join("; ")}`));
    else done();
  });
}
