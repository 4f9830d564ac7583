/** A bare socket to ws-fn: no library, so that a row decides what is acked, when it dies, and what it ignores. */
import { WebSocket, type RawData } from "ws";

import type { Scope } from "../lab/scope.js";

export interface WireMessage {
  readonly seq: number;
  readonly text: string;
}

export interface Wire {
  /** Its welcome came. */
  readonly isWelcome: boolean;
  /** Message frames so far; a raw socket's are not looked at. */
  readonly messages: readonly WireMessage[];
  /** The code it ended with: 1006 for a cut or a refusal. Undefined while it lives. */
  readonly closed: number | undefined;
  ack(seq: number): void;
  /** Cuts it. */
  cut(): void;
}

export interface WireOptions {
  /** `ws://127.0.0.1:<port>` */
  url: string;
  token: string;
  /** No subprotocol: whatever comes is the message itself. Default false. */
  isRaw?: boolean;
  onMessage?: (message: WireMessage, wire: Wire) => void;
}

export function openWire(
  scope: Scope,
  { url, token, isRaw = false, onMessage }: WireOptions,
): Wire {
  const socket = isRaw
    ? new WebSocket(`${url}/ws?token=${token}`)
    : new WebSocket(`${url}/ws`, ["bridge.v1.json", `bearer.${token}`]);
  const messages: WireMessage[] = [];
  let isWelcome = false;
  let closed: number | undefined;
  const wire: Wire = {
    get isWelcome() {
      return isWelcome;
    },
    messages,
    get closed() {
      return closed;
    },
    ack: (seq) => socket.send(JSON.stringify({ type: "ack", seq })),
    cut: () => socket.terminate(),
  };
  socket.on("message", (data: RawData) => {
    if (isRaw) {
      isWelcome = true;
      return;
    }
    const frame = JSON.parse(String(data as Buffer)) as {
      type: string;
      seq: number;
      data: string;
    };
    if (frame.type === "welcome") isWelcome = true;
    if (frame.type === "ping") socket.send('{"type":"pong"}');
    if (frame.type !== "message" || socket.readyState !== socket.OPEN) return;
    const message = { seq: frame.seq, text: frame.data };
    messages.push(message);
    onMessage?.(message, wire);
  });
  // "close" follows and says all there is to say.
  socket.on("error", () => undefined);
  socket.once("close", (code: number) => {
    closed = code;
  });
  scope.teardown(() => socket.terminate());
  return wire;
}
