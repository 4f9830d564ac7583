/**
 * Who is in which group. A connection knows its groups and where it stands in each (its hash, its slot); a group knows its
 * members and until when (its sets, its slot). Two slots, so two scripts: first the group, which tells the offset at which
 * the membership begins, then the connection, which decides.
 *
 * Every connection is in `$all`, from when it is prepared, whose members are the directory (directory.ts). A member whose socket is
 * open counts as one, and as online, until somebody says otherwise: its owner when it leaves, or a sweep when its owner is dead.
 */
import type { PrepareRequest } from "./api.js";
import { groupsMax } from "./claims.js";
import { BridgeError, connectionEnded, connectionNotFound } from "./errors.js";
import type { Fanout, Naming, Position } from "./fanout.js";
import { newConnectionId } from "./ids.js";
import { channels, everybody, groupTag, horizonMs, keys } from "./keys.js";
import type { RedisLink, Script } from "./redis.js";
import { parsePositions, type Positions, type Registry } from "./registry.js";

/** How long a member with an open socket is one, and online, if nobody says more. */
export const whileOpen = { spanMs: horizonMs, onlineMs: horizonMs };

/** The tags of all that a new connection is stored under: its own, and those of its groups. */
export const tagsOf = (
  connectionId: string,
  groups: readonly string[],
): string[] => [connectionId, ...[everybody, ...groups].map(groupTag)];

const member = `
local c = redis.call('HMGET', KEYS[1], 'state', 'epoch', 'groups', 'ended', 'reason')
if not c[1] then return {'not_found'} end
if c[1] == 'ended' then return {'ended', c[4], c[5] or ''} end
local list = cjson.decode(c[3] or '[]')
local at
for i, name in ipairs(list) do if name == ARGV[1] then at = i end end
local function store()
  redis.call('HSET', KEYS[1], 'groups', list[1] and cjson.encode(list) or '[]')
  local version = redis.call('HINCRBY', KEYS[1], 'gv', 1)
  -- The owner hears it, unless it is the owner that says so.
  if ARGV[2] == '' and c[1] == 'open' then redis.call('@publish', ARGV[3] .. c[2], 'groups') end
  return version
end
`;

/**
 * A connection becomes a member. KEYS conn; ARGV group epoch|'' bell position maxGroups
 * Returns {'joined', version}, {'member', position|''}, {'full'}, {'fenced'}, {'not_found'} or {'ended', at, reason}.
 */
export const joinScript: Script = {
  name: "bridgeJoin",
  keys: 1,
  lua: `${member}
if ARGV[2] ~= '' and c[2] ~= ARGV[2] then return {'fenced'} end
if at then return {'member', redis.call('HGET', KEYS[1], 'g:' .. ARGV[1]) or ''} end
if #list >= tonumber(ARGV[5]) then return {'full'} end
list[#list + 1] = ARGV[1]
redis.call('HSET', KEYS[1], 'g:' .. ARGV[1], ARGV[4])
return {'joined', store()}
`,
};

/** It is a member no more; begins with a delete (full.ts). KEYS conn; ARGV group epoch|'' bell. Returns {'left', version}, {'none'} or as join. */
export const quitScript: Script = {
  name: "bridgeQuit",
  keys: 1,
  lua: `${member}
if ARGV[2] ~= '' and c[2] ~= ARGV[2] then return {'fenced'} end
if not at then return {'none'} end
table.remove(list, at)
redis.call('HDEL', KEYS[1], 'g:' .. ARGV[1])
return {'left', store()}
`,
};

/** The groups of a connection. KEYS conn; returns {version, groups, group, position, …}. */
export const groupsScript: Script = {
  name: "bridgeGroups",
  keys: 1,
  lua: `
local c = redis.call('HMGET', KEYS[1], 'gv', 'groups')
local list = cjson.decode(c[2] or '[]')
local out = {c[1] or '0', c[2] or '[]'}
for _, name in ipairs(list) do
  out[#out + 1] = name
  out[#out + 1] = redis.call('HGET', KEYS[1], 'g:' .. name) or ''
end
return out
`,
};

export const membershipScripts: readonly Script[] = [
  joinScript,
  quitScript,
  groupsScript,
];

/** A membership as it begins, or as it was. */
export interface Joined extends Position {
  /** The connection's count of changes to its groups. */
  version: number | undefined;
}

export class Memberships {
  readonly #redis: RedisLink;
  readonly #registry: Registry;
  readonly #fanout: Fanout;

  constructor(redis: RedisLink, registry: Registry, fanout: Fanout) {
    this.#redis = redis;
    this.#registry = registry;
    this.#fanout = fanout;
  }

