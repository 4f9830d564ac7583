/** What waits for the webhook, as its deliverers see it: steps along a lane, and lanes whose job was lost. */
import { createHash } from "node:crypto";
import type { BridgeEvent } from "./api.js";
import { pairs, type BegunLane } from "./events.js";
import { keys } from "./keys.js";
import {
  laneFailedScript,
  laneStepScript,
  lostLanesScript,
} from "./lane-scripts.js";
import type { RedisLink } from "./redis.js";
import type { WebhookSettings } from "./webhook-settings.js";

/** A lane that fails by itself is tried again after so long, twice as long each time … */
const baseMs = 1_000;
/** … up to this. */
const laneMsMax = 300_000;
/** A receiver that is down is tried by one lane, at most so long after the last try. */
const downMsMax = 60_000;
/** A try may take so much longer than its exchange until another lane may try as well. */
const probeSlackMs = 5_000;
/** Permission to send is asked for again after a day. */
const proofMs = 86_400_000;
/** Lanes that a sweep gives their job back at once. */
const lostMax = 100;

/** An event as the stream stores it. */
export type StoredEvent = Pick<
  BridgeEvent,
  "id" | "type" | "subject" | "time" | "data"
>;

/** The first event of a lane. */
export interface LaneItem {
  /** Names it among all that wait. */
  member: string;
  /** Its place in the stream, microseconds since 1970. */
  position: number;
  event: StoredEvent;
  /** Attempts that failed. */
  attempts: number;
}

/** Why nobody posts: the receiver fails, asked for less, is gone, or has not given permission. */
export type DownMode = "down" | "throttled" | "gone" | "unproven";

export type Step = {
  /** A time that is over now. */
  recovered?: { mode: DownMode; sinceMs: number; failures: number };
} & (
  | { what: "none" | "fenced" | "empty" | "ask" }
  | { what: "wait"; ms: number; mode: DownMode }
  /** … and up to `spreadMs` more, so that not all come at once. */
  | { what: "pause"; ms: number; spreadMs: number }
  | { what: "old"; item: LaneItem; why: string }
  | { what: "post"; item: LaneItem; probe: boolean }
);

export interface Failed {
  attempts: number;
  /** When to come again. */
  delayMs: number;
  /** Events of this lane. */
  waiting: number;
  /** What this failure changed for all: the receiver is down now, or is so still; nothing. */
  change: "down" | "still" | undefined;
  /** Tries since it is down. */
  failures: number;
  mode: DownMode | undefined;
}

export interface Failure {
  scope: "any" | "throttled" | "gone" | "unproven";
  /** For the log of whoever gives up. */
  why: string;
  /** What the receiver asked for (Retry-After), or how long to rest. */
  wantedMs: number;
  was: "" | "probe" | "ask";
}

/** All methods throw `redis_unavailable` or `outcome_unknown`. */
export class Lanes {
  readonly #redis: Pick<RedisLink, "run" | "command">;
  readonly #settings: Pick<
    WebhookSettings,
    "url" | "origin" | "timeoutMs" | "giveUpMs"
  >;
  readonly #proof: string;

  constructor(
    redis: Pick<RedisLink, "run" | "command">,
    settings: Pick<
      WebhookSettings,
      "url" | "origin" | "timeoutMs" | "giveUpMs"
    >,
  ) {
    this.#redis = redis;
    this.#settings = settings;
    this.#proof = createHash("sha256")
      .update(`${settings.url.href}\n${settings.origin}`)
      .digest("hex");
  }

  /** Whether the receiver has given permission to send, as far as all know. */
  async isProven(): Promise<boolean> {
    const proof = await this.#redis.command("GET", keys.webhookProof);
    return typeof proof === "string" && proof.startsWith(`${this.#proof} `);
  }

