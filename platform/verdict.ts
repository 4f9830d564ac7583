// How an invocation ended, and what the platform says about it: the table of the contract, as one pure function.

import { NO_CODE } from "./frames.js";
import { presets, type Rules } from "./rules.js";

export type Initiator = "client" | "server" | "platform" | "none";

/** What became of a process: exit code or signal, and the last lines it wrote to stderr. */
export interface Exit {
  readonly code: number | null;
  readonly signal: string | null;
  readonly stderr: readonly string[];
}

/** What ended an invocation. The first cause that was seen counts [WS-CLOSE-6]. */
export type Ending =
  | { cause: "closed"; by: "client" | "server"; code: number }
  | { cause: "dropped"; by: "client" }
  | { cause: "dropped"; by: "server"; exit?: Exit }
  | PlatformEnding
  | { cause: "answered"; status: number; toUpgrade: boolean }
  | { cause: "not-started"; status: StartFailure; reason: string }
  | { cause: "cancelled" };

/** The platform ended it: for its time, or for its traffic [WS-LIM-4]; with a Close frame, or without one. */
export type PlatformEnding = { closeCode?: number } & (
  | { cause: "idle"; seconds: number }
  | { cause: "execution"; seconds: number }
  | LimitEnding
);

interface LimitEnding {
  readonly cause: "limit";
  readonly by: "client" | "server";
  readonly limit: "size" | "bytes" | "messages";
  /** The limit itself. */
  readonly allowed: number;
}

/**
 * Nothing was started, or it did not get ready: 405 ended at start, 429 too many starts a minute, 432 no more
 * instances allowed, 445 cannot be started, 446 does not listen, 499 not wanted any more; the others by a fault only.
 */
export type StartFailure =
  | 402
  | 405
  | 429
  | 432
  | 434
  | 438
  | 444
  | 445
  | 446
  | 447
  | 449
  | 450
  | 499
  | 500;

export interface Verdict {
  readonly statusCode: number;
  readonly statusMessage: string;
  readonly closeInitiator: Initiator;
  readonly closeCode: number | null;
  /** One plain sentence. */
  readonly why: string;
  /** Where the process ended under the invocation [WS-CLOSE-10]. */
  readonly exit: Exit | null;
}

const messages: Readonly<Record<number, string>> = {
  200: "Success",
  402: "ServiceSuspended",
  405: "ContainerStateExited",
  406: "RequestTooLarge",
  407: "ResponseTooLarge",
  429: "ResourceLimit",
  432: "ResourceLimitReached",
  433: "TimeLimitReached",
  434: "MemoryLimitReached",
  438: "FunctionStatusError",
  439: "UserProcessExit",
  444: "ImagePullFailed",
  445: "ContainerInitError",
  446: "PortBindingFailed",
  447: "ImagePullTimeout",
  449: "InsufficientResources",
  450: "InitContainerTimeout",
  455: "WebSocketIdleTimeout",
  456: "WebSocketClosedByClient",
  499: "RequestCanceled",
  500: "InternalError",
};

/** What the platform calls a status. */
export function statusMessage(statusCode: number): string {
  return messages[statusCode] ?? "Unknown";
}

/**
 * Statuses after which the platform does not use an instance again: three by the documents, and where the switch says
 * so every failure of a connection [WS-LIFE-9].
 */
export function mustRecycle(
  statusCode: number,
  { reuseAfterFailure }: Pick<Rules, "reuseAfterFailure"> = presets.documented,
): boolean {
  if (statusCode === 433 || statusCode === 434 || statusCode === 439)
    return true;
  return !reuseAfterFailure && statusCode !== 200 && statusCode !== 499;
}

/** The switches that decide how an end is read. */
export type Reading = Pick<
  Rules,
  "strictCloseDirection" | "lenientNoCode" | "countControlFrames"
>;

