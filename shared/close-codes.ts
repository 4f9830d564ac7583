/** The close codes of the bridge (openapi.yaml): their names, default reasons, and whether a client comes back. */
import type { CloseCode } from "./api.js";

/** What the table says of a close code. */
export interface CloseKind {
  readonly name: string;
  /** Sent as close reason where nothing more precise is known; at most 123 bytes. */
  readonly reason: string;
  /** Whether the client should open a new socket. */
  readonly retry: boolean;
  /** The platform's status of an invocation whose server closes with this code (WS-CLOSE-1, -3, -4). */
  readonly scfStatus: 200 | 439;
}

export const CLOSE_NORMAL = 1000;
export const CLOSE_POLICY = 1008;
export const CLOSE_TOO_BIG = 1009;
export const CLOSE_INTERNAL = 1011;
export const CLOSE_RESTART = 1012;
export const CLOSE_OVERLOAD = 1013;
export const CLOSE_TOO_SLOW = 4008;
export const CLOSE_TOO_FAST = 4029;
export const CLOSE_TOKEN = 4501;
export const CLOSE_FORBIDDEN = 4503;
export const CLOSE_TAKEN_OVER = 4509;
export const CLOSE_BY_BACKEND = 4510;

/** One row per `CloseCode`; a code without a row does not compile. */
export const CLOSE_CODES = {
  1000: { name: "normal", reason: "done", retry: false, scfStatus: 200 },
  1008: {
    name: "policy",
    reason: "protocol violation",
    retry: false,
    scfStatus: 439,
  },
  1009: {
    name: "too_big",
    reason: "message too big",
    retry: false,
    scfStatus: 439,
  },
  1011: {
    name: "internal",
    reason: "internal error",
    retry: true,
    scfStatus: 200,
  },
  1012: {
    name: "restart",
    reason: "restarting, come back",
    retry: true,
    scfStatus: 439,
  },
  1013: {
    name: "overload",
    reason: "overloaded, come back",
    retry: true,
    scfStatus: 439,
  },
  4008: {
    name: "too_slow",
    reason: "reading too slowly",
    retry: true,
    scfStatus: 439,
  },
  4029: {
    name: "too_fast",
    reason: "sending too fast",
    retry: true,
    scfStatus: 439,
  },
  4501: {
    name: "token",
    reason: "token invalid or expired",
    retry: false,
    scfStatus: 439,
  },
  4503: {
    name: "forbidden",
    reason: "forbidden",
    retry: false,
    scfStatus: 439,
  },
  4509: {
    name: "taken_over",
    reason: "a newer socket took over",
    retry: false,
    scfStatus: 439,
  },
  4510: {
    name: "by_backend",
    reason: "closed by the backend",
    retry: false,
    scfStatus: 439,
  },
} as const satisfies Record<CloseCode, CloseKind>;

/**
 * Whether a client should come back after a close with `code`: after 1006, 1011, 1012, 1013 and 4000 to 4499. Codes
 * of nobody in particular, such as 1001 and 1005, are those of a socket that was cut, and may be retried as 1006.
 */
export function mayRetry(code: number): boolean {
  if (code >= 4000) return code < 4500;
  return (
    code !== CLOSE_NORMAL && code !== CLOSE_POLICY && code !== CLOSE_TOO_BIG
  );
}
