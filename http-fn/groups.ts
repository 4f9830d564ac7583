/** Groups: publish to one or to everybody, see who is in it, make a connection a member or none. */
import type { FastifyReply, FastifyRequest } from "fastify";
import type { Selection } from "../shared/fanout.js";
import { isGroupName } from "../shared/ids.js";
import { everybody } from "../shared/keys.js";
import { answer } from "./answer.js";
import { checkBody, checkEncoding, mediaTypeOf, readBody } from "./body.js";
import type { Bridge, Publish } from "./bridge.js";
import { connectionIdOf } from "./connections.js";
import { invalidParameter, type ParametersOf } from "./contract.js";
import { fingerprint, idempotencyScope } from "./idempotency.js";
import { dueAt, replay } from "./push.js";

/** Members in one answer when the query does not say. */
const PAGE_LIMIT_DEFAULT = 100;

/** Values of one condition of a filter, and conditions on labels. */
const FILTER_VALUES_MAX = 100;
const FILTER_LABELS_MAX = 32;

export interface PublishDeps {
  bridge: Pick<Bridge, "publish">;
  ttlDefaultSeconds: number;
}

type Options = ParametersOf<"publishToGroup">;

export function publishToGroup(deps: PublishDeps) {
  return (
    request: FastifyRequest,
    reply: FastifyReply,
    options: Options,
    apiKeyName: string,
  ) => publish(deps, groupOf(request), request, reply, options, apiKeyName);
}

export function broadcast(deps: PublishDeps) {
  return (
    request: FastifyRequest,
    reply: FastifyReply,
    options: Options,
    apiKeyName: string,
  ) => publish(deps, everybody, request, reply, options, apiKeyName);
}

async function publish(
  { bridge, ttlDefaultSeconds }: PublishDeps,
  group: string,
  request: FastifyRequest,
  reply: FastifyReply,
  options: Options,
  apiKeyName: string,
): Promise<FastifyReply> {
  refuseOptions(request);
  const type = mediaTypeOf(request.headers["content-type"]);
  checkEncoding(request.headers["content-encoding"]);
  const dueAtMs = dueAt(options);
  const selection = selectionOf(options);
  const body = await readBody(request.raw);
  checkBody(body, type);

  const message: Publish = {
    group,
    body,
    contentType: type.contentType,
    binary: type.binary,
    ttlSeconds: options.ttl ?? ttlDefaultSeconds,
  };
  if (selection !== undefined) message.selection = selection;
  if (dueAtMs !== undefined) message.dueAtMs = dueAtMs;
  if (options.idempotencyKey !== undefined)
    message.idempotency = {
      key: idempotencyScope(
        apiKeyName,
        `group:${group}`,
        options.idempotencyKey,
      ),
      fingerprint: fingerprint({
        method: "POST",
        path: `/v1/groups/${group}/messages`,
        options: [
          options.ttl,
          options.delay,
          options.at,
          options.filter,
          options.except,
        ],
        contentType: type.contentType,
        body,
      }),
    };
  const pushed = await bridge.publish(message);
  reply.header("location", `/v1/messages/${pushed.messageId}`);
  return pushed.replayed === undefined
    ? answer(request, reply, 202, pushed.accepted)
    : replay(request, reply, pushed, pushed.replayed);
}

/** Headers that mean something for a connection only; as query parameters they are unknown anyway. */
function refuseOptions({ headers }: FastifyRequest): void {
  if (headers["topic"] !== undefined)
    throw invalidParameter(
      "/header/Topic",
      "is for connections: nothing of a group is pending that it could replace",
    );
  if (headers["durability"] !== undefined && headers["durability"] !== "local")
    throw invalidParameter(
      "/header/Durability",
      "is for connections: a group has a short history, no log",
    );
}

function selectionOf({ filter, except }: Options): Selection | undefined {
  const selection: Selection = {
    ...(filter === undefined ? {} : readFilter(filter)),
    ...(except === undefined ? {} : { except: except.split(",") }),
  };
  return Object.keys(selection).length > 0 ? selection : undefined;
}

const badFilter = (message: string) =>
  invalidParameter("/query/filter", message);

/** The schema `Filter` of openapi.yaml: in a query it is text, which no validator of parameters looks into. */
function readFilter(text: string): Selection {
  let filter: unknown;
  try {
    filter = JSON.parse(text);
  } catch {
    throw badFilter("must be JSON");
  }
  if (!isRecord(filter)) throw badFilter("must be an object");
  const { user, groups, labels, ...rest } = filter;
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined)
    throw badFilter(`knows user, groups and labels, not ${unknown}`);
  const conditions: Selection = {
    ...(user === undefined ? {} : { user: valuesOf("user", user) }),
    ...(groups === undefined ? {} : { groups: valuesOf("groups", groups) }),
  };
  if (labels === undefined) {
    if (Object.keys(conditions).length === 0)
      throw badFilter("must have a condition");
    return conditions;
  }
  if (!isRecord(labels) || Object.keys(labels).length > FILTER_LABELS_MAX)
    throw badFilter(
      `labels must be an object of at most ${FILTER_LABELS_MAX} names`,
    );
  return {
    ...conditions,
    labels: Object.fromEntries(
      Object.entries(labels).map(([name, value]) => [
        name,
        valuesOf(`labels.${name}`, value),
      ]),
    ),
  };
}

function valuesOf(name: string, value: unknown): string[] {
  const values: unknown[] = Array.isArray(value) ? value : [value];
  if (
    values.length === 0 ||
    values.length > FILTER_VALUES_MAX ||
    !values.every((one) => typeof one === "string")
  )
    throw badFilter(
      `${name} must be a text or a list of at most ${FILTER_VALUES_MAX} of them`,
    );
  return values as string[];
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

export function readGroup(bridge: Pick<Bridge, "group">) {
  return async (
    request: FastifyRequest,
    reply: FastifyReply,
    { limit, cursor }: ParametersOf<"readGroup">,
  ) => {
    const group = groupOf(request);
    const { recipients, online, items, next } = await bridge.group(group, {
      limit: limit ?? PAGE_LIMIT_DEFAULT,
      ...(cursor === undefined ? {} : { cursor }),
    });
    reply.header("cache-control", "no-store");
    const value = { group, recipients, online, items, next };
    return answer(request, reply, 200, value);
  };
}

export function addMember(bridge: Pick<Bridge, "join">) {
  return async (request: FastifyRequest, reply: FastifyReply) => {
    const group = groupOf(request);
    const connectionId = connectionIdOf(request);
    const { epoch, offset } = await bridge.join(group, connectionId);
    return answer(request, reply, 200, { group, connectionId, epoch, offset });
  };
}

export function removeMember(bridge: Pick<Bridge, "leave">) {
  return async (request: FastifyRequest, reply: FastifyReply) => {
    await bridge.leave(groupOf(request), connectionIdOf(request));
    return reply.code(204).send();
  };
}

function groupOf(request: FastifyRequest): string {
  const { group } = request.params as { group: string };
  if (!isGroupName(group))
    throw invalidParameter(
      "/path/group",
      "is no name of a group; to everybody is POST /v1/broadcast",
    );
  return group;
}
