// What the baselines of the bench share: the smallest fastify and ws servers that can carry
// a message, so that what differs between them is only the way through Redis.
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { fastify } from "fastify";
import { Redis } from "ioredis";
import { WebSocketServer, type WebSocket } from "ws";

/** One half of a baseline: takes the POSTs, or holds the sockets. */
export type Half = () => Promise<void>;

/** Runs the half named on the command line; the bench starts each half as a process of its own. */
export async function runHalf(halves: { http: Half; ws: Half }): Promise<void> {
  const name = process.argv[2];
  if (name !== "http" && name !== "ws") {
    throw new Error("usage: node <baseline>.js http|ws (REDIS_URL set)");
  }
  process.once("SIGTERM", () => process.exit()); // an orderly end, so that a CPU profile is written
  await halves[name]();
}

/** The settings in which the baselines' connections differ; the rest is ioredis' default. */
interface Connecting {
  enableAutoPipelining?: boolean;
  maxRetriesPerRequest?: null;
}

/** A connection to the Redis server of this round. */
export function connectRedis(options: Connecting = {}): Redis {
  const url = process.env["REDIS_URL"];
  if (url === undefined) throw new Error("REDIS_URL is not set");
  return new Redis(url, options);
}

/** What the POSTs of a baseline do. Each is answered 202 once it has resolved. */
export interface Accepting {
  push(connectionId: string, body: string): unknown;
  broadcast(body: string): unknown;
}

/** One line of a batch. */
interface Item {
  to: { connection: string };
  data: string;
}

/** The body of a push stays text: no baseline pays for parsing JSON. A batch has to be parsed. */
export async function serveHttp({ push, broadcast }: Accepting): Promise<void> {
  const app = fastify({ logger: false });
  app.removeContentTypeParser("application/json");
  app.addContentTypeParser(
    ["application/json", "application/x-ndjson"],
    { parseAs: "string" },
    (_request, body, done) => {
      done(null, body);
    },
  );
  app.post<{ Params: { id: string }; Body: string }>(
    "/v1/connections/:id/messages",
    async (request, reply) => {
      await push(request.params.id, request.body);
      return reply.code(202).send({ status: "queued" });
    },
  );
  app.post<{ Body: string }>("/v1/broadcast", async (request, reply) => {
    await broadcast(request.body);
    return reply.code(202).send({ status: "queued" });
  });
  app.post<{ Body: string }>("/v1/batch", async (request, reply) => {
    const items = request.body
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Item);
    await Promise.all(items.map(({ to, data }) => push(to.connection, data)));
    return reply.send(
      '{"status":202,"result":"queued"}\n'.repeat(items.length),
    );
  });
  await app.listen({ host: "127.0.0.1", port: 0 });
  announce(app.server.address());
}

/** The channel, or the key of all connection IDs, that a broadcast goes by. */
export const EVERYBODY = "everybody";

/**
 * Accepts `ws://…/?id=<connection ID>`. `open` makes messages flow to the socket and returns what ends that;
 * the client then gets the one frame `ready`, as it gets a `welcome` from the bridge.
 */
export async function serveSockets(
  open: (connectionId: string, socket: WebSocket) => Promise<() => unknown>,
): Promise<void> {
  const server = new WebSocketServer({
    host: "127.0.0.1",
    port: 0,
    perMessageDeflate: false,
  });
  server.on("connection", (socket, request) => {
    const url = new URL(request.url ?? "/", "ws://127.0.0.1");
    const opened = open(url.searchParams.get("id") ?? "", socket);
    socket.once("close", () => {
      void opened.then((end) => end());
    });
    void opened.then(() => {
      socket.send("ready");
    });
  });
  await once(server, "listening");
  announce(server.address());
}

export function announce(address: string | AddressInfo | null): void {
  if (address === null || typeof address === "string") {
    throw new Error("not listening on a TCP port");
  }
  console.log(`listening ${address.address}:${address.port}`);
}
