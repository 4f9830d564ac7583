/**
 * The WebSocket server: upgrade, accept, live sockets, drain. The only file that knows `ws`. Whatever it refuses, it
 * refuses before the 101, with a problem body.
 */
import {
  STATUS_CODES,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type Server,
} from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import {
  WebSocket,
  WebSocketServer,
  type RawData,
  type Server as SocketServer,
  type ServerOptions,
} from "ws";
import type { ConnectionRoom } from "../shared/connection-room.js";
import { BridgeError, toProblem } from "../shared/errors.js";
import { HttpGuard } from "../shared/http-guard.js";
import { loggableUrl, type Logger } from "../shared/logging.js";
import {
  headerLines,
  isSecureUrl,
  protectionHeaders,
} from "../shared/protection.js";
import { visibleJson } from "../shared/visible.js";
import type { Proxies } from "../shared/proxies.js";
import { SampledLog } from "../shared/sampled-log.js";
import { admit, type AdmissionDeps } from "./admission.js";
import { Connection, type ConnectionDeps, type Socket } from "./connection.js";
import { planDrain } from "./drain-plan.js";
import { readHandshake } from "./handshake.js";
import type { Keeper } from "./keeper.js";
import type { Lease } from "./lease.js";
import { frameBytesMax } from "./upstream.js";

/** A client that does not answer a close frame loses its line after this long. */
const closeTimeoutMs = 3_000;
/** Limits against abuse of the framing layer; a client of ours needs none of them. */
const framing = {
  maxPayload: frameBytesMax,
  maxFragments: 64,
  maxBufferedChunks: 1_024,
  // More than upstream.ts lets through at once: it, not this, decides.
  maxPendingAutoPongs: 64,
};
/** So much of what a client says after it broke the protocol is taken from the line to throw it away, bytes. */
const unreadBytesMax = 1_048_576;
/** What a drain waits after the last slot: the 5 s of grace for who does not move, its close frame, and a little. */
const drainMarginMs = 6_000 + closeTimeoutMs;
/** A socket is moved when this share of the execution timeout has passed (WS-CLOSE-14). */
const rotateAt = 0.85;

/**
 * An instance that was frozen at the end of its last socket may meet the next one before it has heard of that end
 * (WS-LIFE-8): an upgrade waits this long for room before it is refused.
 */
const roomWaitMs = 1_000;

export interface ServerConfig {
  host: string;
  port: number;
  keyless: boolean;
  allowedOrigins: readonly string[];
  publicWsUrl: string;
  allowAnonymous: boolean;
  maxSockets: number;
  executionMs: number;
  /** Sockets that a drain sends away in a second. */
  drainRate: number;
  /** No slot of a drain is later than this. */
  drainMs: number;
}

export type ServerDeps = AdmissionDeps &
  ConnectionDeps & {
    config: ServerConfig;
    keeper: Keeper;
    /** Room for connections, upgraded or not. */
    room: ConnectionRoom;
    /** Who is believed about where a client comes from. */
    proxies: Proxies;
    /** Resolves while this instance can serve; for /readyz. */
    ready(): Promise<void>;
  };

/** A client's Close frame is answered after this long even if Redis has not heard of it. */
const toldMs = 1_000;

/**
 * What a Close frame of the client means is told to Redis before the frame is answered: once it is answered the instance
 * may be frozen, and a frozen one tells nobody (WS-LIFE-7).
 */
class TellingSocket extends WebSocket {
  /** Called once, with the code of the client's Close frame. */
  onClientClose: ((code: number) => Promise<unknown>) | undefined;

  /** `ws` calls this to answer the client's Close frame. */
  override close(code?: number, reason?: string | Buffer): void {
    const tell = this.onClientClose;
    this.onClientClose = undefined;
    if (tell === undefined) return super.close(code, reason);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise((resolve) => {
      timer = setTimeout(resolve, toldMs);
    });
    void Promise.race([tell(code ?? noCode), late]).finally(() => {
      clearTimeout(timer);
      super.close(code, reason);
    });
  }

