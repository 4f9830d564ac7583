/** Groups: where a publish goes, who is in a group, and making a connection a member or none. */
import type { FastifyReply, FastifyRequest } from "fastify";
import type { Target } from "../shared/api.js";
import { isGroupName } from "../shared/ids.js";
import { answer } from "./answer.js";
import type { Bridge } from "./bridge.js";
import { connectionIdOf } from "./connections.js";
import { invalidParameter, type ParametersOf } from "./contract.js";
import type { KeyQuotas } from "./key-quotas.js";
import type { UserIdOf } from "./users.js";

/** Members in one answer when the query does not say. */
const PAGE_LIMIT_DEFAULT = 100;

/** The target of a publish to the group in the path. */
export function toGroup(request: FastifyRequest): Target {
  refuseOptions(request);
  return { group: groupOf(request) };
}

export function toEverybody(request: FastifyRequest): Target {
  refuseOptions(request);
  return { broadcast: true };
}

/** A header that means something for a connection only; as query parameter it is unknown anyway. */
function refuseOptions({ headers }: FastifyRequest): void {
  if (headers["topic"] !== undefined)
    throw invalidParameter(
      "/header/Topic",
      "is for connections: nothing of a group is pending that it could replace",
    );
}

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

export function addMember({
  bridge,
  quotas,
}: {
  bridge: Pick<Bridge, "join">;
  quotas: KeyQuotas;
}) {
  return async (
    request: FastifyRequest,
    reply: FastifyReply,
    _parameters: unknown,
    apiKeyName: string,
  ) => {
    const group = groupOf(request);
    const connectionId = connectionIdOf(request);
    const naming = quotas.naming(apiKeyName);
    const { epoch, offset } = await bridge.join(group, connectionId, naming);
    return answer(request, reply, 200, { group, connectionId, epoch, offset });
  };
}

export function removeMember(bridge: Pick<Bridge, "leave">) {
  return async (request: FastifyRequest, reply: FastifyReply) => {
    await bridge.leave(groupOf(request), connectionIdOf(request));
    return reply.code(204).send();
  };
}

export interface GroupUserDeps {
  bridge: Pick<Bridge, "joinUser" | "leaveUser">;
  userIdOf: UserIdOf;
}

export function addUser({
  bridge,
  quotas,
  userIdOf,
}: GroupUserDeps & { quotas: KeyQuotas }) {
  return async (
    request: FastifyRequest,
    reply: FastifyReply,
    _parameters: unknown,
    apiKeyName: string,
  ) => {
    const group = groupOf(request);
    const userId = userIdOf(request);
    const naming = quotas.naming(apiKeyName);
    const connections = await bridge.joinUser(group, userId, naming);
    return answer(request, reply, 200, { group, userId, connections });
  };
}

export function removeUser({ bridge, userIdOf }: GroupUserDeps) {
  return async (request: FastifyRequest, reply: FastifyReply) => {
    const group = groupOf(request);
    const userId = userIdOf(request);
    const connections = await bridge.leaveUser(group, userId);
    return answer(request, reply, 200, { group, userId, connections });
  };
}

function groupOf(request: FastifyRequest): string {
  const { group } = request.params as { group: string };
  if (!isGroupName(group))
    throw invalidParameter(
      "/path/group",
      "must be a group's name: 1 to 128 letters, digits and _ . ~ @ + = -",
      group.startsWith("$")
        ? {
            hint: "To everybody is POST /v1/broadcast; all connections are GET /v1/connections.",
          }
        : {},
    );
  return group;
}
