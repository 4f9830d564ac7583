// Who may do what, cell by cell, at the built functions: every operation of openapi.yaml with every kind of key, every way
// to open a socket with every kind of token, and every action on a socket with every set of permissions. An operation or a
// client's frame that has no row here fails.

import { createHash, createHmac, randomBytes } from "node:crypto";

import t from "tap";

import { METHODS } from "../../http-fn/contract.js";
import { newConnectionId } from "../../shared/ids.js";
import { call, prepare, tokenOf } from "../../scripts/attacks/target.js";
import { inTurns } from "../../scripts/attacks/weapon.js";
import { Refused, said, Wire } from "../../scripts/attacks/wire.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { contract } from "../fixtures/fake-bridge.js";

t.setTimeout(240_000);

const secret = randomBytes(32).toString("base64");
const keyOf = {
  push: "key-of-push",
  connections: "key-of-connections",
  groups: "key-of-groups",
  read: "key-of-read",
  admin: "key-of-admin",
  "push+read": "key-of-push-and-read",
} as const;
const sha256 = (text: string): string =>
  createHash("sha256").update(text).digest("hex");

const redis = await singleRedis(t);
const env = {
  REDIS_URL: redis.url,
  LOG_LEVEL: "error",
  TOKEN_KEYS: `app:${secret}`,
  API_KEYS: Object.entries(keyOf)
    .map(
      ([scopes, key]) =>
        `k-${sha256(scopes).slice(0, 6)}:${scopes}:${sha256(key)}`,
    )
    .join(","),
};
const [httpFn, wsFn] = await Promise.all([
  startHttpFn(t, env),
  startWsFn(t, env),
]);
const target = {
  httpPort: httpFn.port,
  wsPort: wsFn.port,
  key: keyOf.admin,
  secret,
};

type Names = Record<"connectionId" | "messageId" | "userId" | "group", string>;

/** What an operation answers to a key that may: its query, its body and the status. `names` are fresh in each cell. */
const allowed: Record<
  string,
  { query?: string; body?: string; type?: string; status: number }
> = {
  prepareConnection: { status: 201 },
  listConnections: { status: 200 },
  inspectConnection: { status: 200 },
  probeConnection: { status: 200 },
  closeConnection: { status: 200 },
  listPending: { status: 200 },
  pushToConnection: { body: "x", status: 202 },
  readPresence: { status: 200 },
  signOutUser: { status: 200 },
  revokeTokens: { query: "?jti=x", status: 200 },
  pushToUser: { body: "x", status: 202 },
  pushBatch: {
    body: '{"to":{"broadcast":true},"data":"x"}\n',
    type: "application/x-ndjson",
    status: 200,
  },
  publishToGroup: { body: "x", status: 202 },
  broadcast: { body: "x", status: 202 },
  readGroup: { status: 200 },
  addMember: { status: 200 },
  removeMember: { status: 204 },
  addUserToGroup: { status: 200 },
  removeUserFromGroup: { status: 200 },
  readReceipt: { status: 200 },
  recallMessage: { status: 200 },
  followReceipt: { status: 200 },
  // A stream without end for who may; the parameter is bad, and only who may hears so.
  followEvents: { query: "?lastEventId=x", status: 400 },
};

/** For everybody: without a key as well. */
const open: Record<string, number> = {
  health: 200,
  readiness: 200,
  openapiJson: 200,
  openapiYaml: 200,
  docs: 200,
  page: 200,
  pageScript: 200,
  clientScript: 200,
};

const connectionToken = tokenOf(target, { sub: "ann" });
const basic = Buffer.from(`admin:${keyOf.admin}`).toString("base64");
/** Kinds of credentials; undefined for scopes: nobody we know. */
const callers: {
  name: string;
  headers: Record<string, string>;
  scopes?: readonly string[];
}[] = [
  { name: "nothing", headers: {} },
  { name: "an unknown key", headers: { authorization: "Bearer unknown" } },
  { name: "an empty key", headers: { authorization: "Bearer " } },
  { name: "Basic", headers: { authorization: `Basic ${basic}` } },
  { name: "the key without a scheme", headers: { authorization: keyOf.admin } },
  {
    name: "two keys",
    headers: { authorization: `Bearer ${keyOf.admin} ${keyOf.push}` },
  },
  {
    name: "the hash of a key",
    headers: { authorization: `Bearer ${sha256(keyOf.admin)}` },
  },
  {
    name: "a client's token",
    headers: { authorization: `Bearer ${connectionToken}` },
  },
  { name: "X-Api-Key", headers: { "x-api-key": keyOf.admin } },
  { name: "a cookie", headers: { cookie: `authorization=${keyOf.admin}` } },
  ...Object.entries(keyOf).map(([scopes, key]) => ({
    name: `the key of ${scopes}`,
    headers: { authorization: `Bearer ${key}` },
    scopes: scopes.split("+"),
  })),
];

