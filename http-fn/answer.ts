/** Answers: JSON, or aligned text for who asks for it; and every error as one shape. */
import type { FastifyReply, FastifyRequest } from "fastify";
import { BridgeError, toProblem } from "../shared/errors.js";
import { visibleJson } from "../shared/visible.js";
import { rateLimit, rateLimitPolicy } from "./key-quotas.js";
import { toText } from "./text.js";

const JSON_TYPE = "application/json; charset=utf-8";
const PROBLEM_TYPE = "application/problem+json; charset=utf-8";
const TEXT_TYPE = "text/plain; charset=utf-8";

/** Whether `Accept` names a type, other than by excluding it. */
export function accepts(accept: string | undefined, type: string): boolean {
  return named(accept).includes(type);
}

/** `text/plain` is named and no JSON type is. */
export function wantsText(request: FastifyRequest): boolean {
  const { accept } = request.headers;
  // The usual clients name neither; they must not pay for the parsing.
  if (accept === undefined || accept === "*/*") return false;
  const types = named(accept);
  return (
    types.includes("text/plain") && !types.some((type) => type.endsWith("json"))
  );
}

const named = (accept = ""): string[] =>
  accept
    .toLowerCase()
    .split(",")
    .filter((part) => !/;\s*q=0(\.0*)?\s*($|;)/.test(part))
    .map((part) => (part.split(";")[0] ?? "").trim());

/** A newline at the end, so that a terminal's prompt stays on a line of its own. */
const toJson = (value: object): string => `${visibleJson(value)}\n`;

export function answer(
  request: FastifyRequest,
  reply: FastifyReply,
  status: number,
  value: object,
): FastifyReply {
  reply.code(status);
  if (wantsText(request))
    return reply.header("content-type", TEXT_TYPE).send(toText(value));
  return reply.header("content-type", JSON_TYPE).send(toJson(value));
}

export function answerProblem(
  error: BridgeError,
  request: FastifyRequest,
  reply: FastifyReply,
): FastifyReply {
  const problem = toProblem(error, request.id);
  const { retryAfterSeconds } = error;
  if (retryAfterSeconds !== undefined)
    reply.header("retry-after", String(Math.ceil(retryAfterSeconds)));
  const { quota } = error.data;
  if (quota !== undefined)
    reply
      .header("ratelimit-policy", rateLimitPolicy(quota))
      .header("ratelimit", rateLimit(quota));
  if (error.data.allow !== undefined) reply.header("allow", error.data.allow);
  if (error.status === 401)
    reply.header("www-authenticate", 'Bearer realm="push-bridge"');
  // What is still to come of this request is of no use to anybody.
  if (error.status === 408) reply.header("connection", "close");
  reply.code(error.status);
  if (wantsText(request))
    return reply.header("content-type", TEXT_TYPE).send(toText(problem));
  return reply.header("content-type", PROBLEM_TYPE).send(toJson(problem));
}

interface ForeignError {
  code?: unknown;
  statusCode?: unknown;
  message?: unknown;
}

/** Whatever was thrown, as an error of the contract; what nobody foresaw is `internal`. */
export function toBridgeError(error: unknown): BridgeError {
  if (error instanceof BridgeError) return error;
  const { code, statusCode } = (error ?? {}) as ForeignError;
  if (code === "FST_ERR_MAX_PARAM_LENGTH") return new BridgeError("not_found");
  if (typeof statusCode === "number" && statusCode >= 400 && statusCode < 500)
    return new BridgeError("bad_request", {}, error);
  return new BridgeError("internal", {}, error);
}
