// A plain request's way through the platform: streamed both ways, over kept-alive connections to the function.

import {
  Agent,
  request,
  type ClientRequest,
  type IncomingMessage,
  type ServerResponse,
} from "node:http";
import type { Clock } from "./clock.js";
import type { FunctionDescription } from "./function-description.js";
import { requestHeaders, responseHeaders } from "./headers.js";
import type { Instance } from "./instance.js";
import type { Invocation } from "./invocation.js";
import type { InvocationBook } from "./invocation-book.js";
import { answerProblem, outcomeUnknown, unavailable } from "./problem.js";
import type { Rules } from "./rules.js";
import type { Grant } from "./scheduler.js";
import { StartError } from "./start-error.js";
import { refuse as answerRefusal } from "./start-failure.js";
import type { Ending } from "./verdict.js";

export interface HttpProxyOptions {
  readonly description: FunctionDescription;
  readonly pool: {
    take(): Instance | undefined;
    acquire(signal: AbortSignal): Promise<Grant>;
    release(instance: Instance, recycle: boolean): void;
  };
  readonly book: InvocationBook;
  readonly rules: Pick<Rules, "startFailureAnswer">;
  readonly clock: Clock;
}

/** Unused connections to the function are dropped before a Node server (5 s by default) drops them under a request. */
const UNUSED_CONNECTION_MS = 4_000;

export interface HttpProxy {
  serve(req: IncomingMessage, res: ServerResponse): void;
  /** Drops the unused connections to an instance: a frozen one may find them too old when it wakes. */
  forget(instance: Instance): void;
  /** Drops unused connections and keeps none any more: they would keep the function from ending. */
  stopKeeping(): void;
}

export function createHttpProxy(options: HttpProxyOptions): HttpProxy {
  const { description, pool, book, rules, clock } = options;
  const { name: functionName, timeoutSeconds: seconds } = description;
  const agent = new Agent({ keepAlive: true, timeout: UNUSED_CONNECTION_MS });

  function serve(req: IncomingMessage, res: ServerResponse): void {
    const invocation = book.begin(functionName);
    const instance = pool.take();
    if (instance) return forward(req, res, instance, invocation, false);
    const gone = new AbortController();
    res.once("close", () => gone.abort());
    pool.acquire(gone.signal).then(
      (grant) => forward(req, res, grant.instance, invocation, grant.coldStart),
      (error: unknown) => refuse(res, invocation, error),
    );
  }

  function refuse(
    res: ServerResponse,
    invocation: Invocation,
    error: unknown,
  ): void {
    const failure =
      error instanceof StartError ? error : new StartError(445, String(error));
    const { status, message: reason } = failure;
    book.end(
      invocation,
      status === 499
        ? { cause: "cancelled" }
        : { cause: "not-started", status, reason },
    );
    answerRefusal(res, status, reason, invocation.requestId, rules);
  }

  function forward(
    req: IncomingMessage,
    res: ServerResponse,
    instance: Instance,
    invocation: Invocation,
    coldStart: boolean,
  ): void {
    invocation.dispatched(instance.id, coldStart);
    let ending: Ending = { cause: "cancelled" };
    let upstream: ClientRequest;
    const stopTiming = clock.setTimer(seconds * 1_000, () => {
      ending = { cause: "execution", seconds };
      const why = `The execution timeout of ${seconds} s ran out.`;
      const { requestId } = invocation;
      answerRefusal(res, 433, why, requestId, rules, outcomeUnknown(why));
      upstream.destroy();
    });
    const finish = () => {
      stopTiming();
      book.end(invocation, ending);
      // A line that a living process dropped is that request's own failure.
      pool.release(instance, ending.cause === "execution");
    };
    try {
      upstream = request({
        host: "127.0.0.1",
        port: instance.port,
        method: req.method,
        path: req.url,
        headers: requestHeaders(req, invocation.requestId, description),
        agent,
      });
    } catch (error) {
      // Node refuses to send a few things that it accepts to receive.
      ending = { cause: "answered", status: 400, toUpgrade: false };
      finish();
      const detail = `The request cannot be passed on: ${String(error)}`;
      answerProblem(res, { code: "bad_request", detail });
      return;
    }
    upstream.once("response", (answer) => {
      const status = answer.statusCode ?? 502;
      if (ending.cause === "execution") return;
      ending = { cause: "answered", status, toUpgrade: false };
      answer.once("error", () => {
        if (ending.cause === "execution") return;
        ending = { cause: "dropped", by: "server" };
        res.destroy(); // a truncated answer must look truncated
      });
      answer.on("data", (chunk: Buffer) => {
        invocation.answerBytes += chunk.length;
      });
      passAnswer(answer, res);
    });
    upstream.once("error", (error: NodeJS.ErrnoException) => {
      if (res.headersSent || res.destroyed) return;
      ending = { cause: "dropped", by: "server" };
      answerProblem(
        res,
        error.code === "ECONNREFUSED"
          ? unavailable(
              `${functionName} is not listening; it is being started again.`,
            )
          : outcomeUnknown(
              `${functionName} ended the line before it answered.`,
            ),
      );
    });
    upstream.on("error", () => {}); // after the first one they have nothing new to say
    res.once("close", () => {
      // The client went away: the function hears it at once. (After a complete answer this does nothing.)
      if (!res.writableFinished) upstream.destroy();
      req.unpipe(upstream);
      req.resume();
      finish();
    });
    req.pipe(upstream);
  }

  function forget(instance: Instance): void {
    const wanted = `:${instance.port}:`;
    for (const [name, sockets] of Object.entries(agent.freeSockets))
      if (name.includes(wanted))
        for (const socket of sockets ?? []) socket.destroy();
  }

  function stopKeeping(): void {
    agent.maxFreeSockets = 0;
    for (const sockets of Object.values(agent.freeSockets))
      for (const socket of sockets ?? []) socket.destroy();
  }

  return { serve, forget, stopKeeping };
}

function passAnswer(answer: IncomingMessage, res: ServerResponse): void {
  res.sendDate = false;
  res.writeHead(
    answer.statusCode ?? 502,
    answer.statusMessage,
    responseHeaders(answer),
  );
  // Without a length it may be a stream whose first bytes come much later than its head.
  if (answer.headers["content-length"] === undefined) res.flushHeaders();
  answer.pipe(res);
}
