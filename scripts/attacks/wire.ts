/**
 * A WebSocket client of bare bytes (RFC 6455): it sends what no library would, reads only when it is told to, and keeps
 * what came. A mask of zeros is a mask.
 */
import { randomBytes } from "node:crypto";
import { connect, type Socket } from "node:net";

export const OPCODE = { text: 1, binary: 2, close: 8, ping: 9, pong: 10 };
const DIAL_MS = 30_000;

export interface Frame {
  readonly opcode: number;
  readonly payload: Buffer;
}

export interface FrameParts {
  /** Default true. */
  readonly fin?: boolean;
  /** RSV1 to RSV3 as the high three bits below FIN: 0x40, 0x20, 0x10. Default 0. */
  readonly rsv?: number;
  /** Default true, as a client has to. */
  readonly masked?: boolean;
  /** Four bytes. Default zeros, which is a mask. */
  readonly mask?: Buffer;
  /** What the head says of the length; default the truth, in its shortest form. */
  readonly length?: { readonly form: 7 | 16 | 64; readonly value: number };
}

/** A client's frame, right or wrong (RFC 6455, 5.2). */
export function frameOf(
  opcode: number,
  payload: Buffer | string = "",
  { fin = true, rsv = 0, masked = true, mask, length }: FrameParts = {},
): Buffer {
  const bytes = Buffer.from(payload);
  if (mask) bytes.forEach((byte, n) => (bytes[n] = byte ^ (mask[n % 4] ?? 0)));
  const value = length?.value ?? bytes.length;
  const form = length?.form ?? (value < 126 ? 7 : value < 65_536 ? 16 : 64);
  const head = Buffer.alloc(form === 7 ? 2 : form === 16 ? 4 : 10);
  head[0] = (fin ? 0x80 : 0) | rsv | opcode;
  head[1] =
    (masked ? 0x80 : 0) | (form === 7 ? value : form === 16 ? 126 : 127);
  if (form === 16) head.writeUInt16BE(value, 2);
  if (form === 64) head.writeBigUInt64BE(BigInt(value), 2);
  return Buffer.concat([
    head,
    ...(masked ? [mask ?? Buffer.alloc(4)] : []),
    bytes,
  ]);
}

/** A JSON frame of bridge.v1.json. */
export const said = (value: object): Buffer =>
  frameOf(OPCODE.text, JSON.stringify(value));

export interface DialOptions {
  readonly port: number;
  /** `/ws?…` */
  readonly path: string;
  readonly headers?: readonly string[];
  /** Default bridge.v1.json; null for none. */
  readonly protocol?: string | null;
  /** Whether frames are kept; default true. */
  readonly keeps?: boolean;
  onFrame?(frame: Frame): void;
}

/** An upgrade that was answered with another status than 101. */
export class Refused extends Error {
  readonly status: number;
  constructor(status: number, body: string) {
    super(`${status} ${body.slice(0, 300)}`);
    this.status = status;
  }
}

export class Wire {
  readonly socket: Socket;
  readonly frames: Frame[] = [];
  /** The code of the server's close frame; 1005 without one; undefined before it. */
  closeCode: number | undefined;
  /** TCP is over. */
  isGone = false;
  bytesRead = 0;
  readonly #options: DialOptions;
  #rest: Buffer = Buffer.alloc(0);
  #wanted: (() => void)[] = [];

  private constructor(socket: Socket, options: DialOptions) {
    this.socket = socket;
    this.#options = options;
  }

