/**
 * How Redis is reached: single, Sentinel or Cluster by URL. The only place with ioredis options.
 *
 * One connection carries every command of a process, one more its subscriptions, a third large reads. Commands of one
 * turn of the event loop leave in one write. While Redis is away a command is refused at once; while it is frozen the first
 * ones are refused after `patienceMs` and all later ones at once, until it answers again. Time in which this process
 * itself stood still does not count (deadlines.ts).
 */
import { EventEmitter } from "node:events";
import { Cluster, Redis, SentinelConnector, type RedisOptions } from "ioredis";
import { BulkReads } from "./bulk-reads.js";
import { afterRunning, Deadlines } from "./deadlines.js";
import { BridgeError } from "./errors.js";
import { isOutOfMemory, redisFull } from "./full.js";
import { channels } from "./keys.js";
import { parseRedisUrl } from "./redis-url.js";
import { slotOf } from "./slots.js";
import { sparing, type Logger } from "./logging.js";

/** A Lua script with its name and the number of its keys, unless that varies. Sent once, then by its hash. */
export interface Script {
  readonly name: string;
  readonly keys?: number;
  readonly lua: string;
}

export type Argument = string | number | Buffer;

/** Reconnect quickly and for ever; BullMQ's own back-off of up to 20 s would leave a bridge silent. */
const retryMs = (times: number): number => Math.min(50 * times, 250);
/** A Redis that still reads its data is asked again so soon; by default ioredis waits at least a second. */
const loadingMs = 50;
/** No answer for this long means that Redis is frozen: 503 well within the promised second. */
const patienceMs = 800;
/** A large read may take its time; what comes later than this does not come. */
const readPatienceMs = 10_000;
const connectTimeoutMs = 2_000;
/** Commands right after the start wait this long for the first connection: a cold start is no outage. */
const firstConnectMs = 700;
/** A canary is sent this often through the subscriber connection … */
const canaryEveryMs = 2_000;
/** … and after this much silence the connection is given up: it may be open and deaf. */
const canarySilenceMs = 5_000;
/** How often a suspect Redis is asked whether it is back. */
const suspectProbeMs = 100;

/** A state of Redis that refuses every write is told this often, not with every write. */
const tellEveryMs = 10_000;

/**
 * Redis errors that say "not executed, come back": the server, not the command, is at fault. Before Redis 7 the error of
 * a script wraps the word.
 */
const serverAway =
  /(?:^| -)(READONLY|LOADING|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|NOREPLICAS|MISCONF|BUSY|UNKILLABLE)\b/;

/** ioredis options with the reply form left at its default, which the types of ioredis 6 insist on. */
type Options = Omit<RedisOptions, "replyMapping">;

interface Address {
  mode: "single" | "sentinel" | "cluster";
  nodes: { host: string; port: number }[];
  name: string;
  options: Options;
}

/** Throws where the URL is none. */
function parseAddress(url: string): Address {
  const { scheme, username, password, nodes, name, db } = parseRedisUrl(url);
  const options: Options = {
    ...(username === "" ? {} : { username }),
    ...(password === "" ? {} : { password }),
    ...(scheme === "rediss" ? { tls: {} } : {}),
  };
  if (scheme === "redis+cluster")
    return { mode: "cluster", nodes, name, options };
  return {
    mode: scheme === "redis+sentinel" ? "sentinel" : "single",
    nodes,
    name,
    options: { ...options, db },
  };
}

/** Sends all commands of one turn of the event loop in one write to the socket. */
class BatchingRedis extends Redis {
  #corked: { uncork(): void } | undefined;
  #isEnding = false;
  #last: (() => void)[] = [];

  override sendCommand(
    ...args: Parameters<Redis["sendCommand"]>
  ): ReturnType<Redis["sendCommand"]> {
    const { stream } = this as unknown as {
      stream?: NodeJS.WritableStream & { cork(): void; uncork(): void };
    };
    if (!this.#corked && stream) {
      this.#corked = stream;
      stream.cork();
      this.#endTurn();
    }
    return super.sendCommand(...args);
  }

