/** What an answer, or none, means for an event: taken, refused for good, or to be tried again, and when. */
import type { Failure } from "../../shared/lanes.js";
import type { Sent } from "./sender.js";

/** A receiver that is gone (410) is left alone for this long. */
const goneMs = 3_600_000;
/** Retry-After is heeded up to this. */
const retryAfterMsMax = 3_600_000;

export type Verdict =
  | { kind: "taken" }
  /** A client's event that the receiver does not want, and would not want again. */
  | { kind: "refused" }
  | ({ kind: "again" } & Omit<Failure, "was">);

export function verdictOf(sent: Sent, type: string, nowMs: number): Verdict {
  if (sent.kind === "failure")
    return again("any", `${sent.failure}: ${sent.reason}`);
  const { status, headers } = sent;
  if (status >= 200 && status < 300) return { kind: "taken" };
  const why = `answered ${status}`;
  const wantedMs = retryAfterMs(headers["retry-after"], nowMs);
  if (status === 410) return again("gone", why, goneMs);
  if (status === 429 || (status === 503 && wantedMs > 0))
    return again("throttled", why, wantedMs);
  // What became of a connection has to arrive, whoever configured the receiver wrongly; a client's event is refused.
  if (status >= 400 && status < 500 && type === "event" && !passing.has(status))
    return { kind: "refused" };
  return again("any", why);
}

/** 4xx that say nothing of the event: a timeout, too early. */
const passing = new Set([408, 425]);

const again = (
  scope: Failure["scope"],
  why: string,
  wantedMs = 0,
): Verdict => ({ kind: "again", scope, why, wantedMs });

/** Seconds or a date; 0 for none. */
export function retryAfterMs(value: string | undefined, nowMs: number): number {
  if (value === undefined) return 0;
  const ms = /^\d+$/.test(value)
    ? Number(value) * 1_000
    : Date.parse(value) - nowMs;
  return Number.isFinite(ms) ? Math.min(Math.max(ms, 0), retryAfterMsMax) : 0;
}

/** What the receiver says to our asking for permission (CloudEvents, HTTP 1.1 Web Hooks, section 4.2). */
export function permissionOf(
  sent: Sent,
  origin: string,
):
  | { granted: true; rate: number }
  | ({ granted: false } & Omit<Failure, "was">) {
  if (sent.kind === "failure")
    return {
      granted: false,
      scope: "any",
      why: `${sent.failure}: ${sent.reason}`,
      wantedMs: 0,
    };
  const { status, headers } = sent;
  // The status says nothing: any server answers OPTIONS somehow.
  const allowed = headers["webhook-allowed-origin"];
  if (
    typeof allowed !== "string" ||
    (allowed !== "*" && allowed.toLowerCase() !== origin.toLowerCase())
  )
    return {
      granted: false,
      scope: status >= 500 ? "any" : "unproven",
      why:
        allowed === undefined
          ? `answered OPTIONS with ${status} and no WebHook-Allowed-Origin`
          : `answered OPTIONS with WebHook-Allowed-Origin: ${String(allowed).slice(0, 100)}`,
      wantedMs: 0,
    };
  const rate = Number(headers["webhook-allowed-rate"]);
  return { granted: true, rate: Number.isInteger(rate) && rate > 0 ? rate : 0 };
}
