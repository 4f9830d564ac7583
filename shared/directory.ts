/**
 * The directory: all connections, which ws-fn process holds whose socket, which processes are alive, and when somebody has to
 * look at a connection. One lease for a process stands for all its connections, so a connection that does nothing costs
 * nothing: a process that dies is found by its lease, its connections by the set of those it held.
 *
 * A connection itself lies in another slot (registry.ts), so every step is done twice: here first when a connection is taken,
 * here last when it is left. Whoever dies in between leaves an entry here that a sweep finds.
 */
import {
  departScript,
  holdAllScript,
  listScript,
  liveScript,
  lookScript,
  retireScript,
} from "./directory-scripts.js";
import type { Position } from "./fanout.js";
import { everybody, horizonMs, keys } from "./keys.js";
import type { Argument, RedisLink } from "./redis.js";

/** Connections of one call. */
const connectionsMax = 100;
/** Connections of a page. */
const scanned = 1_000;

/** Where a connection goes when a process holds it no more. */
export interface Departure {
  /** Until when (ms, Redis' clock) it stays a member of `$all`; 0: no longer. Absent: that does not change. */
  untilMs?: number;
  /** When (ms) somebody has to look at it; 0: never. Absent: that does not change. */
  dueMs?: number;
}

/** A process whose lease is over, and some of the connections that it held. */
export interface DeadInstance {
  instance: string;
  leaseEndMs: number;
  connectionIds: string[];
}

interface Waiting<T> {
  args: readonly Argument[];
  resolve(value: T): void;
  reject(error: unknown): void;
}

const group = keys.group(everybody);
const history = keys.groupHistory(everybody);
const members = keys.groupMembers(everybody);
const until = keys.groupUntil(everybody);
const online = keys.groupOnline(everybody);

/** The directory, in Redis. Throws redis_unavailable or outcome_unknown when Redis is away or silent. */
export class Directory {
  readonly #redis: RedisLink;
  readonly #keepMs: number;
  readonly #entering = new Map<string, Waiting<Position>[]>();
  readonly #departing = new Map<string, Waiting<void>[]>();
  #isPlanned = false;

  /** `keepMs`: how long at least it is remembered where `$all` stands. */
  constructor(redis: RedisLink, { keepMs }: { keepMs: number }) {
    this.#redis = redis;
    this.#keepMs = keepMs;
  }

  /** A connection that waits for its client for `waitMs`. Where `$all` stands. Throws redis_full. */
  async list(connectionId: string, waitMs: number): Promise<Position> {
    return position(
      await this.#redis.run(
        listScript,
        [group, history, members, until, keys.due],
        [this.#keepMs, Math.ceil(waitMs), horizonMs, connectionId],
      ),
    );
  }

  /** A process is about to hold a connection, or still does. Where `$all` stands. Those of one turn go in one call. */
  hold(instance: string, connectionId: string): Promise<Position> {
    return this.#gather(this.#entering, instance, [connectionId]);
  }

