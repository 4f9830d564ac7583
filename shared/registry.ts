/**
 * The registry: which connections exist, who they are, and which process owns each, by epoch. That a process is alive, and what it
 * holds, is in the directory (directory.ts); `sweep` turns what ran out, and what the dead have left, into its next state.
 */
import type {
  Connection,
  ConnectionState,
  PrepareRequest,
  Reason,
} from "./api.js";
import { Directory, type DeadInstance } from "./directory.js";
import { directoryScripts } from "./directory-scripts.js";
import { BridgeError, connectionEnded, connectionNotFound } from "./errors.js";
import type { Events } from "./events.js";
import type { Position } from "./fanout.js";
import { newConnectionId, userTag } from "./ids.js";
import {
  channels,
  connectionKeys,
  everybody,
  horizonMs,
  keys,
} from "./keys.js";
import { ManyCalls } from "./many.js";
import { Outbox, outboxScripts } from "./outbox.js";
import type { RedisLink, Script } from "./redis.js";
import {
  claimScript,
  confirmScript,
  endScript,
  identifyScript,
  inspectScript,
  lapseScript,
  prepareScript,
  releaseScript,
  restoreScript,
} from "./registry-scripts.js";
import { arriveScript, userConnectionsMax } from "./user-scripts.js";

export const registryScripts: readonly Script[] = [
  prepareScript,
  identifyScript,
  claimScript,
  confirmScript,
  restoreScript,
  releaseScript,
  endScript,
  lapseScript,
  inspectScript,
  ...directoryScripts,
  ...outboxScripts,
];

/** A sweep looks at so many connections side by side. */
const sweepAbreast = 20;
/** So many renewals apart what this process holds is compared with what Redis says, name by name. */
const comparedEvery = 6;
/** What is too old in the stream of events is dropped this often by whoever sweeps, milliseconds. */
const tidyEveryMs = 5_000;
/** Events that could not be told now are looked for again after this long, milliseconds. */
const tellAgainMs = 1_000;

/** An add that was under way when a connection ended has arrived or failed after this long (rule 13). */
const addDeadlineMs = 5_000;

export type Protocol = "raw" | "bridge.v1.json";

/** Who a connection is; lists and objects as JSON text, as they are stored. */
export interface Identity {
  userId: string;
  groups: string;
  labels: string;
  permissions: string;
  createdMs: number;
}

/** Where a connection stands in its groups, by name: what it joined at, or has acked. */
export type Positions = ReadonlyMap<string, Position>;

export interface Claim {
  epoch: number;
  /** The client has everything up to here, since it was handed out and the client says so; delivery goes on after it. */
  cur: number;
  /** What the client says it has: above `cur` only where Redis lost history, or it is not true. Counts for nothing. */
  said: number;
  /** Highest seq that was accepted. */
  seq: number;
  /** Up to here messages may have been sent before. */
  readTo: number;
  /** What had been acked before this claim. */
  acked: number;
  lost: boolean;
  /** Sockets ended at its first unacked message: what is known of that (poison.ts). */
  suspect: string;
  identity: Identity;
  groups: {
    /** Grows when the backend changes them. */
    version: number;
    positions: Positions;
    /** Where `$all` stands. */
    everybody: Position;
    /** Nobody had the connection before, so nothing can have been sent to it. */
    fresh: boolean;
  };
}

/** What Redis says of a connection to its owner. */
export type Confirmation =
  | {
      kind: "ok";
      seq: number;
      groupsVersion: number;
      /** Redis had it no more, or not as open: its groups may have forgotten it as well. */
      restored: boolean;
    }
  | { kind: "fenced" }
  | { kind: "ended"; code: number; words: string };

/** What others do for a sweep. */
export interface SweepPorts {
  /** Takes away what is left of a connection that has ended. */
  remove(connectionId: string): Promise<void>;
  /** A connection lost its owner: its groups hear that it is not online, and a member for `spanMs` yet. */
  away(
    connectionId: string,
    groups: readonly string[],
    spanMs: number,
  ): Promise<void>;
  /** Takes away what is left of a process that is dead and holds nothing any more. */
  retire(instance: string): Promise<void>;
}

export interface RegistryOptions {
  leaseMs: number;
  resumeMs: number;
  preparedMs: number;
  endedMs: number;
  receiptMs: number;
  /** How long it is remembered where `$all` stands, milliseconds. */
  groupKeepMs?: number;
}

