// The few lines of Redis' own protocol that controlling a server takes (RESP2): one command, one answer, one socket.
// Everything that carries messages goes through shared/redis.ts instead.

import net from "node:net";

export type Reply = string | number | null | Reply[];

/** Longest wait for an answer, in ms: a server on the same machine that is silent this long is down or frozen. */
const ANSWER_MS = 5_000;

/** A server on 127.0.0.1: its port, and its password where it has one. */
export type Server = number | { port: number; password: string };

/** Sends one command to a server. Rejects on an error reply, on silence, and when nobody listens there. */
export function ask(server: Server, ...command: string[]): Promise<Reply> {
  const { port, password } =
    typeof server === "number" ? { port: server, password: "" } : server;
  const hello = password === "" ? "" : encode(["AUTH", password]);
  return new Promise((resolve, reject) => {
    let received = Buffer.alloc(0);
    const socket = net.connect(port, "127.0.0.1");
    const finish = (settle: () => void) => {
      socket.destroy();
      settle();
    };
    socket.setTimeout(ANSWER_MS, () => {
      finish(() => reject(new Error(`No answer to ${command[0] ?? ""}`)));
    });
    socket.once("error", (error) => finish(() => reject(error)));
    socket.once("close", () => {
      reject(new Error(`The connection ended before ${command[0] ?? ""}`));
    });
    socket.on("data", (chunk) => {
      received = Buffer.concat([received, chunk]);
      try {
        const first = parse(received, 0);
        const parsed =
          first && hello !== "" ? parse(received, first.next) : first;
        if (parsed) finish(() => resolve(parsed.reply));
      } catch (error) {
        finish(() => reject(error as Error));
      }
    });
    socket.write(hello + encode(command));
  });
}

function encode(command: string[]): string {
  const parts = command.map((part) => `$${Buffer.byteLength(part)}\r\n${part}`);
  return `*${command.length}\r\n${parts.join("\r\n")}\r\n`;
}

/** The reply that starts at `at` and where the next one does; undefined while it is incomplete. Throws error replies. */
function parse(
  buffer: Buffer,
  at: number,
): { reply: Reply; next: number } | undefined {
  const end = buffer.indexOf("\r\n", at);
  if (end === -1) return undefined;
  const line = buffer.toString("utf8", at + 1, end);
  const next = end + 2;
  switch (buffer[at]) {
    case 0x2b: // "+" simple string
      return { reply: line, next };
    case 0x2d: // "-" error
      throw new Error(line);
    case 0x3a: // ":" integer
      return { reply: Number(line), next };
    case 0x24: // "$" bulk string
      return parseBulk(buffer, next, Number(line));
    case 0x2a: // "*" array
      return parseArray(buffer, next, Number(line));
    default:
      throw new Error(`Not a RESP reply: ${line}`);
  }
}

function parseBulk(buffer: Buffer, at: number, length: number) {
  if (length === -1) return { reply: null, next: at };
  const end = at + length;
  if (buffer.length < end + 2) return undefined;
  return { reply: buffer.toString("utf8", at, end), next: end + 2 };
}

function parseArray(buffer: Buffer, at: number, length: number) {
  if (length === -1) return { reply: null, next: at };
  const reply: Reply[] = [];
  let next = at;
  while (reply.length < length) {
    const item = parse(buffer, next);
    if (!item) return undefined;
    reply.push(item.reply);
    next = item.next;
  }
  return { reply, next };
}
