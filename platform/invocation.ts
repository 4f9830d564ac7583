// One invocation: an HTTP request, or a WebSocket connection from its upgrade to its end [WS-LIFE-1].
//
//   accepted → dispatched → established → closing → ended
//        └──────────┴───────────┴────────────┴───────▲

import { randomUUID } from "node:crypto";
import type { FrameReader } from "./frames.js";
import type { Log } from "./logs.js";
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
  /** From establishment to end, null for what was never established or still runs. */
  readonly billing: { readonly durationMs: number } | null;
}

/** Complete data messages, and the payload bytes of data frames as they were on the wire. */
export interface Counters {
  readonly clientMessages: number;
  readonly clientBytes: number;
  readonly serverMessages: number;
  readonly serverBytes: number;
}

export class Invocation {
  readonly requestId = randomUUID();
  readonly functionName: string;
  readonly startedAt: number;
  instanceId: string | null = null;
  coldStart = false;
  establishedAt: number | undefined;
  endedAt: number | undefined;
  /** What the client sent and what the function sent; absent for HTTP. */
  frames: { client: FrameReader; server: FrameReader } | undefined;
  /** How fast it was, and what was too much. */
  traffic: Traffic | undefined;

  readonly #log: Log;
  #state: InvocationState = "accepted";
  #verdict: Verdict | undefined;

  constructor(functionName: string, startedAt: number, log: Log) {
    this.functionName = functionName;
    this.startedAt = startedAt;
    this.#log = log;
  }

  get state(): InvocationState {
    return this.#state;
  }

  dispatched(instanceId: string, coldStart: boolean): void {
    this.instanceId = instanceId;
    this.coldStart = coldStart;
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

  record(maxMessageBytes: number): InvocationRecord {
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
      statusCode: verdict?.statusCode ?? RUNNING,
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
      billing:
        establishedAt === undefined || endedAt === undefined
          ? null
          : { durationMs: endedAt - establishedAt },
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
    this.#log.debug(
      { functionName: this.functionName, requestId: this.requestId },
      `invocation ${this.#state} -> ${next}`,
    );
    this.#state = next;
  }
}

function isoOrNull(time: number | undefined): string | null {
  return time === undefined ? null : new Date(time).toISOString();
}
