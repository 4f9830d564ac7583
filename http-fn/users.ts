/** Users as the backend sees them: where they are connected, and signing them out everywhere. */
import type { FastifyReply, FastifyRequest } from "fastify";
import type { Connection, Presence } from "../shared/api.js";
import { BridgeError } from "../shared/errors.js";
import { answer } from "./answer.js";
import type { Bridge } from "./bridge.js";
import { closeOf } from "./connections.js";
import type { ParametersOf } from "./contract.js";

/** How often a sign-out looks again for connections that came meanwhile. */
const SIGN_OUT_LOOKS = 3;

/** Reads the user of a path; it throws invalid_parameter for what is none. */
export type UserIdOf = (request: FastifyRequest) => string;

/** `check` is that of the schema UserId. */
export function userIdReader(
  check: (value: unknown, where: string) => void,
): UserIdOf {
  return (request) => {
    const { userId } = request.params as { userId: string };
    check(userId, "/path/userId");
    return userId;
  };
}

export interface UserDeps {
  bridge: Pick<Bridge, "connectionsOf" | "close">;
  userIdOf: UserIdOf;
}

export function readPresence({ bridge, userIdOf }: UserDeps) {
  return async (request: FastifyRequest, reply: FastifyReply) => {
    const userId = userIdOf(request);
    const connections = await bridge.connectionsOf(userId);
    const count = (wanted: Connection["state"]) =>
      connections.filter(({ state }) => state === wanted).length;
    const presence: Presence = {
      userId,
      online: count("open") > 0,
      open: count("open"),
      away: count("away"),
      prepared: count("prepared"),
      connections,
    };
    reply.header("cache-control", "no-store");
    return answer(request, reply, 200, presence);
  };
}

export function signOutUser({ bridge, userIdOf }: UserDeps) {
  return async (
    request: FastifyRequest,
    reply: FastifyReply,
    query: ParametersOf<"signOutUser">,
  ) => {
    const userId = userIdOf(request);
    const close = closeOf(query);
    const ended = new Set<string>();
    for (let look = 0; look < SIGN_OUT_LOOKS; look++) {
      const connections = await bridge.connectionsOf(userId);
      if (connections.length === 0) break;
      await Promise.all(
        connections.map(async ({ connectionId }) => {
          await bridge.close(connectionId, close).catch((error: unknown) => {
            // It ended by itself meanwhile, which is as good.
            if (!(error instanceof BridgeError && GONE.has(error.code)))
              throw error;
          });
          ended.add(connectionId);
        }),
      );
    }
    return answer(request, reply, 200, { userId, ended: [...ended] });
  };
}

const GONE = new Set(["connection_not_found", "connection_ended"]);