/** conn, log, topics first, as the ending scripts want them; then everything else. */
function endingKeys(id: string): string[] {
  const first = [keys.connection(id), keys.log(id), keys.topics(id)];
  return [
    ...first,
    ...connectionKeys(id).filter((key) => !first.includes(key)),
  ];
}

const positionsText = (positions: Positions): string =>
  [...positions]
    .map(([name, { epoch, offset }]) => `${name} ${epoch} ${offset}`)
    .join(" ");

/** Reads `group epoch offset …`. */
export function parsePositions(text: string): Positions {
  const positions = new Map<string, Position>();
  const words = text.split(" ");
  for (let i = 0; i + 2 < words.length; i += 3)
    positions.set(words[i] ?? "", {
      epoch: words[i + 1] ?? "",
      offset: Number(words[i + 2]),
    });
  return positions;
}

const nowhere: Positions = new Map();

/** The registry, in Redis. Throws redis_unavailable or outcome_unknown when Redis is away or silent. */
export class Registry {
  readonly directory: Directory;
  readonly #redis: RedisLink;
  readonly #options: RegistryOptions;
  readonly #events: Events;
  readonly #outbox: Outbox;
  readonly #confirmations: ManyCalls;
  /** How many sockets and claims of this process count on each connection. */
  readonly #held = new Map<string, number>();
  /** Claims that are under way. */
  #claiming = 0;
  /** Redis said at the last renewal that this process holds more than it does. */
  #wasOver = false;
  #isUnsure = false;
  #renewals = 0;
  /** Processes that were dead at the last look, with the end of their lease. */
  #dead: ReadonlyMap<string, number> = new Map();
  #tidiedAt = -Infinity;

  constructor(redis: RedisLink, options: RegistryOptions, events: Events) {
    this.#redis = redis;
    this.#options = options;
    this.#events = events;
    this.#outbox = new Outbox(redis, events);
    this.#confirmations = new ManyCalls(redis, confirmScript);
    this.directory = new Directory(redis, {
      keepMs: options.groupKeepMs ?? options.resumeMs + options.receiptMs,
    });
  }

  get #keepMs(): number {
    return Math.max(this.#options.endedMs, this.#options.receiptMs);
  }

  /** How long a connection waits for its client, milliseconds. */
  waitMs(request: PrepareRequest): number {
    return request.expiresIn === undefined
      ? this.#options.preparedMs
      : request.expiresIn * 1_000;
  }

