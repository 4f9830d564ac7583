/**
 * What an HTTP server of ours takes from whoever can reach it, before anything of a request is looked at: how many
 * connections (connection-room.ts), how many requests that wait for an answer on one of them, how many on it in all; and what is no
 * proper HTTP. A refusal is a problem body, comes after the answers that are due, and ends the connection: what still
 * comes on it is thrown away unread, in bounds.
 */
import {
  createServer,
  STATUS_CODES,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerOptions,
  type ServerResponse,
} from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { ErrorCode } from "./api.js";
import type { ConnectionRoom } from "./connection-room.js";
import { BridgeError, toProblem } from "./errors.js";
import type { Proxies } from "./proxies.js";
import { visibleJson } from "./visible.js";

/** How much one connection may ask. */
export const REQUEST_LIMITS = {
  /** Requests that wait for their answer. Hardly any client sends a second one before the first is answered. */
  atOnce: 64,
  /** Requests in all; the last answer says `Connection: close`. A caller dials anew, which costs it one round trip. */
  inAll: 10_000,
  /** After the last answer the client has so long to hang up, milliseconds; … */
  lingerMs: 1_000,
  /** … and what it says meanwhile is taken from the line to throw it away, bytes: in a reset it might not read why. */
  unreadBytes: 1_048_576,
};

export interface GuardOptions {
  room: ConnectionRoom;
  proxies: Proxies;
  /** Told of every refusal of the guard's own, for the log. */
  onRefusal(refusal: BridgeError): void;
  /** Lines of the head of each of these refusals, each with its CR LF. Default none. */
  headerLines?: string;
  /** Those that tests change. */
  limits?: Partial<typeof REQUEST_LIMITS>;
}

/** One connection of a caller. */
interface Visitor {
  /** Answers that are due, in order. */
  readonly due: Set<ServerResponse>;
  /** Requests that came on it. */
  asked: number;
  /** It has shown credentials once: it does not make way for others. */
  proven: boolean;
  /** Nothing that comes on it is looked at any more. */
  deaf: boolean;
  /** Called when all that was due is answered. */
  onAnswered: (() => void) | undefined;
  readonly onClose: () => void;
}

/** What Node calls the requests it gives up on; the others are malformed. */
const PARSER_ERRORS: Readonly<Record<string, ErrorCode>> = {
  ERR_HTTP_REQUEST_TIMEOUT: "request_timeout",
  HPE_HEADER_OVERFLOW: "headers_too_large",
};

export class HttpGuard {
  readonly #options: GuardOptions;
  readonly #limits: typeof REQUEST_LIMITS;
  readonly #visitors = new WeakMap<Duplex, Visitor>();

  constructor(options: GuardOptions) {
    this.#options = options;
    this.#limits = { ...REQUEST_LIMITS, ...options.limits };
  }

  /** A server whose requests reach `handle` only where they are proper ones within the limits. */
  createServer(options: ServerOptions, handle: RequestListener): Server {
    const server = createServer(
      // A request without Host is refused here, with a body.
      { ...options, requireHostHeader: false },
      (request, response) => this.#onRequest(request, response, handle),
    );
    server.on("connection", (socket: Socket) => this.#onConnection(socket));
    server.on("clientError", (error: NodeJS.ErrnoException, socket) =>
      this.#onBroken(error, socket),
    );
    return server;
  }

  /** Whoever is at the other end has shown credentials: its connection keeps its place from now on. */
  proven(socket: Duplex): void {
    const visitor = this.#visitors.get(socket);
    if (!visitor || visitor.proven) return;
    visitor.proven = true;
    this.#options.room.busy(socket);
  }

  isProven(socket: Duplex): boolean {
    return this.#visitors.get(socket)?.proven ?? false;
  }

  /**
   * The answer that is being given is the last one of its connection: what was sent behind it is not looked at. The answer itself
   * must say `Connection: close`.
   */
  last(socket: Socket): void {
    const visitor = this.#visitors.get(socket);
    if (!visitor || visitor.deaf) return;
    visitor.deaf = true;
    // Node would close at once, and what has not been read by then would become a reset in which the answer is lost.
    socket.destroySoon = () => this.leave(socket);
  }

  /**
   * Takes a request for an upgrade, which comes past `handle`. From here on its socket is the caller's, who refuses with `leave`. Throws
   * bad_request, no_room. False: the line is cut, and nothing is to be done.
   */
  upgrade(request: IncomingMessage): boolean {
    const { socket } = request;
    const { room, proxies } = this.#options;
    const visitor = this.#visitors.get(socket);
    // What an answer that is due would write is no frame.
    if (!visitor || visitor.deaf || visitor.due.size > 0) {
      socket.destroy();
      return false;
    }
    room.busy(socket);
    this.#visitors.delete(socket);
    socket.off("close", visitor.onClose);
    const mistake = mistakeIn(request);
    if (mistake) throw mistake;
    if (proxies.isTrusted(socket.remoteAddress)) {
      const noRoom = room.enterAddress(socket, proxies.clientOf(request));
      if (noRoom) throw noRoomFor(noRoom.limit, noRoom.full);
    }
    return true;
  }

  /** Hangs up after what was written, and waits for the other side to do so as well, but not for long. */
  leave(socket: Duplex): void {
    this.#stopReading(socket);
    socket.end();
    const timer = setTimeout(() => socket.destroy(), this.#limits.lingerMs);
    socket.once("end", () => socket.destroy());
    socket.once("close", () => clearTimeout(timer));
  }

  #onConnection(socket: Socket): void {
    const { room, proxies } = this.#options;
    const { remoteAddress } = socket;
    const noRoom = room.enter(
      socket,
      proxies.isTrusted(remoteAddress)
        ? undefined
        : proxies.clientOf({ socket, headers: {} }),
    );
    const due = new Set<ServerResponse>();
    const onClose = () => tellAll(due);
    this.#visitors.set(socket, {
      due,
      asked: 0,
      proven: false,
      deaf: noRoom !== undefined,
      onAnswered: undefined,
      onClose,
    });
    socket.once("close", onClose);
    if (!noRoom) return;
    // It has no place: neither may it wait for its last words to be read.
    const refusal = noRoomFor(noRoom.limit, noRoom.full);
    this.#options.onRefusal(refusal);
    socket.end(this.#lastWords(refusal), () => socket.destroy());
  }

