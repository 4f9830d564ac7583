/**
 * Durability `replica`: the answer to a push waits until a replica has it (delivery rule 11).
 *
 * Per master one more connection, used by nothing else, opened by the first push that asks. Whatever waits when a round
 * begins goes in it together: for each push a look whether this very server holds it, then one write, then one WAIT,
 * which covers everything that this server executed before its own connection's last write. Without that write WAIT
 * knows of nothing to wait for and says yes at once; without the look a server that was promoted in between would
 * vouch for a push that only its predecessor had.
 */
import { afterRunning, answerWithin, Silence } from "./deadlines.js";
import { BridgeError } from "./errors.js";
import { drains } from "./full.js";
import { bullPrefix, groupTag, keys, scheduleTag } from "./keys.js";
import type { Logger } from "./logging.js";
import type { MasterConnection, RedisLink, Script } from "./redis.js";

export type Durability = "local" | "replica";

/** A push with its WAIT is answered after this long at the latest: within the second that is promised. */
export const confirmWithinMs = 900;
/** How long one WAIT may take; what came meanwhile waits for the next one. */
const waitMs = 500;
/** Silence beyond that means that the connection is dead: it is made anew. */
const silenceMs = 2_000;
/** How long it may take to hear of a replica before anything is stored. */
const askMs = 600;
/** For how long it counts that there is a replica. */
const knownMs = 1_000;
/** The witness of a round, which is its write, goes by itself. */
const witnessMs = 1_000;

/**
 * Notes what a replica has, for receipts: everything up to a seq or an offset, or a scheduled message.
 * KEYS conn|meta scheduled; ARGV seq|offset|'' scheduledId|'' field that is there as long as what it is about
 */
const markScript: Script = {
  name: "bridgeMarkReplica",
  keys: 2,
  lua: `
${drains()}if ARGV[1] ~= '' then
  local known = redis.call('HMGET', KEYS[1], ARGV[3], 'durable')
  if known[1] and tonumber(known[2] or 0) < tonumber(ARGV[1]) then redis.call('HSET', KEYS[1], 'durable', ARGV[1]) end
else
  local record = redis.call('HGET', KEYS[2], ARGV[2])
  if record and not string.find(record, ':replica', 1, true) then
    redis.call('HSET', KEYS[2], ARGV[2], record .. ':replica')
  end
end
return 1
`,
};

/** The same of a message to a user. KEYS message */
const markUserScript: Script = {
  name: "bridgeMarkUserReplica",
  keys: 1,
  lua: `
${drains()}if redis.call('HGET', KEYS[1], 'state') then redis.call('HSET', KEYS[1], 'durable', '1') end
return 1
`,
};

export const replicationScripts: readonly Script[] = [
  markScript,
  markUserScript,
];

/** What a replica shall have: a message of a connection's log, or of a group's history. */
export type Held = ({ connectionId: string } | { group: string }) & {
  /** Its place: the seq or the offset, or the ID of a message that waits for its time. */
  place: { seq: number } | { offset: number } | { scheduledId: string };
  /** Hash of its Idempotency-Key, which outlives the message. */
  idempotencyKey?: string;
  /** With a scheduled message: that it is in the log by now. */
  due?: boolean;
};

/** A message of a user: its record says what became of it, and each delivery is one of a connection. */
export interface HeldOfUser {
  userTag: string;
  place: string;
  deliveries: readonly { connectionId: string; seq: number }[];
}

/** Where the things of a message lie. */
const whereabouts = (held: Held) =>
  "group" in held
    ? {
        tag: groupTag(held.group),
        home: keys.group(held.group),
        field: "epoch",
        index: keys.groupIndex(held.group),
        scheduled: keys.groupScheduled(held.group),
        idempotency: (key: string) => keys.groupIdempotency(held.group, key),
      }
    : {
        tag: held.connectionId,
        home: keys.connection(held.connectionId),
        field: "state",
        index: keys.index(held.connectionId),
        scheduled: keys.scheduled(held.connectionId),
        idempotency: (key: string) => keys.idempotency(held.connectionId, key),
      };

const nameOf = ({ place }: Held): string =>
  "scheduledId" in place
    ? place.scheduledId
    : String("seq" in place ? place.seq : place.offset);