  /** The server closes. */
  closeFirst(code: number, reason: string): void {
    super.close(code, reason);
  }
}

/** Stands for a Close frame without a code (RFC 6455 section 7.4.1). */
const noCode = 1005;

/** Gathers the writes of one turn of the event loop into one system call. */
function corkedPerTurn(stream: Duplex, lease: Lease): () => void {
  let corked = false;
  return () => {
    if (corked) return;
    corked = true;
    const { doubt } = lease;
    stream.cork();
    process.nextTick(() => {
      corked = false;
      // Stopped between the fence and the system call: somebody else may own the connection by now (rule 1).
      if (lease.doubt === doubt) stream.uncork();
      else stream.destroy();
    });
  };
}

function toSocket(ws: TellingSocket, stream: Duplex, lease: Lease): Socket {
  const cork = corkedPerTurn(stream, lease);
  return {
    get bufferedBytes() {
      // Without compression ws keeps nothing back: this is all there is, also of what was written past it.
      return stream.writableLength;
    },
    send(frame, taken) {
      const { data, binary } = frame;
      if (!frame.now) cork();
      if (ws.readyState !== ws.OPEN) return;
      // One piece is one write; `ws` would write head and data apart. Without compression it keeps nothing back that this could
      // overtake. What is corked already stays so, and keeps its order.
      const wire = frame.wire ?? encode(data, binary);
      if (frame.shared) frame.wire = wire;
      if (taken)
        stream.write(wire, (error) => {
          if (!error) taken();
        });
      else stream.write(wire);
    },
    ping() {
      ws.ping();
    },
    close(code, reason, deaf) {
      ws.closeFirst(code, clip(reason));
      if (deaf) stopListening(stream);
    },
    terminate() {
      ws.terminate();
    },
    pause() {
      ws.pause();
    },
    resume() {
      if (ws.readyState === ws.OPEN) ws.resume();
    },
  };
}

/**
 * Takes a socket from whoever reads it, after the last frame to it was written. What still comes is thrown away without
 * being parsed, so that the client can read why it is closed instead of a reset; one that goes on sending is cut.
 */
function stopListening(stream: Duplex): void {
  stream.removeAllListeners("data");
  let bytes = 0;
  stream.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > unreadBytesMax) stream.destroy();
  });
  stream.end();
  stream.resume();
}

/** A whole unmasked frame (RFC 6455 section 5.2). */
function encode(data: string | Buffer, binary: boolean): Buffer {
  const size = typeof data === "string" ? Buffer.byteLength(data) : data.length;
  const head = size < 126 ? 2 : size < 65_536 ? 4 : 10;
  const frame = Buffer.allocUnsafe(head + size);
  frame[0] = binary ? 0x82 : 0x81;
  if (head === 2) frame[1] = size;
  else if (head === 4) {
    frame[1] = 126;
    frame.writeUInt16BE(size, 2);
  } else {
    frame[1] = 127;
    frame.writeUInt32BE(0, 2);
    frame.writeUInt32BE(size, 6);
  }
  if (typeof data === "string") frame.write(data, head, "utf8");
  else data.copy(frame, head);
  return frame;
}

/** A close reason has at most 123 bytes of UTF-8 (RFC 6455 section 5.5). */
function clip(reason: string): string {
  let out = reason;
  while (Buffer.byteLength(out) > 123) out = out.slice(0, -1);
  return out;
}

function toBuffer(data: RawData): Buffer {
  if (Buffer.isBuffer(data)) return data;
  return Array.isArray(data) ? Buffer.concat(data) : Buffer.from(data);
}