/** What a cell names is its own, and is there. */
async function fresh(): Promise<Names> {
  const { connectionId } = await prepare(target);
  const { body } = await call(
    target,
    "POST",
    `/v1/connections/${connectionId}/messages?delay=600`,
    { body: "x" },
  );
  const { id } = JSON.parse(body.toString()) as { id: string };
  return { connectionId, messageId: id, userId: "ann", group: "room" };
}

t.test("operations and keys", async (t) => {
  const cells: (() => Promise<void>)[] = [];
  for (const [path, item] of Object.entries(contract.document.paths))
    for (const method of METHODS) {
      const operation = item[method];
      if (!operation || path === "/ws") continue;
      const { operationId: id } = operation;
      const row = allowed[id];
      if (operation.security !== undefined) {
        t.ok(id in open, `${id} has a row among those for everybody`);
        cells.push(async () => {
          for (const headers of [{}, { authorization: "Bearer unknown" }]) {
            const answer = await call(target, method.toUpperCase(), path, {
              key: null,
              headers,
            });
            t.equal(answer.status, open[id], `${id}, anybody`);
          }
        });
        continue;
      }
      t.ok(row, `${id} has a row`);
      t.ok(operation["x-scope"], `${id} has a scope`);
      const scope = operation["x-scope"] ?? "admin";
      for (const { name, headers, scopes } of callers) {
        const may = scopes?.includes(scope) || scopes?.includes("admin");
        const status =
          scopes === undefined ? 401 : may ? (row?.status ?? 0) : 403;
        cells.push(async () => {
          const names = await fresh();
          // Receipts end with the final one.
          if (id === "followReceipt")
            await call(target, "DELETE", `/v1/messages/${names.messageId}`);
          const url = path.replaceAll(
            /\{(\w+)\}/g,
            (_, key: string) => names[key as keyof Names],
          );
          const answer = await call(
            target,
            method.toUpperCase(),
            `${url}${row?.query ?? ""}`,
            {
              key: null,
              headers: {
                ...headers,
                ...(row?.type && { "content-type": row.type }),
              },
              ...(row?.body !== undefined && { body: row.body }),
            },
          );
          t.equal(
            answer.status,
            status,
            `${id} with ${name}: ${answer.body.toString().slice(0, 200)}`,
          );
        });
      }
    }
  await inTurns(cells.length, 8, async (index) => cells[index]?.());
});

/** A token by hand: any head, any claims, any secret. */
function forged(head: object, claims: object, by: string | null): string {
  const part = (value: object) =>
    Buffer.from(JSON.stringify(value)).toString("base64url");
  const text = `${part(head)}.${part(claims)}`;
  const signature =
    by === null
      ? ""
      : createHmac("sha256", Buffer.from(by, "base64"))
          .update(text)
          .digest("base64url");
  return `${text}.${signature}`;
}

/** The status of an upgrade. */
async function dialled(
  path: string,
  headers: readonly string[] = [],
  protocol?: string,
): Promise<number> {
  try {
    const wire = await Wire.dial({
      port: wsFn.port,
      path,
      headers,
      ...(protocol !== undefined && { protocol }),
    });
    wire.cut();
    return 101;
  } catch (error) {
    if (error instanceof Refused) return error.status;
    throw error;
  }
}

async function resumeTokenOf(token: string): Promise<string> {
  const wire = await Wire.dial({ port: wsFn.port, path: `/ws?token=${token}` });
  const welcome = await wire.hears(({ type }) => type === "welcome");
  wire.cut();
  return String(welcome?.["resumeToken"]);
}

