// The one origin: which request goes where. `/ws` is the WebSocket function's, `/_platform` the platform's own,
// everything else the HTTP function's. One function, one protocol [WS-CONN-6].

import {
  createServer,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { requestHead, withoutUpgradeOffer } from "./headers.js";
import {
  answerProblem,
  answerProblemOnSocket,
  unavailable,
  type Problem,
} from "./problem.js";

export interface GatewayRoutes {
  http(req: IncomingMessage, res: ServerResponse): void;
  webSocket(req: IncomingMessage, client: Socket, head: Buffer): void;
  own(req: IncomingMessage, res: ServerResponse): void;
}

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
  return path === root || path.startsWith(`${root}/`);
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

export function createGateway(routes: GatewayRoutes): Gateway {
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
    const path = pathOf(req);
    if (isUnder(path, "/ws"))
      answerProblem(res, {
        code: "upgrade_required",
        detail: "Connect to this path with a WebSocket.",
        headers: { Upgrade: "websocket", Connection: "Upgrade, close" },
      });
    else if (isUnder(path, "/_platform")) routes.own(req, res);
    else routes.http(req, res);
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
    else if (!isUnder(pathOf(req), "/ws"))
      answerProblemOnSocket(client, {
        code: "not_found",
        detail: "WebSockets are at /ws.",
      });
    else routes.webSocket(req, client, head);
  }

  const server: Server = createServer({ keepAliveTimeout: KEEP_ALIVE_MS });
  server.on("request", onRequest);
  server.on("upgrade", onUpgrade);
  server.on("clientError", (error: NodeJS.ErrnoException, stream) => {
    const gone = error.code === "ECONNRESET" || answering.has(stream);
    if (gone) stream.destroy();
    else answerProblemOnSocket(stream as Socket, whatIsWrong(error));
  });

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
        server.once("error", reject);
        server.listen(port, "127.0.0.1", () => {
          server.off("error", reject);
          const address = server.address();
          resolve(typeof address === "object" ? (address?.port ?? 0) : 0);
        });
      });
    },
    stopAccepting() {
      if (!accepting) return;
      accepting = false;
      server.close();
      server.closeIdleConnections();
    },
    close() {
      this.stopAccepting();
      closed ??= new Promise((resolve) => {
        if (server.listening) server.once("close", resolve);
        else resolve();
        for (const socket of upgraded) socket.destroy();
        server.closeAllConnections();
      });
      return closed;
    },
  };
}
