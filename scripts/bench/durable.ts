// Baseline `durable`: the bare durable relay. A message is stored in the stream of its connection and rung with
// its payload; nothing reads the stream, acks it or keeps receipts. It is the floor of what durable delivery costs.
import type { WebSocket } from "ws";
import {
  connectRedis,
  EVERYBODY,
  runHalf,
  serveHttp,
  serveSockets,
} from "./baseline.js";

/** Entries kept per stream, approximately: enough that nothing is trimmed before a reader could have come. */
const STREAM_MAX = 1_000;

await runHalf({
  async http() {
    // Of the forms measured this one is the quickest at idle, which is what the bridge is compared with. One auto-pipelined
    // Lua script took a tenth less CPU under load and 0.07 ms longer at idle; a pipeline per request half as much CPU again.
    const redis = connectRedis({ enableAutoPipelining: true });
    const store = (id: string, body: string): Promise<unknown> =>
      Promise.all([
        redis.xadd(`s:${id}`, "MAXLEN", "~", STREAM_MAX, "*", "d", body),
        redis.publish(id, body),
      ]);
    await serveHttp({
      push: store,
      broadcast: (body) => store(EVERYBODY, body),
    });
  },
  async ws() {
    const subscriber = connectRedis();
    const sockets = new Map<string, WebSocket>();
    subscriber.on("messageBuffer", (channel: Buffer, body: Buffer) => {
      const id = channel.toString("latin1");
      if (id === EVERYBODY)
        for (const socket of sockets.values())
          socket.send(body, { binary: false });
      else sockets.get(id)?.send(body, { binary: false });
    });
    await subscriber.subscribe(EVERYBODY);
    await serveSockets(async (id, socket) => {
      sockets.set(id, socket);
      await subscriber.subscribe(id);
      return () => {
        sockets.delete(id);
        return subscriber.unsubscribe(id);
      };
    });
  },
});
