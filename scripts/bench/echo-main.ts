// Process edge of the echo function: what the gateway is measured with, behind it and without it.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { WebSocketServer } from "ws";

const server = createServer();
const sockets = new WebSocketServer({ server, perMessageDeflate: false });
sockets.on("connection", (socket) => {
  socket.on("message", (data: Buffer, isBinary) =>
    socket.send(data, { binary: isBinary }),
  );
});
process.once("SIGTERM", () => process.exit());
if (process.env["BRIDGE_LOCAL"] === "1") {
  // An instance ends with its platform.
  process.stdin.resume().on("end", () => process.exit());
}
server.listen(Number(process.env["PORT"] ?? 0), "127.0.0.1", () => {
  const { address, port } = server.address() as AddressInfo;
  console.log(`listening ${address}:${port}`);
});
