/**
 * Publishers as a good backend has them: one message after the other each, every one with an Idempotency-Key, sent
 * again (to the other http-fn) until the answer is certain, no sooner than Retry-After says.
 */
import { setTimeout as sleep } from "node:timers/promises";

import type { Answer, Backend } from "../lab/backend.js";
import { until } from "../lab/until.js";
import type { Ledger, Sent } from "./ledger.js";

/** A request without an answer for this long is given up and sent again, ms. http-fn answers within a second. */
const ANSWER_MS = 5_000;
/** Between two attempts where no Retry-After says otherwise: the connection broke, or the first copy still waits. */
const AGAIN_MS = 100;
/** An outcome that stays open for so long is what the history calls unknown, ms. */
const GIVE_UP_MS = 60_000;

export interface LoadOptions {
  /** Default 6. */
  publishers?: number;
  /** Messages a second of all publishers together. Default 150. */
  rate?: number;
  /**
   * How many messages it may be ahead of what `more` asked for: while processes start, nobody needs a flood. Default: any
   * number.
   */
  ahead?: number;
  /** Every other publisher sends each message once, without a key: only the bridge's own care keeps it single. */
  halfKeyless?: boolean;
  /** Instead of keys that stay the same for a message: a new one for each attempt. */
  freshKeys?: boolean;
  /** Of every POST, with its question mark. */
  query?: string;
  /** Every answer to a POST, and how long it took, ms; undefined when there was none. */
  heard?: (answer: Answer | undefined, ms: number) => void;
}

export interface Load {
  /** Answered for good so far. */
  readonly answered: number;
  /** Waits until so many more are answered. */
  more(count: number): Promise<void>;
  /** No new ones; resolves when each has its last answer. */
  stop(): Promise<void>;
}

/** Publishes in turn to the connections that `targets` names at that moment. */
export function startLoad(
  backends: readonly Backend[],
  ledger: Ledger,
  targets: () => readonly string[],
  {
    publishers = 6,
    rate = 150,
    ahead = Infinity,
    halfKeyless = false,
    ...how
  }: LoadOptions = {},
): Load {
  let isStopped = false;
  let answered = 0;
  let begun = 0;
  let allowed = ahead;
  const pauseMs = (1_000 * publishers) / rate;
  const one = async (publisher: number) => {
    for (let turn = publisher; !isStopped; turn += 1) {
      const due = performance.now() + pauseMs;
      const connections = targets();
      const connection = connections[turn % connections.length];
      if (connection !== undefined && begun < allowed) {
        begun += 1;
        const sent = ledger.invoke(connection, `p${publisher}`);
        await post(backends, sent, {
          ...how,
          first: turn,
          isKeyless: halfKeyless && publisher % 2 === 1,
        });
        answered += 1;
      }
      await sleep(Math.max(1, due - performance.now()));
    }
  };
  const all = Promise.all(
    Array.from({ length: publishers }, (_, publisher) => one(publisher)),
  );
  // Looked at in stop(); until then a mistake of ours must not end the process.
  all.catch(() => undefined);
  return {
    get answered() {
      return answered;
    },
    more: async (count) => {
      const goal = answered + count;
      allowed = Math.max(allowed, goal + ahead);
      await until(() => answered >= goal, {
        ms: GIVE_UP_MS,
        message: `${count} more are answered`,
      });
    },
    stop: async () => {
      isStopped = true;
      await all;
    },
  };
}

export interface PostOptions {
  /** Which backend is asked first. Default 0. */
  first?: number;
  /** The Idempotency-Key. Default: the text, which is never the same twice for a connection. */
  key?: string | undefined;
  /** Instead of Retry-After, ms: for a probe that measures when it works again. */
  everyMs?: number;
  /** No key at all, and no second attempt. Default false. */
  isKeyless?: boolean;
  freshKeys?: boolean;
  query?: string;
  heard?: (answer: Answer | undefined, ms: number) => void;
}

/** Sends one message until its outcome is certain, and notes it. Resolves with the last answer, if there was one. */
export async function post(
  backends: readonly Backend[],
  sent: Sent,
  {
    first = 0,
    key = sent.text,
    everyMs,
    isKeyless = false,
    freshKeys = false,
    query = "",
    heard,
  }: PostOptions = {},
): Promise<Answer | undefined> {
  const deadline = performance.now() + GIVE_UP_MS;
  let mayBeStored = false;
  for (let attempt = first; ; attempt += 1) {
    const backend = backends[attempt % backends.length];
    const began = performance.now();
    sent.attempts += 1;
    const answer = await backend
      ?.ask("POST", `/v1/connections/${sent.connection}/messages${query}`, {
        body: sent.text,
        headers: {
          "content-type": "text/plain",
          ...(isKeyless
            ? {}
            : { "idempotency-key": freshKeys ? `${key} ${attempt}` : key }),
        },
        signal: AbortSignal.timeout(ANSWER_MS),
      })
      .catch(() => undefined);
    sent.answeredAt = performance.now();
    heard?.(answer, sent.answeredAt - began);
    if (answer?.status === 202) {
      sent.outcome = "ok";
      sent.id = answer.json<{ id: string }>().id;
      return answer;
    }
    const code = answer?.json<{ code?: string }>().code;
    if (!answer || code === "outcome_unknown") mayBeStored = true;
    const isFinal = answer !== undefined && !isForNow(answer.status);
    if (isFinal || isKeyless || performance.now() > deadline) {
      sent.outcome = mayBeStored ? "unknown" : "refused";
      return answer;
    }
    const seconds = Number(answer?.headers["retry-after"] ?? 0);
    await sleep(everyMs ?? Math.max(seconds * 1_000, AGAIN_MS));
  }
}

/** 409 is `idempotency_in_progress` here: the first copy is under way. */
function isForNow(status: number): boolean {
  return [408, 409, 429, 500, 502, 503, 504].includes(status);
}
