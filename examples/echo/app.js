// A WebSocket server that sends every message back.

const WebSocket = require("ws");

const server = new WebSocket.Server({ port: 9000 }, () => {
  console.log("listening on port 9000");
});

server.on("connection", (socket, request) => {
  console.log("connected: %s", request.url);

  socket.on("message", (data, isBinary) => {
    console.log("received %d bytes", data.length);
    socket.send(data, { binary: isBinary });
  });

  socket.on("close", (code) => {
    console.log("closed: %d", code);
  });

  socket.on("error", (error) => {
    console.error(error.message);
  });
});