export class BridgeServer {
  readonly #deps: ServerDeps;
  readonly #logger: Logger;
  readonly #http: Server;
  /** Headers of every answer. */
  readonly #protection: Readonly<Record<string, string>>;
  readonly #guard: HttpGuard;
  /** Of lines that strangers cause. */
  readonly #lines: SampledLog;
  readonly #wss: SocketServer<typeof TellingSocket>;
  /** Sockets that take room: those between their upgrade request and the 101, and those that are open. */
  #taken = 0;
  /** Upgrades that wait for room. */
  readonly #waiting = new Set<() => void>();
  #draining: Promise<void> | undefined;
  /** All slots of the drain lie in it. */
  #drainWindowMs = 0;

  constructor(deps: ServerDeps) {
    this.#deps = deps;
    this.#logger = deps.logger;
    this.#protection = protectionHeaders(isSecureUrl(deps.config.publicWsUrl));
    this.#wss = new WebSocketServer({
      noServer: true,
      clientTracking: false,
      perMessageDeflate: false,
      closeTimeout: closeTimeoutMs,
      ...framing,
      WebSocket: TellingSocket,
      // readHandshake has chosen already; ws asks again for the answer header.
      handleProtocols: (_offered, request) =>
        chosenProtocol.get(request) ?? false,
    } as ServerOptions<typeof TellingSocket>);
    this.#lines = new SampledLog({
      onLeftOut: (leftOut) => this.#logger.info(leftOut, "lines left out"),
    });
    this.#guard = new HttpGuard({
      room: deps.room,
      proxies: deps.proxies,
      headerLines: headerLines(this.#protection),
      onRefusal: ({ status, code, data }) =>
        this.#lines.say(code, () =>
          this.#logger.info(
            { status, code, detail: data.detail },
            "request refused",
          ),
        ),
    });
    this.#http = this.#guard.createServer(
      {
        headersTimeout: 5_000,
        requestTimeout: 10_000,
        connectionsCheckingInterval: 1_000,
        maxHeaderSize: 16_384,
        keepAliveTimeout: 5_000,
      },
      (request, response) => {
        void this.#answer(request.url ?? "/").then(({ status, body }) => {
          const isLast = status === 426;
          if (isLast) this.#guard.last(request.socket);
          response.writeHead(status, {
            ...this.#protection,
            "content-type":
              status === 200 ? "application/json" : "application/problem+json",
            "content-length": Buffer.byteLength(body),
            ...(isLast ? { upgrade: "websocket", connection: "close" } : {}),
          });
          response.end(request.method === "HEAD" ? undefined : body);
        });
      },
    );
    this.#http.on("upgrade", (request, stream, head) => {
      stream.on("error", () => stream.destroy());
      void this.#onUpgrade(request, stream, head);
    });
  }

  /** Live sockets now. */
  get size(): number {
    return this.#deps.keeper.size;
  }

  async listen(): Promise<{ host: string; port: number }> {
    const { host, port } = this.#deps.config;
    await new Promise<void>((resolve, reject) => {
      this.#http.once("error", reject);
      this.#http.listen(port, host, resolve);
    });
    const address = this.#http.address() as AddressInfo;
    return { host: address.address, port: address.port };
  }

  /** A WebSocket function serves no plain HTTP (WS-CONN-6) but its health. */
  async #answer(url: string): Promise<{ status: number; body: string }> {
    const path = url.split("?")[0];
    if (path === "/healthz") return { status: 200, body: '{"status":"ok"}\n' };
    if (path === "/readyz")
      try {
        await this.#deps.ready();
        if (!this.#draining) return { status: 200, body: '{"status":"ok"}\n' };
        throw new BridgeError("no_room", { detail: "draining" });
      } catch (error) {
        return problemAnswer(error);
      }
    return problemAnswer(
      new BridgeError("upgrade_required", {
        detail: "this is a WebSocket endpoint",
      }),
    );
  }

  async #onUpgrade(
    request: IncomingMessage,
    stream: Duplex,
    head: Buffer,
  ): Promise<void> {
    const { config } = this.#deps;
    const { headers } = request;
    let leave = () => {};
    const gone = new AbortController();
    stream.once("close", () => gone.abort());
    try {
      if (!this.#guard.upgrade(request)) return;
      if (this.#draining)
        throw new BridgeError("no_room", { detail: "this instance is going" });
      leave = await this.#enter();
      const asked = readHandshake(
        {
          url: request.url ?? "/",
          host: headers.host,
          origin: headers.origin,
          authorization: headers.authorization,
          protocols: headers["sec-websocket-protocol"],
        },
        config,
      );
      if (asked.subprotocol !== undefined)
        chosenProtocol.set(request, asked.subprotocol);
      const admitted = await admit(this.#deps, asked, {
        url: request.url ?? "/",
        headers: this.#believed(request),
        gone: gone.signal,
      });
      const giveBack = () =>
        void this.#deps.registry
          .release(admitted.connectionId, {
            epoch: admitted.claim.epoch,
            owner: this.#deps.instance,
            handed: admitted.claim.readTo,
          })
          .catch(() => undefined);
      stream.once("close", leave);
      if (stream.destroyed) {
        leave();
        return giveBack();
      }
      stream.once("close", giveBack);
      this.#wss.handleUpgrade(request, stream, head, (ws) => {
        stream.off("close", giveBack);
        this.#accept(ws, stream, admitted);
      });
    } catch (error) {
      leave();
      this.#refuse(request, stream, error);
    }
  }

  /** The headers of a request without those that only a proxy of ours may say, and with the client's address as we know it. */
  #believed(request: IncomingMessage): IncomingHttpHeaders {
    const { proxies } = this.#deps;
    const isTrusted = proxies.isTrusted(request.socket.remoteAddress);
    const headers: IncomingHttpHeaders = {};
    for (const [name, value] of Object.entries(request.headers))
      if (isTrusted || !isProxys(name)) headers[name] = value;
    headers["x-forwarded-for"] = proxies.clientOf(request);
    return headers;
  }

  /** Takes room for one socket; the returned function gives it back, once. */
  async #enter(): Promise<() => void> {
    const { maxSockets } = this.#deps.config;
    const full = () => maxSockets > 0 && this.#taken >= maxSockets;
    const until = performance.now() + roomWaitMs;
    for (let left = roomWaitMs; full(); left = until - performance.now()) {
      if (left <= 0)
        throw new BridgeError("no_room", {
          detail: "this instance has no room for another socket",
          limit: maxSockets,
        });
      await this.#freed(left);
    }
    this.#taken += 1;
    let left = false;
    return () => {
      if (left) return;
      left = true;
      this.#taken -= 1;
      for (const wake of this.#waiting) wake();
    };
  }

  /** Resolves when a socket has gone, or after `ms`. */
  #freed(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.#waiting.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, ms);
      this.#waiting.add(wake);
    });
  }

  #accept(
    ws: TellingSocket,
    stream: Duplex,
    admitted: Awaited<ReturnType<typeof admit>>,
  ): void {
    const connection = new Connection(
      this.#deps,
      admitted,
      toSocket(ws, stream, this.#deps.lease),
    );
    this.#deps.keeper.keep(connection);
    // Revoked since its token was checked, or it is of another user by now.
    connection.lookForRevoked(this.#deps.revocations);
    ws.on("message", (data, binary) =>
      connection.onMessage(toBuffer(data), binary),
    );
    ws.on("ping", (data) => connection.onControl("ping", data.length));
    ws.on("pong", (data) => connection.onControl("pong", data.length));
    ws.on("error", (error) => {
      this.#lines.say("framing", () =>
        this.#logger.info(
          { reason: error.message, connectionId: connection.id },
          "the client broke the framing",
        ),
      );
    });
    ws.onClientClose = (code) => connection.onClose(code);
    ws.on("close", (code) => {
      clearTimeout(rotation);
      void connection.onClose(code);
    });
    const { executionMs, drainMs } = this.#deps.config;
    const rotation =
      executionMs > 0
        ? setTimeout(
            () =>
              connection.drain(
                Math.random() * Math.min(drainMs, executionMs * 0.05),
              ),
            executionMs * rotateAt,
          )
        : undefined;
    // Its upgrade was under way when the drain began.
    if (this.#draining) connection.drain(Math.random() * this.#drainWindowMs);
    connection.open().catch((error: unknown) => {
      this.#logger.error(
        { err: error, connectionId: connection.id },
        "connection could not be opened",
      );
      connection.terminate();
    });
  }

  #refuse(request: IncomingMessage, stream: Duplex, error: unknown): void {
    const { status, body } = problemAnswer(error);
    const code = error instanceof BridgeError ? error.code : "internal";
    this.#lines.say(code, () =>
      this.#logger.info(
        {
          url: loggableUrl(request.url ?? "/"),
          status,
          code,
          ...(status >= 500 ? { err: error } : {}),
        },
        "upgrade refused",
      ),
    );
    if (!stream.writable) return void stream.destroy();
    const retry =
      error instanceof BridgeError && error.retryAfterSeconds !== undefined
        ? `Retry-After: ${error.retryAfterSeconds}\r\n`
        : "";
    stream.write(
      `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ""}\r\n` +
        headerLines(this.#protection) +
        "Content-Type: application/problem+json\r\n" +
        `Content-Length: ${Buffer.byteLength(body)}\r\n` +
        retry +
        `Connection: close\r\n\r\n${body}`,
    );
    this.#guard.leave(stream);
  }

  /**
   * Sends every client away in its own slot, DRAIN_RATE of them in a second but all within DRAIN_SECONDS, and resolves
   * when all have gone or their time is over. New sockets are refused. Any time, twice.
   */
  drain(): Promise<void> {
    this.#draining ??= (async () => {
      const { drainRate, drainMs } = this.#deps.config;
      const all = [...this.#deps.keeper.connections];
      const plan = planDrain(all.length, {
        ratePerSecond: drainRate,
        withinMs: drainMs,
      });
      const { windowMs, slots } = plan;
      this.#drainWindowMs = windowMs;
      this.#logger.info({ sockets: all.length, windowMs }, "draining");
      if (plan.isHurried)
        this.#logger.warn(
          {
            sockets: all.length,
            drainRate,
            drainSeconds: drainMs / 1_000,
            perSecond: plan.ratePerSecond,
          },
          "DRAIN_SECONDS is too short for DRAIN_RATE: sockets leave faster",
        );
      for (const [index, connection] of all.entries())
        connection.drain(slots[index] ?? 0);
      const until = performance.now() + windowMs + drainMarginMs;
      // Upgrades that were under way count as well: they are told as soon as they are open.
      for (
        let left = until - performance.now();
        this.#taken > 0 && left > 0;
        left = until - performance.now()
      )
        await this.#freed(left);
    })();
    return this.#draining;
  }

  /** Ends what a drain left and stops listening. */
  async close(): Promise<void> {
    for (const connection of this.#deps.keeper.connections)
      connection.terminate();
    this.#lines.flush();
    this.#http.closeAllConnections();
    await new Promise<void>((resolve) => {
      this.#http.close(() => resolve());
    });
    await Promise.all(
      [...this.#deps.keeper.connections].map((connection) => connection.closed),
    );
  }
}

/** A proxy says it of a client; from a client itself it is worth nothing. */
const isProxys = (header: string): boolean =>
  header === "forwarded" ||
  header.startsWith("x-forwarded-") ||
  header.startsWith("x-scf-");

/** The subprotocol that was chosen for a request, between our handshake and that of ws. */
const chosenProtocol = new WeakMap<IncomingMessage, string>();

function problemAnswer(error: unknown): { status: number; body: string } {
  const problem = toProblem(error);
  return { status: problem.status, body: `${visibleJson(problem)}\n` };
}
