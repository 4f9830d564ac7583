// The local platform: a gateway on 127.0.0.1 and the functions behind it, each started from its own folder as the real
// platform does it. This file only puts the parts together.

import { mkdtempSync } from "node:fs";
import { get } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pause, realClock, scaledClock, type Clock } from "./clock.js";
import { deploy, type Deployment } from "./deployment.js";
import { FaultPlan, type Fault } from "./faults.js";
import type { FunctionDescription } from "./function-description.js";
import { update } from "./function-rules.js";
import { createGateway, type Gateway, type Route } from "./gateway.js";
import { createHttpProxy, type HttpProxy } from "./http-proxy.js";
import { faultOf, type InitFault } from "./init-faults.js";
import { Instance } from "./instance.js";
import { defaultLimits, type Limits } from "./limits.js";
import { silentLog, type Log, type PrintedLine } from "./logs.js";
import { createOwnApi } from "./own-api.js";
import { whyNoOwnNetwork } from "./own-network.js";
import { Guard } from "./own-guard.js";
import { isFree } from "./ports.js";
import { Reaper } from "./reaper.js";
import { Region } from "./region.js";
import { presets, type PresetName, type Rules } from "./rules.js";
import { Pool } from "./scheduler.js";
import { Watch } from "./watch.js";
import { serveWebSocket } from "./ws-proxy.js";

/** A function and where it is reached. */
export interface FunctionSetup {
  readonly description: FunctionDescription;
  /** `/` or `/name`; the longest one that fits a request counts. */
  readonly route: string;
  /** The function sees paths without the route's. Default false. */
  readonly isRouteStripped?: boolean;
  /** Instances kept ready, whether anybody asks or not. Default 0. */
  readonly prewarm?: number;
  readonly maxInstances?: number;
  /** Unused instances kept at most. */
  readonly maxIdle?: number;
  /** The platform is ready when this path of it answers 200. Default: nothing is asked. */
  readonly readyPath?: string;
  /** Environment besides the description's. */
  readonly env?: Readonly<Record<string, string>>;
}

export interface PlatformOptions {
  readonly functions: readonly FunctionSetup[];
  /** The environment of the functions. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Port of the gateway; default 0, a free one. */
  readonly port?: number;
  /** With these the same port takes wss:// as well [WS-CONN-1]. */
  readonly tls?: { readonly cert: Buffer; readonly key: Buffer };
  readonly limits?: Partial<Limits>;
  /** Default `documented`. */
  readonly preset?: PresetName;
  /** What differs from the preset. */
  readonly rules?: Partial<Rules>;
  /** Default: the real one, scaled by the rule `timeScale`. */
  readonly clock?: Clock;
  /** What shall go wrong at the start of instances, for tests. Default: nothing. */
  readonly initFaults?: readonly InitFault[];
  /** What shall go wrong on connections, for tests. Default: nothing. */
  readonly faults?: readonly Fault[];
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

/** Pause between two looks at a `readyPath`, and how long one look may take. */
const READY_POLL_MS = 100;
const READY_ANSWER_MS = 2_000;
/** How much of a failed answer there is shown. */
const SHOWN_CHARACTERS = 300;

/** A function that runs here. */
interface Service {
  readonly setup: FunctionSetup;
  /** As it is now; what an invocation began with it keeps [WS-TIME-7]. */
  description: FunctionDescription;
  readonly pool: Pool;
  readonly route: Route;
  /** Keeps no unused connections to the function any more. */
  stopKeeping(): void;
}

export class Platform {
  readonly #options: PlatformOptions;
  readonly #limits: Limits;
  readonly #rules: Rules;
  readonly #clock: Clock;
  readonly #log: Log;
  /** Everything that has to be made for functions to start here; the reaper removes it. */
  readonly #folder: string;
  readonly #reaper: Reaper;
  readonly #region: Region;
  readonly #faults: FaultPlan;
  /** Folders that are being made ready. */
  readonly #deploying = new Set<Promise<unknown>>();
  readonly #services: readonly Service[];
  readonly #gateway: Gateway;
  readonly #watch: Watch;
  readonly #guard = new Guard();
  #closed: Promise<void> | undefined;

