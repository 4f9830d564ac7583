// The local platform: a gateway on 127.0.0.1, an HTTP function and a WebSocket function behind it, each started from
// its own folder as the real platform does it. This file only puts the parts together.

import { get } from "node:http";
import { pause, realClock, type Clock } from "./clock.js";
import type { FunctionDescription } from "./function-description.js";
import { createGateway, type Gateway } from "./gateway.js";
import { createHttpProxy, type HttpProxy } from "./http-proxy.js";
import { Instance } from "./instance.js";
import { defaultLimits, type Limits } from "./limits.js";
import { silentLog, type Log, type PrintedLine } from "./logs.js";
import { createOwnApi } from "./own-api.js";
import { Guard } from "./own-guard.js";
import { isFree } from "./ports.js";
import { presets, type Rules } from "./rules.js";
import { Pool } from "./scheduler.js";
import { Watch } from "./watch.js";
import { serveWebSocket } from "./ws-proxy.js";

export interface PlatformOptions {
  /** Folder of the HTTP function, with its `scf_bootstrap`. */
  readonly httpDirectory: string;
  /** Folder of the WebSocket function, with its `scf_bootstrap`. */
  readonly wsDirectory: string;
  /** The environment of the functions. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Port of the gateway; default 0, a free one. */
  readonly port?: number;
  readonly limits?: Partial<Limits>;
  /** Default: the preset `documented`. */
  readonly rules?: Partial<Rules>;
  /** What differs from the description of each function. */
  readonly http?: Partial<FunctionDescription>;
  readonly ws?: Partial<FunctionDescription>;
  readonly clock?: Clock;
  /** Another price book than the one that comes with the platform. */
  readonly priceBookFile?: string;
  /** Default: says nothing. */
  readonly log?: Log;
  /** Gets each line the functions print. Default: dropped. */
  readonly print?: (line: PrintedLine) => void;
}

/** The platform cannot start; the message is one line for the person who started it. */
export class PlatformError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "PlatformError";
  }
}

const HTTP_FUNCTION = "http-fn";
const WS_FUNCTION = "ws-fn";

const commonDescription = {
  initTimeoutSeconds: 60,
  idleSeconds: 600,
  memoryMb: 128,
  environment: {},
};

/** Pause between two looks at `/readyz`, and how long one look may take. */
const READY_POLL_MS = 100;
const READY_ANSWER_MS = 2_000;
/** How much of a failed `/readyz` answer is shown. */
const SHOWN_CHARACTERS = 300;

export class Platform {
  readonly #options: PlatformOptions;
  readonly #limits: Limits;
  readonly #clock: Clock;
  readonly #httpPool: Pool;
  readonly #wsPool: Pool;
  readonly #httpProxy: HttpProxy;
  readonly #gateway: Gateway;
  readonly #watch: Watch;
  readonly #guard = new Guard();
  #closed: Promise<void> | undefined;

