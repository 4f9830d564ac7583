// What the gateway itself answers: problem details (RFC 9457), over a response or, on an upgrade, over the bare socket.

import { STATUS_CODES, type ServerResponse } from "node:http";
import type { Socket } from "node:net";

export interface Problem {
  readonly status: number;
  readonly code: string;
  readonly detail: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** The function cannot be asked right now, and nothing has happened: trying again is safe. */
export function unavailable(detail: string): Problem {
  const headers = { "Retry-After": "1" };
  return { status: 503, code: "function_unavailable", detail, headers };
}

/** The function was asked and never answered; it may have acted. */
export function outcomeUnknown(detail: string): Problem {
  return { status: 502, code: "outcome_unknown", detail };
}

function render(problem: Problem) {
  const { status, code, detail } = problem;
  const title = STATUS_CODES[status] ?? "Error";
  const body = `${JSON.stringify({ title, status, code, detail })}\n`;
  const headers = {
    "Content-Type": "application/problem+json",
    "Content-Length": String(Buffer.byteLength(body)),
    ...problem.headers,
  };
  return { title, body, headers };
}

export function answerProblem(res: ServerResponse, problem: Problem): void {
  if (res.headersSent) {
    res.destroy(); // a truncated answer must look truncated
    return;
  }
  const { body, headers } = render(problem);
  res.writeHead(problem.status, headers).end(body);
}

/** Answers an upgrade and ends the connection. */
export function answerProblemOnSocket(socket: Socket, problem: Problem): void {
  if (!socket.writable) {
    socket.destroy();
    return;
  }
  const { title, body, headers } = render(problem);
  const lines = Object.entries({ ...headers, Connection: "close" })
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join("");
  socket.once("finish", () => socket.destroy());
  socket.end(`HTTP/1.1 ${problem.status} ${title}\r\n${lines}\r\n${body}`);
}