  /** Resolves with the 101. Rejects with `Refused`, or with what the network says. */
  static dial(options: DialOptions): Promise<Wire> {
    const { port, path, headers = [], protocol = "bridge.v1.json" } = options;
    const socket = connect(port, "127.0.0.1");
    socket.setNoDelay(true);
    const wire = new Wire(socket, options);
    return new Promise((resolve, reject) => {
      let answer = Buffer.alloc(0);
      const fail = (error: Error) => {
        socket.destroy();
        clearTimeout(timer);
        reject(error);
      };
      const timer = setTimeout(
        () => fail(new Error("the upgrade has no answer")),
        DIAL_MS,
      );
      const look = (chunk: Buffer) => {
        answer = Buffer.concat([answer, chunk]);
        const end = answer.indexOf("\r\n\r\n");
        if (end < 0) return;
        const status = Number(answer.toString("latin1", 9, 12));
        // A refusal ends the socket once its body is out.
        if (status !== 101) return;
        socket.off("data", look).off("close", ended);
        clearTimeout(timer);
        socket.on("data", (data: Buffer) => wire.#take(data));
        wire.#take(answer.subarray(end + 4));
        resolve(wire);
      };
      const ended = () =>
        fail(
          answer.length > 0
            ? new Refused(
                Number(answer.toString("latin1", 9, 12)),
                answer.toString("latin1", answer.indexOf("\r\n\r\n") + 4),
              )
            : new Error("cut before an answer"),
        );
      socket.on("data", look);
      socket.once("close", ended);
      socket.on("close", () => {
        wire.isGone = true;
        wire.#wake();
      });
      socket.on("error", () => undefined);
      socket.write(
        [
          `GET ${path} HTTP/1.1`,
          `Host: 127.0.0.1:${port}`,
          "Connection: Upgrade",
          "Upgrade: websocket",
          "Sec-WebSocket-Version: 13",
          `Sec-WebSocket-Key: ${randomBytes(16).toString("base64")}`,
          ...(protocol === null ? [] : [`Sec-WebSocket-Protocol: ${protocol}`]),
          ...headers,
          "",
          "",
        ].join("\r\n"),
      );
    });
  }

  /** JSON frames that came so far. */
  get said(): Record<string, unknown>[] {
    return this.frames
      .filter(({ opcode }) => opcode === OPCODE.text)
      .map(({ payload }) => parsed(payload));
  }

  /** The first JSON frame that `fits`, come or to come; undefined when the line ends or time is up first. */
  async hears(
    fits: (frame: Record<string, unknown>) => boolean,
    ms = 10_000,
  ): Promise<Record<string, unknown> | undefined> {
    const deadline = performance.now() + ms;
    for (;;) {
      const found = this.said.find(fits);
      if (found) return found;
      if (!(await this.#more(deadline))) return this.said.find(fits);
    }
  }

  /** Whether the line ended, or the server said so in a close frame, within `ms`. */
  async ends(ms = 10_000): Promise<boolean> {
    const deadline = performance.now() + ms;
    while (!this.isGone && (await this.#more(deadline)));
    return this.isGone;
  }

  write(bytes: Buffer): void {
    if (!this.isGone) this.socket.write(bytes);
  }

  /** By RST, as a cut line. */
  cut(): void {
    this.socket.resetAndDestroy();
  }

  #more(deadline: number): Promise<boolean> {
    if (this.isGone) return Promise.resolve(false);
    return new Promise((resolve) => {
      const timer = setTimeout(
        () => resolve(false),
        Math.max(0, deadline - performance.now()),
      );
      this.#wanted.push(() => {
        clearTimeout(timer);
        resolve(true);
      });
    });
  }

  #wake(): void {
    for (const wake of this.#wanted.splice(0)) wake();
  }

  #take(chunk: Buffer): void {
    this.bytesRead += chunk.length;
    let bytes =
      this.#rest.length > 0 ? Buffer.concat([this.#rest, chunk]) : chunk;
    for (let size = sizeOf(bytes); size > 0; size = sizeOf(bytes)) {
      this.#frame(bytes.subarray(0, size));
      bytes = bytes.subarray(size);
    }
    this.#rest = Buffer.from(bytes);
    this.#wake();
  }

  #frame(bytes: Buffer): void {
    const opcode = (bytes[0] ?? 0) & 0x0f;
    const payload = bytes.subarray(headOf(bytes));
    if (opcode === OPCODE.close) {
      this.closeCode = payload.length < 2 ? 1_005 : payload.readUInt16BE(0);
      // As a client has to; else the server waits for it.
      this.write(frameOf(OPCODE.close, payload));
    }
    if (opcode === OPCODE.ping) this.write(frameOf(OPCODE.pong, payload));
    const frame = { opcode, payload };
    this.#options.onFrame?.(frame);
    if (this.#options.keeps !== false)
      this.frames.push({ opcode, payload: Buffer.from(payload) });
  }
}

function parsed(payload: Buffer): Record<string, unknown> {
  try {
    return JSON.parse(payload.toString()) as Record<string, unknown>;
  } catch {
    return {};
  }
}

const headOf = (bytes: Buffer): number => {
  const short = (bytes[1] ?? 0) & 0x7f;
  return short === 126 ? 4 : short === 127 ? 10 : 2;
};

/** The size of the whole frame at the beginning; 0 while it is not complete. A server does not mask. */
function sizeOf(bytes: Buffer): number {
  if (bytes.length < 2) return 0;
  const head = headOf(bytes);
  if (bytes.length < head) return 0;
  const length =
    head === 2
      ? (bytes[1] ?? 0) & 0x7f
      : head === 4
        ? bytes.readUInt16BE(2)
        : Number(bytes.readBigUInt64BE(2));
  return bytes.length >= head + length ? head + length : 0;
}