  /** It has, for so many a minute (0: any number), to somebody who has no lane. */
  async prove(rate: number): Promise<void> {
    const proof = `${this.#proof} ${rate}`;
    await this.#redis.command("SET", keys.webhookProof, proof, "PX", proofMs);
  }

  /** Takes the lane, from whoever has it. */
  take(lane: BegunLane, token: string): Promise<Step> {
    return this.#step(lane, token, "take");
  }

  /** The receiver has taken the item. */
  done(lane: BegunLane, token: string, { member }: LaneItem): Promise<Step> {
    return this.#step(lane, token, "done", member);
  }

  /** Nobody tries the item any more. */
  given(lane: BegunLane, token: string, { member }: LaneItem): Promise<Step> {
    return this.#step(lane, token, "given", member);
  }

  /** The receiver gives permission, for so many a minute; 0 is any number. */
  proven(lane: BegunLane, token: string, rate: number): Promise<Step> {
    return this.#step(lane, token, "proven", "", rate);
  }

  async #step(
    { lane, generation }: BegunLane,
    token: string,
    word: string,
    member = "",
    rate = 0,
  ): Promise<Step> {
    const { timeoutMs, giveUpMs } = this.#settings;
    const reply = await this.#redis.run(laneStepScript, all, [
      lane,
      generation,
      token,
      word,
      member,
      giveUpMs,
      timeoutMs + probeSlackMs,
      this.#proof,
      proofMs,
      rate,
    ]);
    return stepOf((reply as unknown[]).map(String));
  }

  /** An attempt failed; undefined: somebody else has the lane. */
  async failed(
    { lane, generation }: BegunLane,
    token: string,
    { scope, why, wantedMs, was }: Failure,
  ): Promise<Failed | undefined> {
    const reply = await this.#redis.run(laneFailedScript, all, [
      lane,
      generation,
      token,
      scope,
      why,
      wantedMs,
      baseMs,
      laneMsMax,
      downMsMax,
      0.5 + Math.random() / 2,
      was,
    ]);
    const [word, ...rest] = (reply as unknown[]).map(String);
    if (word === "fenced") return undefined;
    const [attempts, delayMs, waiting, change, failures, mode] = rest;
    return {
      attempts: Number(attempts),
      delayMs: Number(delayMs),
      waiting: Number(waiting),
      change: (change || undefined) as Failed["change"],
      failures: Number(failures),
      mode: (mode || undefined) as Failed["mode"],
    };
  }

  /** Lanes whose job nobody has heard of for too long. */
  async lost(): Promise<BegunLane[]> {
    const reply = await this.#redis.run(
      lostLanesScript,
      [keys.webhookLanes, keys.webhookState],
      [lostMax],
    );
    return pairs((reply as unknown[]).map(String));
  }
}

const all = [
  keys.webhookPending,
  keys.webhookBodies,
  keys.webhookLanes,
  keys.webhookState,
  keys.webhookProof,
];

function stepOf([what = "none", over = "", ...rest]: string[]): Step {
  const [mode, since, failures] = over.split(" ");
  const recovered =
    over === ""
      ? {}
      : {
          recovered: {
            mode: mode as DownMode,
            sinceMs: Number(since),
            failures: Number(failures),
          },
        };
  const [first = "", second = "", third, fourth = ""] = rest;
  const item = (): LaneItem => ({
    member: first,
    position: Number(first.slice(-16)),
    event: JSON.parse(second) as StoredEvent,
    attempts: Number(third),
  });
  switch (what) {
    case "wait":
      return {
        ...recovered,
        what,
        ms: Number(first),
        mode: second as DownMode,
      };
    case "pause":
      return {
        ...recovered,
        what,
        ms: Number(first),
        spreadMs: Number(second),
      };
    case "old":
      return { ...recovered, what, item: item(), why: fourth };
    case "post":
      return { ...recovered, what, item: item(), probe: fourth !== "" };
    default:
      return {
        ...recovered,
        what: what as "none" | "fenced" | "empty" | "ask",
      };
  }
}
