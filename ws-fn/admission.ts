/**
 * Admission: from what a handshake asks to a claimed connection, or a refusal before the 101. Where the backend wants to be
 * asked (`connect`), it decides about each connection before its first socket.
 */
import type { Connection } from "../shared/api.js";
import type { Granted } from "../shared/claims.js";
import { BridgeError } from "../shared/errors.js";
import { newConnectionId } from "../shared/ids.js";
import { groupTag } from "../shared/keys.js";
import type { Logger } from "../shared/logging.js";
import { tagsOf, type Memberships } from "../shared/membership.js";
import type { RedisMemory } from "../shared/redis-memory.js";
import type { Registry } from "../shared/registry.js";
import type { Origin, Revocations } from "../shared/revocations.js";
import type { TokenClaims, Tokens } from "../shared/tokens.js";
import { bridgeSpeaker } from "./bridge-v1.js";
import type { ClientQuotas } from "./client-quotas.js";
import type { Admitted } from "./connection.js";
import type { Asked } from "./handshake.js";
import type { Lease } from "./lease.js";
import { rawSpeaker } from "./raw.js";
import type { ClientFacts, ConnectHook } from "./webhooks/connect.js";

export interface AdmissionDeps {
  instance: string;
  registry: Registry;
  memory: Pick<RedisMemory, "admit">;
  memberships: Memberships;
  quotas: Pick<ClientQuotas, "connect">;
  tokens: Tokens;
  revocations: Pick<Revocations, "ready" | "covers" | "hasKey">;
  /** Of this process. */
  lease: Lease;
  logger: Logger;
  config: { allowAnonymous: boolean };
  /** Undefined: the backend is not asked. */
  connectHook?: Pick<ConnectHook, "ask"> | undefined;
}

/** The request itself, for the backend that is asked; `gone` aborts when the client does not wait any more. */
export interface Caller extends ClientFacts {
  gone: AbortSignal;
}

const noOffsets: ReadonlyMap<string, number> = new Map();

/** What a new connection takes, rounded up; bytes. */
const connectionBytes = 2_048;

const anonymous: TokenClaims = {
  kind: "user",
  connectionId: undefined,
  epoch: undefined,
  userId: "",
  groups: [],
  permissions: [],
  expiresAtMs: undefined,
  kid: "",
  origin: undefined,
};

const revoked = () =>
  new BridgeError("token_revoked", {
    detail: "the token was revoked",
    hint: "Ask the backend for a new one.",
  });

async function identify(
  deps: AdmissionDeps,
  asked: Asked,
): Promise<TokenClaims> {
  const token = asked.resume?.token ?? asked.token;
  if (token === undefined) {
    if (deps.config.allowAnonymous) return anonymous;
    throw new BridgeError("token_invalid", {
      detail: "a token is needed",
      hint: "POST /v1/connections gives one; send it as ?token=, as Authorization: Bearer, or as subprotocol bearer.<token>",
    });
  }
  const claims = await deps.tokens.verify(token);
  if (asked.resume && claims.kind !== "resume")
    throw new BridgeError("token_invalid", {
      detail: "resume needs the resumeToken of a welcome",
    });
  if (!asked.resume && claims.kind === "resume")
    throw new BridgeError("token_invalid", {
      detail: "a resumeToken comes as ?resume=, with ?seq=",
    });
  const { revocations } = deps;
  await revocations.ready();
  const { kid, origin } = claims;
  if (revocations.hasKey(kid) || (origin && revocations.covers(origin)))
    throw revoked();
  return claims;
}

/** A connection for a client that brings none. Throws redis_full. */
async function begin(
  deps: AdmissionDeps,
  claims: TokenClaims,
  asked: Asked,
  caller: Caller,
): Promise<string> {
  const { memberships, memory, connectHook } = deps;
  const connectionId = newConnectionId();
  const { userId, groups, permissions, labels } = {
    ...claims,
    labels: {},
    ...(await connectHook?.ask(
      {
        connectionId,
        protocol: asked.protocol,
        userId: claims.userId === "" ? null : claims.userId,
        groups: claims.groups,
        permissions: claims.permissions,
        labels: {},
      },
      caller,
      caller.gone,
    )),
  };
  for (const tag of tagsOf(connectionId, groups))
    await memory.admit(tag, connectionBytes);
  await memberships.prepare(
    { ...(userId === "" ? {} : { userId }), groups, permissions, labels },
    connectionId,
  );
  return connectionId;
}

