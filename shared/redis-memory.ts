/**
 * How full Redis is, and the refusal of what is new well before it is full: the room that is left is for those who drain
 * it. A process may be frozen between two requests, so nothing runs here by itself: who asks for admission
 * brings the knowledge up to date, a few times a second, and waits for it only when it is old or the mark is near.
 *
 *            used ≥ mark           used < 95 % of the mark
 *   roomy ──────────────────▶ full ───────────────────────▶ roomy      for each master by itself
 */
import { redisFull } from "./full.js";
import { BridgeError } from "./errors.js";
import type { Logger } from "./logging.js";
import type { RedisLink } from "./redis.js";

/** So long knowledge counts as it is; then it is renewed while the request goes on. */
const freshMs = 250;
/** After this long it counts no more, and the request waits for it: this process may have been frozen. */
const staleMs = 1_000;
/** The same where there is no limit, or none that we may see: somebody may set one, some day. */
const unlimitedStaleMs = 60_000;
/** Having added this share of the limit a process looks again, … */
const lookAt = 0.01;
/** … and having added this share, it waits for that. */
const waitAt = 0.03;
/** The shares are of no more than this, bytes: a limit may have been set, or lowered, a moment ago. */
const sharedBytesMax = 134_217_728;
/** Used memory must fall below this share of the mark before anything is taken again. */
const calmAt = 0.95;
/** What a message takes besides its body until its receipt is over, rounded up; bytes. */
const overheadBytes = 512;

interface Master {
  usedBytes: number;
  /** 0: no limit. */
  limitBytes: number;
  /** Wall clock, which goes on while a process is frozen. */
  atMs: number;
  /** What this process was admitted to add since then. */
  addedBytes: number;
  full: boolean;
  /** Resolves with whether Redis answered. */
  asking: Promise<boolean> | undefined;
}

export class RedisMemory {
  readonly #redis: Pick<RedisLink, "masters" | "masterOf" | "memoryOf">;
  readonly #high: number;
  readonly #logger: Logger;
  readonly #masters = new Map<string, Master>();
  #blind = false;
  #warned = false;

  /** `high`: share of maxmemory from which on nothing new is taken (REDIS_MEMORY_HIGH); 0 never refuses. */
  constructor(
    redis: Pick<RedisLink, "masters" | "masterOf" | "memoryOf">,
    high: number,
    logger: Logger,
  ) {
    this.#redis = redis;
    this.#high = high;
    this.#logger = logger;
  }

  /** Looks once at every master, so that a policy that loses messages is told at the start. Never throws. */
  async look(): Promise<void> {
    try {
      const names = await this.#redis.masters();
      await Promise.all(names.map((name) => this.#ask(name)));
    } catch {
      // The first request looks again.
    }
  }

  /**
   * Room for `bytes` on the master of `{tag}`: nothing to wait for nearly always, else a promise. Throws or rejects with
   * redis_full. Where Redis does not say how full it is, what follows finds out.
   */
  admit(tag: string, bytes: number): Promise<void> | undefined {
    if (this.#high === 0) return undefined;
    let name: string;
    try {
      name = this.#redis.masterOf(tag);
    } catch {
      return undefined;
    }
    const master = this.#master(name);
    const ageMs = Date.now() - master.atMs;
    const old = master.limitBytes > 0 ? staleMs : unlimitedStaleMs;
    const added =
      master.addedBytes /
      Math.min(master.limitBytes || Infinity, sharedBytesMax);
    if (ageMs < 0 || ageMs > old || added > waitAt || this.#seemsFull(master))
      return this.#ask(name).then((answered) => {
        if (answered) this.#decide(master, bytes);
      });
    if (ageMs > freshMs || added > lookAt) void this.#ask(name);
    this.#decide(master, bytes);
    return undefined;
  }

  /**
   * The mark of all masters together, bytes, and how near to its own the fullest one is (1: there). Undefined where no
   * limit is known, or nothing is refused.
   */
  get fullness(): { markBytes: number; share: number } | undefined {
    let markBytes = 0;
    let share = 0;
    for (const {
      usedBytes,
      addedBytes,
      limitBytes,
    } of this.#masters.values()) {
      const mark = this.#high * limitBytes;
      if (mark === 0) continue;
      markBytes += mark;
      share = Math.max(share, (usedBytes + addedBytes) / mark);
    }
    return markBytes === 0 ? undefined : { markBytes, share };
  }

  #master(name: string): Master {
    let master = this.#masters.get(name);
    if (!master) {
      master = {
        usedBytes: 0,
        limitBytes: 0,
        atMs: 0,
        addedBytes: 0,
        full: false,
        asking: undefined,
      };
      this.#masters.set(name, master);
    }
    return master;
  }

  /** By our own additions the mark may be reached before the knowledge is old: ask before refusing or going on. */
  #seemsFull({ full, limitBytes, usedBytes, addedBytes }: Master): boolean {
    return (
      !full &&
      limitBytes > 0 &&
      usedBytes + addedBytes >= this.#high * limitBytes
    );
  }

  #decide(master: Master, bytes: number): void {
    if (master.full)
      throw redisFull({
        limit: Math.floor(this.#high * master.limitBytes),
        actual: master.usedBytes,
      });
    master.addedBytes += bytes + overheadBytes;
  }

  /** One question at a time for each master; everybody who asks meanwhile gets the same answer. */
  #ask(name: string): Promise<boolean> {
    const master = this.#master(name);
    master.asking ??= this.#refresh(name, master).finally(() => {
      master.asking = undefined;
    });
    return master.asking;
  }

  async #refresh(name: string, master: Master): Promise<boolean> {
    const before = master.addedBytes;
    let info: string;
    try {
      info = await this.#redis.memoryOf(name);
    } catch (error) {
      if (error instanceof BridgeError) return false;
      // It answers, but not this: a user without INFO. The hard limit still answers redis_full by itself.
      if (!this.#blind)
        this.#logger.warn(
          { reason: (error as Error).message },
          "Redis does not say how full it is: pushes are refused only when it is",
        );
      this.#blind = true;
      info = "";
    }
    const read = (field: string) =>
      new RegExp(`^${field}:(\\S+)`, "m").exec(info)?.[1] ?? "";
    // What Redis compares with its limit leaves its own buffers for replicas and the append-only file out.
    master.usedBytes =
      Number(read("used_memory")) - Number(read("mem_not_counted_for_evict"));
    master.limitBytes = Number(read("maxmemory"));
    master.atMs = Date.now();
    // What was admitted while the question was under way may or may not be in the answer: it counts.
    master.addedBytes -= before;
    this.#tellPolicy(read("maxmemory_policy"), master);
    this.#turn(name, master);
    return true;
  }

  #turn(name: string, master: Master): void {
    const { usedBytes, limitBytes, full } = master;
    const mark = this.#high * (full ? calmAt : 1);
    const next = limitBytes > 0 && usedBytes >= mark * limitBytes;
    if (next === full || this.#high === 0) return;
    master.full = next;
    const facts = { master: name, usedBytes, limitBytes };
    if (next)
      this.#logger.warn(
        facts,
        "Redis is nearly full: pushes and new connections are refused until clients have taken what waits",
      );
    else this.#logger.info(facts, "Redis has room again");
  }

  #tellPolicy(policy: string, { limitBytes }: Master): void {
    if (this.#warned || limitBytes === 0) return;
    if (policy === "" || policy === "noeviction") return;
    this.#warned = true;
    this.#logger.warn(
      { policy },
      "Redis may throw messages away when it is full: set maxmemory-policy to noeviction",
    );
  }
}