  /** A process holds a connection no more; "" for one that no process held. Those of one turn go in one call. */
  depart(
    instance: string,
    connectionId: string,
    { untilMs, dueMs }: Departure,
  ): Promise<void> {
    return this.#gather(this.#departing, instance, [
      connectionId,
      untilMs ?? "-",
      dueMs ?? "-",
    ]);
  }

  #gather<T>(
    waiting: Map<string, Waiting<T>[]>,
    instance: string,
    args: readonly Argument[],
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      const one = { args, resolve, reject };
      const others = waiting.get(instance);
      if (others) others.push(one);
      else waiting.set(instance, [one]);
      if (this.#isPlanned) return;
      this.#isPlanned = true;
      this.#redis.atEndOfTurn(() => this.#send());
    });
  }

  #send(): void {
    this.#isPlanned = false;
    // What left comes first: a connection may leave one process for another, or for the same.
    each(this.#departing, (instance, args) =>
      this.#redis
        .run(
          departScript,
          [members, until, online, keys.due, keys.held(instance)],
          args,
        )
        .then(() => undefined),
    );
    each(this.#entering, (instance, args) =>
      this.#redis
        .run(
          holdAllScript,
          [
            group,
            history,
            members,
            until,
            online,
            keys.due,
            keys.held(instance),
          ],
          [this.#keepMs, horizonMs, ...args],
        )
        .then(position),
    );
  }

  /** A process is alive for `leaseMs` more. Whether it was known, and how many connections it holds. */
  async live(
    instance: string,
    leaseMs: number,
  ): Promise<{ known: boolean; held: number }> {
    const [known, held] = (await this.#redis.run(
      liveScript,
      [keys.instances, keys.held(instance)],
      [instance, leaseMs, horizonMs],
    )) as number[];
    return { known: known === 1, held: held ?? 0 };
  }

  /** The connections that a process is said to hold; Redis serves others between the pages. */
  async heldBy(instance: string): Promise<Set<string>> {
    const all = new Set<string>();
    let cursor = "0";
    do {
      const [next, some] = (await this.#redis.command(
        "SSCAN",
        keys.held(instance),
        cursor,
        "COUNT",
        scanned,
      )) as [string, string[]];
      for (const id of some) all.add(id);
      cursor = next;
    } while (cursor !== "0");
    return all;
  }

  /** Up to `limit` connections that are due, and processes that are dead with up to `limit` of their connections each. */
  async look(
    limit: number,
  ): Promise<{ nowMs: number; due: string[]; dead: DeadInstance[] }> {
    const reply = (
      (await this.#redis.run(
        lookScript,
        [keys.due, keys.instances],
        [limit, keys.held("")],
      )) as unknown[]
    ).map(String);
    const [now, count] = reply;
    let at = 2 + Number(count);
    const due = reply.slice(2, at);
    const dead: DeadInstance[] = [];
    while (at < reply.length) {
      const end = at + 3 + Number(reply[at + 2]);
      dead.push({
        instance: reply[at] ?? "",
        leaseEndMs: Number(reply[at + 1]),
        connectionIds: reply.slice(at + 3, end),
      });
      at = end;
    }
    return { nowMs: Number(now), due, dead };
  }

  /** Looks at a connection again at `dueMs`, or never (0). */
  async lookAgain(connectionId: string, dueMs: number): Promise<void> {
    await this.depart("", connectionId, { dueMs });
  }

  /**
   * Forgets a process that holds nothing; false when it does. With `leaseEndMs` only if it has not come back since that was
   * seen.
   */
  async retire(instance: string, leaseEndMs?: number): Promise<boolean> {
    return (
      (await this.#redis.run(
        retireScript,
        [keys.instances, keys.held(instance)],
        [instance, leaseEndMs ?? ""],
      )) === 1
    );
  }

  /** One page of all connections in order of ID, after `cursor`. */
  async page(cursor: string | undefined, limit: number): Promise<string[]> {
    return (await this.#redis.command(
      "ZRANGEBYLEX",
      members,
      cursor === undefined ? "-" : `(${cursor}`,
      "+",
      "LIMIT",
      0,
      limit,
    )) as string[];
  }
}

function position(reply: unknown): Position {
  const [epoch, offset] = (reply as unknown[]).map(String);
  return { epoch: epoch ?? "", offset: Number(offset) };
}

/** Sends what was gathered, for each process by itself. */
function each<T>(
  waiting: Map<string, Waiting<T>[]>,
  send: (instance: string, args: readonly Argument[]) => Promise<T>,
): void {
  const all = [...waiting];
  waiting.clear();
  for (const [instance, some] of all)
    for (let from = 0; from < some.length; from += connectionsMax) {
      const batch = some.slice(from, from + connectionsMax);
      send(
        instance,
        batch.flatMap(({ args }) => args),
      ).then(
        (value) => {
          for (const { resolve } of batch) resolve(value);
        },
        (error: unknown) => {
          for (const { reject } of batch) reject(error);
        },
      );
    }
}
