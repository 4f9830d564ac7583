// The one origin: which request goes where. `/_platform` is the platform's own, everything else belongs to the function
// with the longest matching route. One function, one protocol [WS-CONN-6].

import {
  createServer,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from "node:http";
import { createServer as createSecureServer } from "node:https";
import { createServer as createTcpServer, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { requestHead, withoutUpgradeOffer } from "./headers.js";
import {
  answerProblem,
  answerProblemOnSocket,
  unavailable,
  type Problem,
} from "./problem.js";

export interface GatewayOptions {
  readonly routes: readonly Route[];
  own(req: IncomingMessage, res: ServerResponse): void;
  /** With these the same port takes TLS as well [WS-CONN-1]. */
  readonly tls?: { readonly cert: Buffer; readonly key: Buffer } | undefined;
}

/** Where a function is reached; it has the handler of its protocol and no other. */
export interface Route {
  /** `/` or `/name`. */
  readonly path: string;
  /** The function does not see the route's path. */
  readonly isStripped: boolean;
  readonly http?: (req: IncomingMessage, res: ServerResponse) => void;
  readonly webSocket?: (
    req: IncomingMessage,
    client: Socket,
    head: Buffer,
  ) => void;
}

const OWN_PATH = "/_platform";
/** The first byte of a TLS connection (RFC 8446 section 5.1: a handshake record). */
const TLS_HANDSHAKE = 22;

/** Longer than what clients' connection pools usually keep, so that it is the client who closes. */
const KEEP_ALIVE_MS = 65_000;

export interface Gateway {
  /** Resolves with the port; rejects with the listen error (`EADDRINUSE`). */
  listen(port: number): Promise<number>;
  /** No new connections and no new requests; those that run go on. */
  stopAccepting(): void;
  /** Cuts what is left; resolves when nothing is. Any time, any number of times. */
  close(): Promise<void>;
}

function isUnder(path: string, root: string): boolean {
  return root === "/" || path === root || path.startsWith(`${root}/`);
}

/** The request as the function of this route sees it. */
function strip(req: IncomingMessage, route: Route): IncomingMessage {
  if (!route.isStripped || route.path === "/") return req;
  const rest = (req.url ?? "").slice(route.path.length);
  req.url = rest.startsWith("/") ? rest : `/${rest}`;
  return req;
}

function pathOf(req: IncomingMessage): string {
  const url = req.url ?? "/";
  const query = url.indexOf("?");
  return query < 0 ? url : url.slice(0, query);
}

/** What a client is told whose bytes are no request. */
function whatIsWrong(error: NodeJS.ErrnoException): Problem {
  switch (error.code) {
    case "HPE_HEADER_OVERFLOW":
      return {
        code: "headers_too_large",
        detail: "The headers are too large.",
      };
    case "ERR_HTTP_REQUEST_TIMEOUT":
      return { code: "request_timeout", detail: "The request took too long." };
    default:
      return { code: "bad_request", detail: "This is not an HTTP request." };
  }
}

export function createGateway(options: GatewayOptions): Gateway {
  const routes = [...options.routes].sort(
    (a, b) => b.path.length - a.path.length,
  );
  const socketPaths = routes
    .filter((route) => route.webSocket)
    .map((route) => route.path);
  /** Sockets that left the HTTP server with their upgrade. */
  const upgraded = new Set<Socket>();
  /** Sockets on which an answer may be under way: nothing else may be written there. */
  const answering = new WeakSet<Duplex>();
  let accepting = true;
  let closed: Promise<void> | undefined;

  function onRequest(req: IncomingMessage, res: ServerResponse): void {
    answering.add(req.socket);
    res.once("close", () => answering.delete(req.socket));
    if (!accepting) {
      res.shouldKeepAlive = false;
      return answerProblem(res, unavailable("The platform stops."));
    }
    if (isUnder(pathOf(req), OWN_PATH)) return options.own(req, res);
    const route = routeOf(req);
    if (route?.http) return route.http(strip(req, route), res);
    if (route === undefined)
      return answerProblem(res, {
        code: "not_found",
        detail: `No function is here; there are ${routes.map(({ path }) => path).join(" and ")}.`,
      });
    answerProblem(res, {
      code: "upgrade_required",
      detail: "Connect to this path with a WebSocket.",
      headers: { Upgrade: "websocket", Connection: "Upgrade, close" },
    });
  }

  function routeOf(req: IncomingMessage): Route | undefined {
    const path = pathOf(req);
    return routes.find((route) => isUnder(path, route.path));
  }

  function onUpgrade(req: IncomingMessage, stream: Duplex, head: Buffer): void {
    const client = stream as Socket; // this server listens on TCP only
    client.on("error", () => {});
    if (req.headers.upgrade?.toLowerCase() !== "websocket")
      return withoutUpgrade(req, client, head);
    upgraded.add(client);
    client.once("close", () => upgraded.delete(client));
    if (!accepting)
      answerProblemOnSocket(client, unavailable("The platform stops."));
    else {
      const isOwn = isUnder(pathOf(req), OWN_PATH);
      const route = isOwn ? undefined : routeOf(req);
      if (route?.webSocket)
        return route.webSocket(strip(req, route), client, head);
      answerProblemOnSocket(client, {
        code: "not_found",
        detail:
          socketPaths.length > 0
            ? `WebSockets are at ${socketPaths.join(" and ")}.`
            : "No function here takes WebSockets.",
      });
    }
  }

  function serveWith(server: Server): void {
    server.on("request", onRequest);
    server.on("upgrade", onUpgrade);
    server.on("clientError", (error: NodeJS.ErrnoException, stream) => {
      const gone = error.code === "ECONNRESET" || answering.has(stream);
      if (gone) stream.destroy();
      else answerProblemOnSocket(stream as Socket, whatIsWrong(error));
    });
  }

  const server: Server = createServer({ keepAliveTimeout: KEEP_ALIVE_MS });
  serveWith(server);
  const secure =
    options.tls &&
    createSecureServer({ ...options.tls, keepAliveTimeout: KEEP_ALIVE_MS });
  if (secure) serveWith(secure);
  const servers = secure ? [server, secure] : [server];
  const listener = secure ? createTcpServer(sortOut) : server;
  /** Connections that were accepted for the two servers, which do not know them all. */
  const accepted = new Set<Socket>();

  /** The first byte says whether a connection is TLS. */
  function sortOut(socket: Socket): void {
    accepted.add(socket);
    socket.on("error", () => socket.destroy());
    socket.once("close", () => accepted.delete(socket));
    socket.once("data", (chunk: Buffer) => {
      socket.pause();
      socket.unshift(chunk);
      const isTls = chunk[0] === TLS_HANDSHAKE;
      (isTls ? secure : server)?.emit("connection", socket);
      process.nextTick(() => socket.resume());
    });
  }

  /**
   * Any other offer to upgrade (Java's client and `curl --http2` offer h2c with each request) may be ignored
   * (RFC 9110 section 7.8). Node has taken the parser off this socket, so the request goes back in without the offer.
   */
  function withoutUpgrade(
    req: IncomingMessage,
    client: Socket,
    head: Buffer,
  ): void {
    client.unshift(
      Buffer.concat([
        Buffer.from(requestHead(req, withoutUpgradeOffer(req)), "latin1"),
        head,
      ]),
    );
    server.emit("connection", client);
  }

  return {
    listen(port) {
      return new Promise((resolve, reject) => {
        listener.once("error", reject);
        listener.listen(port, "127.0.0.1", () => {
          listener.off("error", reject);
          const address = listener.address();
          resolve(typeof address === "object" ? (address?.port ?? 0) : 0);
        });
      });
    },
    stopAccepting() {
      if (!accepting) return;
      accepting = false;
      listener.close();
      for (const one of servers) one.closeIdleConnections();
    },
    close() {
      this.stopAccepting();
      closed ??= new Promise((resolve) => {
        // Once it has stopped listening it emits "close" as soon as its last connection is gone.
        listener.close(() => resolve());
        for (const socket of [...upgraded, ...accepted]) socket.destroy();
        for (const one of servers) one.closeAllConnections();
      });
      return closed;
    },
  };
}
