// What the gateway itself answers: problem details (RFC 9457), over a response or, on an upgrade, over the bare socket.

import { STATUS_CODES, type ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { ErrorCode } from "../shared/api.js";
import { ERRORS, RETRY_AFTER_SECONDS_DEFAULT } from "../shared/errors.js";
import { protectionHeaders } from "../shared/protection.js";
import { visibleJson } from "../shared/visible.js";

export interface Problem {
  readonly code: ErrorCode;
  readonly detail: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** The function cannot be asked right now, and nothing has happened: trying again is safe. */
export function unavailable(detail: string): Problem {
  return { code: "function_unavailable", detail };
}

/** The function was asked and never answered; it may have acted. */
export function outcomeUnknown(detail: string): Problem {
  return { code: "outcome_unknown", detail };
}

/** A whole answer, for a response or a bare socket. */
export interface Answer {
  /** The reason phrase; default: what HTTP calls the status. */
  readonly reason?: string;
  readonly status: number;
  readonly body: string;
  readonly headers: Readonly<Record<string, string>>;
}

function render({ code, detail, headers }: Problem): Answer {
  const { status, title } = ERRORS[code];
  const type = `/docs#${code}`;
  const body = `${visibleJson({ type, title, status, code, detail })}\n`;
  const all: Record<string, string> = {
    ...protectionHeaders(false),
    "Content-Type": "application/problem+json",
    "Content-Length": String(Buffer.byteLength(body)),
    ...headers,
  };
  if (status === 503) all["Retry-After"] = String(RETRY_AFTER_SECONDS_DEFAULT);
  return { status, body, headers: all };
}

export function answerProblem(res: ServerResponse, problem: Problem): void {
  answer(res, render(problem));
}

export function answer(
  res: ServerResponse,
  { status, reason, body, headers }: Answer,
): void {
  if (res.headersSent) {
    res.destroy(); // a truncated answer must look truncated
    return;
  }
  res.writeHead(status, reason ?? STATUS_CODES[status], headers).end(body);
}

/** Answers an upgrade and ends the connection. */
export function answerProblemOnSocket(socket: Socket, problem: Problem): void {
  answerOnSocket(socket, render(problem));
}

export function answerOnSocket(
  socket: Socket,
  { status, reason = STATUS_CODES[status], body, headers }: Answer,
): void {
  if (!socket.writable) {
    socket.destroy();
    return;
  }
  const lines = Object.entries({ ...headers, Connection: "close" })
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join("");
  socket.once("finish", () => socket.destroy());
  socket.end(`HTTP/1.1 ${status} ${reason ?? ""}\r\n${lines}\r\n${body}`);
}
