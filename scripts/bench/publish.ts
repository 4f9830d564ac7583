// Baseline `publish`: a bare PUBLISH relay. Nothing is durable: a message that nobody hears is gone.
import type { WebSocket } from "ws";
import { connectRedis, runHalf, serveHttp, serveSockets } from "./baseline.js";

await runHalf({
  async http() {
    const redis = connectRedis({ enableAutoPipelining: true });
    await serveHttp((id, body) => redis.publish(id, body));
  },
  async ws() {
    const subscriber = connectRedis();
    const sockets = new Map<string, WebSocket>();
    subscriber.on("messageBuffer", (channel: Buffer, body: Buffer) => {
      sockets.get(channel.toString("latin1"))?.send(body, { binary: false });
    });
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
