// Baseline `socketio`: Socket.IO as its documentation deploys it: its Redis adapter, its defaults, WebSocket only; the backend emits by
// its Redis emitter behind fastify. A message goes to the socket's own room. Nothing is durable.
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { Emitter } from "@socket.io/redis-emitter";
import { Server } from "socket.io";
import { announce, connectRedis, runHalf, serveHttp } from "./baseline.js";

await runHalf({
  async http() {
    const emitter = new Emitter(connectRedis());
    await serveHttp({
      push: (id, body) => emitter.to(id).emit("message", body),
      broadcast: (body) => emitter.emit("message", body),
    });
  },
  ws() {
    const server = createServer();
    new Server(server, {
      adapter: createAdapter(connectRedis(), connectRedis()),
      transports: ["websocket"],
    });
    server.listen(0, "127.0.0.1", () => announce(server.address()));
    return Promise.resolve();
  },
});
