/**
 * What clients may do by themselves: each user over all connections and processes, each connection here. A user's use is
 * shared in the background. Who makes a connection, which stores, asks what the whole cluster has seen of its user, because on
 * the platform every connection comes to a process that knows nobody yet; who comes back to one does not, so thousands that
 * come back at once cost Redis nothing more.
 */
import type { BridgeError } from "../shared/errors.js";
import type { Naming } from "../shared/fanout.js";
import type {
  ConnectionQuota,
  Quotas,
  UserQuota,
} from "../shared/quota-settings.js";
import { Subjects } from "../shared/quotas.js";
import type { RedisLink } from "../shared/redis.js";

export interface ClientQuotasOptions {
  userQuotas: Quotas<UserQuota>;
  connectionQuotas: Quotas<ConnectionQuota>;
  /** Undefined: this process counts alone. */
  redis?: Pick<RedisLink, "run">;
  now?: () => number;
}

export class ClientQuotas {
  readonly #users: Subjects<UserQuota>;
  readonly #connections: Subjects<ConnectionQuota>;

  constructor({
    userQuotas,
    connectionQuotas,
    redis,
    now,
  }: ClientQuotasOptions) {
    const clock = now ? { now } : {};
    this.#users = new Subjects({
      kind: "user",
      quotas: userQuotas,
      redis,
      ...clock,
    });
    this.#connections = new Subjects({
      kind: "connection",
      quotas: connectionQuotas,
      ...clock,
    });
  }

  /**
   * A user's token connects. There is nothing to wait for but where `isNew` makes a connection, and nothing to count without
   * a user. Throws quota_exceeded.
   */
  async connect(userId: string, isNew: boolean): Promise<void> {
    if (userId === "") return;
    if (isNew)
      await this.#users.takeOfAll(userId, { connects: 1, connections: 1 });
    else this.#users.take(userId, { connects: 1 });
  }

  /** A client publishes. Throws quota_exceeded; tells which groups it may begin with that. */
  publish(connectionId: string, userId: string, bytes: number): Naming {
    const cost = { publishes: 1, bytes };
    this.#connections.take(connectionId, cost);
    try {
      if (userId !== "") this.#users.take(userId, cost);
    } catch (error) {
      this.#connections.charge(connectionId, { publishes: -1, bytes: -bytes });
      throw error;
    }
    return this.naming(connectionId, userId);
  }

  /** Which groups a client may begin, by joining as well. */
  naming(connectionId: string, userId: string): Naming {
    const own = this.#connections.naming(connectionId);
    if (userId === "") return own;
    const all = this.#users.naming(userId);
    return {
      allowed: own.allowed && all.allowed,
      began() {
        own.began();
        all.began();
      },
      refused: (): BridgeError => (own.allowed ? all : own).refused(),
    };
  }
}
