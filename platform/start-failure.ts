// What a client is told whose invocation got no instance, or was cut before an answer: a problem it may retry, or the
// platform's own code as the HTTP status. No document says which [WS-BOOT-2].

import type { ServerResponse } from "node:http";
import type { Socket } from "node:net";
import {
  answer,
  answerOnSocket,
  answerProblem,
  answerProblemOnSocket,
  unavailable,
  type Answer,
  type Problem,
} from "./problem.js";
import type { Rules } from "./rules.js";
import { statusMessage } from "./verdict.js";

type AnswerRules = Pick<Rules, "startFailureAnswer">;

/** `errorCode`, `errorMessage` and `requestId`, as the platform's own API calls them. */
export function platformAnswer(
  statusCode: number,
  why: string,
  requestId: string,
): Answer {
  const reason = statusMessage(statusCode);
  const body = `${JSON.stringify({
    errorCode: statusCode,
    errorMessage: `${reason}: ${why}`,
    requestId,
  })}\n`;
  const headers = {
    "Content-Type": "application/json",
    "Content-Length": String(Buffer.byteLength(body)),
  };
  return { status: statusCode, reason, body, headers };
}

/** The platform ends an HTTP request by itself, with this code; `problem` is the other way to say it. */
export function refuse(
  res: ServerResponse,
  statusCode: number,
  why: string,
  requestId: string,
  rules: AnswerRules,
  problem: Problem = unavailable(why),
): void {
  if (rules.startFailureAnswer === "problem") answerProblem(res, problem);
  else answer(res, platformAnswer(statusCode, why, requestId));
}

/** The same for an upgrade. */
export function refuseOnSocket(
  socket: Socket,
  statusCode: number,
  why: string,
  requestId: string,
  rules: AnswerRules,
  problem: Problem = unavailable(why),
): void {
  if (rules.startFailureAnswer === "problem")
    answerProblemOnSocket(socket, problem);
  else answerOnSocket(socket, platformAnswer(statusCode, why, requestId));
}