interface Waiter {
  holds: (client: MasterConnection) => Promise<boolean>;
  mark: (() => Promise<unknown>) | undefined;
  confirmed: boolean;
  done: (error?: BridgeError) => void;
}

const unknown = (detail: string, cause?: unknown) =>
  new BridgeError("outcome_unknown", { detail, retryAfterSeconds: 1 }, cause);

/** Confirms that replicas have what was pushed. */
export class Replication {
  readonly #redis: RedisLink;
  readonly #logger: Logger;
  readonly #masters = new Map<string, Master>();

  constructor(redis: RedisLink, logger: Logger) {
    this.#redis = redis;
    this.#logger = logger;
  }

  /** The write that gives WAIT something to wait for. `tag` lies in a slot of the master asked. */
  protected witness(client: MasterConnection, tag: string): Promise<unknown> {
    return client.set(keys.witness(tag), "1", "PX", witnessMs);
  }

  /** Whether this server, and no other, has the push. */
  protected async holds(
    client: MasterConnection,
    held: Held,
  ): Promise<boolean> {
    const { index, scheduled, idempotency } = whereabouts(held);
    const { place, idempotencyKey, due } = held;
    const name = nameOf(held);
    if (idempotencyKey !== undefined) {
      const stored = await client.get(idempotency(idempotencyKey));
      return stored?.split(" ")[2] === name;
    }
    if (!("scheduledId" in place))
      return (await client.xrange(index, name, name, "COUNT", 1)).length > 0;
    const record = await client.hget(scheduled, name);
    return record !== null && !(due && record.startsWith("w"));
  }

  #master(tag: string): Master {
    const name = this.#redis.masterOf(tag);
    let master = this.#masters.get(name);
    if (!master) {
      master = new Master(
        this.#redis.openMaster(name),
        (client, witnessTag) => this.witness(client, witnessTag),
        this.#logger,
      );
      this.#masters.set(name, master);
    }
    return master;
  }

  /** Before anything is stored under `{tag}`. Throws no_replica when there is none to wait for, redis_unavailable. */
  async ready(tag: string): Promise<void> {
    if (!(await this.#master(tag).hasReplica()))
      throw new BridgeError("no_replica", {
        detail: "Redis has no replica that could confirm the message",
        retryAfterSeconds: 1,
      });
  }

  /** Resolves when a replica has it. Throws outcome_unknown when none said so within `ms`. */
  async confirm(held: Held, ms: number): Promise<void> {
    const { tag, home, field, scheduled } = whereabouts(held);
    const name = nameOf(held);
    await this.#master(tag).confirm(
      {
        tag,
        holds: (client) => this.holds(client, held),
        mark: held.due
          ? undefined
          : () =>
              this.#redis.run(
                markScript,
                [home, scheduled],
                "scheduledId" in held.place
                  ? ["", name, field]
                  : [name, "", field],
              ),
      },
      ms,
    );
  }

  /** The same for a message to a user: what is known of it, what is parked, and what its connections were given. */
  async confirmOfUser(
    { userTag: tag, place, deliveries }: HeldOfUser,
    ms: number,
  ): Promise<void> {
    const record = keys.userMessage(tag, place);
    await Promise.all(
      deliveries.map(({ connectionId, seq }) =>
        this.confirm({ connectionId, place: { seq } }, ms),
      ),
    );
    await this.#master(tag).confirm(
      {
        tag,
        holds: async (client) => {
          const state = await client.hget(record, "state");
          return state !== null && state !== "begun";
        },
        mark: () => this.#redis.run(markUserScript, [record], []),
      },
      ms,
    );
  }

  /** The same for the job of a scheduled message, which may lie on another master. */
  async confirmJob(
    of: { connectionId: string } | { group: string } | { userTag: string },
    scheduledId: string,
    ms: number,
  ): Promise<void> {
    await this.#master(scheduleTag).confirm(
      {
        tag: scheduleTag,
        holds: async (client) => {
          const job = `${bullPrefix}:${keys.scheduleQueue}:s${scheduledId}`;
          if ((await client.exists(job)) === 1) return true;
          // It has run: the message is in the log, or with its user. Both say what `w`aits.
          const record = await this.#redis.command(
            "HGET",
            ...("userTag" in of
              ? [keys.userMessage(of.userTag, scheduledId), "state"]
              : [
                  "group" in of
                    ? keys.groupScheduled(of.group)
                    : keys.scheduled(of.connectionId),
                  scheduledId,
                ]),
          );
          return typeof record === "string" && !record.startsWith("w");
        },
        mark: undefined,
      },
      ms,
    );
  }
}

