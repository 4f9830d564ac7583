// The lightest client there is: one WebSocket that reads whole text frames and answers pings. Thousands of them share the
// cores with what is measured, and each system gets the same one, so that the client costs the same for all.
import { randomBytes } from "node:crypto";
import { connect, type Socket } from "node:net";

/** Where a socket is opened, and what it says. */
export interface Dial {
  port: number;
  path: string;
  /** Extra request header lines, each ending in CRLF. */
  headers: string;
}

/** The application's half of the wire, in the words of one system. */
export interface Wire {
  /** A text frame; what is returned is written back. The bytes are only lent. */
  onText(payload: Buffer): Buffer | undefined;
  /** It did not open, or it ended by itself. */
  onEnd(cause: string): void;
}

const FIN_TEXT = 0x81;
const FIN_CLOSE = 0x88;
const FIN_PING = 0x89;
const FIN_PONG = 0x8a;
const NOTHING: Buffer = Buffer.alloc(0);

/** All sockets read into the same memory: what they read is looked at before the next one reads. */
const reading = Buffer.alloc(262_144);

/** A client's text frame. Masked with zeros, which is a mask as good as any on loopback, and the same bytes for every socket. */
export function textFrame(text: string): Buffer {
  return clientFrame(FIN_TEXT, Buffer.from(text));
}

function clientFrame(opcode: number, payload: Buffer): Buffer {
  const head =
    payload.length < 126
      ? [opcode, 0x80 | payload.length]
      : [opcode, 0x80 | 126, payload.length >> 8, payload.length & 0xff];
  return Buffer.concat([Buffer.from([...head, 0, 0, 0, 0]), payload]);
}

/** Close, 1000. */
const GOODBYE = clientFrame(FIN_CLOSE, Buffer.from([0x03, 0xe8]));

export class LightSocket {
  readonly #socket: Socket;
  readonly #wire: Wire;
  /** The beginning of a frame whose end has not come. */
  #rest: Buffer = NOTHING;
  #isUpgraded = false;
  #hasEnded = false;

  constructor({ port, path, headers }: Dial, wire: Wire) {
    this.#wire = wire;
    this.#socket = connect({
      host: "127.0.0.1",
      port,
      noDelay: true,
      onread: {
        buffer: reading,
        callback: (size) => {
          this.#take(reading.subarray(0, size));
          return true;
        },
      },
    });
    this.#socket.on("connect", () => {
      this.#socket.write(
        `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
          `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${randomBytes(16).toString("base64")}\r\n${headers}\r\n`,
      );
    });
    this.#socket.on("error", (error) => this.#end(error.message));
    this.#socket.on("close", () => this.#end("socket closed"));
  }

  write(frame: Buffer): void {
    this.#socket.write(frame);
  }

  /** An orderly end; nothing is heard of it afterwards. */
  close(): void {
    this.#hasEnded = true;
    this.#socket.end(GOODBYE);
  }

  /** As a line that is cut: by RST, no FIN and no close frame; nothing is heard of it afterwards. */
  cut(): void {
    this.#hasEnded = true;
    this.#socket.resetAndDestroy();
  }

  #end(cause: string): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#socket.destroy();
    this.#wire.onEnd(cause);
  }

  #take(chunk: Buffer): void {
    const bytes =
      this.#rest.length > 0 ? Buffer.concat([this.#rest, chunk]) : chunk;
    if (this.#hasEnded) return;
    let from = this.#isUpgraded ? 0 : this.#skipAnswer(bytes);
    if (!this.#isUpgraded) {
      this.#rest = Buffer.from(bytes);
      return;
    }
    for (let end = frameEnd(bytes, from); end > 0; end = frameEnd(bytes, from))
      from = this.#frame(bytes, from, end);
    // What was lent is kept only as a copy.
    this.#rest =
      from === bytes.length ? NOTHING : Buffer.from(bytes.subarray(from));
  }

  /** The answer to the upgrade; 0 while it is not complete. */
  #skipAnswer(bytes: Buffer): number {
    const end = bytes.indexOf("\r\n\r\n");
    if (end < 0) return 0;
    const status = bytes.toString("latin1", 9, 12);
    if (status === "101") this.#isUpgraded = true;
    else this.#end(`upgrade answered ${status}`);
    return end + 4;
  }

  #frame(bytes: Buffer, from: number, end: number): number {
    const payload = bytes.subarray(payloadStart(bytes, from), end);
    switch (bytes[from]) {
      case FIN_TEXT: {
        const answer = this.#wire.onText(payload);
        if (answer) this.#socket.write(answer);
        break;
      }
      case FIN_PING:
        this.#socket.write(clientFrame(FIN_PONG, payload));
        break;
      case FIN_CLOSE:
        this.#end(
          payload.length < 2
            ? "closed without a code"
            : `closed with ${payload.readUInt16BE(0)}`,
        );
        break;
      default:
        this.#end(`a frame that begins with ${bytes[from]}`);
    }
    return end;
  }
}

function payloadStart(bytes: Buffer, from: number): number {
  return from + ((bytes[from + 1] ?? 0) < 126 ? 2 : 4);
}

/** Where the frame at `from` ends; 0 while it is not complete. Servers do not mask, and nothing here is above 64 KB. */
function frameEnd(bytes: Buffer, from: number): number {
  if (bytes.length < from + 2) return 0;
  const short = bytes[from + 1] ?? 0;
  if (short < 126) {
    const end = from + 2 + short;
    return end <= bytes.length ? end : 0;
  }
  if (bytes.length < from + 4) return 0;
  const end = from + 4 + bytes.readUInt16BE(from + 2);
  return end <= bytes.length ? end : 0;
}
