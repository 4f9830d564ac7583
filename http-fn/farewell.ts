/**
 * How a listener goes without cutting anybody off. A caller with a kept connection may be sending its next request in the
 * moment in which that connection is closed as an idle one; it gets a reset then and cannot know what became of it. So
 * for a moment everything is still answered, newcomers too, but with `Connection: close`: who is busy leaves by itself.
 */
import type { Server } from "node:http";
import type { Socket } from "node:net";
import type { FastifyInstance } from "fastify";

/**
 * Makes `app.close()` end what `endWaits` ends, then wait until every caller has gone, at most `ms`. What is still being
 * answered after that holds the close up; what is idle is closed.
 */
export function sayFarewell(
  app: FastifyInstance,
  { ms, endWaits }: { ms: number; endWaits(): void },
): void {
  const callers = callersOf(app.server);
  let leaving = false;
  // fastify asks only requests that come after the close began.
  app.addHook("onSend", (_request, reply, payload, done) => {
    if (leaving) reply.header("connection", "close");
    done(null, payload);
  });
  app.addHook("preClose", (done) => {
    leaving = true;
    endWaits();
    callers.whenGone(ms, done);
  });
}

/** Open connections of a server. */
function callersOf(server: Server): {
  /** Calls `then` once, when there are none or after `ms`. */
  whenGone(ms: number, then: () => void): void;
} {
  const open = new Set<Socket>();
  let onGone: (() => void) | undefined;
  server.on("connection", (socket: Socket) => {
    open.add(socket);
    socket.once("close", () => {
      open.delete(socket);
      if (open.size === 0) onGone?.();
    });
  });
  return {
    whenGone(ms, then) {
      if (open.size === 0) return then();
      const timer = setTimeout(() => onGone?.(), ms);
      onGone = () => {
        clearTimeout(timer);
        onGone = undefined;
        then();
      };
    },
  };
}
