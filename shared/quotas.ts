/**
 * Quotas of many subjects, decided in this process and shared in the background. A process tells Redis what a subject has
 * used since it last told, once that is a sixteenth of a limit, and learns what all have used. So no push waits for it,
 * and there are at most 16 calls in a window for each limit.
 *
 *   take ──▶ this process decides ──▶ a sixteenth is new? ──▶ Redis adds it up ──▶ the total counts here as well
 *
 * With P processes a subject gets at most one limit, P sixteenths of it, and what comes back in one call's time, more than
 * one process would give it. Redis away: what this process has seen stands. Redis forgets a subject once what it used has run down.
 */
import {
  Allowance,
  layoutOf,
  negated,
  type Layout,
  type Cost,
} from "./allowance.js";
import { quotaTag } from "./ids.js";
import { keys } from "./keys.js";
import { clock } from "./lua.js";
import type { Quotas } from "./quota-settings.js";
import type { Argument, RedisLink, Script } from "./redis.js";

/** What of a limit others may not have heard of. */
const unheardShare = 1 / 16;
/** Subjects that a process keeps in mind; the longest known one is forgotten first. About 550 bytes each. */
const subjectsMax = 10_000;

/**
 * Adds up what a subject uses. KEYS quota; ARGV for each limit: name used limit windowMs
 * Returns what all have used of each by now.
 */
export const quotaScript: Script = {
  name: "bridgeQuota",
  keys: 1,
  lua: `${clock}
local out, keep = {}, 1000
for i = 1, #ARGV, 4 do
  local name, new, limit, window = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local used, at = string.match(redis.call('HGET', KEYS[1], name) or '0 0', '^(%S+) (%S+)$')
  used = math.max(0, tonumber(used) - math.max(0, ms - tonumber(at)) * limit / window)
  used = math.min(math.max(0, used + new), 2 * limit)
  redis.call('HSET', KEYS[1], name, string.format('%.3f', used) .. ' ' .. text(ms))
  out[#out + 1] = text(used)
  keep = math.max(keep, 1000 + math.ceil(used * window / limit))
end
if redis.call('PTTL', KEYS[1]) < keep then redis.call('PEXPIRE', KEYS[1], text(keep)) end
return out
`,
};

export interface SubjectsOptions<Name extends string> {
  /** `key`, `user`: part of the subjects' names in Redis and in refusals. */
  kind: string;
  quotas: Quotas<Name>;
  /** Of subjects that have their own. */
  own?: ReadonlyMap<string, Quotas<Name>>;
  /** Undefined: not shared. */
  redis?: Pick<RedisLink, "run"> | undefined;
  now?: () => number;
  subjectsMax?: number;
}

interface Subject<Name extends string> {
  readonly id: string;
  readonly quotas: Quotas<Name>;
  readonly layout: Layout<Name>;
  readonly allowance: Allowance<Name>;
  reporting: Promise<void> | undefined;
}

/** All subjects of one kind. */
export class Subjects<Name extends string> {
  readonly #options: SubjectsOptions<Name>;
  readonly #names: readonly Name[];
  readonly #subjects = new Map<string, Subject<Name>>();
  readonly #layouts = new Map<Quotas<Name>, Layout<Name>>();

  constructor(options: SubjectsOptions<Name>) {
    this.#options = options;
    this.#names = Object.keys(options.quotas) as Name[];
  }

  /** Subjects in mind now. */
  get size(): number {
    return this.#subjects.size;
  }

  #of(id: string): Subject<Name> {
    let subject = this.#subjects.get(id);
    if (!subject) {
      const { kind, now } = this.#options;
      if (this.#subjects.size >= (this.#options.subjectsMax ?? subjectsMax)) {
        const { value } = this.#subjects.keys().next();
        if (value !== undefined) this.#subjects.delete(value);
      }
      const quotas = this.quotasOf(id);
      const layout = this.#layoutOf(quotas);
      const who = () => (id === "" ? "everybody" : `the ${kind} "${id}"`);
      subject = {
        id,
        quotas,
        layout,
        allowance: new Allowance(quotas, layout, who, now),
        reporting: undefined,
      };
      this.#subjects.set(id, subject);
    }
    return subject;
  }

  #layoutOf(quotas: Quotas<Name>): Layout<Name> {
    let layout = this.#layouts.get(quotas);
    if (!layout) {
      layout = layoutOf(quotas);
      this.#layouts.set(quotas, layout);
    }
    return layout;
  }

  quotasOf(id: string): Quotas<Name> {
    return this.#options.own?.get(id) ?? this.#options.quotas;
  }

  /** What a subject has; a new one has all of its quotas. */
  of(id: string): Allowance<Name> {
    return this.#of(id).allowance;
  }

  /** Takes `cost`; throws quota_exceeded. Others hear of it some time. */
  take(id: string, cost: Cost<Name>): void {
    const subject = this.#of(id);
    subject.allowance.take(cost);
    this.#share(subject, unheardShare);
  }

  /** Counts what nobody could know before. */
  charge(id: string, cost: Cost<Name>): void {
    const subject = this.#of(id);
    subject.allowance.charge(cost);
    this.#share(subject, unheardShare);
  }

  /** Which groups a subject may begin, where it has `names`; Redis says afterwards which it began (Naming in fanout.ts). */
  naming(this: Subjects<Name | "names">, id: string) {
    const { allowance } = this.#of(id);
    return {
      allowed: allowance.has("names"),
      began: () => this.charge(id, { names: 1 } as Cost<Name | "names">),
      refused: () => allowance.exceeded("names"),
    };
  }

  /**
   * The same as `take` where Redis is asked anyway: what the cluster has used counts at once, also in a process that has
   * just begun. Throws quota_exceeded, and nothing else of Redis.
   */
  async takeOfAll(id: string, cost: Cost<Name>): Promise<void> {
    const subject = this.#of(id);
    const { allowance } = subject;
    allowance.take(cost);
    await subject.reporting;
    await this.#share(subject, 0);
    for (const name of this.#names) {
      if (cost[name] === undefined || allowance.has(name, 0)) continue;
      const error = allowance.exceeded(name, 0);
      allowance.charge(negated(cost));
      await this.#share(subject, 0);
      throw error;
    }
  }

  #share(subject: Subject<Name>, share: number): Promise<void> | undefined {
    const { redis, kind } = this.#options;
    if (!redis || subject.reporting) return subject.reporting;
    const { allowance, id, quotas, layout } = subject;
    const news = allowance.report(share);
    if (!news) return undefined;
    const args: Argument[] = [];
    for (const [at, used] of news) {
      const bucket = layout.buckets[at];
      if (!bucket) continue;
      const { name, label, windowSeconds } = bucket;
      args.push(label, used, quotas[name].limit, windowSeconds * 1_000);
    }
    subject.reporting = redis
      .run(quotaScript, [keys.quota(quotaTag(kind, id))], args)
      .then((reply) => {
        const all = reply as unknown[];
        for (const [i, at] of [...news.keys()].entries())
          allowance.learn(at, Number(all[i]));
      })
      .catch(() => {
        // What this process has seen stands; that it is not in the total is a part of a limit at most. Nobody may be
        // refused, and no process end, because the sum could not be asked for.
      })
      .finally(() => {
        subject.reporting = undefined;
      });
    return subject.reporting;
  }
}
