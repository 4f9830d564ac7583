// A lean HTTP/1.1 client for the load generator: one keep-alive socket, one request at a time. It shares the cores
// with what is measured, so it does no more than read a status and skip a body of known length.
import { once } from "node:events";
import { connect, type Socket } from "node:net";

export class HttpClient {
  readonly #socket: Socket;
  #received = "";
  #waiting:
    { answered(status: number): void; failed(cause: Error): void } | undefined;

  /** A connected client; rejects when nobody listens there. */
  static async connect(port: number): Promise<HttpClient> {
    const socket = connect({ host: "127.0.0.1", port, noDelay: true });
    await once(socket, "connect");
    return new HttpClient(socket);
  }

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk) => {
      this.#received += chunk.toString("latin1");
      this.#read();
    });
    socket.on("error", (cause) => this.#fail(cause));
    socket.on("close", () => this.#fail(new Error("HTTP connection closed")));
  }

  /** Writes a complete request and resolves with the status of its answer. */
  send(request: string): Promise<number> {
    return new Promise((answered, failed) => {
      this.#waiting = { answered, failed };
      this.#socket.write(request, "latin1");
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  #read(): void {
    const head = this.#received.indexOf("\r\n\r\n");
    if (head < 0) return;
    const length = /\r\ncontent-length: *(\d+)/i.exec(this.#received);
    if (length === null || length.index > head) {
      this.#fail(new Error("answer without Content-Length"));
      return;
    }
    const end = head + 4 + Number(length[1]);
    if (this.#received.length < end) return;
    const status = Number(this.#received.slice(9, 12));
    this.#received = this.#received.slice(end);
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.answered(status);
  }

  #fail(cause: Error): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.failed(cause);
  }
}
