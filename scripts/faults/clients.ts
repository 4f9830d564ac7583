/**
 * Clients that resume and count: the client library, with an ear on the wire before it. A socket can be made deaf
 * (frames come and are lost before the library) or mute (its acks are lost); both hold until that socket ends.
 */
import type { RawData, WebSocket } from "ws";

import { startApplication, type Application } from "../lab/application.js";
import type { Scope } from "../lab/scope.js";
import type { Ledger } from "./ledger.js";

export interface Client {
  readonly connection: string;
  readonly application: Application;
  /** `performance.now()` of the last message handed over; 0 before the first. */
  readonly lastAt: number;
  /** Message frames that came over its socket of the moment, lost ones included. */
  readonly frames: number;
  /** What becomes of the frames of the sockets that it opens from now on. The socket it has keeps its own way. */
  hearing: "all" | "deaf" | "mute";
  /** Makes the socket it has deaf or mute as well. */
  impair(how: "deaf" | "mute"): void;
  /** Nobody answers what it dials from now on. The socket it has stays. */
  isOffline: boolean;
  /** The row ends this connection: what its library says about that is no complaint. */
  mayEnd: boolean;
  /** How its sockets ended, in order; 1006 is a cut or a refusal. `at` and `dialledAt` by the wall clock. */
  readonly ends: readonly { code: number; at: number }[];
  readonly dialledAt: number;
  /** Cuts its socket without a word; the library dials again at once. */
  cut(): void;
  /** Calls back at every message handed over. */
  onMessage: (() => void) | undefined;
}

/** Nothing listens on it. */
const NOWHERE = "ws://127.0.0.1:1";

export interface ClientOptions {
  connection: string;
  token: string;
  /** `ws://127.0.0.1:<port>` for the dial of this number. */
  to: (dial: number) => string;
}

export function startClient(
  scope: Scope,
  ledger: Ledger,
  { connection, token, to }: ClientOptions,
): Client {
  let lastAt = 0;
  let frames = 0;
  let dialledAt = 0;
  const ends: { code: number; at: number }[] = [];
  const impaired = new WeakMap<WebSocket, "deaf" | "mute">();
  const listen = (socket: WebSocket) => {
    socket.once("close", (code: number) => {
      ends.push({ code, at: Date.now() });
    });
    if (client.hearing !== "all") impaired.set(socket, client.hearing);
    // Frames reach the library by this emit; ws has no other place in which one could stop them.
    const emit = socket.emit.bind(socket);
    socket.emit = (event: string | symbol, ...rest: unknown[]) => {
      const isCurrent = socket === client.application.socket;
      if (event === "message" && isCurrent && isMessage(rest[0] as RawData)) {
        frames += 1;
        const { seq, redelivered, part = 1 } = parse(rest[0] as RawData);
        if (part === 1 && seq !== undefined) {
          ledger.frame(connection, seq, redelivered === true);
        }
        if (impaired.get(socket) === "deaf") return true;
      }
      return emit(event, ...rest);
    };
    const send = socket.send.bind(socket) as (data: string) => void;
    socket.send = (data: unknown) => {
      const isAck = String(data).startsWith('{"type":"ack"');
      // A client that got nothing acks nothing new: whatever it says about messages is lost with them.
      if (isAck && impaired.has(socket)) return;
      send(String(data));
    };
  };
  const client: Client = {
    connection,
    application: undefined as unknown as Application,
    get lastAt() {
      return lastAt;
    },
    get frames() {
      return frames;
    },
    get dialledAt() {
      return dialledAt;
    },
    ends,
    isOffline: false,
    mayEnd: false,
    hearing: "all",
    impair: (how) => {
      impaired.set(client.application.socket, how);
    },
    cut: () => client.application.socket.terminate(),
    onMessage: undefined,
  };
  const application = startApplication(scope, {
    token,
    to: (dial) => {
      dialledAt = Date.now();
      return client.isOffline ? NOWHERE : to(dial);
    },
    onSocket: listen,
    onMessage: ({ text }) => {
      lastAt = performance.now();
      ledger.receive(connection, text);
      client.onMessage?.();
    },
  });
  return Object.assign(client, { application });
}

function isMessage(data: RawData): boolean {
  return String(data as Buffer).startsWith('{"type":"message"');
}

function parse(data: RawData): {
  seq?: number;
  redelivered?: boolean;
  part?: number;
} {
  return JSON.parse(String(data as Buffer)) as ReturnType<typeof parse>;
}