/** Asks the backend about a connection that was prepared and that no client has opened yet. */
async function askAbout(
  { connectHook, registry, memberships, memory }: AdmissionDeps,
  connectionId: string,
  asked: Asked,
  caller: Caller,
): Promise<void> {
  if (!connectHook) return;
  let known: Connection;
  try {
    known = await registry.inspect(connectionId);
  } catch (error) {
    // The claim says what there is to say of it.
    if (error instanceof BridgeError && error.code === "connection_not_found")
      return;
    throw error;
  }
  // One that was opened was asked about; its client comes back.
  if (known.state !== "prepared") return;
  const { userId, groups, permissions, labels } = known;
  const granted: Granted = await connectHook.ask(
    {
      connectionId,
      protocol: asked.protocol,
      userId,
      groups,
      permissions,
      labels,
    },
    caller,
    caller.gone,
  );
  if (!(await registry.identify(known, granted)) || !granted.groups) return;
  const wanted = new Set(granted.groups);
  const left = groups.filter((group) => !wanted.has(group));
  for (const group of left) await memberships.leave(connectionId, group);
  for (const group of wanted) {
    if (groups.includes(group)) continue;
    await memory.admit(groupTag(group), connectionBytes);
    await memberships.join(connectionId, group);
  }
}

/** Of a connection it counts who its user is now: the backend may have said so since. */
const originOf = (
  { origin }: TokenClaims,
  userId: string,
): Origin | undefined =>
  origin && (userId === "" ? origin : { ...origin, userId });

/**
 * Checks who it is and takes the connection. Throws token_invalid, token_expired, token_revoked, connection_ended (also for one that is
 * not known any more), quota_exceeded, overtaken, redis_unavailable; redis_full only for a client that brings no connection: all others are let
 * in however full Redis is, because they take what waits for them out of it. connect_refused and connect_unavailable from
 * a backend that is asked.
 */
export async function admit(
  deps: AdmissionDeps,
  asked: Asked,
  caller: Caller,
): Promise<Admitted> {
  const claims = await identify(deps, asked);
  await deps.quotas.connect(claims.userId, claims.connectionId === undefined);
  const connectionId =
    claims.connectionId ?? (await begin(deps, claims, asked, caller));
  if (claims.connectionId !== undefined && !asked.resume)
    await askAbout(deps, connectionId, asked, caller);
  // Who claims must be alive for Redis: a sweep takes what the dead have.
  await deps.lease.ensure();
  const certain = deps.lease.doubt;
  const claim = await deps.registry
    .claim(connectionId, {
      owner: deps.instance,
      protocol: asked.protocol,
      ...(asked.resume ? { resumeSeq: asked.resume.seq } : {}),
      ...(claims.epoch === undefined ? {} : { resumeEpoch: claims.epoch }),
      ...(asked.attempt === undefined ? {} : { attempt: asked.attempt }),
    })
    .catch((error: unknown) => {
      // For a client a connection that is not known any more is as gone as one that ended (section 4: 410).
      if (error instanceof BridgeError && error.code === "connection_not_found")
        throw new BridgeError(
          "connection_ended",
          { detail: "the connection is gone" },
          error,
        );
      throw error;
    });
  return {
    connectionId,
    claim,
    certain,
    speaker:
      asked.protocol === "raw"
        ? rawSpeaker({
            welcome: asked.welcome,
            heartbeat: asked.heartbeatMs !== undefined,
          })
        : bridgeSpeaker(),
    resumed: asked.resume !== undefined,
    offsets: asked.resume?.offsets ?? noOffsets,
    heartbeatMs: asked.protocol === "raw" ? asked.heartbeatMs : undefined,
    tokenExpiresAtMs: claims.expiresAtMs,
    origin: originOf(claims, claim.identity.userId),
  };
}
