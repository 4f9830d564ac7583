// A backend's webhook for tests, in the test's process: it notes what it hears and answers as it is told, or not at all.

import http from "node:http";
import https from "node:https";
import type { AddressInfo, Socket } from "node:net";

import type { Scope } from "./scope.js";

export interface Heard {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
  /** `ce-id`; empty with OPTIONS. */
  readonly id: string;
  readonly type: string;
  readonly subject: string;
}

export interface Reply {
  status?: number;
  headers?: Readonly<Record<string, string>>;
  body?: string | Buffer;
}

/** `hang`: no answer, ever. `cut`: the socket is reset. */
export type Answer = Reply | "hang" | "cut";

export interface Receiver {
  readonly port: number;
  /** `http://127.0.0.1:<port>/hooks` */
  readonly url: string;
  /** POSTs as they came, answered or not. */
  readonly posts: readonly Heard[];
  /** OPTIONS as they came. */
  readonly asked: readonly Heard[];
  /** How POSTs are answered from now on. Default: 204. */
  onPost: (post: Heard) => Answer | Promise<Answer>;
  /** How OPTIONS are answered. Default: everybody is welcome. */
  onAsk: (asked: Heard) => Answer;
  /** Sockets that were ever opened to it. */
  readonly sockets: number;
  /** POSTs that were answered 2xx, in the order of their answers. */
  readonly taken: readonly Heard[];
  /** No longer listens; sockets are reset. */
  down(): Promise<void>;
  /** Listens again, on the same port. */
  up(): Promise<void>;
}

const welcome: Reply = {
  status: 200,
  headers: {
    allow: "POST, OPTIONS",
    "webhook-allowed-origin": "*",
    "webhook-allowed-rate": "*",
  },
};

/** Listens on a free port of `host`, by HTTPS where it has a certificate. It ends with the test. */
export async function startReceiver(
  t: Pick<Scope, "teardown">,
  {
    host = "127.0.0.1",
    tls,
  }: { host?: string; tls?: { cert: string; key: string } } = {},
): Promise<Receiver> {
  const posts: Heard[] = [];
  const asked: Heard[] = [];
  const taken: Heard[] = [];
  const open = new Set<Socket>();
  let sockets = 0;
  let port = 0;
  const hear: http.RequestListener = (request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("error", () => undefined);
    request.on("end", () => {
      const heard = heardOf(request, Buffer.concat(chunks));
      const isPost = request.method === "POST";
      (isPost ? posts : asked).push(heard);
      void (async () => {
        const answer = isPost
          ? await receiver.onPost(heard)
          : receiver.onAsk(heard);
        if (answer === "hang") return;
        if (answer === "cut") return void request.socket.resetAndDestroy();
        const { status = 204, headers = {}, body } = answer;
        if (isPost && status < 300) taken.push(heard);
        response.writeHead(status, headers).end(body);
      })();
    });
  };
  const server = tls ? https.createServer(tls, hear) : http.createServer(hear);
  server.on("connection", (socket) => {
    sockets += 1;
    open.add(socket);
    socket.on("error", () => undefined);
    socket.on("close", () => open.delete(socket));
  });
  const receiver: Receiver = {
    get port() {
      return port;
    },
    get url() {
      return `http${tls ? "s" : ""}://${host.includes(":") ? `[${host}]` : host}:${port}/hooks`;
    },
    posts,
    asked,
    taken,
    onPost: () => ({}),
    onAsk: () => welcome,
    get sockets() {
      return sockets;
    },
    down: () =>
      new Promise((resolve) => {
        if (!server.listening) return resolve();
        server.close(() => resolve());
        for (const socket of open) socket.resetAndDestroy();
      }),
    up: () =>
      new Promise((resolve, reject) => {
        server.once("error", reject);
        server.listen(port, host, () => {
          server.off("error", reject);
          port = (server.address() as AddressInfo).port;
          resolve();
        });
      }),
  };
  t.teardown(() => receiver.down());
  await receiver.up();
  return receiver;
}

function heardOf(request: http.IncomingMessage, body: Buffer): Heard {
  const headers = Object.fromEntries(
    Object.entries(request.headers).map(([name, value]) => [
      name,
      String(value),
    ]),
  );
  return {
    method: request.method ?? "",
    path: request.url ?? "",
    headers,
    body,
    id: headers["ce-id"] ?? "",
    type: headers["ce-type"] ?? "",
    subject: headers["ce-subject"] ?? "",
  };
}
