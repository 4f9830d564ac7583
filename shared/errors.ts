/**
 * The errors of the bridge: a closed set of codes (openapi.yaml), the facts known when it went wrong, and a cause.
 * The same error becomes an HTTP answer, a WebSocket `error` frame, or a refused upgrade.
 */
import type { ErrorCode, FieldError, Problem, Reason } from "./api.js";

/** What the table says of a code: its HTTP status, its words, and whether the same request may work later. */
export interface ErrorKind {
  readonly status: number;
  readonly title: string;
  readonly retry: boolean;
}

/** One row per `ErrorCode`; a code without a row does not compile. */
export const ERRORS = {
  bad_request: { status: 400, title: "Malformed request", retry: false },
  invalid_parameter: { status: 400, title: "Invalid parameter", retry: false },
  unknown_parameter: { status: 400, title: "Unknown parameter", retry: false },
  invalid_body: { status: 400, title: "Invalid body", retry: false },
  invalid_json: { status: 400, title: "The body is not JSON", retry: false },
  invalid_utf8: { status: 400, title: "The body is not UTF-8", retry: false },
  payload_too_large: { status: 413, title: "Body too large", retry: false },
  unsupported_media_type: {
    status: 415,
    title: "Unsupported media type",
    retry: false,
  },
  unauthorized: {
    status: 401,
    title: "API key missing or unknown",
    retry: false,
  },
  forbidden: { status: 403, title: "Not allowed", retry: false },
  forbidden_origin: { status: 403, title: "Origin not allowed", retry: false },
  forbidden_host: { status: 403, title: "Host not allowed", retry: false },
  not_found: { status: 404, title: "Nothing here", retry: false },
  method_not_allowed: {
    status: 405,
    title: "Method not allowed",
    retry: false,
  },
  connection_not_found: {
    status: 404,
    title: "No such connection",
    retry: false,
  },
  connection_ended: { status: 410, title: "Connection ended", retry: false },
  message_not_found: { status: 404, title: "No such message", retry: false },
  already_sent: { status: 409, title: "Message already sent", retry: false },
  already_final: { status: 409, title: "Message already final", retry: false },
  may_have_been_delivered: {
    status: 409,
    title: "Message may have been delivered",
    retry: true,
  },
  idempotency_in_progress: {
    status: 409,
    title: "First request still running",
    retry: true,
  },
  idempotency_mismatch: {
    status: 422,
    title: "Idempotency key used before",
    retry: false,
  },
  quota_exceeded: { status: 429, title: "Quota used up", retry: true },
  log_full: { status: 429, title: "Too many messages pending", retry: true },
  redis_full: { status: 503, title: "Redis has no room", retry: true },
  events_full: { status: 503, title: "Too many events pending", retry: true },
  event_refused: {
    status: 422,
    title: "Refused by the backend",
    retry: false,
  },
  event_pending: { status: 503, title: "Not delivered yet", retry: false },
  event_undelivered: {
    status: 502,
    title: "Backend out of reach",
    retry: true,
  },
  connect_refused: {
    status: 403,
    title: "The backend refuses this client",
    retry: false,
  },
  connect_unavailable: {
    status: 503,
    title: "The backend did not decide",
    retry: true,
  },
  redis_unavailable: { status: 503, title: "Redis unavailable", retry: true },
  outcome_unknown: { status: 503, title: "Outcome unknown", retry: true },
  no_replica: { status: 503, title: "No replica", retry: true },
  reply_timeout: { status: 504, title: "No reply in time", retry: true },
  reply_impossible: { status: 409, title: "Nobody can reply", retry: false },
  already_answered: { status: 409, title: "Answered already", retry: false },
  request_timeout: { status: 408, title: "Request too slow", retry: true },
  headers_too_large: { status: 431, title: "Headers too large", retry: false },
  internal: { status: 500, title: "Internal error", retry: true },
  token_invalid: { status: 401, title: "Invalid token", retry: false },
  token_expired: { status: 401, title: "Token expired", retry: false },
  token_revoked: { status: 401, title: "Token revoked", retry: false },
  token_keys_unavailable: {
    status: 503,
    title: "Token keys unavailable",
    retry: true,
  },
  overtaken: {
    status: 409,
    title: "A later attempt was first",
    retry: false,
  },
  no_room: { status: 503, title: "Instance full", retry: true },
  function_unavailable: {
    status: 503,
    title: "Function unavailable",
    retry: true,
  },
  upgrade_required: {
    status: 426,
    title: "WebSocket upgrade required",
    retry: false,
  },
  invalid_frame: { status: 400, title: "Invalid frame", retry: false },
  upstream_too_fast: { status: 429, title: "Sending too fast", retry: true },
  upstream_too_big: { status: 413, title: "Frame too big", retry: false },
} as const satisfies Record<ErrorCode, ErrorKind>;