  /**
   * Makes a connection that waits for its client, a member of `$all`. Default wait: PREPARED_SECONDS. Its groups know of it
   * already (membership.ts), at these positions. Throws redis_full.
   */
  async prepare(
    request: PrepareRequest,
    connectionId = newConnectionId(),
    positions = nowhere,
  ): Promise<{ connectionId: string; expiresAtMs: number }> {
    const waitMs = this.waitMs(request);
    // Who dies after this leaves an entry for nobody, which goes when it is due.
    const here = await this.directory.list(connectionId, waitMs);
    const until = await this.#redis.run(
      prepareScript,
      [keys.connection(connectionId)],
      [
        waitMs,
        this.#keepMs,
        request.userId ?? "",
        JSON.stringify(request.groups ?? []),
        JSON.stringify(request.labels ?? {}),
        JSON.stringify(request.permissions ?? []),
        positionsText(new Map([...positions, [everybody, here]])),
      ],
    );
    const expiresAtMs = Number(until);
    await this.#listForUser(
      request.userId ?? "",
      connectionId,
      waitMs + this.#keepMs,
    );
    return { connectionId, expiresAtMs };
  }

  /**
   * Says anew who a prepared connection is; false when it has been opened meanwhile, or is gone. Its groups are changed
   * by membership.ts.
   */
  async identify(
    { connectionId, userId: before }: Connection,
    {
      userId,
      labels,
      permissions,
    }: Pick<PrepareRequest, "userId" | "labels" | "permissions">,
  ): Promise<boolean> {
    const fields = [
      ...(userId === undefined ? [] : ["user", userId]),
      ...(labels === undefined ? [] : ["labels", JSON.stringify(labels)]),
      ...(permissions === undefined
        ? []
        : ["permissions", JSON.stringify(permissions)]),
    ];
    if (fields.length === 0) return true;
    const done = await this.#redis.run(
      identifyScript,
      [keys.connection(connectionId)],
      fields,
    );
    if (Number(done) !== 1) return false;
    if (userId !== undefined && userId !== before) {
      // A list that names it in vain is put right when it is read.
      if (before !== null)
        await this.forgetOfUser(userTag(before), connectionId);
      await this.#listForUser(
        userId,
        connectionId,
        this.#options.preparedMs + this.#keepMs,
      );
    }
    return true;
  }

  /** The user's own list: found by pushes to the user, by presence and sign-out. */
  async #listForUser(
    userId: string,
    connectionId: string,
    keepMs: number,
  ): Promise<void> {
    if (userId === "") return;
    const tag = userTag(userId);
    await this.#redis.run(
      arriveScript,
      [keys.userConnections(tag), keys.userParked(tag), keys.userClaims(tag)],
      [connectionId, keepMs, 0],
    );
  }

  /** Takes a connection that is no more out of its user's list. Tidiness: lists are checked on read. */
  async forgetOfUser(tag: string, connectionId: string): Promise<void> {
    await this.#redis
      .command("ZREM", keys.userConnections(tag), connectionId)
      .catch(() => undefined);
  }

  async #unlist(connectionId: string): Promise<void> {
    const userId = (await this.#redis
      .command("HGET", keys.connection(connectionId), "user")
      .catch(() => null)) as string | null;
    if (userId) await this.forgetOfUser(userTag(userId), connectionId);
  }

  /**
   * A user's connections that have not ended, in order of ID, a thousand at most. What is stale in the list is taken out,
   * unless nothing may be changed.
   */
  async ofUser(userId: string, look = false): Promise<Connection[]> {
    const tag = userTag(userId);
    const ids = (await this.#redis.command(
      "ZRANGE",
      keys.userConnections(tag),
      0,
      userConnectionsMax - 1,
    )) as string[];
    ids.sort();
    const found = await Promise.all(ids.map((id) => this.#inspect(id)));
    const there: Connection[] = [];
    for (const [index, connection] of found.entries())
      if (
        connection &&
        connection.state !== "ended" &&
        connection.userId === userId
      )
        there.push(connection);
      else if (!look) await this.forgetOfUser(tag, ids[index] ?? "");
    return there;
  }

  /** How many connections this process holds, those that it is about to take included. */
  get held(): number {
    return this.#held.size;
  }

  #hold(connectionId: string): void {
    this.#held.set(connectionId, (this.#held.get(connectionId) ?? 0) + 1);
  }

  /** False while another socket or claim of this process counts on it. */
  #letGo(connectionId: string): boolean {
    const left = (this.#held.get(connectionId) ?? 1) - 1;
    if (left > 0) this.#held.set(connectionId, left);
    else this.#held.delete(connectionId);
    return left <= 0;
  }

  /**
   * Takes a connection for a socket of `owner`, this process. What it took must be given back: `release`, `end` with its epoch,
   * or `abandon`. Throws connection_not_found, connection_ended, overtaken.
   */
  async claim(
    connectionId: string,
    request: {
      owner: string;
      protocol: Protocol;
      resumeSeq?: number;
      /** The epoch in which the resume token was given that it comes with. */
      resumeEpoch?: number;
      attempt?: string;
    },
  ): Promise<Claim> {
    this.#hold(connectionId);
    this.#claiming += 1;
    try {
      return await this.#claim(connectionId, request);
    } catch (error) {
      if (this.#letGo(connectionId))
        // What cannot be put right now, the next comparison of what this process holds finds.
        await this.#putRight(request.owner, connectionId).catch(
          () => undefined,
        );
      throw error;
    } finally {
      this.#claiming -= 1;
    }
  }

  async #claim(
    connectionId: string,
    request: Parameters<Registry["claim"]>[1],
  ): Promise<Claim> {
    await this.settle([connectionId]);
    // Before the claim: whoever dies right after it leaves a connection that a sweep will find.
    const holding = this.directory.hold(request.owner, connectionId);
    const send = () =>
      this.#redis.run(claimScript, connectionKeys(connectionId), [
        request.owner,
        horizonMs,
        request.resumeSeq ?? "",
        request.protocol,
        this.#redis.publishCommand,
        channels.bell(connectionId),
        this.#options.resumeMs,
        request.attempt ?? "",
        request.resumeEpoch ?? "",
      ]) as Promise<unknown[]>;
    const sending =
      this.#redis.mode === "cluster"
        ? holding.then(send)
        : new Promise<unknown[]>((resolve) => {
            this.#redis.atEndOfTurn(() => resolve(send()));
          });
    const [here, claimed] = await Promise.all([holding, sending]);
    let reply = claimed;
    if (reply[0] === "lapsed") {
      await this.lapse(connectionId);
      reply = await send();
    }
    if (reply[0] === "ended")
      throw connectionEnded(Number(reply[1]), String(reply[2]));
    if (reply[0] === "overtaken")
      throw new BridgeError("overtaken", {
        detail: "a later attempt of this client has the connection",
      });
    if (reply[0] === "replaced")
      throw new BridgeError("token_invalid", {
        detail: "a later resume token of this connection has been used",
      });
    if (reply[0] !== "claimed") throw connectionNotFound(connectionId);
    const [
      ,
      epoch,
      cur,
      seq,
      readTo,
      lost,
      userId = "",
      groups,
      labels,
      permissions,
      created,
      acked,
      suspect = "",
      isFirst,
      version,
      positions = "",
      fresh,
      now,
      said,
    ] = reply.map(String);
    // The client need not wait for it; if this process ends first, a sweep tells.
    if (isFirst === "1")
      void this.#happened({
        connectionId,
        opened: `${now} ${request.protocol}`,
        ended: "",
        userId,
        connected: now ?? "",
        nowMs: Number(now),
      });
    return {
      epoch: Number(epoch),
      cur: Number(cur),
      said: Number(said),
      seq: Number(seq),
      readTo: Number(readTo),
      acked: Number(acked),
      lost: lost === "1",
      suspect,
      identity: {
        userId,
        groups: groups ?? "[]",
        labels: labels ?? "{}",
        permissions: permissions ?? "[]",
        createdMs: Number(created),
      },
      groups: {
        version: Number(version),
        positions: parsePositions(positions),
        everybody: here,
        fresh: fresh === "1",
      },
    };
  }

  /**
   * Compares what the owner of `epoch` knows with what Redis knows, which recreates what a failover lost. It has sent everything up
   * to `cur`. With `upkeep` the expiry of what is stored is renewed as well.
   */
  async confirm(
    connectionId: string,
    owner: {
      epoch: number;
      owner: string;
      cur: number;
      protocol: Protocol;
      identity: Identity;
      upkeep?: boolean;
      /** What was acked of its groups since Redis was told last. */
      positions?: Positions;
    },
  ): Promise<Confirmation> {
    const positions = positionsText(owner.positions ?? nowhere);
    if (!owner.upkeep) {
      const reply = String(
        await this.#confirmations.call({
          keys: [keys.connection(connectionId)],
          args: [owner.epoch, owner.cur, positions],
        }),
      );
      const [word, seq, version] = reply.split(" ");
      if (word === "ok")
        return {
          kind: "ok",
          seq: Number(seq),
          groupsVersion: Number(version),
          restored: false,
        };
    }
    const { identity } = owner;
    const reply = (
      (await this.#redis.run(restoreScript, connectionKeys(connectionId), [
        owner.epoch,
        owner.owner,
        horizonMs,
        owner.cur,
        owner.protocol,
        identity.userId,
        identity.groups,
        identity.labels,
        identity.permissions,
        identity.createdMs,
        positions,
      ])) as unknown[]
    ).map(String);
    const [kind, first, second, restored] = reply;
    if (kind === "ended")
      return { kind, code: Number(first), words: second ?? "" };
    if (kind !== "ok") return { kind: "fenced" };
    // Where it was lost, or goes with its expiry, so is or does its place in the lists.
    await Promise.all([
      this.directory.hold(owner.owner, connectionId),
      this.#listForUser(identity.userId, connectionId, horizonMs),
    ]);
    return {
      kind,
      seq: Number(first),
      groupsVersion: Number(second),
      restored: restored === "1" || owner.upkeep === true,
    };
  }

  /**
   * The socket is gone; the connection waits for its client for RESUME_SECONDS. Nothing above `handed` was ever handed out;
   * without it, what was heard or read counts as handed out. False when it was not ours any more.
   */
  async release(
    connectionId: string,
    owner: { epoch: number; owner: string; handed?: number },
    positions = nowhere,
  ): Promise<boolean> {
    const until = await this.#lettingGo(connectionId, () =>
      this.#redis.run(
        releaseScript,
        [keys.connection(connectionId)],
        [
          owner.epoch,
          this.#options.resumeMs,
          positionsText(positions),
          owner.handed ?? "",
        ],
      ),
    );
    const untilMs = Number(until.reply);
    if (until.isLast)
      await this.directory.depart(
        owner.owner,
        connectionId,
        until.reply === "" ? {} : { untilMs, dueMs: untilMs + 1 },
      );
    return until.reply !== "";
  }

  /** Whatever comes of it, this socket counts no more; what fails is found by `live`. */
  async #lettingGo(
    connectionId: string,
    say: () => Promise<unknown>,
  ): Promise<{ reply: unknown; isLast: boolean }> {
    try {
      const reply = await say();
      return { reply, isLast: this.#letGo(connectionId) };
    } catch (error) {
      this.#letGo(connectionId);
      throw error;
    }
  }

  /** This process has lost it to another one, or it was ended: nothing is said but that it is not held here. */
  async abandon(connectionId: string, owner: string): Promise<void> {
    if (this.#letGo(connectionId))
      await this.directory.depart(owner, connectionId, {});
  }

  /**
   * Ends a connection: with `epoch` as its owner, which must still be it; without one from outside, and its socket is
   * told to close with `code`. False when there was nothing to end.
   */
  async end(
    connectionId: string,
    end: {
      epoch?: number;
      owner?: string;
      reason: Reason;
      code: number;
      words: string;
    },
  ): Promise<boolean> {
    const say = () =>
      this.#redis.run(endScript, endingKeys(connectionId), [
        end.epoch ?? "",
        end.reason,
        end.code,
        end.words,
        this.#keepMs,
        this.#redis.publishCommand,
        channels.bell(connectionId),
        channels.news(connectionId),
      ]);
    const { reply, isLast } =
      end.epoch === undefined
        ? { reply: await say(), isLast: true }
        : await this.#lettingGo(connectionId, say);
    const [word, now = "", , opened = "", more, ended = "", ...rest] = (
      reply as unknown[]
    ).map(String);
    if (word !== "ended") {
      if (end.epoch !== undefined && isLast)
        await this.directory.depart(end.owner ?? "", connectionId, {});
      return false;
    }
    const [userId = "", connected = "", scheduled, groups] = rest;
    const nowMs = Number(now);
    const told = await (more === "1"
      ? this.#tellQuietly(connectionId)
      : this.#happened({
          connectionId,
          opened,
          ended,
          userId,
          connected,
          nowMs,
        }));
    // Its owner leaves its groups; for one that was ended from outside, or has jobs, somebody has to clear up.
    const isClear =
      end.epoch !== undefined && scheduled === "0" && isLast && groups === "[]";
    await Promise.all([
      userId !== "" && this.forgetOfUser(userTag(userId), connectionId),
      this.directory.depart(end.owner ?? "", connectionId, {
        untilMs: 0,
        dueMs: !told
          ? nowMs + tellAgainMs
          : isClear
            ? 0
            : nowMs + addDeadlineMs,
      }),
    ]);
    return true;
  }

  /** Appends what the connection has to tell to the stream of events (outbox.ts); false when some is left. */
  tell(connectionId: string): Promise<boolean> {
    return this.#outbox.tell(connectionId);
  }

  /** Before something else is appended to the stream: `connected` comes first. */
  hurry(): void {
    this.#outbox.hurry();
  }

  /** For who has done something else: what cannot be told now, a sweep tells. */
  #tellQuietly(connectionId: string): Promise<boolean> {
    return this.tell(connectionId).catch(() => false);
  }

  /** The same for what a script has just said. */
  async #happened(
    what: Omit<Parameters<Outbox["happened"]>[0], "keepMs">,
  ): Promise<boolean> {
    const { connectionId } = what;
    try {
      if (await this.#outbox.happened({ ...what, keepMs: this.#keepMs }))
        return true;
      return await this.#tellQuietly(connectionId);
    } catch {
      // An open connection has no other entry that makes somebody look.
      if (what.ended === "")
        await this.directory
          .lookAgain(connectionId, what.nowMs + tellAgainMs)
          .catch(() => undefined);
      return false;
    }
  }

  /**
   * Ends or moves on a connection whose time is over, tells what it has to tell, and notes in the directory where it is now. `dead`: a process
   * whose lease is over, if it still owns the connection. Returns its state now.
   */
  async lapse(
    connectionId: string,
    dead?: Pick<DeadInstance, "instance" | "leaseEndMs">,
  ): Promise<{
    state: ConnectionState | "gone";
    dueMs: number;
    nowMs: number;
    /** False when events are left to be told. */
    told: boolean;
    /** Its owner is gone since this look; it is in these groups. */
    left: readonly string[] | undefined;
    owner: string;
  }> {
    const reply = (
      (await this.#redis.run(lapseScript, endingKeys(connectionId), [
        this.#options.resumeMs,
        this.#keepMs,
        this.#redis.publishCommand,
        channels.bell(connectionId),
        channels.news(connectionId),
        dead?.instance ?? "",
        dead?.leaseEndMs ?? "",
      ])) as unknown[]
    ).map(String);
    const [state = "gone", due, now, happened, marks, owner = "", groups] =
      reply;
    const nowMs = Number(now);
    const dueMs = Number(due);
    const held = dead?.instance ?? "";
    if (happened === "left")
      await this.directory.depart(held, connectionId, {
        untilMs: dueMs,
        dueMs: dueMs + 1,
      });
    // Whoever sweeps takes away what is left of it.
    else if (happened === "ended")
      await this.directory.depart(held, connectionId, {
        untilMs: 0,
        dueMs: nowMs,
      });
    return {
      state: state as ConnectionState | "gone",
      dueMs,
      nowMs,
      told: marks !== "1" || (await this.#tellQuietly(connectionId)),
      left:
        happened === "left"
          ? (JSON.parse(groups ?? "[]") as string[])
          : undefined,
      owner,
    };
  }

  /** Whether a process was dead at the last look that may still own connections. */
  get hasDead(): boolean {
    return this.#dead.size > 0;
  }

  /** Before connections are used: those of dead processes become what they are. Costs nothing while all are alive. */
  async settle(connectionIds: readonly string[]): Promise<void> {
    if (!this.hasDead) return;
    await Promise.all(
      connectionIds.map(async (connectionId) => {
        const owner = String(
          await this.#redis.command(
            "HGET",
            keys.connection(connectionId),
            "owner",
          ),
        );
        const leaseEndMs = this.#dead.get(owner);
        if (leaseEndMs !== undefined)
          await this.lapse(connectionId, { instance: owner, leaseEndMs });
      }),
    );
  }

  /** Notes in the directory how a connection stands that `instance` does not hold, whatever the directory says. */
  async #putRight(instance: string, connectionId: string): Promise<void> {
    const { state, dueMs, nowMs, owner } = await this.lapse(connectionId);
    if (state === "open" && owner === instance && !this.#held.has(connectionId))
      return this.#giveUp(instance, connectionId);
    if (this.#held.has(connectionId)) return;
    if (state === "open")
      await this.directory.depart(instance, connectionId, {});
    else if (state === "gone" || state === "ended")
      await this.directory.depart(instance, connectionId, {
        untilMs: 0,
        dueMs: nowMs,
      });
    else
      await this.directory.depart(instance, connectionId, {
        untilMs: dueMs,
        dueMs: dueMs + 1,
      });
  }

  /** A claim of ours was done and its answer was lost, or a release was: nobody has the socket. */
  async #giveUp(instance: string, connectionId: string): Promise<void> {
    const epoch = Number(
      await this.#redis.command("HGET", keys.connection(connectionId), "epoch"),
    );
    this.#hold(connectionId);
    await this.release(connectionId, { epoch, owner: instance });
  }

  /** Another Redis may answer than before: with the next `live` it is asked for every connection that this process holds. */
  unsure(): void {
    this.#isUnsure = true;
  }

  /** This process is alive. False when Redis had forgotten it. */
  async live(instance: string): Promise<boolean> {
    const mine = this.#held.size;
    const claiming = this.#claiming;
    const { known, held } = await this.directory.live(
      instance,
      this.#options.leaseMs,
    );
    const isUnder = !known || held < mine - claiming;
    // A release is on its way, or was lost there: a moment later it is over.
    const isOver = held > this.#held.size;
    this.#renewals += 1;
    if (
      isUnder ||
      (isOver && this.#wasOver) ||
      this.#isUnsure ||
      this.#renewals % comparedEvery === 0
    ) {
      await this.#compare(instance);
      this.#isUnsure = false;
    }
    this.#wasOver = isOver;
    return known;
  }

  /** Redis may have forgotten connections that this process holds, and may name others: both are put right. */
  async #compare(instance: string): Promise<void> {
    const mine = [...this.#held.keys()];
    const said = await this.directory.heldBy(instance);
    for (const connectionId of mine)
      if (this.#held.has(connectionId) && !said.has(connectionId))
        void this.directory.hold(instance, connectionId).catch(() => undefined);
    for (const connectionId of said)
      if (!this.#held.has(connectionId))
        await this.#putRight(instance, connectionId);
  }

  /** This process ends, and holds nothing any more. */
  async retire(instance: string): Promise<void> {
    await this.#outbox.flush();
    await this.directory.retire(instance);
  }

  /**
   * Looks at up to `limit` connections that are due, and at as many of each process that is dead, and begins with no more once
   * `withinMs` are over. Any number of processes may do this at once. Returns how many it looked at.
   */
  async sweep(
    ports: SweepPorts,
    { limit = 100, withinMs = Infinity } = {},
  ): Promise<number> {
    const from = performance.now();
    const tidy = from - this.#tidiedAt > tidyEveryMs;
    if (tidy) this.#tidiedAt = from;
    const [{ due, dead }] = await Promise.all([
      this.directory.look(limit),
      tidy && this.#events.tidy(),
    ]);
    this.#dead = new Map(
      dead.map(({ instance, leaseEndMs }) => [instance, leaseEndMs]),
    );
    const looks = [
      ...due.map((id) => ({ id, dead: undefined })),
      ...dead.flatMap((one) =>
        one.connectionIds.map((id) => ({ id, dead: one })),
      ),
    ];
    let looked = 0;
    while (looked < looks.length && performance.now() - from < withinMs) {
      const some = looks.slice(looked, looked + sweepAbreast);
      await Promise.all(
        some.map((look) => this.#lookSafely(look.id, look.dead, ports)),
      );
      looked += some.length;
    }
    for (const { instance, leaseEndMs } of dead)
      if (await this.directory.retire(instance, leaseEndMs))
        await ports.retire(instance);
    return looked;
  }

  async #lookSafely(
    id: string,
    dead: DeadInstance | undefined,
    ports: SweepPorts,
  ): Promise<void> {
    try {
      await this.#look(id, dead, ports);
    } catch (error) {
      // A full Redis refuses new events only: the marks wait, and what drains goes on.
      if (error instanceof BridgeError && error.code !== "redis_full")
        throw error;
      // One that cannot be dealt with now must not block those behind it.
      if (!dead) await this.directory.lookAgain(id, Date.now() + addDeadlineMs);
    }
  }

  async #look(
    id: string,
    dead: DeadInstance | undefined,
    ports: SweepPorts,
  ): Promise<void> {
    const { state, dueMs, nowMs, told, left, owner } = await this.lapse(
      id,
      dead,
    );
    const held = dead?.instance ?? "";
    if (left) await ports.away(id, left, Math.max(0, dueMs - nowMs));
    if (!told) {
      await this.directory.depart(held, id, { dueMs: nowMs + tellAgainMs });
      return;
    }
    if (state === "open") {
      // Its owner may have taken it while its last owner left it: what was noted then was too late.
      if (!dead) await this.directory.hold(owner, id);
      else await this.directory.depart(held, id, {});
      return;
    }
    if (state === "ended" || state === "gone") {
      await ports.remove(id);
      await Promise.all([
        this.#unlist(id),
        // Whose jobs it names is settled; its receipts are read for a while.
        this.#redis.command("PEXPIRE", keys.scheduled(id), this.#keepMs),
        this.directory.depart(held, id, { untilMs: 0, dueMs: 0 }),
      ]);
      return;
    }
    await this.directory.depart(held, id, {
      untilMs: dueMs,
      dueMs: dueMs + 1,
    });
  }

  async #inspect(connectionId: string): Promise<Connection | undefined> {
    const reply = (
      (await this.#redis.run(
        inspectScript,
        [keys.connection(connectionId), keys.log(connectionId)],
        [],
      )) as unknown[]
    ).map(String);
    const [now, pending, ...pairs] = reply;
    if (pairs.length === 0) return undefined;
    const fields: Record<string, string | undefined> = {};
    for (let i = 0; i + 1 < pairs.length; i += 2)
      fields[pairs[i] ?? ""] = pairs[i + 1];
    return this.#describe(connectionId, fields, Number(now), Number(pending));
  }

  #describe(
    connectionId: string,
    fields: Record<string, string | undefined>,
    nowMs: number,
    pending: number,
  ): Connection {
    const time = (text: string | undefined) =>
      text === undefined || text === ""
        ? null
        : new Date(Number(text)).toISOString();
    let state = (fields["state"] ?? "ended") as ConnectionState;
    let until = fields["until"];
    let lease = Number(fields["lease"] ?? 0);
    // As lapseScript has it: a dead owner's connection, unless it was taken after its end.
    const deadMs = this.#dead.get(fields["owner"] ?? "");
    if (deadMs !== undefined && lease - horizonMs <= deadMs) lease = deadMs;
    if (state === "open" && nowMs > lease) {
      state = "away";
      until = String(lease + this.#options.resumeMs);
    }
    let ended = fields["ended"];
    let reason = fields["reason"];
    if ((state === "away" || state === "prepared") && nowMs > Number(until)) {
      reason = state === "prepared" ? "never_connected" : "resume_expired";
      state = "ended";
      ended = until;
    }
    return {
      connectionId,
      state,
      userId: fields["user"] ? fields["user"] : null,
      groups: JSON.parse(fields["groups"] ?? "[]") as string[],
      labels: JSON.parse(fields["labels"] ?? "{}") as Record<string, string>,
      permissions: JSON.parse(fields["permissions"] ?? "[]") as string[],
      protocol: (fields["protocol"] as Protocol | undefined) ?? null,
      createdAt: time(fields["created"]) ?? new Date(0).toISOString(),
      connectedAt: time(fields["connected"]),
      expiresAt: state === "prepared" || state === "away" ? time(until) : null,
      endedAt: state === "ended" ? time(ended) : null,
      reason: state === "ended" ? (reason as Reason) : null,
      instance: state === "open" ? (fields["owner"] ?? null) : null,
      pending: state === "ended" ? 0 : pending,
    };
  }

  /** A connection as it is now, ended ones included. Throws connection_not_found. */
  async inspect(connectionId: string): Promise<Connection> {
    const connection = await this.#inspect(connectionId);
    if (!connection) throw connectionNotFound(connectionId);
    return connection;
  }

  /** One page in order of ID; ended connections are left out. `cursor` is the `next` of the page before. */
  async list(query: {
    userId?: string;
    group?: string;
    state?: ConnectionState;
    limit: number;
    cursor?: string;
  }): Promise<{ items: Connection[]; next: string | null }> {
    const items: Connection[] = [];
    if (query.userId !== undefined) {
      for (const connection of await this.ofUser(query.userId)) {
        const { connectionId, groups, state } = connection;
        if (query.cursor !== undefined && connectionId <= query.cursor)
          continue;
        if (query.state !== undefined && state !== query.state) continue;
        if (query.group !== undefined && !groups.includes(query.group))
          continue;
        items.push(connection);
        if (items.length === query.limit) return { items, next: connectionId };
      }
      return { items, next: null };
    }
    let from = query.cursor;
    /** A filter that matches little must not scan for ever in one request. */
    for (let page = 0; page < 20; page++) {
      const ids = await this.directory.page(from, query.limit);
      const found = await Promise.all(ids.map((id) => this.#inspect(id)));
      for (const [index, connection] of found.entries()) {
        const id = ids[index] ?? "";
        from = id;
        if (
          !connection ||
          connection.state === "ended" ||
          (query.group !== undefined &&
            !connection.groups.includes(query.group)) ||
          (query.state !== undefined && connection.state !== query.state)
        )
          continue;
        items.push(connection);
        if (items.length === query.limit) return { items, next: id };
      }
      if (ids.length < query.limit) return { items, next: null };
    }
    return { items, next: from ?? null };
  }
}