t.test("sockets and tokens", async (t) => {
  const head = { alg: "HS256", kid: "app", typ: "JWT" };
  const now = Math.floor(Date.now() / 1_000);
  const claims = { sub: "ann", iat: now, exp: now + 600 };
  const prepared = async () => (await prepare(target)).token;
  const ended = async () => {
    const { connectionId, token } = await prepare(target);
    await call(target, "DELETE", `/v1/connections/${connectionId}`);
    return token;
  };
  const foreign = randomBytes(32).toString("base64");
  /** A kind of token, what makes one, and what an upgrade with it answers. */
  const kinds: [string, string | (() => Promise<string>), number][] = [
    ["nothing at all", "", 401],
    ["no token", "nonsense", 401],
    ["three empty parts", "..", 401],
    ["alg none", forged({ ...head, alg: "none" }, claims, null), 401],
    ["alg nOnE", forged({ ...head, alg: "nOnE" }, claims, null), 401],
    ["no signature", forged(head, claims, null), 401],
    ["a foreign secret", forged(head, claims, foreign), 401],
    ["an unknown kid", forged({ ...head, kid: "x" }, claims, secret), 401],
    [
      "a kid that is a path",
      forged({ ...head, kid: "../app" }, claims, secret),
      401,
    ],
    [
      "RS256 with our secret",
      forged({ ...head, alg: "RS256" }, claims, secret),
      401,
    ],
    [
      "a critical head",
      forged({ ...head, crit: ["x"], x: 1 }, claims, secret),
      401,
    ],
    ["too late", forged(head, { ...claims, exp: now - 60 }, secret), 401],
    ["too early", forged(head, { ...claims, nbf: now + 600 }, secret), 401],
    [
      "an exp that is text",
      forged(head, { ...claims, exp: "never" }, secret),
      401,
    ],
    ["a cid that is no ID", tokenOf(target, { cid: "room" }), 401],
    ["a user that is no ID", tokenOf(target, { sub: "a\u0000b" }), 401],
    ["a group that is no name", tokenOf(target, { groups: ["$all"] }), 401],
    ["an API key", keyOf.admin, 401],
    [
      "a cid without its type",
      tokenOf(target, { cid: newConnectionId() }),
      401,
    ],
    [
      "an unknown connection",
      forged(
        { ...head, typ: "bridge-connection+jwt" },
        { cid: newConnectionId() },
        secret,
      ),
      410,
    ],
    ["a connection that has ended", ended, 410],
    ["a prepared connection", prepared, 101],
    ["a user of the application", tokenOf(target, { sub: "ann" }), 101],
    ["a group of the application", tokenOf(target, { groups: ["room"] }), 101],
  ];
  const ways: [string, (token: string) => Promise<number>][] = [
    ["query", (token) => dialled(`/ws?token=${encodeURIComponent(token)}`)],
    [
      "Authorization",
      (token) => dialled("/ws", [`Authorization: Bearer ${token}`]),
    ],
    [
      "subprotocol",
      (token) => dialled("/ws", [], `bridge.v1.json, bearer.${token}`),
    ],
  ];
  const cells = kinds.flatMap(([kind, make, status]) =>
    ways.map(([way, dial]) => async () => {
      const token = typeof make === "string" ? make : await make();
      t.equal(await dial(token), status, `${kind} as ${way}`);
    }),
  );
  // Coming back needs the word of a welcome, and that alone.
  const backs: [string, () => Promise<string>, number][] = [
    ["the resume token", async () => resumeTokenOf(await prepared()), 101],
    ["the token itself", prepared, 401],
    ["a user's token", () => Promise.resolve(connectionToken), 401],
    ["nonsense", () => Promise.resolve("nonsense"), 401],
  ];
  for (const [name, make, status] of backs)
    cells.push(async () => {
      const resume = await make();
      t.equal(
        await dialled(`/ws?resume=${resume}&seq=0`),
        status,
        `back with ${name}`,
      );
    });
  cells.push(async () => {
    const resume = await resumeTokenOf(await prepared());
    for (const query of [
      "seq=-1",
      "seq=x",
      "seq=1e99",
      "seq=0&groups=x",
      "seq=0&groups=a:-1",
    ])
      t.equal(await dialled(`/ws?resume=${resume}&${query}`), 400, query);
  });
  await inTurns(cells.length, 8, async (index) => cells[index]?.());
});

type Outcome = "ok" | "forbidden" | "silence" | number | string;

