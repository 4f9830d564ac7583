// A WebSocket's way through the platform: one upgrade, one instance, one invocation. The function answers the upgrade
// itself and the bytes pass unchanged [WS-CONN-3..5]; who serves, and what is said of it, is decided here.

import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import { pause, realClock, type Clock } from "./clock.js";
import type { ConnectionFaults, FaultPlan } from "./faults.js";
import type { FunctionDescription } from "./function-description.js";
import type { Instance } from "./instance.js";
import type { InvocationBook } from "./invocation-book.js";
import type { Limits } from "./limits.js";
import type { Rules } from "./rules.js";
import type { Grant } from "./scheduler.js";
import { Session } from "./session.js";
import { StartError } from "./start-error.js";
import { refuseOnSocket } from "./start-failure.js";
import { mustRecycle, type Ending } from "./verdict.js";

export interface WebSocketProxyOptions {
  readonly description: FunctionDescription;
  readonly pool: {
    acquire(signal: AbortSignal): Promise<Grant>;
    release(instance: Instance, recycle: boolean): void;
  };
  readonly book: InvocationBook;
  readonly limits: Limits;
  readonly rules: Rules;
  readonly clock: Clock;
  readonly faults: FaultPlan;
}

/** What a client may send before an instance is there to take it; more than this waits in its socket. */
const MAX_EARLY_BYTES = 65_536;
/** A line that drops together with its process is told apart from one that drops alone by waiting this long. */
const EXIT_NOTICE_MS = 250;

/** Takes an upgrade request with its socket and serves it to its end. Resolves when all is over; never rejects. */
export async function serveWebSocket(
  req: IncomingMessage,
  client: Socket,
  head: Buffer,
  options: WebSocketProxyOptions,
): Promise<void> {
  const { pool, book, rules, description, clock } = options;
  const invocation = book.begin(description.name);
  const faults = options.faults.connection(description.name);
  const early = holdEarlyBytes(client, head);
  const grant = await acquire(early.gone, faults, options);
  if ("cause" in grant) {
    const verdict = book.end(invocation, grant, undefined, rules);
    const { statusCode, why } = verdict;
    refuseOnSocket(client, statusCode, why, invocation.requestId, rules);
    return;
  }
  const { instance, coldStart } = grant;
  if (early.gone.aborted) {
    book.end(invocation, { cause: "cancelled" });
    pool.release(instance, false);
    client.destroy();
    return;
  }
  invocation.dispatched(instance.id, coldStart);
  const session = new Session(req, client, instance, invocation, {
    ...options,
    faults,
  });
  const ending = await session.run(early.release());
  const endedAt = clock.now();
  const explained = await withExit(ending, instance);
  const verdict = book.end(invocation, explained, endedAt, rules);
  pool.release(
    instance,
    mustRecycle(verdict.statusCode, rules) || !instance.isUsable,
  );
}

/** An instance for it, or why it gets none. */
async function acquire(
  gone: AbortSignal,
  faults: ConnectionFaults,
  { pool, description, rules, clock }: WebSocketProxyOptions,
): Promise<Grant | Ending> {
  const { refusal } = faults;
  if (refusal !== undefined)
    return {
      cause: "not-started",
      status: refusal,
      reason: `A fault refused the connection with ${refusal}.`,
    };
  const { timeoutSeconds: seconds } = description;
  const late = new AbortController();
  // Where the time counts from the request, the wait for an instance is part of it [WS-TIME-3].
  const cancel =
    rules.executionFrom === "request"
      ? clock.setTimer(seconds * 1_000, () => late.abort())
      : () => {};
  try {
    return await pool.acquire(AbortSignal.any([gone, late.signal]));
  } catch (error) {
    if (gone.aborted) return { cause: "cancelled" };
    if (late.signal.aborted) return { cause: "execution", seconds };
    if (!(error instanceof StartError))
      return { cause: "not-started", status: 445, reason: String(error) };
    const { status, message: reason } = error;
    return { cause: "not-started", status, reason };
  } finally {
    cancel();
  }
}

/** Reads on while there is no instance, because only reading notices that a client goes away. */
function holdEarlyBytes(client: Socket, head: Buffer) {
  const chunks = [head];
  let size = head.length;
  const gone = new AbortController();
  const keep = (chunk: Buffer) => {
    chunks.push(chunk);
    size += chunk.length;
    if (size > MAX_EARLY_BYTES) client.pause();
  };
  const abort = () => gone.abort();
  client.on("data", keep);
  client.on("error", abort);
  client.once("end", abort);
  client.once("close", abort);
  return {
    gone: gone.signal,
    /** Stops reading; returns what came so far. */
    release(): Buffer {
      client.pause();
      client.off("data", keep);
      client.off("end", abort);
      return Buffer.concat(chunks);
    },
  };
}

/** A dropped line gets the end of its process as the reason, if that is what it was [WS-CLOSE-10]. */
async function withExit(ending: Ending, instance: Instance): Promise<Ending> {
  if (ending.cause !== "dropped" || ending.by !== "server") return ending;
  const exit = await Promise.race([
    instance.exited,
    pause(realClock, EXIT_NOTICE_MS),
  ]);
  return exit === undefined ? ending : { ...ending, exit };
}
