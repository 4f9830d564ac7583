/**
 * The honest of an attack: clients of the library that ack, and a backend that pushes to them in a steady rhythm, whatever
 * becomes of the pushes before. After a 503 or 429 it sends again under the same Idempotency-Key, as long as it may take.
 */
import http from "node:http";
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

import { WebSocket } from "ws";

import { connect } from "../../client/client.js";
import { call, prepare, type Target } from "./target.js";
import { soon } from "./weapon.js";
import { percentile } from "../faults/report.js";

export type HonestOrder =
  | { do: "open"; target: Target; clients: number; perSecond: number }
  | { do: "begin"; phase: string }
  | { do: "settle" };

export interface PhaseFigures {
  readonly pushes: number;
  readonly p50: number;
  readonly p99: number;
  /** Pushes that had to be sent again. */
  readonly again: number;
}

export interface HonestFigures {
  readonly phases: Readonly<Record<string, PhaseFigures>>;
  /** Accepted, and never handed over. */
  readonly lost: number;
  /** Never accepted, for as long as a backend tries. */
  readonly givenUp: number;
}

interface Push {
  readonly at: number;
  readonly phase: Phase;
  isAccepted: boolean;
}

interface Phase {
  pushes: number;
  again: number;
  readonly times: number[];
}

const AGAIN_FOR_MS = 15_000;
const AGAIN_EVERY_MS = 200;
/** What was accepted arrives within this; ample after everything. */
const ARRIVE_MS = 20_000;

export class Honest {
  readonly #target: Target;
  readonly #agent = new http.Agent({ keepAlive: true });
  readonly #connections: string[] = [];
  readonly #open = new Map<string, Push>();
  #phases: Record<string, Phase> = {};
  #phase: Phase = { pushes: 0, again: 0, times: [] };
  #givenUp = 0;
  #next = 0;

  private constructor(target: Target) {
    this.#target = target;
  }

  /** Resolves when all clients have their welcome; from then on it pushes until its process ends. */
  static async open(
    target: Target,
    clients: number,
    perSecond: number,
  ): Promise<Honest> {
    const honest = new Honest(target);
    await Promise.all(
      Array.from({ length: clients }, async () => {
        const { connectionId, token } = await prepare(target);
        await new Promise<void>((resolve, reject) => {
          const bridge = connect(`ws://127.0.0.1:${target.wsPort}/ws`, {
            WebSocket,
            token,
            onState: (state) => {
              if (state === "open") resolve();
              if (state === "closed") reject(new Error("closed"));
            },
            onError: () => undefined,
            onLost: () => undefined,
            onMessage: ({ text }) => honest.#arrived(text ?? ""),
          });
          void bridge;
        });
        honest.#connections.push(connectionId);
      }),
    );
    const beganAt = performance.now();
    let count = 0;
    setInterval(() => {
      for (
        const due = ((performance.now() - beganAt) * perSecond) / 1_000;
        count < due;
        count += 1
      )
        void honest.#push();
    }, 1_000 / perSecond);
    return honest;
  }

  /** What is pushed from now on counts for this phase. */
  begin(name: string): void {
    this.#phase = { pushes: 0, again: 0, times: [] };
    this.#phases[name] = this.#phase;
  }

  /** Waits for what is under way of the phases, and says what became of all of it. */
  async settle(): Promise<HonestFigures> {
    const phases = this.#phases;
    const mine = new Set(Object.values(phases));
    this.#phases = {};
    this.#phase = { pushes: 0, again: 0, times: [] };
    const left = () =>
      [...this.#open].filter(([, { phase }]) => mine.has(phase));
    await soon(() => left().length === 0, ARRIVE_MS);
    const missing = left();
    for (const [text] of missing) this.#open.delete(text);
    const givenUp = this.#givenUp;
    this.#givenUp = 0;
    return {
      lost: missing.filter(([, { isAccepted }]) => isAccepted).length,
      givenUp,
      phases: Object.fromEntries(
        Object.entries(phases).map(([name, { pushes, again, times }]) => [
          name,
          {
            pushes,
            again,
            p50: percentile(times, 50),
            p99: percentile(times, 99),
          },
        ]),
      ),
    };
  }

  #arrived(text: string): void {
    const push = this.#open.get(text);
    if (!push) return;
    push.phase.times.push(performance.now() - push.at);
    this.#open.delete(text);
  }

  async #push(): Promise<void> {
    const phase = this.#phase;
    const text = randomUUID();
    const at = performance.now();
    const to = this.#connections[this.#next++ % this.#connections.length] ?? "";
    const push: Push = { at, phase, isAccepted: false };
    phase.pushes += 1;
    this.#open.set(text, push);
    for (;;) {
      const status = await call(
        this.#target,
        "POST",
        `/v1/connections/${to}/messages`,
        {
          body: text,
          headers: { "content-type": "text/plain", "idempotency-key": text },
          agent: this.#agent,
        },
      ).then(
        (answer) => answer.status,
        () => 0,
      );
      if (status === 202 || status === 200) {
        push.isAccepted = true;
        return;
      }
      if (performance.now() - at > AGAIN_FOR_MS) break;
      phase.again += 1;
      await sleep(AGAIN_EVERY_MS);
    }
    // Nobody knows whether it was stored; if it comes it is no harm, and if not it was never promised.
    this.#open.delete(text);
    this.#givenUp += 1;
  }
}
