// What a client hears whose connection the platform cannot serve: a problem of ours, or the platform's own code as the
// HTTP status with a small JSON body; no document says which.

import type { Socket } from "node:net";
import { answerProblemOnSocket, type Problem } from "./problem.js";
import type { Rules } from "./rules.js";
import { statusMessage } from "./verdict.js";

export interface Failure {
  readonly status: number;
  readonly message: string;
  readonly requestId: string;
  /** What it is in our own words. */
  readonly problem: Problem;
}

/** Answers an upgrade and ends the connection. */
export function answerFailureOnSocket(
  socket: Socket,
  { status, message, requestId, problem }: Failure,
  how: Rules["startFailureAnswer"],
): void {
  if (how === "problem" || !socket.writable)
    return answerProblemOnSocket(socket, problem);
  const body = `${JSON.stringify({ errorCode: status, errorMessage: message, requestId })}\n`;
  socket.once("finish", () => socket.destroy());
  socket.end(
    `HTTP/1.1 ${status} ${statusMessage(status)}\r\n` +
      `Content-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n` +
      `X-Scf-Request-Id: ${requestId}\r\nConnection: close\r\n\r\n${body}`,
  );
}
