/** Tokens that were revoked: open sockets end, and none is opened with them, at every instance of the built ws-fn. */
import { SignJWT } from "jose";
import t, { type Test } from "tap";
import { WebSocket } from "ws";
import type { Problem, TokensRevoked } from "../../shared/api.js";
import { keys } from "../../shared/keys.js";
import { tokenTag, userTag } from "../../shared/ids.js";
import { backendOf } from "../../scripts/lab/backend.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";

const BRIDGE = "bridge.v1.json";
const SECRETS = { app: Buffer.alloc(32, 1), old: Buffer.alloc(32, 2) };

const redis = await singleRedis(t);
const env = {
  REDIS_URL: redis.url,
  TOKEN_KEYS: Object.entries(SECRETS)
    .map(([kid, secret]) => `${kid}:${secret.toString("base64")}`)
    .join(","),
};
const [httpFn, ...instances] = await Promise.all([
  startHttpFn(t, env),
  startWsFn(t, env),
  startWsFn(t, env),
]);
const backend = backendOf(t, httpFn.url);

interface Said {
  sub?: string;
  jti?: string;
  kid?: keyof typeof SECRETS;
  /** Issued so long ago, seconds; default 10. */
  age?: number;
}

const tokenOf = ({ kid = "app", age = 10, ...claims }: Said): Promise<string> =>
  new SignJWT(claims)
    .setProtectedHeader({ alg: "HS256", kid })
    .setIssuedAt(Math.floor(Date.now() / 1_000) - age)
    .setExpirationTime("10m")
    .sign(SECRETS[kid]);

interface Open {
  resumeToken: string;
  closed: Promise<number>;
}

/** Dials; the code of a refusal, or the socket once it has its welcome. */
function dial(t: Test, at: number, query: string): Promise<string | Open> {
  return new Promise((resolve, reject) => {
    const url = `${instances[at]?.url ?? ""}/ws?${query}`;
    const socket = new WebSocket(url, [BRIDGE]);
    t.teardown(() => socket.terminate());
    const closed = new Promise<number>((end) => socket.once("close", end));
    socket.once("message", (data: Buffer) => {
      const { resumeToken } = JSON.parse(data.toString()) as Open;
      resolve({ resumeToken, closed });
    });
    socket.on("error", reject);
    socket.once("unexpected-response", (_request, response) => {
      let body = "";
      response.on("data", (chunk: Buffer) => (body += chunk.toString()));
      response.on("end", () => {
        const { status, code } = JSON.parse(body) as Problem;
        resolve(`${status} ${code}`);
      });
    });
  });
}

async function opened(t: Test, at: number, query: string): Promise<Open> {
  const socket = await dial(t, at, query);
  if (typeof socket === "string") throw new Error(`${query}: ${socket}`);
  return socket;
}

const REFUSED = "401 token_revoked";

t.test("of a user: what was issued before", async (t) => {
  const token = await tokenOf({ sub: "ann" });
  const other = await opened(t, 0, `token=${await tokenOf({ sub: "ben" })}`);
  const { token: own } = await backend.prepare({ userId: "ann" });
  // Tokens of ours say when by the second, and one of the same second counts as old.
  const sockets = [
    await opened(t, 0, `token=${token}`),
    await opened(t, 1, `token=${token}`),
    await opened(t, 1, `token=${own}`),
  ];
  const answer = await backend.ask("DELETE", "/v1/tokens?user=ann");
  t.equal(answer.status, 200, answer.text);
  const { revokedAt, until: end, ...rest } = answer.json<TokensRevoked>();
  t.same(rest, { user: "ann" });
  t.equal(Date.parse(end) - Date.parse(revokedAt), 2_592_000_000);
  t.same(
    await Promise.all(sockets.map(({ closed }) => closed)),
    [4501, 4501, 4501],
  );
  for (const at of [0, 1]) {
    t.equal(await dial(t, at, `token=${token}`), REFUSED);
    t.equal(await dial(t, at, `token=${own}`), REFUSED);
    for (const { resumeToken } of sockets)
      t.equal(await dial(t, at, `resume=${resumeToken}&seq=0`), REFUSED);
  }
  const fresh = await tokenOf({ sub: "ann", age: -2 });
  await opened(t, 0, `token=${fresh}`);
  await opened(t, 1, `resume=${other.resumeToken}&seq=0`);
});

t.test("by its ID, and by the key that signed it", async (t) => {
  for (const [said, query] of [
    [{ jti: "one" }, "jti=one"],
    [{ kid: "old", age: -2 }, "kid=old"],
  ] as [Said, string][]) {
    const token = await tokenOf(said);
    const other = await opened(t, 1, `token=${await tokenOf({ jti: "two" })}`);
    const { closed, resumeToken } = await opened(t, 0, `token=${token}`);
    const answer = await backend.ask("DELETE", `/v1/tokens?${query}`);
    t.equal(answer.status, 200, answer.text);
    t.equal(await closed, 4501, query);
    t.equal(await dial(t, 1, `token=${token}`), REFUSED);
    t.equal(await dial(t, 1, `resume=${resumeToken}&seq=0`), REFUSED);
    await opened(t, 0, `resume=${other.resumeToken}&seq=0`);
  }
});

t.test(
  "a process that was cut off reads on, and a new one reads all",
  async (t) => {
    const token = await tokenOf({ jti: "missed" });
    const { closed } = await opened(t, 0, `token=${token}`);
    // As if the word had been said while nobody could hear it.
    await redis.cli(
      "ZADD",
      keys.revoked,
      String(Date.now()),
      tokenTag("missed"),
    );
    await opened(t, 1, `token=${token}`);
    await redis.cli("CLIENT", "KILL", "TYPE", "pubsub");
    t.equal(await closed, 4501);
    await until(async () => (await dial(t, 1, `token=${token}`)) === REFUSED, {
      message: "the other instance has read on as well",
    });
    const late = await startWsFn(t, env);
    instances.push(late);
    t.equal(await dial(t, 2, `token=${token}`), REFUSED);
    t.equal(
      await dial(t, 2, `token=${await tokenOf({ sub: "ann" })}`),
      REFUSED,
    );
  },
);

t.test("what is asked must be clear, and the bridge lives on", async (t) => {
  for (const query of [
    "",
    "?jti=a&kid=b",
    "?kid=a%20b",
    "?user=..",
    "?kid=app",
  ]) {
    const answer = await backend.ask("DELETE", `/v1/tokens${query}`);
    t.equal(answer.status, 400, query);
    t.equal(answer.json<Problem>().code, "invalid_parameter", query);
  }
  t.equal(
    await redis.cli("ZSCORE", keys.revoked, "k:app"),
    null,
    "the key that signs was not revoked",
  );
  t.ok(await redis.cli("ZSCORE", keys.revoked, userTag("ann")));
});