  #onRequest(
    request: IncomingMessage,
    response: ServerResponse,
    handle: RequestListener,
  ): void {
    const { socket } = request;
    const visitor = this.#visitors.get(socket);
    if (!visitor || visitor.deaf || socket.destroyed) return;
    const mistake = mistakeIn(request);
    if (mistake) return this.#refuse(socket, visitor, mistake);
    const { atOnce, inAll } = this.#limits;
    if (visitor.due.size >= atOnce)
      return this.#refuse(
        socket,
        visitor,
        new BridgeError("upstream_too_fast", {
          detail: `${atOnce} requests of this connection wait for their answers.`,
          limit: atOnce,
          hint: "Read the answers, or use several connections.",
        }),
      );
    this.#options.room.busy(socket);
    visitor.due.add(response);
    visitor.asked += 1;
    if (visitor.asked >= inAll) {
      response.shouldKeepAlive = false;
      this.last(socket);
    }
    response.once("close", () => {
      visitor.due.delete(response);
      if (visitor.due.size === 0 && !visitor.proven)
        this.#options.room.idle(socket);
      if (isAnswered(visitor)) visitor.onAnswered?.();
    });
    handle(request, response);
  }

  /** What Node's parser refuses never becomes a request, so it is answered on the bare socket. */
  #onBroken(error: NodeJS.ErrnoException, stream: Duplex): void {
    const socket = stream as Socket;
    const visitor = this.#visitors.get(socket);
    if (error.code === "ECONNRESET" || !socket.writable || !visitor) {
      socket.destroy();
      return;
    }
    if (visitor.deaf) return;
    const code = PARSER_ERRORS[error.code ?? ""] ?? "bad_request";
    this.#refuse(socket, visitor, new BridgeError(code));
  }

  #refuse(socket: Socket, visitor: Visitor, refusal: BridgeError): void {
    visitor.deaf = true;
    this.#options.onRefusal(refusal);
    this.#stopReading(socket);
    const answer = () => {
      visitor.onAnswered = undefined;
      if (!socket.writable) return void socket.destroy();
      socket.write(this.#lastWords(refusal));
      this.leave(socket);
    };
    if (isAnswered(visitor)) answer();
    else visitor.onAnswered = answer;
  }

  #lastWords(refusal: BridgeError): string {
    const problem = toProblem(refusal);
    const body = `${visibleJson(problem)}\n`;
    const { retryAfterSeconds } = refusal;
    return (
      `HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status] ?? "Error"}\r\n` +
      (this.#options.headerLines ?? "") +
      "Content-Type: application/problem+json; charset=utf-8\r\n" +
      `Content-Length: ${Buffer.byteLength(body)}\r\n` +
      (retryAfterSeconds === undefined
        ? ""
        : `Retry-After: ${retryAfterSeconds}\r\n`) +
      `Connection: close\r\n\r\n${body}`
    );
  }

  /** Takes the socket from Node's parser: no byte more is parsed, not even for a request that is thrown away. */
  #stopReading(socket: Duplex): void {
    socket.removeAllListeners("data");
    let bytes = 0;
    socket.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > this.#limits.unreadBytes) socket.destroy();
    });
    socket.resume();
  }
}

/** Node tells only the answer whose turn it is that its socket has gone; those behind it would be worked on for nobody. */
function tellAll(due: Iterable<ServerResponse>): void {
  for (const response of [...due]) {
    if (response.socket) continue;
    response.destroy();
    response.emit("close");
  }
}

/** All but a request whose body has not come to its end: it cannot be answered any more. */
function isAnswered({ due }: Visitor): boolean {
  for (const response of due) if (response.req.complete) return false;
  return true;
}

/** What Node's parser lets pass and RFC 9112 does not. */
function mistakeIn({
  headers,
  rawHeaders,
  httpVersionMajor,
  httpVersionMinor,
}: IncomingMessage): BridgeError | undefined {
  let hosts = 0;
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at];
    if (name?.length === 4 && name.toLowerCase() === "host") hosts += 1;
  }
  const old = httpVersionMajor < 1 || httpVersionMinor === 0;
  if (hosts > 1 || (hosts === 0 && !old))
    return new BridgeError("bad_request", {
      detail: `A request has one Host header, this one ${hosts}.`,
    });
  // HTTP/1.0 has no chunks: what a proxy before us took for the end of this request may be another place (RFC 9112, 6.1).
  if (old && headers["transfer-encoding"] !== undefined)
    return new BridgeError("bad_request", {
      detail: "HTTP/1.0 has no Transfer-Encoding.",
    });
  return undefined;
}

const noRoomFor = (limit: number, full: "process" | "address"): BridgeError =>
  new BridgeError("no_room", {
    detail:
      full === "process"
        ? "This function holds as many connections as it may."
        : "There are as many connections from this address as there may be.",
    limit,
  });