/** One master's WAIT connection and who waits for it. */
class Master {
  readonly #client: MasterConnection;
  readonly #witness: (
    client: MasterConnection,
    tag: string,
  ) => Promise<unknown>;
  readonly #logger: Logger;
  #waiting: (Waiter & { tag: string })[] = [];
  #running = false;
  #knownAt = -Infinity;
  #asking: Promise<boolean> | undefined;

  constructor(
    client: MasterConnection,
    witness: (client: MasterConnection, tag: string) => Promise<unknown>,
    logger: Logger,
  ) {
    this.#client = client;
    this.#witness = witness;
    this.#logger = logger;
  }

  async hasReplica(): Promise<boolean> {
    if (performance.now() - this.#knownAt < knownMs) return true;
    this.#asking ??= this.#ask().finally(() => {
      this.#asking = undefined;
    });
    return this.#asking;
  }

  async #ask(): Promise<boolean> {
    try {
      const role = (await answerWithin(
        askMs,
        this.#client.call("ROLE"),
      )) as unknown;
      const [kind, , replicas] = role as [string, number, unknown[]];
      const has = kind === "master" && replicas.length > 0;
      if (has) this.#knownAt = performance.now();
      return has;
    } catch (error) {
      throw new BridgeError(
        "redis_unavailable",
        { retryAfterSeconds: 1 },
        error,
      );
    }
  }

  confirm(
    wanted: { tag: string } & Pick<Waiter, "holds" | "mark">,
    ms: number,
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      const callOff = afterRunning(Math.max(0, ms), () =>
        waiter.done(
          waiter.confirmed
            ? undefined
            : unknown("no replica confirmed the message in time"),
        ),
      );
      const waiter: Waiter & { tag: string } = {
        ...wanted,
        confirmed: false,
        done(error) {
          callOff();
          if (error) reject(error);
          else resolve();
        },
      };
      this.#waiting.push(waiter);
      if (!this.#running) void this.#rounds();
    });
  }

  async #rounds(): Promise<void> {
    this.#running = true;
    while (this.#waiting.length > 0) {
      const round = this.#waiting;
      this.#waiting = [];
      await this.#round(round).catch((error: unknown) => {
        for (const { done } of round)
          done(unknown("no replica confirmed the message", error));
      });
    }
    this.#running = false;
  }

  async #round(round: (Waiter & { tag: string })[]): Promise<void> {
    const client = this.#client;
    const [first] = round;
    if (!first) return;
    // All of it leaves in this turn, in this order, on one connection; nothing is sent again on another one.
    const held = round.map(({ holds }) => holds(client).catch(() => false));
    const answers = Promise.all([
      this.#witness(client, first.tag),
      client.call("WAIT", 1, waitMs),
    ]);
    let replicas: number;
    try {
      replicas = Number((await answerWithin(waitMs + silenceMs, answers))[1]);
    } catch (error) {
      if (error instanceof Silence) client.disconnect(true);
      this.#knownAt = -Infinity;
      throw error;
    }
    if (replicas < 1) {
      // A replica that is gone is found out before the next push is stored.
      this.#knownAt = -Infinity;
      this.#logger.warn(
        { pushes: round.length },
        "no replica confirmed in time",
      );
      throw new Error("WAIT answered 0");
    }
    for (const [index, waiter] of round.entries()) {
      if (!(await held[index])) {
        waiter.done(unknown("this Redis does not have the message"));
        continue;
      }
      waiter.confirmed = true;
      // Only the receipt depends on it, and understates without it.
      void (waiter.mark?.() ?? Promise.resolve())
        .catch(() => undefined)
        .then(() => waiter.done());
    }
  }
}
