// Socket.IO as its documentation deploys it on more than one process: its Redis adapter, its defaults, WebSocket only. One
// of the servers takes the POST and emits to everybody, on this process and the others.
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { Server } from "socket.io";
import { announce, connectRedis } from "./baseline.js";

const publisher = connectRedis();
const subscriber = connectRedis();

const server = createServer((request, response) => {
  let body = "";
  request.setEncoding("utf8");
  request.on("data", (chunk: string) => (body += chunk));
  request.on("end", () => {
    io.emit("message", body);
    const answer = '{"status":"queued"}';
    response.writeHead(202, {
      "content-type": "application/json",
      "content-length": answer.length,
    });
    response.end(answer);
  });
});
const io = new Server(server, {
  adapter: createAdapter(publisher, subscriber),
  transports: ["websocket"],
});
process.once("SIGTERM", () => process.exit()); // an orderly end, so that a CPU profile is written
server.listen(0, "127.0.0.1", () => announce(server.address()));
