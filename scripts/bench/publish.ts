// Baseline `publish`: a bare PUBLISH relay. Nothing is durable: a message that nobody hears is gone.
import type { WebSocket } from "ws";
import {
  connectRedis,
  EVERYBODY,
  runHalf,
  serveHttp,
  serveSockets,
} from "./baseline.js";

await runHalf({
  async http() {
    const redis = connectRedis({ enableAutoPipelining: true });
    await serveHttp({
      push: (id, body) => redis.publish(id, body),
      broadcast: (body) => redis.publish(EVERYBODY, body),
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
