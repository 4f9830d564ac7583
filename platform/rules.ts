// What the documents leave open, and what an account can have raised: each point a switch with a name, a default and
// a reason, and three presets that set many at once. The rules of one function (timeouts, memory) are in its own file.

/** Where a function may be frozen or killed once its last invocation is over [WS-LIFE-7, WS-LIFE-8]. */
export type AfterClose = "freeze" | "kill" | "random";
/** What happens to traffic above a limit; the documents do not say [WS-LIM-4]. */
export type LimitPolicy = "close" | "throttle" | "drop" | "warn";
/** Which text of the documents bounds the idle timeout [WS-TIME-1]. */
export type Profile = "2022+" | "2021" | "api";

export interface Rules {
  /** Bounds of the idle timeout: 10–7200 s in the present text, 1–600 s in the one of 2021, 1–1800 s in the API's. */
  readonly profile: Profile;
  /** Highest execution timeout an account may set, s: 900 by the documents, raised on request [WS-TIME-4]. */
  readonly maxExecutionSeconds: number;
  /** The execution timeout counts from the ready instance or from the request; the documents say both [WS-TIME-3]. */
  readonly executionFrom: "ready" | "request";
  /** Read 1010 as the client's only and 1011 as the server's only [WS-CLOSE-7]. */
  readonly strictCloseDirection: boolean;
  /** A Close frame without a code counts as a success [WS-CLOSE-8]. */
  readonly lenientNoCode: boolean;
  /** Pings and pongs count as traffic for the idle timeout [WS-CLOSE-13]. */
  readonly countControlFrames: boolean;
  /** How the platform ends a connection: without a Close frame, or with one of this code [WS-CLOSE-15]. */
  readonly platformClose: "abort" | number;
  /** What becomes of an instance whose connection has ended. */
  readonly afterClose: AfterClose;
  /** From the end of the last invocation to the freeze, ms. Nobody promises any. */
  readonly graceAfterCloseMs: number;
  /** Instances serve again after 455 and 456; the documents name 433, 434 and 439 only [WS-LIFE-9]. */
  readonly reuseAfterFailure: boolean;
  /** From SIGTERM to SIGKILL when an instance is destroyed, ms; 0: no SIGTERM, as no document promises one. */
  readonly sigtermGraceMs: number;
  /** How long an unused instance is kept, s: "three to five minutes". */
  readonly warmTtlSeconds: number;
  /** One message, either direction, bytes [WS-LIM-1]. */
  readonly maxMessageBytes: number;
  readonly messageSizePolicy: LimitPolicy;
  /** Upstream payload per second and connection, bytes [WS-LIM-2]. */
  readonly bytesPerSecond: number;
  readonly bytesPolicy: LimitPolicy;
  /** Upstream messages per second and connection [WS-LIM-3]. */
  readonly messagesPerSecond: number;
  readonly messagesPolicy: LimitPolicy;
  /** The two rates bound the downstream direction as well; the text says "request". */
  readonly countDownstream: boolean;
  /** The second of the two rates: any second, or the clock's [WS-LIM-3]. */
  readonly rateWindow: "sliding" | "fixed";
  /** Memory of all instances together, MB; above it 432. */
  readonly memoryQuotaMb: number;
  /** New instances a minute; above it 429. */
  readonly startsPerMinute: number;
  /** What a client gets whose function cannot start: a 503 problem, or the platform's code as the HTTP status. */
  readonly startFailureAnswer: "problem" | "status";
  /** A bootstrap that names its interpreter without /var/lang is refused instead of warned about [WS-BOOT-3]. */
  readonly strictBootstrap: boolean;
  /**
   * `shared`: instances share this machine's network, and a Node function's port 9000 is mapped. `own`: each has one of
   * its own (Linux), for any language; it then reaches nobody, Redis included [WS-BOOT-2].
   */
  readonly network: "shared" | "own";
  /** Which way requests come in: decides how responses are billed [WS-BILL-5]. */
  readonly entry: "apigw" | "function-url";
  /** Real seconds per platform second: 0.01 lets a 10 s timeout end after 100 ms. */
  readonly timeScale: number;
  /** Of everything that is random. */
  readonly seed: number;
}

/** The documents as they are written; where they are silent, the reading that their examples suggest. */
const documented: Rules = Object.freeze({
  profile: "2022+",
  maxExecutionSeconds: 900,
  executionFrom: "ready",
  strictCloseDirection: false,
  lenientNoCode: false,
  countControlFrames: false,
  platformClose: "abort",
  afterClose: "freeze",
  graceAfterCloseMs: 0,
  reuseAfterFailure: true,
  sigtermGraceMs: 0,
  warmTtlSeconds: 240,
  maxMessageBytes: 262_144,
  messageSizePolicy: "close",
  bytesPerSecond: 131_072,
  bytesPolicy: "close",
  messagesPerSecond: 10,
  messagesPolicy: "close",
  countDownstream: false,
  rateWindow: "sliding",
  memoryQuotaMb: 128_000,
  startsPerMinute: 500,
  startFailureAnswer: "problem",
  strictBootstrap: false,
  network: "shared",
  entry: "function-url",
  timeScale: 1,
  seed: 1,
});

/** `documented`; `friendly`: the kindest reading of every open point; `hostile`: the worst one. */
export const presets: Readonly<
  Record<"documented" | "friendly" | "hostile", Rules>
> = Object.freeze({
  documented,
  friendly: Object.freeze({
    ...documented,
    lenientNoCode: true,
    countControlFrames: true,
    platformClose: 1001,
    graceAfterCloseMs: 1_000,
    sigtermGraceMs: 2_000,
    messageSizePolicy: "warn",
    bytesPolicy: "throttle",
    messagesPolicy: "throttle",
  }),
  hostile: Object.freeze({
    ...documented,
    executionFrom: "request",
    strictCloseDirection: true,
    afterClose: "random",
    reuseAfterFailure: false,
    warmTtlSeconds: 180,
    startFailureAnswer: "status",
    strictBootstrap: true,
  }),
});
export type PresetName = keyof typeof presets;