  constructor(options: PlatformOptions) {
    this.#options = options;
    const limits = { ...defaultLimits, ...options.limits };
    const clock = options.clock ?? realClock;
    const log = options.log ?? silentLog;
    this.#limits = limits;
    this.#clock = clock;
    const rules = { ...presets.documented, ...options.rules };
    const http: FunctionDescription = {
      ...commonDescription,
      name: HTTP_FUNCTION,
      directory: options.httpDirectory,
      protocol: "HTTP",
      timeoutSeconds: 60,
      concurrency: limits.httpConcurrency,
      ...options.http,
    };
    const ws: FunctionDescription = {
      ...commonDescription,
      name: WS_FUNCTION,
      directory: options.wsDirectory,
      protocol: "WS",
      timeoutSeconds: 7_200,
      concurrency: 1,
      ...options.ws,
    };
    this.#watch = new Watch({
      functions: [http, ws],
      rules,
      invocationsKept: limits.invocationsKept,
      priceBookFile: options.priceBookFile,
      clock,
      log,
    });
    const { book } = this.#watch;

    this.#httpPool = new Pool({
      ...limits,
      ...rules,
      functionName: http.name,
      concurrency: http.concurrency,
      prewarm: 1,
      maxInstances: limits.httpMaxInstances,
      maxIdle: limits.httpMaxInstances,
      settleMs: 0,
      clock,
      log,
      create: () => this.#instance(http, {}),
    });
    this.#wsPool = new Pool({
      ...limits,
      ...rules,
      functionName: ws.name,
      concurrency: ws.concurrency,
      prewarm: limits.wsPrewarm,
      maxInstances: limits.wsMaxInstances,
      maxIdle: limits.wsMaxIdle,
      clock,
      log,
      create: () =>
        this.#instance(ws, {
          MAX_SOCKETS: "1",
          // The function moves its clients before the platform cuts them.
          EXECUTION_SECONDS: String(ws.timeoutSeconds),
        }),
    });
    this.#httpProxy = createHttpProxy({
      functionName: http.name,
      pool: this.#httpPool,
      book,
    });
    this.#gateway = createGateway({
      http: (req, res) => this.#httpProxy.serve(req, res),
      webSocket: (req, client, head) =>
        void serveWebSocket(req, client, head, {
          description: ws,
          pool: this.#wsPool,
          book,
          limits,
          rules,
          clock,
        }),
      own: createOwnApi({
        watch: this.#watch,
        guard: this.#guard,
        instances: () => [...this.#httpPool.list(), ...this.#wsPool.list()],
        recycle: (instance) =>
          (instance.functionName === http.name
            ? this.#httpPool
            : this.#wsPool
          ).recycle(instance),
      }),
    });
  }

  /** Of this start: what the page and every change need. */
  get token(): string {
    return this.#guard.token;
  }

  /**
   * Starts the functions, waits until the HTTP function is ready, then listens; resolves with the port. When that
   * fails, or `close` comes first, everything is ended again and it rejects with a `PlatformError`.
   */
  async start(): Promise<number> {
    const port = this.#options.port ?? 0;
    try {
      if (port !== 0 && !(await isFree(port))) throw portTaken(port);
      if (this.#closed) throw new PlatformError("stopped before it was ready");
      await Promise.all([this.#httpPool.start(), this.#wsPool.start()]);
      await this.#httpReady();
      return await this.#gateway.listen(port);
    } catch (error) {
      await this.close();
      throw asPlatformError(error, port);
    }
  }

  /** Stops accepting, lets the functions send their clients away, ends all processes. Any time, any number of times. */
  close(): Promise<void> {
    this.#closed ??= (async () => {
      this.#gateway.stopAccepting();
      this.#httpProxy.stopKeeping();
      const { stopGraceMs } = this.#limits;
      await Promise.all([
        this.#httpPool.stop(stopGraceMs),
        this.#wsPool.stop(stopGraceMs),
      ]);
      await this.#gateway.close();
    })();
    return this.#closed;
  }

  /** Ends all processes at once; `close` then has nothing to wait for. */
  kill(): void {
    this.#httpPool.kill();
    this.#wsPool.kill();
  }

  #instance(
    description: FunctionDescription,
    env: Record<string, string>,
  ): Instance {
    const instance = new Instance({
      functionName: description.name,
      directory: description.directory,
      env: { ...this.#options.env, ...env },
      initSeconds: description.initTimeoutSeconds,
      clock: this.#clock,
      log: this.#options.log ?? silentLog,
      print: (line) => {
        this.#watch.printed(line);
        this.#options.print?.(line);
      },
    });
    return this.#watch.instance(instance);
  }

  async #httpReady(): Promise<void> {
    const { readySeconds } = this.#limits;
    const deadline = this.#clock.now() + readySeconds * 1_000;
    let last = "no answer";
    while (this.#clock.now() < deadline && !this.#closed) {
      const instance = this.#httpPool.list().find((one) => one.isUsable);
      if (instance) {
        const answer = await askReady(instance.port);
        if (answer === undefined) return;
        last = answer;
      }
      await pause(this.#clock, READY_POLL_MS);
    }
    throw new PlatformError(
      `${HTTP_FUNCTION} is not ready after ${readySeconds} s: GET /readyz: ${last}`,
    );
  }
}

/** Asks `GET /readyz` once: undefined when it answers 200, else what was wrong. */
function askReady(port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const asked = get(
      {
        host: "127.0.0.1",
        port,
        path: "/readyz",
        timeout: READY_ANSWER_MS,
        agent: false,
      },
      (answer) => {
        let text = "";
        answer.setEncoding("utf8");
        answer.on("data", (piece: string) => {
          if (text.length < SHOWN_CHARACTERS) text += piece;
        });
        answer.on("error", () => resolve("its answer broke off"));
        answer.on("end", () =>
          resolve(
            answer.statusCode === 200
              ? undefined
              : `${answer.statusCode} ${text.trim().slice(0, SHOWN_CHARACTERS)}`,
          ),
        );
      },
    );
    asked.on("timeout", () => asked.destroy(new Error("no answer in time")));
    asked.on("error", (error) => resolve(error.message));
  });
}

function portTaken(port: number): PlatformError {
  return new PlatformError(
    `port ${port} is taken: set GATEWAY_PORT or stop what uses it`,
  );
}

function asPlatformError(error: unknown, port: number): PlatformError {
  if (error instanceof PlatformError) return error;
  if (!(error instanceof Error)) return new PlatformError(String(error));
  const { code } = error as NodeJS.ErrnoException;
  if (code === "EADDRINUSE") return portTaken(port);
  if (code === "EACCES")
    return new PlatformError(
      `port ${port} may not be used by this user: set GATEWAY_PORT`,
    );
  return new PlatformError(error.message);
}

/** A platform that runs. */
export interface RunningPlatform {
  readonly port: number;
  readonly token: string;
  close(): Promise<void>;
  kill(): void;
}

/** Creates a platform and starts it; rejects with a `PlatformError`, with nothing left running. */
export async function startPlatform(
  options: PlatformOptions,
): Promise<RunningPlatform> {
  const platform = new Platform(options);
  const port = await platform.start();
  return {
    port,
    token: platform.token,
    close: () => platform.close(),
    kill: () => platform.kill(),
  };
}
