// A chat over WebSockets. One JSON object in each message; to connect is to join: `/?name=Ann&token=…`.
//
//   to the client    {"type":"welcome","id","members":[{"id","name"}]}   first, once
//                    {"type":"joined","id","name"}   {"type":"left","id"}
//                    {"type":"said","from":{"id","name"},"text","private"}
//                    {"type":"members","members":[…]}   {"type":"error","reason"}
//   to the server    {"type":"say","text","to"?}   to all, or to the one member with that ID
//                    {"type":"members"}            who is there
//                    {"type":"leave"}

import { createHash, randomUUID, timingSafeEqual } from "node:crypto";
import { on } from "node:events";
import { createServer } from "node:http";
import { WebSocketServer } from "ws";
import { enter } from "./room.js";

const PORT = 9000;
const MAX_MESSAGE_BYTES = 16 * 1024;
/** What may be a name: letters of any language, digits and a few signs. */
const NAME = /^[\p{L}\p{N}._ -]{1,32}$/u;

const token = process.env.CHAT_TOKEN ?? ""; // empty: everybody may come in

const server = createServer((request, response) => {
  response.writeHead(426, { "Content-Type": "text/plain" });
  response.end("Connect with a WebSocket.\n");
});
const sockets = new WebSocketServer({
  noServer: true,
  maxPayload: MAX_MESSAGE_BYTES,
});

server.on("upgrade", (request, stream, head) => {
  const { name, refusal } = screen(request);
  if (refusal) {
    stream.on("error", () => {});
    stream.end(
      `HTTP/1.1 ${refusal}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`,
    );
    return;
  }
  // The platform names each connection; clients cannot forge that header there.
  const id = request.headers["x-scf-request-id"] ?? randomUUID();
  sockets.handleUpgrade(request, stream, head, (socket) => {
    void serve(socket, { id, name });
  });
});

/** Who it is, or why not: nothing is registered before this has been answered. */
function screen(request) {
  const { searchParams } = new URL(request.url, "http://localhost");
  const name = searchParams.get("name") ?? "";
  if (token !== "" && !isSame(searchParams.get("token") ?? "", token))
    return { refusal: "401 Unauthorized" };
  if (!NAME.test(name)) return { refusal: "400 Bad Request" };
  return { name };
}

function isSame(one, other) {
  const hash = (text) => createHash("sha256").update(text).digest();
  return timingSafeEqual(hash(one), hash(other));
}

async function serve(socket, visitor) {
  // Listens from here on, so nothing is lost while we enter; ends with the socket.
  const messages = on(socket, "message", { close: ["close"] });
  let seat;
  try {
    seat = await enter(visitor, socket);
    for await (const [data] of messages) await obey(data, seat, socket);
  } catch (error) {
    console.error(`${visitor.id}: ${error.message}`);
    socket.close(1011, "the chat has failed");
  } finally {
    await seat?.leave().catch((error) => {
      console.error(`${visitor.id} has left badly: ${error.message}`);
    });
  }
}

async function obey(data, seat, socket) {
  const answer = (message) => socket.send(JSON.stringify(message));
  const wish = parse(data);
  switch (wish?.type) {
    case "say": {
      const { text, to } = wish;
      if (typeof text !== "string")
        return answer({ type: "error", reason: "text is missing" });
      if (!(await seat.say(text, to)))
        answer({ type: "error", reason: "nobody has this ID" });
      return;
    }
    case "members":
      return answer({ type: "members", members: await seat.members() });
    case "leave":
      return socket.close(1000, "bye");
    default:
      answer({ type: "error", reason: "say, members or leave, in JSON" });
  }
}

function parse(data) {
  try {
    return JSON.parse(data.toString());
  } catch {
    return undefined;
  }
}

server.listen(PORT, () => console.log(`listening on port ${PORT}`));
