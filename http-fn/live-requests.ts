/** Requests that stay open: waits and streams. They end when their caller goes, and when the function shuts down. */
import type { FastifyReply } from "fastify";

export interface LiveRequests {
  /** Runs `work` with a controller that is aborted when the caller goes or the function closes. */
  during<T>(
    reply: FastifyReply,
    work: (gone: AbortController) => Promise<T>,
  ): Promise<T>;
  /** Ends them all; those that come later end at once. */
  close(): void;
}

export function createLiveRequests(): LiveRequests {
  const live = new Set<AbortController>();
  let closed = false;
  return {
    async during(reply, work) {
      const gone = new AbortController();
      const abort = () => gone.abort();
      live.add(gone);
      reply.raw.once("close", abort);
      if (closed || reply.raw.destroyed) abort();
      try {
        return await work(gone);
      } finally {
        live.delete(gone);
        reply.raw.off("close", abort);
      }
    },
    close() {
      closed = true;
      for (const gone of live) gone.abort();
    },
  };
}
