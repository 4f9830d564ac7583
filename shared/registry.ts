/**
 * The registry: which connections exist, who they are, and which instance owns each, by lease and epoch. A
 * registration that is not renewed is void by itself; `sweep` turns what ran out into its next state.
 */
import type {
  Connection,
  ConnectionState,
  PrepareRequest,
  Reason,
} from "./api.js";
import { BridgeError, connectionEnded, connectionNotFound } from "./errors.js";
import type { Events } from "./events.js";
import type { Position } from "./fanout.js";
import { newConnectionId, userTag } from "./ids.js";
import {
  channels,
  connectionKeys,
  horizonMs,
  keys,
  queueKeys,
} from "./keys.js";
import { Outbox, outboxScripts } from "./outbox.js";
import type { RedisLink, Script } from "./redis.js";
import {
  claimScript,
  endScript,
  identifyScript,
  inspectScript,
  lapseScript,
  placeScript,
  prepareScript,
  releaseScript,
  renewScript,
  restoreScript,
} from "./registry-scripts.js";
import { arriveScript, userConnectionsMax } from "./user-scripts.js";

export const registryScripts: readonly Script[] = [
  prepareScript,
  identifyScript,
  claimScript,
  renewScript,
  restoreScript,
  releaseScript,
  endScript,
  lapseScript,
  placeScript,
  inspectScript,
  ...outboxScripts,
];

/** A sweep looks at so many connections side by side. */
const sweepAbreast = 20;
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
  /** The client has everything up to here; delivery goes on after it. */
  cur: number;
  /** Highest seq that was accepted. */
  seq: number;
  /** Up to here messages may have been sent before. */
  readTo: number;
  /** What had been acked before this claim. */
  acked: number;
  lost: boolean;
  /** Sockets ended at its first unacked message: what is known of that (poison.ts). */
  suspect: string;
  /** Deliver jobs that wait, and that some worker holds. */
  waiting: number;
  active: number;
  identity: Identity;
  groups: {
    /** Grows when the backend changes them. */
    version: number;
    positions: Positions;
    /** Nobody had the connection before, so nothing can have been sent to it. */
    fresh: boolean;
  };
}

export type Renewal =
  | { kind: "ok"; seq: number; waiting: number; groupsVersion: number }
  | { kind: "fenced" }
  | { kind: "ended"; code: number; words: string };

export interface RegistryOptions {
  leaseMs: number;
  resumeMs: number;
  preparedMs: number;
  endedMs: number;
  receiptMs: number;
}

