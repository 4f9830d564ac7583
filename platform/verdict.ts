// How an invocation ended, and what the platform says about it: the table of the contract, as one pure function.

import { NO_CODE } from "./frames.js";

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
  | { cause: "idle"; seconds: number }
  | { cause: "execution"; seconds: number }
  | { cause: "answered"; status: number; toUpgrade: boolean }
  | { cause: "not-started"; status: StartFailure; reason: string }
  | { cause: "cancelled" };

/**
 * 405 ended at start, 429 starts too fast, 432 no more instances allowed, 445 cannot be started, 446 does not listen,
 * 449 no capacity, 450 prepared too slowly, 499 not wanted any more, 500 the platform's own mistake.
 */
export type StartFailure = 405 | 429 | 432 | 445 | 446 | 449 | 450 | 499 | 500;

export interface Verdict {
  readonly statusCode: number;
  readonly statusMessage: string;
  readonly closeInitiator: Initiator;
  readonly closeCode: number | null;
  /** One plain sentence. */
  readonly why: string;
}

export const statusMessages: Readonly<Record<number, string>> = {
  200: "Success",
  405: "ContainerStateExited",
  429: "ResourceLimit",
  432: "ResourceLimitReached",
  433: "TimeLimitReached",
  439: "UserProcessExit",
  445: "ContainerInitError",
  446: "PortBindingFailed",
  449: "InsufficientResources",
  450: "InitContainerTimeout",
  455: "WebSocketIdleTimeout",
  456: "WebSocketClosedByClient",
  499: "RequestCanceled",
  500: "InternalError",
};

/** Statuses after which the platform does not use an instance again; of 455 and 456 nobody says it [WS-LIFE-9]. */
export function mustRecycle(
  statusCode: number,
  reuseAfterFailure: boolean,
): boolean {
  if (statusCode === 455 || statusCode === 456) return !reuseAfterFailure;
  return statusCode === 433 || statusCode === 434 || statusCode === 439;
}

/** Close codes of a success; 1010 from the server and 1011 from the client are read the lenient way [WS-CLOSE-1..3, 7]. */
const successCodes: readonly number[] = [1000, 1010, 1011];

export function judge(ending: Ending): Verdict {
  switch (ending.cause) {
    case "closed": {
      const { by, code } = ending;
      const good = successCodes.includes(code);
      const status = good ? 200 : by === "server" ? 439 : 456;
      const said =
        code === NO_CODE
          ? "a Close frame without a code, which counts as a failure: close with an explicit 1000"
          : `code ${code}${good ? "" : ", which counts as a failure"}`;
      return verdict(status, by, code, `The ${by} closed with ${said}.`);
    }
    case "dropped": {
      if (ending.by === "client")
        return verdict(
          456,
          "client",
          1006,
          "The client's line dropped without a Close frame.",
        );
      const why = ending.exit
        ? `The function's process ended (${describeExit(ending.exit)}).`
        : "The function dropped the line without a Close frame.";
      return verdict(439, "server", 1006, why);
    }
    case "idle":
      return verdict(
        455,
        "platform",
        1006,
        `No data in either direction for the idle timeout of ${ending.seconds} s (pings do not count).`,
      );
    case "execution":
      return verdict(
        433,
        "platform",
        1006,
        `The execution timeout of ${ending.seconds} s ran out.`,
      );
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

function verdict(
  statusCode: number,
  closeInitiator: Initiator,
  closeCode: number | null,
  why: string,
): Verdict {
  const statusMessage = statusMessages[statusCode] ?? "Unknown";
  return { statusCode, statusMessage, closeInitiator, closeCode, why };
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