  /** What `then` sends leaves with the rest of its turn. */
  atEndOfTurn(then: () => void): void {
    this.#last.push(then);
    this.#endTurn();
  }

  #endTurn(): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    // After the whole poll phase: nextTick would come after each socket's own callback, one write for each request.
    setImmediate(() => {
      const last = this.#last;
      this.#last = [];
      for (const then of last) then();
      this.#isEnding = false;
      this.#corked?.uncork();
      this.#corked = undefined;
    });
  }
}

/**
 * The way to the master by Sentinels. What watches for a new master belongs to one connection and ends with it: heard
 * while the next one is being made, the news would end the client for good ("Connection is closed.").
 */
export class MasterRoute extends SentinelConnector {
  /** ioredis hands its own options, which its type of a connector does not say. */
  constructor(options: unknown) {
    super(options as ConstructorParameters<typeof SentinelConnector>[0]);
  }

  override connect(
    ...args: Parameters<SentinelConnector["connect"]>
  ): ReturnType<SentinelConnector["connect"]> {
    const { failoverDetector } = this as unknown as {
      failoverDetector: { cleanup(): void } | null;
    };
    failoverDetector?.cleanup();
    return super.connect(...args);
  }
}

type Client = Redis | Cluster;

/** Whatever a connection sends shall be answered in time: scripts, BullMQ's commands, its own handshake. */
function bound(client: Redis, deadlines: Deadlines): Redis {
  const send = client.sendCommand.bind(client);
  client.sendCommand = (command, stream) => {
    deadlines.add(command);
    return send(command, stream);
  };
  return client;
}

/** On a Cluster each connection of its pool, and the ones that it asks for the slots. */
function boundClient(client: Client, deadlines: Deadlines): void {
  if (!(client instanceof Cluster)) {
    bound(client, deadlines);
    return;
  }
  const boundNode = (node: Redis) => {
    const duplicate = node.duplicate.bind(node);
    node.duplicate = ((override: Partial<RedisOptions>) =>
      bound(duplicate(override), deadlines)) as typeof node.duplicate;
    bound(node, deadlines);
  };
  // The first ones, too, come in a later turn.
  client.on("+node", boundNode);
}

function connect(address: Address, extra: Options): Client {
  const common: Options = {
    ...address.options,
    connectTimeout: connectTimeoutMs,
    retryStrategy: retryMs,
    maxLoadingRetryTime: loadingMs,
    reconnectOnError: (error) => error.message.startsWith("READONLY"),
    ...extra,
  };
  if (address.mode === "cluster") {
    const { enableOfflineQueue, retryStrategy, ...redisOptions } = common;
    void retryStrategy;
    return new Cluster(address.nodes, {
      redisOptions,
      enableOfflineQueue: enableOfflineQueue ?? true,
      clusterRetryStrategy: retryMs,
      slotsRefreshTimeout: connectTimeoutMs,
      retryDelayOnFailover: 100,
      retryDelayOnClusterDown: 100,
      shardedSubscribers: true,
    });
  }
  if (address.mode === "sentinel")
    return new BatchingRedis({
      ...common,
      sentinels: address.nodes,
      name: address.name,
      sentinelRetryStrategy: retryMs,
      sentinelReconnectStrategy: retryMs,
      failoverDetector: true,
      Connector: MasterRoute,
    });
  const [node] = address.nodes;
  return new BatchingRedis({ ...common, ...node });
}

const addressOf = ({ options }: Redis): string =>
  `${options.host}:${options.port}`;

/** A connection to one master and no other. */
export type MasterConnection = Redis;

type Handler = (payload: Buffer) => void;

/**
 * The subscriptions of a process over one connection (SSUBSCRIBE on a Cluster, one per master).
 * Emits `gap` when messages may have been missed and all channels are subscribed again, and `back` when commands are
 * answered again: either may come first.
 */
