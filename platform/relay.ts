// Two sockets as one line: bytes pass unchanged in both directions, at the pace of the slower side. It knows nothing
// of what it carries.

import type { Socket } from "node:net";
import type { Clock } from "./clock.js";

export type Side = "client" | "server";

export interface RelayOptions {
  readonly client: Socket;
  readonly server: Socket;
  /** From the first end of a side until both are cut, for peers that never answer an end. */
  readonly lingerMs: number;
  readonly clock: Clock;
  /** Sees each chunk before it is passed on. */
  onData(from: Side, chunk: Buffer): void;
  /** The first side whose line ended, before the other one hears of it. Called at most once. */
  onDropped(by: Side): void;
  /** Both sides are closed. Called once. */
  onClosed(): void;
}

/** Starts relaying; the returned function cuts both lines at once. */
export function relay(options: RelayOptions): () => void {
  const { client, server, clock, lingerMs } = options;
  let open = 2;
  let stopLingering: (() => void) | undefined;

  function cut(): void {
    client.destroy();
    server.destroy();
  }

  function couple(side: Side, from: Socket, to: Socket): void {
    from.on("data", (chunk: Buffer) => {
      options.onData(side, chunk);
      if (!to.write(chunk)) from.pause();
    });
    to.on("drain", () => from.resume());
    const ended = () => {
      if (stopLingering === undefined) {
        stopLingering = clock.setTimer(lingerMs, cut);
        options.onDropped(side);
      }
      if (to.writable) to.end();
    };
    from.on("end", ended);
    from.on("error", ended);
    from.on("close", () => {
      ended();
      // With its peer gone nothing drains a paused socket any more; reading on finds its end.
      to.resume();
      if (--open > 0) return;
      stopLingering?.();
      options.onClosed();
    });
  }

  client.setNoDelay(true);
  server.setNoDelay(true);
  couple("client", client, server);
  couple("server", server, client);
  client.resume();
  server.resume();
  return cut;
}
