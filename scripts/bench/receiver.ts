// One WebSocket of the load generator: reads frames of the baselines (the body itself) or of the bridge
// (bridge.v1.json), and acks the latter in the rhythm of the client library.
import WebSocket from "ws";
import { readBridge, readPlain } from "./message.js";

/** Where a client connects and how it speaks. */
export interface Receiving {
  url: string;
  /** Subprotocols offered; none for a baseline. */
  protocols: string[];
  speaks: "plain" | "bridge.v1.json";
}

/** Milliseconds between two acks of a connection, the client library's: the first one goes at once. */
const ACK_INTERVAL_MS = 250;
const OPEN_TIMEOUT_MS = 20_000;

export interface Receiver {
  close(): void;
}

/** Resolves once the server said that messages flow (first frame); `received` gets the number of each message. */
export function receive(
  { url, protocols, speaks }: Receiving,
  received: (number: number | undefined) => void,
  broken: (cause: string) => void,
): Promise<Receiver> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, protocols, {
      perMessageDeflate: false,
      handshakeTimeout: OPEN_TIMEOUT_MS,
    });
    let isOpen = false;
    let isClosing = false;
    const acks = ackWriter((seq) => {
      socket.send(JSON.stringify({ type: "ack", seq }));
    });
    const end = (cause: string): void => {
      acks.stop();
      if (!isOpen) reject(new Error(cause));
      else if (!isClosing) broken(cause);
    };
    socket.on("error", (cause) => end(`socket failed: ${cause.message}`));
    socket.on("close", (code) => end(`socket closed with ${code}`));
    socket.on("message", (frame: Buffer) => {
      if (!isOpen) {
        isOpen = true;
        resolve({
          close() {
            isClosing = true;
            socket.close(1000);
          },
        });
        return;
      }
      const text = frame.toString("latin1");
      if (speaks === "plain") {
        received(readPlain(text));
        return;
      }
      const message = readBridge(text);
      if (message === undefined) answerOther(text, socket);
      else if (acks.arrived(message.seq)) received(message.number);
    });
  });
}

/** Frames that are no message: only a heartbeat wants an answer. */
function answerOther(text: string, socket: WebSocket): void {
  const frame = JSON.parse(text) as { type: string };
  if (frame.type === "ping") socket.send('{"type":"pong"}');
}

/** Cumulative acks, the first at once, then one per interval; `arrived` is false for a repeat, which is dropped. */
function ackWriter(write: (seq: number) => void): {
  arrived(seq: number): boolean;
  stop(): void;
} {
  let last = 0;
  let acked = 0;
  let timer: NodeJS.Timeout | undefined;
  const flush = (): void => {
    timer = undefined;
    if (last === acked) return;
    acked = last;
    write(last);
    timer = setTimeout(flush, ACK_INTERVAL_MS);
  };
  return {
    arrived(seq) {
      if (seq <= last) return false;
      last = seq;
      if (timer === undefined) flush();
      return true;
    },
    stop() {
      clearTimeout(timer);
      timer = undefined;
      acked = last;
    },
  };
}