export class Subscriptions extends EventEmitter<{ gap: []; back: [] }> {
  readonly #client: Client;
  readonly #cluster: boolean;
  readonly #handlers = new Map<string, Handler>();
  readonly #logger: Logger;
  #readyOnce = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(client: Client, cluster: boolean, logger: Logger) {
    super();
    // One listener per connection of this process: any number is right.
    this.setMaxListeners(0);
    this.#client = client;
    this.#cluster = cluster;
    this.#logger = logger;
    client.on(
      cluster ? "smessageBuffer" : "messageBuffer",
      (channel: Buffer, payload: Buffer) => {
        this.#handlers.get(channel.toString("latin1"))?.(payload);
      },
    );
    client.on("ready", () => void this.#onReady());
    if (cluster) {
      client.on("+node", () => void this.#resubscribe());
      // Another node owns slots, known before or not; what ioredis then subscribes by itself it does not wait for.
      client.on("subscribersReady", () => void this.#resubscribe());
    }
  }

  /** Number of channels held now. */
  get size(): number {
    return this.#handlers.size;
  }

  /** Subscribes and resolves once Redis acknowledged it. */
  async subscribe(channel: string, handler: Handler): Promise<void> {
    this.#handlers.set(channel, handler);
    await this.#send(channel);
  }

  /** Ends a subscription; quiet when it is not there or Redis is away. */
  async unsubscribe(channel: string): Promise<void> {
    if (!this.#handlers.delete(channel)) return;
    try {
      await (this.#cluster
        ? this.#client.sunsubscribe(channel)
        : this.#client.unsubscribe(channel));
    } catch {
      // A connection that is gone has no subscriptions.
    }
  }

  #send(...some: string[]): Promise<unknown> {
    return this.#cluster
      ? Promise.all(some.map((channel) => this.#client.ssubscribe(channel)))
      : this.#client.subscribe(...some);
  }

  async #onReady(): Promise<void> {
    if (!this.#readyOnce) {
      this.#readyOnce = true;
      if (this.#handlers.size === 0) return;
    }
    await this.#resubscribe();
  }

  async #resubscribe(): Promise<void> {
    try {
      const all = [...this.#handlers.keys()];
      for (let from = 0; from < all.length; from += 500)
        await this.#send(...all.slice(from, from + 500));
      this.#logger.info({ channels: all.length }, "subscribed again");
      this.emit("gap");
    } catch (error) {
      // The next `ready` tries again; until then the lease renewal is the watchdog.
      this.#logger.warn({ err: error }, "could not subscribe again");
    }
  }

  /** Starts the canary: a subscriber that is connected but hears nothing is connected anew. */
  async watch(
    instance: string,
    publish: (channel: string) => void,
  ): Promise<void> {
    const channel = channels.canary(instance);
    let heard = performance.now();
    let sent = heard;
    this.#timer = setInterval(() => {
      const now = performance.now();
      // A pause of this process itself is no silence of the line.
      const paused = now - sent > 2 * canaryEveryMs;
      if (paused) heard = now;
      else if (
        now - heard > canarySilenceMs &&
        this.#client.status === "ready"
      ) {
        this.#logger.warn("the subscriber connection is deaf, connecting anew");
        heard = now;
        this.#client.disconnect(true);
      }
      sent = now;
      publish(channel);
    }, canaryEveryMs);
    this.#timer.unref();
    await this.subscribe(channel, () => {
      heard = performance.now();
    });
  }

  /** On a Cluster: looks who owns the slots, which an idle subscriber finds out late. */
  refresh(): void {
    if (this.#client instanceof Cluster) this.#client.refreshSlotsCache();
  }

  close(): void {
    clearInterval(this.#timer);
    this.#handlers.clear();
    this.#client.disconnect();
  }
}

const nothing: readonly number[] = [];
/** Where the number of a script's keys varies, it is said with each call. */
const countOf = (script: Script, keys: readonly string[]): readonly number[] =>
  script.keys === undefined ? [keys.length] : nothing;

/** What an ioredis client offers to a script call. */
type ScriptCall = (...args: Argument[]) => Promise<unknown>;

function defineScripts(
  client: Client,
  scripts: readonly Script[],
  publishCommand: string,
): void {
  for (const script of scripts)
    client.defineCommand(script.name, {
      ...(script.keys === undefined ? {} : { numberOfKeys: script.keys }),
      // Bells are sharded on a Cluster; scripts say @publish for either.
      lua: script.lua.replaceAll("@publish", publishCommand),
    });
}

/** `name` with "Buffer" behind it gives strings as Buffers. */
function callScript(
  client: Client,
  name: string,
  count: readonly number[],
  keys: readonly string[],
  args: readonly Argument[],
): Promise<unknown> {
  const call = (client as unknown as Record<string, ScriptCall>)[name];
  if (!call) throw new Error(`the script ${name} is not defined`);
  return call.call(client, ...count, ...keys, ...args);
}

/** A process's Redis. `run` and `command` throw redis_unavailable, redis_full or outcome_unknown, nothing else of Redis. */
export class RedisLink {
  readonly mode: Address["mode"];
  /** The command that rings a bell from a script. */
  readonly publishCommand: "PUBLISH" | "SPUBLISH";
  /** For BullMQ, which takes an ioredis client (shared/queue.ts). */
  readonly client: Client;
  readonly #address: Address;
  readonly #logger: Logger;
  readonly #scripts: readonly Script[];
  readonly #blocking: Client[] = [];
  /** Opened by the first large read. */
  #reader: { client: Client; turns: BulkReads } | undefined;
  #subscriptions: Subscriptions | undefined;
  #suspect = false;
  #probe: NodeJS.Timeout | undefined;
  #closed = false;
  readonly #mayTellFull = sparing(tellEveryMs);
  /** Until the first connection stands, or a command waited too long for it. */
  #opening: Promise<void> | undefined;

  constructor(url: string, scripts: readonly Script[], logger: Logger) {
    this.#address = parseAddress(url);
    this.mode = this.#address.mode;
    this.publishCommand = this.mode === "cluster" ? "SPUBLISH" : "PUBLISH";
    this.#logger = logger;
    this.client = connect(this.#address, { enableOfflineQueue: false });
    // In ioredis' words. Its own `commandTimeout` is a timer for each command, and due before the socket is read.
    const deadlines = new Deadlines(
      patienceMs,
      () => new Error("Command timed out"),
    );
    boundClient(this.client, deadlines);
    this.#scripts = scripts;
    defineScripts(this.client, scripts, this.publishCommand);
    this.#watch(this.client, "commands");
    this.#opening = new Promise((resolve) => {
      this.client.once("ready", resolve);
    });
    this.client.on("ready", () => this.#subscriptions?.emit("back"));
    // ioredis looks only when a command met trouble: reason enough for the subscriptions to look as well.
    this.client.on("refresh", () => this.#subscriptions?.refresh());
  }

  /** Counted from the first command: starting up may have taken longer than connecting. */
  async #opened(): Promise<void> {
    let callOff: (() => void) | undefined;
    await Promise.race([
      this.#opening,
      new Promise<void>((resolve) => {
        callOff = afterRunning(firstConnectMs, resolve);
      }),
    ]);
    callOff?.();
    this.#opening = undefined;
  }

  /** True while Redis answers, as far as is known. */
  get healthy(): boolean {
    return this.client.status === "ready" && !this.#suspect;
  }

  /** Runs a script; strings in the reply. */
  run(
    script: Script,
    keys: readonly string[],
    args: readonly Argument[],
  ): Promise<unknown> {
    return this.#call(script.name, countOf(script, keys), keys, args);
  }

  /** Runs a script; bulk replies are Buffers. */
  runBuffer(
    script: Script,
    keys: readonly string[],
    args: readonly Argument[],
  ): Promise<unknown> {
    return this.#call(
      `${script.name}Buffer`,
      countOf(script, keys),
      keys,
      args,
    );
  }

  async #call(
    name: string,
    count: readonly number[],
    keys: readonly string[],
    args: readonly Argument[],
  ): Promise<unknown> {
    if (this.#opening) await this.#opened();
    if (this.#suspect) throw away();
    try {
      return await callScript(this.client, name, count, keys, args);
    } catch (error) {
      throw this.#translate(error);
    }
  }

  /**
   * Runs a script whose answer may be large, about `bytes`, on a connection of its own (bulk-reads.ts); strings in the reply
   * are Buffers. It may wait for its turn.
   */
  async read(
    script: Script,
    keys: readonly string[],
    args: readonly Argument[],
    bytes: number,
  ): Promise<unknown> {
    if (this.#opening) await this.#opened();
    if (!this.healthy) throw away();
    this.#reader ??= this.#openReader();
    const { client, turns } = this.#reader;
    const name = `${script.name}Buffer`;
    try {
      return await turns.run(bytes, () =>
        callScript(client, name, countOf(script, keys), keys, args),
      );
    } catch (error) {
      throw this.#translate(error);
    }
  }

  #openReader(): { client: Client; turns: BulkReads } {
    // What is asked before it stands waits for it: a read may be done twice.
    const client = connect(this.#address, { maxRetriesPerRequest: null });
    boundClient(
      client,
      new Deadlines(readPatienceMs, () => new Error("Read timed out")),
    );
    defineScripts(client, this.#scripts, this.publishCommand);
    this.#watch(client, "reads");
    return { client, turns: new BulkReads() };
  }

  /** Calls `then` when this turn of the event loop has done what it had to do. What it sends leaves without delay. */
  atEndOfTurn(then: () => void): void {
    if (this.client instanceof BatchingRedis) this.client.atEndOfTurn(then);
    else setImmediate(then);
  }

  /** Any plain command, for the few places that need no script. */
  async command(name: string, ...args: Argument[]): Promise<unknown> {
    if (this.#opening) await this.#opened();
    if (this.#suspect) throw away();
    try {
      return await this.client.call(name, ...args);
    } catch (error) {
      throw this.#translate(error);
    }
  }

  /** Rings a channel outside a script. */
  async publish(channel: string, payload: string | Buffer): Promise<void> {
    await this.command(this.publishCommand, channel, payload);
  }

  /** The subscriptions of this process; the connection is opened at the first call. */
  get subscriptions(): Subscriptions {
    if (!this.#subscriptions) {
      const client = connect(this.#address, {
        autoResubscribe: false,
        maxRetriesPerRequest: null,
      });
      this.#watch(client, "subscriptions");
      this.#subscriptions = new Subscriptions(
        client,
        this.mode === "cluster",
        this.#logger,
      );
    }
    return this.#subscriptions;
  }

  /** A connection of its own for commands that block by design (BullMQ's BZPOPMIN). */
  openBlocking(): Client {
    const client = connect(this.#address, { maxRetriesPerRequest: null });
    this.#watch(client, "blocking");
    this.#blocking.push(client);
    return client;
  }

  /** The master that holds `{tag}`; always the same word where there is but one. Throws redis_unavailable. */
  masterOf(tag: string): string {
    if (!(this.client instanceof Cluster)) return "master";
    const [node] = this.client.slots[slotOf(tag)] ?? [];
    if (node === undefined) throw away();
    return node;
  }

  /** The names of all masters, as `masterOf` gives them. */
  async masters(): Promise<string[]> {
    await this.ready();
    if (!(this.client instanceof Cluster)) return ["master"];
    return this.client.nodes("master").map(addressOf);
  }

  /** What a master says of its memory: the text of INFO. */
  async memoryOf(master: string): Promise<string> {
    if (this.#opening) await this.#opened();
    const client =
      this.client instanceof Cluster
        ? this.client.nodes("master").find((node) => addressOf(node) === master)
        : this.client;
    if (!client || this.#suspect) throw away();
    try {
      return await client.info("memory");
    } catch (error) {
      throw this.#translate(error);
    }
  }

  /**
   * A connection of its own to a master. What was not answered when it broke is refused and never sent again: an order
   * of commands that means something (replication.ts) must not be torn apart.
   */
  openMaster(master: string): MasterConnection {
    const { options, mode } = this.#address;
    const at = master.lastIndexOf(":");
    const alone: Address = {
      mode: "single",
      nodes: [
        { host: master.slice(0, at), port: Number(master.slice(at + 1)) },
      ],
      name: "",
      options,
    };
    const client = connect(mode === "cluster" ? alone : this.#address, {
      maxRetriesPerRequest: 0,
    }) as Redis;
    this.#watch(client, "replication");
    this.#blocking.push(client);
    return client;
  }

  /** Resolves when Redis answers a PING, rejects with `redis_unavailable` otherwise. */
  async ready(): Promise<void> {
    await this.command("PING");
  }

  #watch(client: Client, role: string): void {
    let quiet = false;
    client.on("error", (error: Error) => {
      if (quiet || this.#closed) return;
      quiet = true;
      this.#logger.warn(
        { role, reason: error.message },
        "Redis connection lost",
      );
    });
    client.on("ready", () => {
      quiet = false;
      this.#logger.info({ role }, "Redis connected");
    });
  }

  #translate(error: unknown): Error {
    if (error instanceof BridgeError) return error;
    const { message, name } = error as Error;
    if (message === "Command timed out") {
      this.#suspectFrozen();
      return new BridgeError(
        "outcome_unknown",
        { retryAfterSeconds: 1 },
        error,
      );
    }
    if (isOutOfMemory(error)) {
      if (this.#mayTellFull())
        this.#logger.warn("Redis is out of memory and refuses writes");
      return redisFull({}, error);
    }
    if (
      message === "Read timed out" ||
      message.startsWith("Stream isn't writeable") ||
      message.includes("enableOfflineQueue") ||
      serverAway.test(message) ||
      name === "ClusterAllFailedError"
    )
      return away(error);
    if (
      name === "MaxRetriesPerRequestError" ||
      message === "Connection is closed." ||
      message.includes("ECONNRESET") ||
      name === "AbortError"
    )
      return new BridgeError(
        "outcome_unknown",
        { retryAfterSeconds: 1 },
        error,
      );
    return error as Error;
  }

  /** After a timeout nothing more is sent but a probe, so that a frozen Redis does not execute it all later. */
  #suspectFrozen(): void {
    if (this.#suspect || this.#closed) return;
    this.#suspect = true;
    this.#logger.warn("Redis does not answer");
    this.#reader?.turns.refuse(away());
    const ask = async () => {
      try {
        await this.client.ping();
        this.#suspect = false;
        this.#logger.info("Redis answers again");
        this.#subscriptions?.emit("back");
      } catch {
        if (this.#closed) return;
        this.#probe = setTimeout(() => void ask(), suspectProbeMs);
        this.#probe.unref();
      }
    };
    void ask();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#probe);
    this.#subscriptions?.close();
    for (const client of this.#blocking) client.disconnect();
    this.#reader?.client.disconnect();
    this.client.disconnect();
  }
}

function away(cause?: unknown): BridgeError {
  // The one cause that lies beside Redis and can be told in a word.
  const disk = cause instanceof Error && /\bMISCONF\b/.test(cause.message);
  return new BridgeError(
    "redis_unavailable",
    {
      ...(disk && {
        detail:
          "Redis cannot write to its disk and takes no writes until it can",
      }),
      retryAfterSeconds: 1,
    },
    cause,
  );
}
