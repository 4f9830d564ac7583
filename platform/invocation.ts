// One invocation: an HTTP request, or a WebSocket connection from its upgrade to its end [WS-LIFE-1].
//
//   accepted → dispatched → established → closing → ended
//        └──────────┴───────────┴────────────┴───────▲

import { randomUUID } from "node:crypto";
import type { Clock } from "./clock.js";
import type { FrameReader } from "./frames.js";
import type { InitParts } from "./log-record.js";
import type { Meter, Traffic } from "./traffic.js";
import type { Exit, Initiator, Verdict } from "./verdict.js";

export type InvocationState =
  "accepted" | "dispatched" | "established" | "closing" | "ended";

/** The status the platform shows while an invocation runs [WS-LIFE-2]. */
const RUNNING = 202;

/** What `GET /_platform/invocations` shows. Times are RFC 3339, with milliseconds. */
export interface InvocationRecord {
  readonly requestId: string;
  readonly functionName: string;
  readonly instanceId: string | null;
  readonly coldStart: boolean;
  readonly state: InvocationState;
  readonly startedAt: string;
  readonly establishedAt: string | null;
  readonly endedAt: string | null;
  readonly closeInitiator: Initiator;
  readonly closeCode: number | null;
  readonly statusCode: number;
  readonly statusMessage: string;
  readonly why: string;
  /** What became of the process, where it ended under the invocation [WS-CLOSE-10]. */
  readonly exit: Exit | null;
  readonly counters: Counters;
  /** Of a WebSocket; null for HTTP [WS-LIM-1..3]. */
  readonly meter: Meter | null;
  readonly warnings: readonly string[];
  /** What it costs, so far if it still runs; null for what was refused before anything was executed [WS-BILL-6]. */
  readonly billing: InvocationBill | null;
}

export interface InvocationBill {
  /** From establishment to end [WS-BILL-3]; of what was not established, from its hand-over to the instance. */
  readonly durationMs: number;
  /** The same without the time in which another invocation was billed for this instance. */
  readonly billedMs: number;
  readonly memoryMb: number;
  /** Exact, as a decimal number. */
  readonly gbSeconds: string;
  readonly egressBytes: number;
  readonly cost: string;
  readonly currency: string;
}

/** Complete data messages, and the payload bytes of data frames as they were on the wire. */
export interface Counters {
  readonly clientMessages: number;
  readonly clientBytes: number;
  readonly serverMessages: number;
  readonly serverBytes: number;
}

/** Places in the order of everything that is logged, and how many lines it printed. */
export interface LogMarks {
  begun: number;
  dispatched: number;
  ended: number;
  printed: number;
  /** Memory of its instance at its end, bytes. */
  memoryBytes: number;
  /** What its cold start was made of. */
  init: InitParts | undefined;
}

/** Hears of each step of an invocation after it was taken. */
export type OnStep = (invocation: Invocation, from: InvocationState) => void;

export class Invocation {
  readonly requestId = randomUUID();
  readonly functionName: string;
  readonly startedAt: number;
  instanceId: string | null = null;
  coldStart = false;
  dispatchedAt: number | undefined;
  establishedAt: number | undefined;
  endedAt: number | undefined;
  /** What the client sent and what the function sent; absent for HTTP. */
  frames: { client: FrameReader; server: FrameReader } | undefined;
  /** How fast it was, and what was too much. */
  traffic: Traffic | undefined;
  /** Bytes of an answer's body that were sent to the client. */
  answerBytes = 0;
  /** Billed time without overlaps, set when it has ended. */
  billedMs = 0;
  /** What the log knows of it besides its lines. */
  readonly marks: LogMarks = {
    begun: 0,
    dispatched: 0,
    ended: 0,
    printed: 0,
    memoryBytes: 0,
    init: undefined,
  };

  readonly #clock: Clock;
  readonly #onStep: OnStep;
  #state: InvocationState = "accepted";
  #verdict: Verdict | undefined;

  constructor(functionName: string, clock: Clock, onStep: OnStep) {
    this.functionName = functionName;
    this.startedAt = clock.now();
    this.#clock = clock;
    this.#onStep = onStep;
  }

  get state(): InvocationState {
    return this.#state;
  }

  get verdict(): Verdict | undefined {
    return this.#verdict;
  }

  /** What the platform shows now: 202 while it runs [WS-LIFE-2]. */
  get statusCode(): number {
    return this.#verdict?.statusCode ?? RUNNING;
  }

  /** What the function sent to its client. */
  get egressBytes(): number {
    return this.answerBytes + (this.frames?.server.bytes ?? 0);
  }

  dispatched(instanceId: string, coldStart: boolean): void {
    this.instanceId = instanceId;
    this.coldStart = coldStart;
    this.dispatchedAt = this.#clock.now();
    this.#setState("dispatched");
  }

  established(now: number): void {
    this.establishedAt = now;
    this.#setState("established");
  }

  closing(): void {
    this.#setState("closing");
  }

  ended(now: number, verdict: Verdict): void {
    this.endedAt = now;
    this.#verdict = verdict;
    this.#setState("ended");
  }

  record(
    maxMessageBytes: number,
    billing: InvocationBill | null,
  ): InvocationRecord {
    const { establishedAt, endedAt } = this;
    const verdict = this.#verdict;
    return {
      requestId: this.requestId,
      functionName: this.functionName,
      instanceId: this.instanceId,
      coldStart: this.coldStart,
      state: this.#state,
      startedAt: new Date(this.startedAt).toISOString(),
      establishedAt: isoOrNull(establishedAt),
      endedAt: isoOrNull(endedAt),
      closeInitiator: verdict?.closeInitiator ?? "none",
      closeCode: verdict?.closeCode ?? null,
      statusCode: this.statusCode,
      statusMessage: verdict?.statusMessage ?? "Running",
      why: verdict?.why ?? "It is still running.",
      exit: verdict?.exit ?? null,
      counters: {
        clientMessages: this.frames?.client.messages ?? 0,
        clientBytes: this.frames?.client.bytes ?? 0,
        serverMessages: this.frames?.server.messages ?? 0,
        serverBytes: this.frames?.server.bytes ?? 0,
      },
      meter: this.traffic?.meter() ?? null,
      warnings: [
        ...this.#warnings(maxMessageBytes),
        ...(this.traffic?.warnings() ?? []),
      ],
      billing,
    };
  }

  #warnings(maxMessageBytes: number): string[] {
    if (this.frames === undefined) return [];
    const { client, server } = this.frames;
    const sizes = [
      ["client", client.largestMessage],
      ["function", server.largestMessage],
    ] as const;
    return sizes
      .filter(([, size]) => size > maxMessageBytes)
      .map(
        ([who, size]) =>
          `The ${who} sent a message of ${size} bytes; the platform allows ${maxMessageBytes} [WS-LIM-1].`,
      );
  }

  #setState(next: InvocationState): void {
    const from = this.#state;
    this.#state = next;
    this.#onStep(this, from);
  }
}

function isoOrNull(time: number | undefined): string | null {
  return time === undefined ? null : new Date(time).toISOString();
}