  /** Makes a connection that waits for its client, a member of its groups from now on. `naming` as in Fanout. */
  async prepare(
    request: PrepareRequest,
    connectionId = newConnectionId(),
    naming?: Naming,
  ): Promise<{ connectionId: string; expiresAtMs: number }> {
    const spanMs = this.#registry.waitMs(request);
    const positions = new Map<string, Position>();
    await Promise.all(
      (request.groups ?? []).map(async (group) => {
        positions.set(
          group,
          await this.#fanout.hold(group, [connectionId], {
            spanMs,
            isNew: true,
            naming,
          }),
        );
      }),
    );
    return this.#registry.prepare(request, connectionId, positions);
  }

  /**
   * Makes a connection a member, from outside. A member already keeps its position. Throws connection_not_found,
   * connection_ended, bad_request when it has too many groups.
   */
  async join(
    connectionId: string,
    group: string,
    naming?: Naming,
  ): Promise<Position> {
    const { state, endedAt, reason, expiresAt } =
      await this.#registry.inspect(connectionId);
    if (state === "ended")
      throw connectionEnded(Date.parse(endedAt ?? ""), reason ?? "");
    return this.#join(
      connectionId,
      group,
      undefined,
      state === "open" || expiresAt === null
        ? whileOpen
        : { spanMs: Math.max(1, Date.parse(expiresAt) - Date.now()) },
      naming,
    );
  }

  /** The same by the connection's owner. Throws connection_ended, outcome_unknown when it is the owner no more. */
  joinAsOwner(
    connectionId: string,
    group: string,
    owner: number,
    naming?: Naming,
  ): Promise<Joined> {
    return this.#join(connectionId, group, owner, whileOpen, naming);
  }

  async #join(
    id: string,
    group: string,
    owner: number | undefined,
    span: { spanMs: number; onlineMs?: number },
    naming?: Naming,
  ): Promise<Joined> {
    const here = await this.#fanout.hold(group, [id], {
      ...span,
      isNew: true,
      naming,
    });
    const [word = "", first = ""] = await this.#run(joinScript, id, [
      group,
      owner ?? "",
      channels.bell(id),
      `${here.epoch} ${here.offset}`,
      groupsMax,
    ]);
    if (word === "full") {
      // Whatever else fails here leaves a membership that runs out by itself.
      await this.#fanout.leave(group, [id], 0);
      throw new BridgeError("bad_request", {
        detail: `a connection is in ${groupsMax} groups at most`,
        limit: groupsMax,
        actual: groupsMax + 1,
      });
    }
    if (word === "fenced")
      throw new BridgeError("outcome_unknown", {
        detail: "a newer socket has the connection",
      });
    if (word === "joined") return { ...here, version: Number(first) };
    const before = parsePositions(`${group} ${first}`).get(group);
    return { ...(before ?? here), version: undefined };
  }

  /**
   * Ends a membership, as the owner or from outside; quiet when there was none. Throws connection_not_found,
   * connection_ended. Returns the count of changes where there was one.
   */
  async leave(
    connectionId: string,
    group: string,
    owner?: number,
  ): Promise<number | undefined> {
    const [word, first] = await this.#run(quitScript, connectionId, [
      group,
      owner ?? "",
      channels.bell(connectionId),
    ]);
    if (word === "fenced")
      throw new BridgeError("outcome_unknown", {
        detail: "a newer socket has the connection",
      });
    await this.#fanout.leave(group, [connectionId], 0);
    return word === "left" ? Number(first) : undefined;
  }

  async #run(
    script: Script,
    id: string,
    args: readonly (string | number)[],
  ): Promise<string[]> {
    const reply = (
      (await this.#redis.run(script, [keys.connection(id)], args)) as unknown[]
    ).map(String);
    if (reply[0] === "not_found") throw connectionNotFound(id);
    if (reply[0] === "ended")
      throw connectionEnded(Number(reply[1]), reply[2] ?? "");
    return reply;
  }

  /** The groups of a connection, without `$all`, and where it stands in each; none for one that is not there. */
  async of(
    connectionId: string,
  ): Promise<{ version: number; names: string[]; positions: Positions }> {
    const [version, names = "[]", ...pairs] = (
      (await this.#redis.run(
        groupsScript,
        [keys.connection(connectionId)],
        [],
      )) as unknown[]
    ).map(String);
    const known: string[] = [];
    for (let i = 0; i + 1 < pairs.length; i += 2)
      if (pairs[i + 1] !== "") known.push(`${pairs[i]} ${pairs[i + 1]}`);
    return {
      version: Number(version),
      names: JSON.parse(names) as string[],
      positions: parsePositions(known.join(" ")),
    };
  }

  /** A connection has ended: no group knows it any more. */
  async forget(connectionId: string): Promise<void> {
    const { names } = await this.of(connectionId);
    await Promise.all(
      names.map((group) => this.#fanout.leave(group, [connectionId], 0)),
    );
  }

  /** A connection is away for `spanMs` at most: its groups hear so. */
  async away(
    connectionId: string,
    groups: readonly string[],
    spanMs: number,
  ): Promise<void> {
    await Promise.all(
      groups.map((group) => this.#fanout.leave(group, [connectionId], spanMs)),
    );
  }

  /** One page of a group's members in order of ID; `next` continues it. */
  async page(
    group: string,
    after: string,
    limit: number,
  ): Promise<{
    items: Awaited<ReturnType<Registry["inspect"]>>[];
    next: string | null;
  }> {
    const ids = await this.#fanout.page(group, after, limit);
    const found = await Promise.all(
      ids.map((id) =>
        this.#registry.inspect(id).catch((error: unknown) => {
          if (
            error instanceof BridgeError &&
            error.code === "connection_not_found"
          )
            return undefined;
          throw error;
        }),
      ),
    );
    return {
      items: found.filter(
        (item) => item !== undefined && item.state !== "ended",
      ) as Awaited<ReturnType<Registry["inspect"]>>[],
      next: ids.length < limit ? null : (ids.at(-1) ?? null),
    };
  }
}