export function judge(
  ending: Ending,
  reading: Reading = presets.documented,
): Verdict {
  switch (ending.cause) {
    case "closed":
      return judgeClose(ending.by, ending.code, reading);
    case "dropped":
      return ending.by === "client"
        ? verdict(
            456,
            "client",
            1006,
            "The client's line dropped without a Close frame, which counts as a failure: close with an explicit 1000 before leaving.",
          )
        : judgeDropByServer(ending.exit);
    case "idle": {
      const but = reading.countControlFrames ? "" : " (pings do not count)";
      return verdict(
        455,
        "platform",
        ending.closeCode ?? 1006,
        `No data in either direction for the idle timeout of ${ending.seconds} s${but}: send a small message more often than that.`,
      );
    }
    case "execution":
      return verdict(
        433,
        "platform",
        ending.closeCode ?? 1006,
        `The execution timeout of ${ending.seconds} s ran out, traffic or not: raise \`timeout\`, or open a new connection before it.`,
      );
    case "limit":
      return judgeLimit(ending, ending.closeCode ?? 1006);
    case "answered":
      return verdict(
        200,
        "none",
        null,
        ending.toUpgrade
          ? `The function answered the upgrade with HTTP ${ending.status}.`
          : `The function answered with HTTP ${ending.status}.`,
      );
    case "not-started":
      return verdict(ending.status, "platform", null, ending.reason);
    case "cancelled":
      return verdict(
        499,
        "client",
        null,
        "The client went away before the function answered.",
      );
  }
}

/** 1000 is a success, 1010 and 1011 where they may come from, everything else is not [WS-CLOSE-1..5]. */
function judgeClose(
  by: "client" | "server",
  code: number,
  { strictCloseDirection, lenientNoCode }: Reading,
): Verdict {
  const failure = by === "server" ? 439 : 456;
  const said = (rest: string) => `The ${by} closed with ${rest}.`;
  if (code === NO_CODE)
    // Both readings tell of the way out that is right under both [WS-CLOSE-8].
    return verdict(
      lenientNoCode ? 200 : failure,
      by,
      code,
      said(
        lenientNoCode
          ? "a Close frame without a code, which counts as a success here only: close with an explicit 1000"
          : "a Close frame without a code, which counts as a failure: close with an explicit 1000",
      ),
    );
  if (code === 1000) return verdict(200, by, code, said("code 1000"));
  const usualSide = code === 1010 ? "client" : code === 1011 ? "server" : null;
  if (usualSide === null)
    return verdict(
      failure,
      by,
      code,
      said(
        `code ${code}, which counts as a failure: 1000 is the code of a success`,
      ),
    );
  if (usualSide === by || !strictCloseDirection)
    return verdict(200, by, code, said(`code ${code}`));
  return verdict(
    failure,
    by,
    code,
    said(
      `code ${code}, which is a success from the ${usualSide} only: close with 1000`,
    ),
  );
}

/** How V8 says that it has no memory left. */
const OUT_OF_MEMORY = /heap out of memory|Cannot allocate memory/;

function judgeDropByServer(exit: Exit | undefined): Verdict {
  if (exit === undefined)
    return verdict(
      439,
      "server",
      1006,
      "The function dropped the line without a Close frame.",
    );
  const how = describeExit(exit);
  if (exit.stderr.some((line) => OUT_OF_MEMORY.test(line)))
    return verdict(
      434,
      "server",
      1006,
      `The function's process had no memory left (${how}): raise \`memorySize\`, or keep less.`,
      exit,
    );
  return verdict(
    439,
    "server",
    1006,
    `The function's process ended (${how}).`,
    exit,
  );
}

/** 406 what a client sends, 407 what a function sends, 429 how fast: by analogy, no document says it. */
function judgeLimit(
  { by, limit, allowed }: LimitEnding,
  closeCode: number,
): Verdict {
  const who = by === "client" ? "client" : "function";
  if (limit === "size")
    return verdict(
      by === "client" ? 406 : 407,
      "platform",
      closeCode,
      `The ${who} sent a message of more than ${allowed} bytes [WS-LIM-1]: cut it into smaller ones.`,
    );
  const [what, id] =
    limit === "bytes" ? ["bytes", "WS-LIM-2"] : ["messages", "WS-LIM-3"];
  return verdict(
    429,
    "platform",
    closeCode,
    `The ${who} sent more than ${allowed} ${what} in a second [${id}]: send less at once, or put several messages into one.`,
  );
}

function verdict(
  statusCode: number,
  closeInitiator: Initiator,
  closeCode: number | null,
  why: string,
  exit: Exit | null = null,
): Verdict {
  return {
    statusCode,
    statusMessage: statusMessage(statusCode),
    closeInitiator,
    closeCode,
    why,
    exit,
  };
}

/** `exit code 3: last line of stderr`. */
export function describeExit(exit: Exit): string {
  const how =
    exit.signal === null
      ? `exit code ${exit.code ?? "unknown"}`
      : `signal ${exit.signal}`;
  const last = exit.stderr.at(-1);
  return last === undefined ? how : `${how}: ${last}`;
}