/** Seconds in `Retry-After` of every 503 that names no other number. */
export const RETRY_AFTER_SECONDS_DEFAULT = 1;

/** A quota as a caller is told of it. */
export interface QuotaFacts {
  name: string;
  limit: number;
  /** Not of what lives: so much at a time. */
  windowSeconds?: number;
  /** What is left now. */
  left: number;
  /** Until all of it is there again, seconds. */
  resetSeconds: number;
}

/** The facts of an error; all of them are shown to the caller, so no secrets and no texts of other systems. */
export interface ErrorData {
  /** With `connect_refused`: the backend's own, instead of the code's. */
  status?: number;
  detail?: string;
  limit?: number;
  actual?: number;
  hint?: string;
  /** With `quota_exceeded`: which one; `RateLimit` and `RateLimit-Policy` say it as well. */
  quota?: QuotaFacts;
  errors?: FieldError[];
  /** With `connection_ended`: when (RFC 3339) and why. */
  endedAt?: string;
  reason?: Reason;
  /** With `reply_timeout` and `reply_impossible`: the message that asked. */
  message?: string;
  /** Becomes the header `Retry-After`; seconds. */
  retryAfterSeconds?: number;
  /** Becomes the header `Allow`; methods. */
  allow?: string;
}

/** An error with a code of the contract. `cause` goes to the log, never to the caller. */
export class BridgeError extends Error {
  override readonly name = "BridgeError";
  readonly code: ErrorCode;
  readonly data: ErrorData;

  constructor(code: ErrorCode, data: ErrorData = {}, cause?: unknown) {
    super(
      data.detail ?? ERRORS[code].title,
      cause === undefined ? undefined : { cause },
    );
    this.code = code;
    this.data = data;
  }

  get status(): number {
    return this.data.status ?? ERRORS[this.code].status;
  }

  /** Seconds after which to ask again; undefined when it makes no sense or nothing is known. */
  get retryAfterSeconds(): number | undefined {
    return (
      this.data.retryAfterSeconds ??
      (this.status === 503 ? RETRY_AFTER_SECONDS_DEFAULT : undefined)
    );
  }
}

/** The error as RFC 9457 object. Anything that is no BridgeError is `internal`, and nothing of it is shown. */
export function toProblem(error: unknown, instance?: string): Problem {
  const known =
    error instanceof BridgeError ? error : new BridgeError("internal");
  const { code, data } = known;
  const { title } = ERRORS[code];
  const { status } = known;
  const problem: Problem = { type: `/docs#${code}`, title, status, code };
  const detail =
    data.detail ??
    data.errors?.map((each) => `${each.pointer} ${each.message}`).join("; ");
  if (detail !== undefined) problem.detail = detail;
  if (instance !== undefined) problem.instance = instance;
  if (data.limit !== undefined) problem.limit = data.limit;
  if (data.actual !== undefined) problem.actual = data.actual;
  if (data.quota !== undefined) {
    problem.quota = data.quota.name;
    // Frames and results of a batch have no headers.
    problem.retryAfter = known.retryAfterSeconds ?? 1;
  }
  if (data.hint !== undefined) problem.hint = data.hint;
  if (data.errors !== undefined) problem.errors = data.errors;
  if (data.endedAt !== undefined) problem.endedAt = data.endedAt;
  if (data.reason !== undefined) problem.reason = data.reason;
  if (data.message !== undefined) problem.message = data.message;
  return problem;
}

/** The 410 of a connection that ended at `atMs` because of `reason`. */
export function connectionEnded(atMs: number, reason: string): BridgeError {
  const endedAt = new Date(atMs).toISOString();
  return new BridgeError("connection_ended", {
    detail: `the connection ended at ${endedAt}`,
    endedAt,
    reason: reason as Reason,
  });
}

/** The 404 of a connection that never was, or ended long ago. */
export function connectionNotFound(connectionId: string): BridgeError {
  return new BridgeError("connection_not_found", {
    detail: `there is no connection ${connectionId}`,
  });
}
