// A WebSocket's way through the platform: one upgrade, one instance, one invocation. The function answers the upgrade
// itself and the bytes pass unchanged [WS-CONN-3..5]; the platform only looks on, keeps time and says how it ended.

import type { IncomingMessage } from "node:http";
import { connect, type Socket } from "node:net";
import { pause, realClock, type Clock } from "./clock.js";
import { FrameReader } from "./frames.js";
import type { FunctionDescription } from "./function-description.js";
import { requestHead, upgradeHeaders } from "./headers.js";
import type { Instance } from "./instance.js";
import type { Invocation } from "./invocation.js";
import type { InvocationBook } from "./invocation-book.js";
import type { Limits } from "./limits.js";
import { outcomeUnknown, type Problem } from "./problem.js";
import { answerProblemOnSocket } from "./problem.js";
import { relay, type Side } from "./relay.js";
import { ResponseHead } from "./response-head.js";
import type { Rules } from "./rules.js";
import { StartError } from "./start-error.js";
import { refuseOnSocket } from "./start-failure.js";
import type { Grant } from "./scheduler.js";
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
  const { pool, book } = options;
  const invocation = book.begin(options.description.name);
  const early = holdEarlyBytes(client, head);
  let grant: Grant;
  try {
    grant = await pool.acquire(early.gone);
  } catch (error) {
    const failure =
      error instanceof StartError ? error : new StartError(445, String(error));
    book.end(
      invocation,
      failure.status === 499
        ? { cause: "cancelled" }
        : {
            cause: "not-started",
            status: failure.status,
            reason: failure.message,
          },
    );
    refuseOnSocket(client, failure, invocation.requestId, options.rules);
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
  const session = new Session(req, client, instance, invocation, options);
  const ending = await session.run(early.release());
  const endedAt = options.clock.now();
  const explained = await withExit(ending, instance);
  const verdict = book.end(invocation, explained, endedAt);
  const { reuseAfterFailure } = options.rules;
  pool.release(
    instance,
    mustRecycle(verdict.statusCode, reuseAfterFailure) || !instance.isUsable,
  );
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

/** The time in which the two lines are joined. */
class Session {
  readonly #req: IncomingMessage;
  readonly #client: Socket;
  readonly #server: Socket;
  readonly #invocation: Invocation;
  readonly #options: WebSocketProxyOptions;
  readonly #fromClient = new FrameReader();
  readonly #fromServer = new FrameReader();
  readonly #head = new ResponseHead();
  readonly #timers = new Set<() => void>();
  #cut: () => void = () => {};
  #ending: Ending | undefined;
  #lastTraffic = 0;

  constructor(
    req: IncomingMessage,
    client: Socket,
    instance: Instance,
    invocation: Invocation,
    options: WebSocketProxyOptions,
  ) {
    this.#req = req;
    this.#client = client;
    this.#invocation = invocation;
    this.#options = options;
    this.#server = connect({
      host: "127.0.0.1",
      port: instance.port,
      allowHalfOpen: true,
    });
  }

  /** Passes the upgrade on and stays until both lines are closed. */
  run(early: Buffer): Promise<Ending> {
    const { limits, description } = this.#options;
    const { timeoutSeconds: seconds } = description;
    const req = this.#req;
    const { requestId } = this.#invocation;
    const headers = upgradeHeaders(req, requestId, description);
    this.#server.write(requestHead(req, headers), "latin1");
    if (early.length > 0) {
      this.#server.write(early);
      this.#fromClient.push(early);
    }
    // The execution timer starts before the idle timer: in a tie it wins [WS-CLOSE-16].
    this.#timer(seconds * 1_000, () =>
      this.#abort({ cause: "execution", seconds }),
    );
    return new Promise((resolve) => {
      this.#cut = relay({
        client: this.#client,
        server: this.#server,
        lingerMs: limits.lingerMs,
        clock: realClock,
        onData: (from, chunk) => {
          if (from === "client") this.#clientSent(chunk);
          else this.#serverSent(chunk);
        },
        onDropped: (by) => this.#dropped(by),
        onClosed: () => {
          for (const cancel of this.#timers) cancel();
          resolve(this.#ending ?? { cause: "cancelled" });
        },
      });
    });
  }

  #clientSent(chunk: Buffer): void {
    this.#watch(this.#fromClient, "client", chunk);
  }

  #serverSent(chunk: Buffer): void {
    if (this.#head.status === undefined) {
      const rest = this.#head.push(chunk);
      if (this.#head.status === 101) {
        this.#established();
        if (rest) this.#watch(this.#fromServer, "server", rest);
      } else this.#refused();
    } else if (this.#head.status === 101) {
      this.#watch(this.#fromServer, "server", chunk);
    } else {
      this.#head.push(chunk);
      this.#refused();
    }
  }

  #established(): void {
    const { clock, description } = this.#options;
    const now = clock.now();
    this.#invocation.frames = {
      client: this.#fromClient,
      server: this.#fromServer,
    };
    this.#invocation.established(now);
    this.#lastTraffic = now;
    this.#timer(description.idleSeconds * 1_000, () => this.#checkIdle());
  }

  /** The function said no: its answer has passed; when it is complete the lines have nothing left to carry. */
  #refused(): void {
    const { status, bodyComplete } = this.#head;
    if (status === undefined) return;
    this.#decide({ cause: "answered", status, toUpgrade: true });
    if (!bodyComplete) return;
    // After this chunk, which is still on its way through the relay.
    process.nextTick(() => {
      this.#client.end();
      this.#server.end();
    });
  }

  #watch(reader: FrameReader, by: Side, chunk: Buffer): void {
    const before = reader.dataFrames;
    reader.push(chunk);
    if (reader.dataFrames !== before)
      this.#lastTraffic = this.#options.clock.now();
    if (reader.closeCode === undefined || this.#ending !== undefined) return;
    this.#decide({ cause: "closed", by, code: reader.closeCode });
    this.#invocation.closing();
  }

  #dropped(by: Side): void {
    if (this.#ending !== undefined) return;
    const answered = this.#invocation.establishedAt !== undefined;
    if (by === "client" && !answered) this.#decide({ cause: "cancelled" });
    else this.#decide({ cause: "dropped", by });
    if (by === "server" && !this.#head.begun)
      this.#answer(
        outcomeUnknown("The function ended the line without an answer."),
      );
  }

  #checkIdle(): void {
    const { clock, description } = this.#options;
    const seconds = description.idleSeconds;
    const left = this.#lastTraffic + seconds * 1_000 - clock.now();
    if (left <= 0) this.#abort({ cause: "idle", seconds });
    else this.#timer(left, () => this.#checkIdle());
  }

  /** The platform ends it, without a Close frame [WS-CLOSE-15]. */
  #abort(ending: Ending): void {
    this.#decide(ending);
    this.#cut();
  }

  #answer(problem: Problem): void {
    answerProblemOnSocket(this.#client, problem);
  }

  /** The first cause counts [WS-CLOSE-6]. */
  #decide(ending: Ending): void {
    this.#ending ??= ending;
  }

  #timer(ms: number, fire: () => void): void {
    const cancel = this.#options.clock.setTimer(ms, () => {
      this.#timers.delete(cancel);
      fire();
    });
    this.#timers.add(cancel);
  }
}