  constructor(options: PlatformOptions) {
    this.#options = options;
    this.#limits = { ...defaultLimits, ...options.limits };
    this.#rules = {
      ...presets[options.preset ?? "documented"],
      ...options.rules,
    };
    const { timeScale } = this.#rules;
    this.#clock =
      options.clock ?? (timeScale === 1 ? realClock : scaledClock(timeScale));
    this.#log = options.log ?? silentLog;
    this.#folder = mkdtempSync(join(tmpdir(), "local-platform-"));
    this.#reaper = new Reaper(this.#folder);
    this.#faults = new FaultPlan(options.faults);
    this.#region = new Region(this.#rules, this.#clock);
    this.#watch = new Watch({
      functions: options.functions.map(({ description }) => description),
      rules: this.#rules,
      invocationsKept: this.#limits.invocationsKept,
      priceBookFile: options.priceBookFile,
      clock: this.#clock,
      log: this.#log,
    });
    this.#services = options.functions.map((setup) => this.#serve(setup));
    this.#gateway = createGateway({
      routes: this.#services.map(({ route }) => route),
      own: createOwnApi({
        watch: this.#watch,
        guard: this.#guard,
        instances: () => this.#services.flatMap(({ pool }) => pool.list()),
        recycle: (instance) =>
          this.#services
            .find(({ pool }) => pool.list().includes(instance))
            ?.pool.recycle(instance),
      }),
      tls: options.tls,
    });
  }

  /** Of this start: what the page and every change need. */
  get token(): string {
    return this.#guard.token;
  }

  /**
   * Starts the prewarmed instances, waits until those with a `readyPath` are ready, then listens; resolves with the port.
   * When that fails, or `close` comes first, everything is ended again and it rejects with a `PlatformError`.
   */
  async start(): Promise<number> {
    const port = this.#options.port ?? 0;
    try {
      if (port !== 0 && !(await isFree(port))) throw portTaken(port);
      if (this.#closed) throw new PlatformError("stopped before it was ready");
      const why =
        this.#rules.network === "own" ? await whyNoOwnNetwork() : undefined;
      if (why !== undefined) throw new PlatformError(why);
      await Promise.all(this.#services.map(({ pool }) => pool.start()));
      for (const service of this.#services) await this.#ready(service);
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
      for (const service of this.#services) service.stopKeeping();
      const { stopGraceMs } = this.#limits;
      await Promise.all(
        this.#services.map(({ pool }) => pool.stop(stopGraceMs)),
      );
      await this.#gateway.close();
      // What is still being linked together would outlive the folder's removal.
      await Promise.allSettled(this.#deploying);
      await this.#reaper.close();
    })();
    return this.#closed;
  }

  /**
   * Changes a function's idle timeout, s, for connections that come from now on; open ones keep theirs [WS-TIME-7].
   * Returns the mistakes, one line each; with one, nothing has changed.
   */
  setIdleSeconds(functionName: string, idleSeconds: number): string[] {
    const service = this.#services.find(
      ({ description: { name } }) => name === functionName,
    );
    if (service === undefined) return [`${functionName}: no such function.`];
    const next = { ...service.description, idleSeconds };
    const updated = update(service.description, next, this.#rules);
    if (Array.isArray(updated)) return updated;
    service.description = updated;
    return [];
  }

  /** Ends all processes at once; `close` then has nothing to wait for. */
  kill(): void {
    for (const { pool } of this.#services) pool.kill();
  }

  #serve(setup: FunctionSetup): Service {
    const { description, prewarm = 0 } = setup;
    const rules = this.#rules;
    const clock = this.#clock;
    const limits = this.#limits;
    const { book } = this.#watch;
    const http: { proxy?: HttpProxy } = {};
    const pool = new Pool({
      description,
      rules,
      limits,
      prewarm,
      maxInstances: setup.maxInstances ?? limits.wsMaxInstances,
      maxIdle: setup.maxIdle ?? limits.wsMaxIdle,
      settleMs: description.protocol === "HTTP" ? 0 : limits.settleMs,
      region: this.#region,
      clock,
      log: this.#log,
      create: this.#creator(setup),
      onFrozen: (instance) => http.proxy?.forget(instance),
    });
    const route = {
      path: setup.route,
      isStripped: setup.isRouteStripped ?? false,
    };
    if (description.protocol === "WS") {
      const service: Service = {
        setup,
        description,
        pool,
        route: {
          ...route,
          webSocket: (req, client, head) =>
            void serveWebSocket(req, client, head, {
              description: service.description,
              pool,
              book,
              limits,
              rules,
              clock,
              faults: this.#faults,
            }),
        },
        stopKeeping: () => {},
      };
      return service;
    }
    const proxy = createHttpProxy({ description, pool, book, rules, clock });
    http.proxy = proxy;
    return {
      setup,
      description,
      pool,
      route: { ...route, http: (req, res) => proxy.serve(req, res) },
      stopKeeping: () => proxy.stopKeeping(),
    };
  }

  /** Makes the instances of one function. Its folder is made ready once; as long as that fails, each time again. */
  #creator({ description, env: more }: FunctionSetup) {
    const { env, initFaults = [], print = () => {} } = this.#options;
    // Whoever starts it can replace a value of the file, as one would in the console.
    const all = { ...description.environment, ...env, ...more };
    let deployed: Promise<Deployment> | undefined;
    let count = 0;
    const deployOnce = () => {
      deployed ??= deploy({
        name: description.name,
        directory: description.directory,
        folder: this.#folder,
        env: all,
        strict: this.#rules.strictBootstrap,
      }).then((deployment) => {
        for (const note of deployment.notes) this.#log.info({}, note);
        return deployment;
      });
      const deploying = deployed;
      this.#deploying.add(deploying);
      deploying
        .catch(() => (deployed = undefined))
        .finally(() => this.#deploying.delete(deploying));
      return deploying;
    };
    return (isProvisioned: boolean) => {
      const instance = new Instance({
        description,
        isProvisioned,
        deploy: deployOnce,
        env: all,
        folder: this.#folder,
        network: this.#rules.network,
        reaper: this.#reaper,
        fault: faultOf(initFaults, description.name, ++count),
        clock: this.#clock,
        log: this.#log,
        print: (line) => {
          this.#watch.printed(line);
          print(line);
        },
      });
      return this.#watch.instance(instance);
    };
  }

  async #ready({ setup, pool }: Service): Promise<void> {
    const { readyPath, description } = setup;
    if (readyPath === undefined) return;
    const { readySeconds } = this.#limits;
    const deadline = realClock.now() + readySeconds * 1_000;
    let last = "no answer";
    while (realClock.now() < deadline && !this.#closed) {
      const instance = pool.list().find((one) => one.isUsable);
      if (instance) {
        const answer = await askReady(instance.port, readyPath);
        if (answer === undefined) return;
        last = answer;
      }
      await pause(realClock, READY_POLL_MS);
    }
    throw new PlatformError(
      `${description.name} is not ready after ${readySeconds} s: GET ${readyPath}: ${last}`,
    );
  }
}

/** Asks once: undefined when it answers 200, else what was wrong. */
function askReady(port: number, path: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    const asked = get(
      {
        host: "127.0.0.1",
        port,
        path,
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
  /** Of this start: what the page and every change need. */
  readonly token: string;
  setIdleSeconds(functionName: string, idleSeconds: number): string[];
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
    setIdleSeconds: (name, seconds) => platform.setIdleSeconds(name, seconds),
    close: () => platform.close(),
    kill: () => platform.kill(),
  };
}
