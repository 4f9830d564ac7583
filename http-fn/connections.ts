/** Connections as the backend sees them: prepare, list, inspect, close. */
import type { FastifyReply, FastifyRequest } from "fastify";
import type { PrepareRequest } from "../shared/api.js";
import { CLOSE_BY_BACKEND, CLOSE_CODES } from "../shared/close-codes.js";
import { BridgeError } from "../shared/errors.js";
import { isConnectionId } from "../shared/ids.js";
import { checkBody, parseJson } from "../shared/media.js";
import type { Proxies } from "../shared/proxies.js";
import { answer } from "./answer.js";
import { checkEncoding, readBody } from "./body.js";
import type { Bridge, ListQuery } from "./bridge.js";
import {
  invalidParameter,
  type Operation,
  type ParametersOf,
} from "./contract.js";
import type { KeyQuotas } from "./key-quotas.js";

/** Connections in one answer when the query does not say. */
const LIST_LIMIT_DEFAULT = 100;

/** Bytes of a close reason (RFC 6455, section 5.5). */
const CLOSE_REASON_BYTES_MAX = 123;

export interface PrepareDeps {
  bridge: Pick<Bridge, "prepare">;
  quotas: KeyQuotas;
  operation: Pick<Operation, "body">;
  /** What `url` begins with; "" takes it from the request's `Host`. */
  publicWsUrl: string;
  /** Whose X-Forwarded-Proto is believed. */
  proxies: Pick<Proxies, "isTrusted">;
  /** How long a body may take, milliseconds. */
  bodyMs: number;
}

export function prepareConnection({
  bridge,
  quotas,
  operation,
  publicWsUrl,
  proxies,
  bodyMs,
}: PrepareDeps) {
  return async (
    request: FastifyRequest,
    reply: FastifyReply,
    _parameters: unknown,
    apiKeyName: string,
  ) => {
    checkEncoding(request.headers["content-encoding"]);
    const body = await readBody(request.raw, bodyMs);
    checkBody(body, { contentType: "", binary: false, json: false });
    const input = body.length === 0 ? {} : parseJson(body);
    operation.body(input);
    const naming = quotas.connect(apiKeyName, input as PrepareRequest);
    const { connectionId, token, expiresAt } = await bridge.prepare(
      input as PrepareRequest,
      naming,
    );
    const url = `${wsUrl(publicWsUrl, proxies, request)}?token=${token}`;
    reply
      .header("location", `/v1/connections/${connectionId}`)
      .header("cache-control", "no-store");
    return answer(request, reply, 201, { connectionId, token, url, expiresAt });
  };
}

/** The WebSocket address: as configured (with `/ws` when it names no path), else the host the caller asked. */
function wsUrl(
  configured: string,
  proxies: Pick<Proxies, "isTrusted">,
  request: FastifyRequest,
): string {
  if (configured !== "")
    return new URL(configured).pathname === "/"
      ? `${configured}/ws`
      : configured;
  const secure =
    request.headers["x-forwarded-proto"] === "https" &&
    proxies.isTrusted(request.raw.socket.remoteAddress);
  return `${secure ? "wss" : "ws"}://${request.headers.host ?? "localhost"}/ws`;
}

export function listConnections(bridge: Pick<Bridge, "list">) {
  return async (
    request: FastifyRequest,
    reply: FastifyReply,
    { user, group, state, limit, cursor }: ParametersOf<"listConnections">,
  ) => {
    const query: ListQuery = { limit: limit ?? LIST_LIMIT_DEFAULT };
    if (user !== undefined) query.userId = user;
    if (group !== undefined) query.group = group;
    if (state !== undefined) query.state = state;
    if (cursor !== undefined) query.cursor = cursor;
    reply.header("cache-control", "no-store");
    return answer(request, reply, 200, await bridge.list(query));
  };
}

export function inspectConnection(bridge: Pick<Bridge, "inspect">) {
  return async (request: FastifyRequest, reply: FastifyReply) => {
    reply.header("cache-control", "no-store");
    return answer(
      request,
      reply,
      200,
      await bridge.inspect(connectionIdOf(request)),
    );
  };
}

export function closeConnection(bridge: Pick<Bridge, "close">) {
  return async (
    request: FastifyRequest,
    reply: FastifyReply,
    { code, reason }: ParametersOf<"closeConnection">,
  ) => {
    const close = closeOf({ code, reason });
    return answer(
      request,
      reply,
      200,
      await bridge.close(connectionIdOf(request), close),
    );
  };
}

/** The close that a query asks for. Throws invalid_parameter. */
export function closeOf({
  code,
  reason,
}: {
  code?: number | undefined;
  reason?: string | undefined;
}): { code: number; reason: string } {
  const bytes = reason === undefined ? 0 : Buffer.byteLength(reason);
  if (bytes > CLOSE_REASON_BYTES_MAX)
    throw invalidParameter("/query/reason", "has too many bytes", {
      limit: CLOSE_REASON_BYTES_MAX,
      actual: bytes,
    });
  return {
    code: code ?? CLOSE_BY_BACKEND,
    reason: reason ?? CLOSE_CODES[CLOSE_BY_BACKEND].reason,
  };
}

/** What waits for a connection, oldest first. */
export function listPending(bridge: Pick<Bridge, "pending">) {
  return async (
    request: FastifyRequest,
    reply: FastifyReply,
    { limit, cursor, preview }: ParametersOf<"listPending">,
  ) => {
    reply.header("cache-control", "no-store");
    const page = await bridge.pending(connectionIdOf(request), {
      limit: limit ?? LIST_LIMIT_DEFAULT,
      after: cursor === undefined ? 0 : Number(cursor),
      previewBytes: preview ?? 0,
    });
    return answer(request, reply, 200, page);
  };
}

export function connectionIdOf(request: FastifyRequest): string {
  const { connectionId } = request.params as { connectionId: string };
  if (!isConnectionId(connectionId))
    throw new BridgeError("connection_not_found");
  return connectionId;
}