/** conn, log, topics first, as the ending scripts want them; then everything else. */
function endingKeys(id: string): string[] {
  const first = [keys.connection(id), keys.log(id), keys.topics(id)];
  return [
    ...first,
    ...connectionKeys(id).filter((key) => !first.includes(key)),
    ...queueKeys(id),
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

const claimKeys = (id: string) => [...connectionKeys(id), ...queueKeys(id)];

/** The registry, in Redis. Throws redis_unavailable or outcome_unknown when Redis is away or silent. */
export class Registry {
  readonly #redis: RedisLink;
  readonly #options: RegistryOptions;
  readonly #events: Events;
  readonly #outbox: Outbox;
  #tidiedAt = -Infinity;

  constructor(redis: RedisLink, options: RegistryOptions, events: Events) {
    this.#redis = redis;
    this.#options = options;
    this.#events = events;
    this.#outbox = new Outbox(redis, events);
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
   * Makes a connection that waits for its client. Default wait: PREPARED_SECONDS. Its groups know of it already
   * (membership.ts), at these positions.
   */
  async prepare(
    request: PrepareRequest,
    connectionId = newConnectionId(),
    positions = nowhere,
  ): Promise<{ connectionId: string; expiresAtMs: number }> {
    const waitMs = this.waitMs(request);
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
        positionsText(positions),
      ],
    );
    const expiresAtMs = Number(until);
    await Promise.all([
      this.#lookAgain(connectionId, expiresAtMs, true),
      this.#listForUser(
        request.userId ?? "",
        connectionId,
        waitMs + this.#keepMs,
      ),
    ]);
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

  async #lookAgain(
    connectionId: string,
    atMs: number,
    listed = false,
  ): Promise<void> {
    await Promise.all([
      this.#redis.run(placeScript, [keys.due], [atMs, connectionId]),
      listed &&
        this.#redis.run(placeScript, [keys.connections], [0, connectionId]),
    ]);
  }

  /**
   * Takes a connection for a socket of `owner`. Throws connection_not_found, connection_ended, overtaken.
   */
  async claim(
    connectionId: string,
    request: {
      owner: string;
      protocol: Protocol;
      resumeSeq?: number;
      attempt?: string;
    },
  ): Promise<Claim> {
    // Before the claim: whoever dies right after it leaves a connection that a sweep will look at.
    const noted = this.#lookAgain(
      connectionId,
      Date.now() + this.#options.leaseMs,
      true,
    );
    const send = () =>
      this.#redis.run(claimScript, claimKeys(connectionId), [
        request.owner,
        this.#options.leaseMs,
        request.resumeSeq ?? "",
        request.protocol,
        this.#redis.publishCommand,
        channels.bell(connectionId),
        this.#options.resumeMs,
        horizonMs,
        request.attempt ?? "",
      ]) as Promise<unknown[]>;
    let [reply] = await Promise.all([send(), noted]);
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
    if (reply[0] !== "claimed") throw connectionNotFound(connectionId);
    const [
      ,
      epoch,
      cur,
      seq,
      readTo,
      lost,
      waiting,
      active,
      userId,
      groups,
      labels,
      permissions,
      created,
      acked,
      suspect = "",
      first,
      version,
      positions = "",
      fresh,
    ] = reply.map(String);
    // The client need not wait for it; if this process ends first, a sweep tells.
    if (first === "1") void this.#tellQuietly(connectionId);
    return {
      epoch: Number(epoch),
      cur: Number(cur),
      seq: Number(seq),
      readTo: Number(readTo),
      acked: Number(acked),
      lost: lost === "1",
      suspect,
      waiting: Number(waiting),
      active: Number(active),
      identity: {
        userId: userId ?? "",
        groups: groups ?? "[]",
        labels: labels ?? "{}",
        permissions: permissions ?? "[]",
        createdMs: Number(created),
      },
      groups: {
        version: Number(version),
        positions: parsePositions(positions),
        fresh: fresh === "1",
      },
    };
  }

  /** The owner of `epoch` is alive and has sent everything up to `cur`. */
  async renew(
    connectionId: string,
    owner: {
      epoch: number;
      owner: string;
      cur: number;
      protocol: Protocol;
      identity: Identity;
      expire: boolean;
      /** What was acked of its groups since the last renewal that succeeded. */
      positions?: Positions;
    },
  ): Promise<Renewal> {
    if (!owner.expire) {
      const [word, seq, waiting, version] = (
        (await this.#redis.run(
          renewScript,
          [keys.connection(connectionId), queueKeys(connectionId)[0] ?? ""],
          [
            owner.epoch,
            this.#options.leaseMs,
            owner.cur,
            positionsText(owner.positions ?? nowhere),
          ],
        )) as unknown[]
      ).map(String);
      if (word === "ok")
        return {
          kind: "ok",
          seq: Number(seq),
          waiting: Number(waiting),
          groupsVersion: Number(version),
        };
    }
    const { identity } = owner;
    const reply = (
      (await this.#redis.run(restoreScript, claimKeys(connectionId), [
        owner.epoch,
        owner.owner,
        this.#options.leaseMs,
        owner.cur,
        owner.protocol,
        identity.userId,
        identity.groups,
        identity.labels,
        identity.permissions,
        identity.createdMs,
        horizonMs,
        positionsText(owner.positions ?? nowhere),
      ])) as unknown[]
    ).map(String);
    const [kind, first, second, recreated, version] = reply;
    if (kind === "ok") {
      // Both now and then, so that the list lives as long as its connections, and when it may have been lost with them.
      await this.#listForUser(identity.userId, connectionId, horizonMs);
      // What lost the connection lost its place in the lists as well.
      if (recreated === "1")
        await this.#lookAgain(
          connectionId,
          Date.now() + this.#options.leaseMs,
          true,
        );
      return {
        kind,
        seq: Number(first),
        waiting: Number(second),
        groupsVersion: Number(version),
      };
    }
    if (kind === "ended")
      return { kind, code: Number(first), words: second ?? "" };
    return { kind: "fenced" };
  }

  /** The socket is gone; the connection waits for its client for RESUME_SECONDS. False when it was not ours any more. */
  async release(
    connectionId: string,
    epoch: number,
    positions = nowhere,
  ): Promise<boolean> {
    const until = String(
      await this.#redis.run(
        releaseScript,
        [keys.connection(connectionId)],
        [epoch, this.#options.resumeMs, positionsText(positions)],
      ),
    );
    if (until !== "") await this.#lookAgain(connectionId, Number(until));
    return until !== "";
  }

  /**
   * Ends a connection: with `epoch` as its owner, which must still be it; without one from outside, and its socket is
   * told to close with `code`. False when there was nothing to end.
   */
  async end(
    connectionId: string,
    end: { epoch?: number; reason: Reason; code: number; words: string },
  ): Promise<boolean> {
    const word = await this.#redis.run(endScript, endingKeys(connectionId), [
      end.epoch ?? "",
      end.reason,
      end.code,
      end.words,
      this.#keepMs,
      this.#redis.publishCommand,
      channels.bell(connectionId),
      channels.news(connectionId),
    ]);
    if (word !== "ended") return false;
    await Promise.all([
      this.#unlist(connectionId),
      this.#lookAgain(connectionId, Date.now() + addDeadlineMs),
      this.#tellQuietly(connectionId),
    ]);
    return true;
  }

  /** Appends what the connection has to tell to the stream of events (outbox.ts); false when some is left. */
  tell(connectionId: string): Promise<boolean> {
    return this.#outbox.tell(connectionId);
  }

  /** For who has done something else: what cannot be told now, a sweep tells. */
  #tellQuietly(connectionId: string): Promise<boolean> {
    return this.tell(connectionId).catch(() => false);
  }

  /**
   * Ends or moves on a connection whose time is over, and tells what it has to tell. Returns its state now and when to
   * look again (ms).
   */
  async lapse(connectionId: string): Promise<{
    state: ConnectionState | "gone";
    dueMs: number;
    nowMs: number;
    endedMs: number;
    /** False when events are left to be told. */
    told: boolean;
  }> {
    const reply = (
      (await this.#redis.run(lapseScript, endingKeys(connectionId), [
        this.#options.resumeMs,
        this.#keepMs,
        this.#redis.publishCommand,
        channels.bell(connectionId),
        channels.news(connectionId),
      ])) as unknown[]
    ).map(String);
    const [state = "gone", due, now, ended, marks] = reply;
    if (state === "ended") await this.#unlist(connectionId);
    return {
      state: state as ConnectionState | "gone",
      dueMs: Number(due),
      nowMs: Number(now),
      endedMs: Number(ended),
      told: marks !== "1" || (await this.#tellQuietly(connectionId)),
    };
  }

  /**
   * Looks at up to `limit` connections whose time has come, and begins with no more once `withinMs` are over. `remove`
   * takes away what is left of an ended one's queue. Any number of processes may do this at once. Returns how many it
   * looked at.
   */
  async sweep(
    remove: (connectionId: string) => Promise<void>,
    { limit = 100, withinMs = Infinity } = {},
  ): Promise<number> {
    const from = performance.now();
    const tidy = from - this.#tidiedAt > tidyEveryMs;
    if (tidy) this.#tidiedAt = from;
    const [ids] = (await Promise.all([
      this.#redis.command(
        "ZRANGEBYSCORE",
        keys.due,
        "-inf",
        Date.now(),
        "LIMIT",
        0,
        limit,
      ),
      tidy && this.#events.tidy(),
    ])) as [string[], unknown];
    let looked = 0;
    while (looked < ids.length && performance.now() - from < withinMs) {
      const some = ids.slice(looked, looked + sweepAbreast);
      await Promise.all(some.map((id) => this.#lookSafely(id, remove)));
      looked += some.length;
    }
    return looked;
  }

  async #lookSafely(
    id: string,
    remove: (connectionId: string) => Promise<void>,
  ): Promise<void> {
    try {
      await this.#look(id, remove);
    } catch (error) {
      // A full Redis refuses new events only: the marks wait, and what drains goes on.
      if (error instanceof BridgeError && error.code !== "redis_full")
        throw error;
      // One that cannot be dealt with now must not block those behind it.
      await this.#lookAgain(id, Date.now() + addDeadlineMs);
    }
  }

  async #look(
    id: string,
    remove: (connectionId: string) => Promise<void>,
  ): Promise<void> {
    const { state, dueMs, nowMs, endedMs, told } = await this.lapse(id);
    if (state === "gone") {
      await remove(id);
      await Promise.all([
        this.#redis.command("DEL", keys.scheduled(id)),
        this.#redis.command("ZREM", keys.due, id),
        this.#redis.command("ZREM", keys.connections, id),
      ]);
    } else if (state === "ended" && nowMs < endedMs + addDeadlineMs)
      await this.#lookAgain(
        id,
        told ? endedMs + addDeadlineMs : nowMs + tellAgainMs,
      );
    else {
      if (state === "ended") await remove(id);
      await this.#lookAgain(id, told ? dueMs + 1 : nowMs + tellAgainMs);
    }
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
    const lease = Number(fields["lease"] ?? 0);
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
    let from = query.cursor === undefined ? "-" : `(${query.cursor}`;
    /** A filter that matches little must not scan for ever in one request. */
    for (let page = 0; page < 20; page++) {
      const ids = (await this.#redis.command(
        "ZRANGEBYLEX",
        keys.connections,
        from,
        "+",
        "LIMIT",
        0,
        query.limit,
      )) as string[];
      const found = await Promise.all(ids.map((id) => this.#inspect(id)));
      for (const [index, connection] of found.entries()) {
        const id = ids[index] ?? "";
        from = `(${id}`;
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
    return { items, next: from.slice(1) };
  }
}
