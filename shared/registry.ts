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
import type { Position } from "./fanout.js";
import { newConnectionId } from "./ids.js";
import {
  channels,
  connectionKeys,
  horizonMs,
  keys,
  queueKeys,
} from "./keys.js";
import type { RedisLink, Script } from "./redis.js";
import {
  claimScript,
  endScript,
  inspectScript,
  lapseScript,
  prepareScript,
  releaseScript,
  renewScript,
  restoreScript,
} from "./registry-scripts.js";

export const registryScripts: readonly Script[] = [
  prepareScript,
  claimScript,
  renewScript,
  restoreScript,
  releaseScript,
  endScript,
  lapseScript,
  inspectScript,
];

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

/** The registry, in Redis. Throws `redis_unavailable` or `outcome_unknown` when Redis is away or silent. */
export class Registry {
  readonly #redis: RedisLink;
  readonly #options: RegistryOptions;

  constructor(redis: RedisLink, options: RegistryOptions) {
    this.#redis = redis;
    this.#options = options;
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
    await this.#lookAgain(connectionId, expiresAtMs, true);
    return { connectionId, expiresAtMs };
  }

  async #lookAgain(
    connectionId: string,
    atMs: number,
    listed = false,
  ): Promise<void> {
    await Promise.all([
      this.#redis.command("ZADD", keys.due, atMs, connectionId),
      listed && this.#redis.command("ZADD", keys.connections, 0, connectionId),
    ]);
  }

  /**
   * Takes a connection for a socket of `owner`. Throws connection_not_found, connection_ended.
   */
  async claim(
    connectionId: string,
    request: { owner: string; protocol: Protocol; resumeSeq?: number },
  ): Promise<Claim> {
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
      ]) as Promise<unknown[]>;
    let reply = await send();
    if (reply[0] === "lapsed") {
      await this.lapse(connectionId);
      reply = await send();
    }
    if (reply[0] === "ended")
      throw connectionEnded(Number(reply[1]), String(reply[2]));
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
      version,
      positions = "",
      fresh,
    ] = reply.map(String);
    await this.#lookAgain(
      connectionId,
      Date.now() + this.#options.leaseMs,
      true,
    );
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
    await this.#lookAgain(connectionId, Date.now() + addDeadlineMs);
    return true;
  }

  /** Ends or moves on a connection whose time is over. Returns its state now and when to look again (ms). */
  async lapse(connectionId: string): Promise<{
    state: ConnectionState | "gone";
    dueMs: number;
    nowMs: number;
    endedMs: number;
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
    const [state = "gone", due, now, ended] = reply;
    return {
      state: state as ConnectionState | "gone",
      dueMs: Number(due),
      nowMs: Number(now),
      endedMs: Number(ended ?? 0),
    };
  }

  /**
   * Looks at up to `limit` connections whose time has come. `remove` takes away what is left of an ended one's queue.
   * Any number of processes may do this at once. Returns how many it looked at.
   */
  async sweep(
    remove: (connectionId: string) => Promise<void>,
    limit = 100,
  ): Promise<number> {
    const ids = (await this.#redis.command(
      "ZRANGEBYSCORE",
      keys.due,
      "-inf",
      Date.now(),
      "LIMIT",
      0,
      limit,
    )) as string[];
    for (const id of ids)
      try {
        await this.#look(id, remove);
      } catch (error) {
        if (error instanceof BridgeError) throw error;
        // One that cannot be dealt with now must not block those behind it.
        await this.#lookAgain(id, Date.now() + addDeadlineMs);
      }
    return ids.length;
  }

  async #look(
    id: string,
    remove: (connectionId: string) => Promise<void>,
  ): Promise<void> {
    const { state, dueMs, nowMs, endedMs } = await this.lapse(id);
    if (state === "gone") {
      await remove(id);
      await Promise.all([
        this.#redis.command("ZREM", keys.due, id),
        this.#redis.command("ZREM", keys.connections, id),
      ]);
    } else if (state === "ended" && nowMs < endedMs + addDeadlineMs)
      await this.#lookAgain(id, endedMs + addDeadlineMs);
    else {
      if (state === "ended") await remove(id);
      await this.#lookAgain(id, dueMs + 1);
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
          (query.userId !== undefined && connection.userId !== query.userId) ||
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