/** What a client may say: the frame, the permission it needs, and what comes of it with that. */
const actions: {
  type: string;
  name: string;
  frame: Record<string, unknown>;
  needs?: string;
  outcome: Outcome;
}[] = [
  { type: "ack", name: "of 0", frame: { seq: 0 }, outcome: "silence" },
  {
    type: "ack",
    name: "above what was sent",
    frame: { seq: Number.MAX_SAFE_INTEGER },
    outcome: 1_008,
  },
  { type: "ack", name: "of nothing", frame: {}, outcome: 1_008 },
  {
    type: "ack",
    name: "of $all above what was sent",
    frame: { groups: { $all: Number.MAX_SAFE_INTEGER } },
    outcome: 1_008,
  },
  {
    type: "ack",
    name: "of a group that it is not in",
    frame: { groups: { elsewhere: 1 } },
    outcome: "silence",
  },
  { type: "pong", name: "unasked", frame: {}, outcome: "silence" },
  { type: "event", name: "", frame: { event: "e", data: "x" }, outcome: "ok" },
  { type: "event", name: "without a name", frame: {}, outcome: 1_008 },
  {
    type: "reply",
    name: "to nobody",
    frame: { replyTo: "nobody", data: "x" },
    outcome: "message_not_found",
  },
  ...(["join", "leave", "publish"] as const).flatMap((type) => [
    ...["a", "b"].map((group) => ({
      type,
      name: group,
      frame: { group, ...(type === "publish" && { data: "x" }) },
      needs: `${type === "publish" ? "publish" : "join"}:${group}`,
      outcome: "ok",
    })),
    {
      type,
      name: "$all",
      frame: { group: "$all", ...(type === "publish" && { data: "x" }) },
      outcome: "invalid_parameter",
    },
    {
      type,
      name: "*",
      frame: { group: "*", ...(type === "publish" && { data: "x" }) },
      outcome: "invalid_parameter",
    },
  ]),
  { type: "welcome", name: "", frame: {}, outcome: 1_008 },
  { type: "message", name: "", frame: { data: "x" }, outcome: 1_008 },
  { type: "__proto__", name: "", frame: {}, outcome: 1_008 },
];

/** Whose sockets: prepared by the backend, or by the application's token. */
const holders: { name: string; permissions: unknown; signed: boolean }[] = [
  ...[
    [],
    ["join:a"],
    ["publish:a"],
    ["join:b", "publish:a"],
    ["join:*"],
    ["publish:*"],
    ["join:*", "publish:*"],
  ].map((permissions) => ({
    name: `prepared with ${permissions.join(" ") || "nothing"}`,
    permissions,
    signed: false,
  })),
  ...[undefined, "join:*", ["join:a"], ["publish:*"], [7, "join:a"]].map(
    (permissions) => ({
      name: `signed with ${JSON.stringify(permissions)}`,
      permissions,
      signed: true,
    }),
  ),
];

t.test("actions and permissions", async (t) => {
  const { oneOf } = contract.document.components.schemas["ClientFrame"] ?? {};
  for (const { $ref = "" } of oneOf ?? []) {
    const type = $ref.replace(/.*\/(\w+)Frame$/, "$1").toLowerCase();
    t.ok(
      actions.some((action) => action.type === type),
      `${type} has a row`,
    );
  }
  const cells = holders.flatMap((holder) =>
    actions.map((action) => ({ holder, action })),
  );
  await inTurns(cells.length, 8, async (index) => {
    const cell = cells[index];
    if (!cell) return;
    const { holder, action } = cell;
    const token = holder.signed
      ? tokenOf(target, { permissions: holder.permissions })
      : (await prepare(target, { permissions: holder.permissions })).token;
    const wire = await Wire.dial({
      port: wsFn.port,
      path: `/ws?token=${token}`,
    }).catch((error: unknown) => error as Error);
    const name = `${action.type} ${action.name}, ${holder.name}`;
    if (wire instanceof Error) {
      // Claims that are no list of permissions may be refused as they are.
      const odd =
        !Array.isArray(holder.permissions) ||
        holder.permissions.some((one) => typeof one !== "string");
      t.ok(
        odd && holder.permissions !== undefined && wire instanceof Refused,
        `${name}: ${wire.message}`,
      );
      return;
    }
    await wire.hears(({ type }) => type === "welcome");
    wire.write(said({ ref: "1", ...action.frame, type: action.type }));
    // What has no answer of its own is followed by something that has one.
    if (action.outcome === "silence")
      wire.write(said({ type: "event", event: "after", ref: "2" }));
    const given = Array.isArray(holder.permissions)
      ? (holder.permissions as unknown[])
      : [];
    const { needs } = action;
    const may =
      needs === undefined ||
      given.includes(needs) ||
      given.includes(needs.replace(/:.*/, ":*"));
    const expected = may ? action.outcome : "forbidden";
    t.equal(await outcomeOf(wire), expected, name);
    wire.cut();
  });
});

async function outcomeOf(wire: Wire): Promise<Outcome> {
  const frame = await wire.hears(
    ({ type, error }) =>
      type === "result" ||
      (type === "error" &&
        (error as { code?: string } | undefined)?.code !== undefined),
  );
  if (frame?.["type"] === "result") {
    if (frame["ref"] === "2") return "silence";
    if (frame["ok"] === true) return "ok";
    return String((frame["error"] as { code?: string }).code);
  }
  await wire.ends();
  return wire.closeCode ?? "nothing";
}
