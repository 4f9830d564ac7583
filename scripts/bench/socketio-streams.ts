// Baseline `socketio-streams`: Socket.IO with its Redis streams adapter and connection state recovery, its defaults, WebSocket only. The
// publishing side is a server without sockets behind fastify, with the same adapter: there is no emitter for this adapter to be had
// from npm. A message goes to the socket's own room.
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-streams-adapter";
import { Server } from "socket.io";
import { announce, connectRedis, runHalf, serveHttp } from "./baseline.js";

await runHalf({
  async http() {
    const io = new Server({ adapter: createAdapter(connectRedis()) });
    await serveHttp({
      push: (id, body) => io.to(id).emit("message", body),
      broadcast: (body) => io.emit("message", body),
    });
  },
  ws() {
    const server = createServer();
    new Server(server, {
      adapter: createAdapter(connectRedis()),
      transports: ["websocket"],
      connectionStateRecovery: {},
    });
    server.listen(0, "127.0.0.1", () => announce(server.address()));
    return Promise.resolve();
  },
});
