/** Revoking tokens: of a user, by their ID, or all that a key signed. */
import type { FastifyReply, FastifyRequest } from "fastify";
import type { TokensRevoked } from "../shared/api.js";
import type { Revoked } from "../shared/revocations.js";
import { answer } from "./answer.js";
import type { Bridge } from "./bridge.js";
import { invalidParameter, type ParametersOf } from "./contract.js";

export function revokeTokens(bridge: Pick<Bridge, "revokeTokens">) {
  return async (
    request: FastifyRequest,
    reply: FastifyReply,
    query: ParametersOf<"revokeTokens">,
  ) => {
    const revoked = revokedOf(query);
    const { revokedAtMs, untilMs } = await bridge.revokeTokens(revoked);
    const body: TokensRevoked = {
      ...revoked,
      revokedAt: new Date(revokedAtMs).toISOString(),
      until: new Date(untilMs).toISOString(),
    };
    return answer(request, reply, 200, body);
  };
}

/** Throws invalid_parameter. */
function revokedOf({ user, jti, kid }: ParametersOf<"revokeTokens">): Revoked {
  const [revoked, ...more] = [
    user !== undefined && { user },
    jti !== undefined && { jti },
    kid !== undefined && { kid },
  ].filter((one) => one !== false);
  if (!revoked || more.length > 0)
    throw invalidParameter("/query", "must have one of user, jti and kid");
  return revoked;
}
