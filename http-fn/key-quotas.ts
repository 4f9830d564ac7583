/**
 * What an API key may do and has alive: one allowance for each key, decided here, before anything is stored or read. Without
 * keys all callers share one. What lives is counted by what was admitted and for how long that may live; when it
 * goes earlier, because it was acked or recalled, nobody says so.
 *
 * So no limit of stored bytes fits both a key whose messages are acked at once and one whose messages stay. By default there is
 * none while Redis has room. From half of its mark on, no key may have stored more than its share of the mark.
 */
import type { FastifyReply } from "fastify";
import type { Allowance, Cost, Lasting } from "../shared/allowance.js";
import type { Accepted, PrepareRequest } from "../shared/api.js";
import type { ApiKey } from "../shared/config.js";
import type { QuotaFacts } from "../shared/errors.js";
import type { Naming } from "../shared/fanout.js";
import {
  keyQuotas,
  type KeyQuota,
  type Quotas,
} from "../shared/quota-settings.js";
import { Subjects } from "../shared/quotas.js";
import type { RedisLink } from "../shared/redis.js";
import type { RedisMemory } from "../shared/redis-memory.js";
import type { AnyPush } from "./push-request.js";

/** What a message takes besides its body, and a connection with its first message, rounded up; bytes. */
const messageBytes = 512;
const connectionBytes = 12_288;

/** How long a message counts whose client is there: if that takes it, it is gone by then, if not, the log of one client is bounded. */
const onlineSeconds = 60;

/** From this part of Redis's mark on, memory is shared out. */
const sharedFrom = 0.5;

/** What the answer tells of; the others only when they are used up. */
const toldOf: readonly KeyQuota[] = ["requests", "messages", "bytes"];

export interface KeyQuotasOptions {
  apiKeys: readonly ApiKey[];
  /** Of a key that says nothing else. */
  keyQuotas?: Quotas<KeyQuota>;
  /** Undefined: this process counts alone. */
  redis?: Pick<RedisLink, "run">;
  /** Undefined: no limit is known. */
  memory?: Pick<RedisMemory, "fullness">;
  /** How long a message to a group stays at most, a prepared connection by default, and an idempotency key; milliseconds. */
  groupHistoryMs?: number;
  preparedMs?: number;
  idempotencyMs?: number;
  now?: () => number;
}

type StoringCost = Cost<KeyQuota> & { stored: Lasting };
type Reply = Pick<FastifyReply, "header">;

export class KeyQuotas {
  readonly #subjects: Subjects<KeyQuota>;
  readonly #memory: KeyQuotasOptions["memory"];
  readonly #policies = new Map<string, string>();
  readonly #groupHistorySeconds: number;
  readonly #preparedSeconds: number;
  readonly #idempotencySeconds: number;

  constructor({ apiKeys, redis, memory, now, ...options }: KeyQuotasOptions) {
    // With one key there is nobody to share with; without keys nobody is told apart.
    this.#memory = apiKeys.length > 1 ? memory : undefined;
    const share = () =>
      Math.floor(
        (this.#memory?.fullness?.markBytes ?? Infinity) / apiKeys.length,
      );
    const sharing = (quotas: Quotas<KeyQuota>): Quotas<KeyQuota> =>
      quotas.stored.isFair
        ? {
            ...quotas,
            stored: {
              ...quotas.stored,
              get limit() {
                return share();
              },
            },
          }
        : quotas;
    const usual = sharing(options.keyQuotas ?? keyQuotas);
    this.#groupHistorySeconds = (options.groupHistoryMs ?? 300_000) / 1_000;
    this.#preparedSeconds = (options.preparedMs ?? 3_600_000) / 1_000;
    this.#idempotencySeconds = (options.idempotencyMs ?? 86_400_000) / 1_000;
    this.#subjects = new Subjects({
      kind: "key",
      quotas: usual,
      own: new Map(
        apiKeys.map(({ name, quotas }) => [
          name,
          sharing({ ...usual, ...quotas }),
        ]),
      ),
      redis,
      ...(now ? { now } : {}),
    });
  }

  /** A request of a key begins. Throws quota_exceeded. */
  enter(name: string, reply: Reply): void {
    this.#subjects.take(name, { requests: 1 });
    this.tell(name, reply);
  }

  /** `RateLimit` and `RateLimit-Policy` of an answer. */
  tell(name: string, reply: Reply): void {
    const allowance = this.#subjects.of(name);
    const tightest = allowance.tightest(toldOf);
    if (!tightest) return;
    reply.header("ratelimit-policy", this.#policyOf(name, allowance));
    reply.header("ratelimit", rateLimit(tightest));
  }

  #policyOf(name: string, allowance: Allowance<KeyQuota>): string {
    let policy = this.#policies.get(name);
    if (policy === undefined) {
      policy = toldOf
        .map((each) => allowance.facts(each))
        .filter(({ limit }) => limit !== Infinity)
        .map(rateLimitPolicy)
        .join(", ");
      this.#policies.set(name, policy);
    }
    return policy;
  }

  /**
   * Takes `cost`; bytes that are shared out are only counted while there is room, and up to the share. How many of them
   * were counted.
   */
  #take(name: string, cost: StoringCost): number {
    const { stored } = this.#subjects.quotasOf(name);
    const isShort = (this.#memory?.fullness?.share ?? 0) >= sharedFrom;
    if (!stored.isFair || isShort || stored.limit === Infinity) {
      this.#subjects.take(name, cost);
      return cost.stored.amount;
    }
    const { left } = this.#subjects.of(name).facts("stored");
    const amount = Math.min(cost.stored.amount, left);
    this.#subjects.take(name, {
      ...cost,
      stored: { amount, seconds: cost.stored.seconds },
    });
    return amount;
  }

  /** How long a message may stay in Redis, seconds; and how long of that until it is due. */
  #staysOf(push: AnyPush): { waits: number; stays: number } {
    const { ttlSeconds, dueAtMs } = push;
    const waits =
      dueAtMs === undefined ? 0 : Math.max(0, dueAtMs - Date.now()) / 1_000;
    const lives =
      "group" in push
        ? Math.min(ttlSeconds, this.#groupHistorySeconds)
        : ttlSeconds;
    return { waits, stays: waits + lives };
  }

  /**
   * A message is to be stored. Throws quota_exceeded, and then counts nothing of it. Returns what `accepted` needs: how many
   * stored bytes were counted.
   */
  admit(name: string, push: AnyPush): number {
    const { body, dueAtMs, idempotency } = push;
    const { waits, stays } = this.#staysOf(push);
    const cost: StoringCost = {
      messages: 1,
      bytes: body.length,
      stored: { amount: body.length + messageBytes, seconds: stays },
    };
    if (dueAtMs !== undefined) cost.scheduled = { amount: 1, seconds: waits };
    if (idempotency)
      cost.idempotency = {
        amount: 1,
        seconds: this.#idempotencySeconds,
      };
    const counted = this.#take(name, cost);
    if ("group" in push) push.naming = this.naming(name);
    return counted;
  }

  /** It was stored, and its client is there: what `admit` counted for as long as it may stay counts for a minute. */
  accepted(
    name: string,
    push: AnyPush,
    counted: number,
    { online, status }: Accepted,
  ): void {
    if (online === 0 || status !== "queued" || "group" in push) return;
    const { stays } = this.#staysOf(push);
    if (stays <= onlineSeconds || counted === 0) return;
    const subjects = this.#subjects;
    subjects.charge(name, { stored: { amount: -counted, seconds: stays } });
    subjects.charge(name, {
      stored: { amount: counted, seconds: onlineSeconds },
    });
  }

  /** A connection is to be prepared. Throws quota_exceeded; tells what its groups may be. */
  connect(name: string, request: PrepareRequest): Naming {
    const seconds = request.expiresIn ?? this.#preparedSeconds;
    this.#take(name, {
      connects: 1,
      connections: { amount: 1, seconds },
      stored: { amount: connectionBytes, seconds },
    });
    return this.naming(name);
  }

  /** What a key may do about groups that nobody knows yet; they count once Redis says that it was one. */
  naming(name: string): Naming {
    return this.#subjects.naming(name);
  }
}

/** One item of a `RateLimit` header. */
export const rateLimit = ({ name, left, resetSeconds }: QuotaFacts): string =>
  `"${name}";r=${left};t=${resetSeconds}`;

/** One item of a `RateLimit-Policy` header. */
export const rateLimitPolicy = ({
  name,
  limit,
  windowSeconds,
}: QuotaFacts): string =>
  `"${name}";q=${limit}${windowSeconds === undefined ? "" : `;w=${windowSeconds}`}${name === "bytes" ? ';qu="content-bytes"' : ""}`;
