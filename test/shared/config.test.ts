/** Configuration: defaults, one line per mistake, and a print that shows no secret. */
import { createHash } from "node:crypto";
import t from "tap";
import { ConfigError, parseConfig, printConfig } from "../../shared/config.js";
import { parseRedisUrl, shownRedisUrl } from "../../shared/redis-url.js";

const hash = createHash("sha256").update("key").digest("hex");
const apiKeys = `backend:push+read:${hash}`;

const whsec = `whsec_${Buffer.alloc(32, 7).toString("base64")}`;

/** What the start says about an environment, line by line. */
function mistakes(env: Record<string, string>): readonly string[] {
  try {
    parseConfig(env);
    return [];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return error.lines;
  }
}

t.test("nothing set is a keyless bridge on loopback", async (t) => {
  const config = parseConfig({});
  t.match(config, {
    host: "127.0.0.1",
    port: 9_000,
    redisUrl: "redis://127.0.0.1:6379",
    keyless: true,
    allowAnonymous: true,
    maxSockets: 0,
    resumeMs: 120_000,
    preparedMs: 3_600_000,
    endedMs: 3_600_000,
    ttlDefaultSeconds: 3_600,
    receiptMs: 3_600_000,
    idempotencyMs: 86_400_000,
    eventsShare: 0.1,
    leaseMs: 15_000,
    heartbeatMs: 20_000,
    executionMs: 0,
    logMaxMessages: 10_000,
    logMaxBytes: 67_108_864,
    redisMemoryHigh: 0.85,
    logLevel: "info",
    local: false,
  });
  t.ok(Object.isFrozen(config));
});

t.test("an empty variable is one that is not set", async (t) => {
  t.equal(parseConfig({ PORT: "", REDIS_URL: "" }).port, 9_000);
});

t.test(
  "with a key the world is served, and anonymous clients are not",
  async (t) => {
    const config = parseConfig({ API_KEYS: apiKeys });
    t.match(config, { host: "0.0.0.0", keyless: false, allowAnonymous: false });
    const [key] = config.apiKeys;
    t.equal(key?.name, "backend");
    t.same([...(key?.scopes ?? [])], ["push", "read"]);
    t.equal(key?.sha256.toString("hex"), hash);
    const open = { API_KEYS: apiKeys, ALLOW_ANONYMOUS: "1" };
    t.equal(parseConfig(open).allowAnonymous, true);
  },
);

t.test("several keys at once", async (t) => {
  const { apiKeys: keys } = parseConfig({
    API_KEYS: `${apiKeys},new:admin:${hash.toUpperCase()}`,
  });
  t.same(
    keys.map(({ name }) => name),
    ["backend", "new"],
  );
});

t.test("keyless stays on loopback, except under the platform", async (t) => {
  for (const HOST of ["127.0.0.1", "127.5.5.5", "localhost", "::1"])
    t.same(mistakes({ HOST }), [], HOST);
  for (const HOST of ["0.0.0.0", "::", "10.0.0.1", "127.evil.example"]) {
    t.match(mistakes({ HOST }), [/API_KEYS/], HOST);
    t.same(mistakes({ HOST, API_KEYS: apiKeys }), [], HOST);
    t.same(mistakes({ HOST, BRIDGE_LOCAL: "1" }), [], HOST);
  }
});

t.test("a bad value is one line that names it", async (t) => {
  for (const [name, ...values] of [
    ["PORT", "-1", "65536", "80.5", "http"],
    ["REDIS_URL", "localhost:6379", "http://x", "redis://"],
    ["MAX_SOCKETS", "-1", "many"],
    ["RESUME_SECONDS", "0", "86401", "1m"],
    ["LEASE_SECONDS", "0.1", "NaN", "Infinity"],
    ["TTL_DEFAULT_SECONDS", "604801"],
    ["LOG_MAX_MESSAGES", "0", "1.5"],
    ["LOG_MAX_BYTES", "262143"],
    ["REDIS_MEMORY_HIGH", "-0.1", "1.01", "85"],
    ["LOG_LEVEL", "loud", "INFO"],
    ["BRIDGE_LOCAL", "yes"],
    ["ALLOW_ANONYMOUS", "maybe"],
    ["ALLOWED_ORIGINS", "app.example", "https://app.example/", "null", "*"],
    ["PUBLIC_WS_URL", "https://x", "wss://"],
    [
      "WEBHOOK_URL",
      "backend.example",
      "ftp://backend.example/",
      "https://user:pass@backend.example/",
      "https://backend.example/#there",
    ],
    [
      "WEBHOOK_SECRETS",
      "c2VjcmV0",
      "whsec_c2hvcnQ=",
      `whsec_${Buffer.alloc(65).toString("base64")}`,
      Array(3).fill(whsec).join(","),
    ],
    ["WEBHOOK_EVENTS", "connected,gone", "*"],
    ["WEBHOOK_ALLOW", "backend.example", "10.0.0.0/33", "10.0.0.0/8/8", "::1/"],
    ["WEBHOOK_ORIGIN", "https://bridge.example", "-"],
    ["WEBHOOK_TIMEOUT_SECONDS", "0", "61"],
    ["WEBHOOK_GIVE_UP_SECONDS", "0.5", "604801"],
    [
      "API_KEYS",
      "secret",
      "a:push",
      `a:write:${hash}`,
      "a:push:abc",
      `a:push:${hash}:x`,
    ],
  ] as [string, ...string[]][])
    for (const value of values) {
      const lines = mistakes({ [name]: value });
      t.equal(lines.length, 1, `${name}=${value}`);
      t.ok(lines[0]?.startsWith(`${name}=`), String(lines[0]));
      t.notMatch(lines[0], "\n");
    }
});

t.test("a Redis URL is read to its last character", async (t) => {
  const read = (REDIS_URL: string) => {
    parseConfig({ REDIS_URL });
    return parseRedisUrl(REDIS_URL);
  };
  const node = (host: string, port: number) => ({ host, port });
  const none = { username: "", password: "", name: "", db: 0 };
  const cases: [string, object][] = [
    ["redis://h", { ...none, nodes: [node("h", 6_379)] }],
    ["rediss://h:1/3", { ...none, nodes: [node("h", 1)], db: 3 }],
    ["redis://[::1]:7", { ...none, nodes: [node("::1", 7)] }],
    ["redis://:pw@h", { ...none, password: "pw", nodes: [node("h", 6_379)] }],
    ["redis://me@h/", { ...none, username: "me" }],
    ["redis://me:a:b:c@h", { username: "me", password: "a:b:c" }],
    [
      `redis://m%65:${encodeURIComponent("p@:/?#[]%!$&'()*+,;= ü")}@h`,
      { username: "me", password: "p@:/?#[]%!$&'()*+,;= ü" },
    ],
    [
      "redis+sentinel://:pw@a,b:1/main/2",
      {
        password: "pw",
        nodes: [node("a", 26_379), node("b", 1)],
        name: "main",
        db: 2,
      },
    ],
    ["redis+sentinel://a", { name: "mymaster" }],
    ["redis+cluster://a:1,b:2", { nodes: [node("a", 1), node("b", 2)] }],
  ];
  for (const [url, parts] of cases) t.match(read(url), parts, url);

  // Each is refused, and no piece of the password is told.
  for (const url of [
    "redis://:se/cretpassword@host:6379",
    "redis://:se?cretpassword@host:6379",
    "redis://:se#cretpassword@host:6379",
    "redis://:se@cretpassword@host:6379",
    "redis://:se[cretpassword@host:6379",
    "redis://:se cretpassword@host:6379",
    "redis://:se%cretpassword@host:6379",
    "redis://:se%2cretpassword%@host:6379",
    "redis://:/secretpassword",
    "redis://:secretpassword",
    "redis://secretpassword:host:1",
    "redis://host:secretpassword",
    "redis://host:1/secretpassword",
    "redis://host:1/0?password=secretpassword",
    "redis://host:1/0#secretpassword",
    "redis://a:1,b:2",
    "redis+cluster://:secretpassword@a:1/1",
    "redis+sentinel://:secretpassword@a:1/m/n",
    "redis:/:secretpassword@host",
    "rediss//:secretpassword@host",
    "secretpassword@host:6379",
    "redis://host:70000",
  ]) {
    const lines = mistakes({ REDIS_URL: url });
    t.equal(lines.length, 1, url);
    t.match(lines[0], /^REDIS_URL=\*\*\*: \S/);
    t.notMatch(lines[0], /cret/, url);
    t.equal(shownRedisUrl(url).includes("cret"), false, url);
    t.throws(() => parseRedisUrl(url), url);
  }
});

t.test("a secret in the wrong variable is not shown either", async (t) => {
  const secret = "aWrongPlaceForASecret0123456789";
  const lines = mistakes({
    TOKEN_KEYS: `k:${secret}`,
    WEBHOOK_ALLOW: secret,
    ALLOWED_ORIGINS: encodeURIComponent(`https://a/${secret}`),
    LOG_LEVEL: `\u001b[31m${secret}\u202e`,
  });
  t.equal(lines.length, 4);
  t.notMatch(lines.join("\n"), secret);
  t.notMatch(lines.join(""), /\p{Cc}|\u202e/u);
});

t.test("every mistake is told at once", async (t) => {
  const lines = mistakes({ PORT: "x", LOG_LEVEL: "x", DRAIN_RATE: "x" });
  t.equal(lines.length, 3);
});

t.test("a mistake in a secret does not show it", async (t) => {
  const [line = ""] = mistakes({ API_KEYS: "topsecret" });
  t.notMatch(line, "topsecret");
  t.match(line, /^API_KEYS=\*\*\*: /);
});

const tokenSecret = Buffer.alloc(32, 5).toString("base64");

t.test("values are taken as they are", async (t) => {
  t.match(
    parseConfig({
      PORT: "0",
      REDIS_URL: "redis+cluster://a:1,b:2",
      ALLOWED_ORIGINS: "https://a.example,http://b.example:8080",
      PUBLIC_WS_URL: "wss://ws.example/",
      RESUME_SECONDS: "0.5",
      TOKEN_KEYS: `k:${tokenSecret}`,
      TOKEN_ISSUER: "https://idp.example/",
    }),
    {
      port: 0,
      redisUrl: "redis+cluster://a:1,b:2",
      allowedOrigins: ["https://a.example", "http://b.example:8080"],
      publicWsUrl: "wss://ws.example",
      resumeMs: 500,
      tokenKeys: { kind: "secrets", set: { keys: [{ kid: "k" }] } },
      tokenIssuer: "https://idp.example/",
      tokenAudience: "",
    },
  );
});

t.test("a webhook", async (t) => {
  const url = "https://backend.example/hooks?key=topsecret";
  const given = { WEBHOOK_URL: url, WEBHOOK_SECRETS: whsec };
  t.equal(parseConfig({}).webhook, undefined);
  t.equal(parseConfig({ WEBHOOK_SECRETS: whsec }).webhook, undefined);
  const { webhook } = parseConfig({ ...given, API_KEYS: apiKeys });
  t.match(webhook, {
    secrets: [Buffer.alloc(32, 7)],
    origin: "push-bridge",
    allow: [],
    local: false,
    timeoutMs: 15_000,
    giveUpMs: 86_400_000,
    pendingBytes: 67_108_864,
  });
  t.equal(webhook?.url.href, url);
  t.same(
    [...(webhook?.events ?? [])],
    ["connected", "event", "disconnected", "message.undelivered"],
  );
  t.match(
    parseConfig({
      ...given,
      PUBLIC_WS_URL: "wss://ws.example/",
      WEBHOOK_ALLOW: "10.0.0.0/8, fd00::/8",
      WEBHOOK_SECRETS: `${whsec}, ${whsec}`,
    }).webhook,
    {
      origin: "ws.example",
      allow: ["10.0.0.0/8", "fd00::/8"],
      local: true,
      secrets: { length: 2 },
    },
  );
  t.match(mistakes({ WEBHOOK_URL: url }), [/^WEBHOOK_SECRETS: /]);
  const plain = { ...given, WEBHOOK_URL: "http://backend.example/" };
  t.same(mistakes(plain), []);
  t.match(mistakes({ ...plain, API_KEYS: apiKeys }), [/^WEBHOOK_URL: .*https/]);
  t.same(
    mistakes({ ...plain, API_KEYS: apiKeys, WEBHOOK_ALLOW: "10.1.2.3" }),
    [],
  );
  const shown = printConfig(given);
  t.match(shown, /^WEBHOOK_URL=https:\/\/backend\.example\/\*\*\* /m);
  t.match(shown, /^WEBHOOK_SECRETS=whsec_\*\*\* /m);
  for (const secret of ["topsecret", "/hooks", whsec.slice(6)])
    t.notMatch(shown, secret, secret);
});

t.test("no credential of a client is named for the backend", async (t) => {
  const headers = (names: string) =>
    parseConfig({ WEBHOOK_CONNECT_HEADERS: names });
  for (const name of [
    "Authorization",
    "cookie",
    "x-a,Proxy-Authorization",
    "sec-websocket-protocol",
    "two words",
  ])
    t.throws(() => headers(name), ConfigError, name);
  const { webhook } = parseConfig({
    WEBHOOK_CONNECT_HEADERS: "X-Plan, user-agent",
    WEBHOOK_URL: "http://127.0.0.1/",
    WEBHOOK_SECRETS: `whsec_${Buffer.alloc(32).toString("base64")}`,
  });
  t.same(webhook?.connectHeaders, ["x-plan", "user-agent"]);
  t.equal(webhook?.connectMs, 5_000);
});

t.test("--print-config shows what is in effect, and why, masked", async (t) => {
  const text = printConfig({
    API_KEYS: apiKeys,
    TOKEN_KEYS: `k:${tokenSecret}`,
    REDIS_URL: "redis://user:pass@redis.example:6379",
    PORT: "1234",
  });
  for (const secret of [hash, tokenSecret, "pass", "user:"])
    t.notMatch(text, secret, secret);
  t.match(text, /^PORT=1234 +# \S/m);
  t.match(text, /^HOST=0\.0\.0\.0 /m);
  t.match(text, /^API_KEYS=backend:push\+read:\*\*\* /m);
  t.match(text, /^TOKEN_KEYS=\*\*\* /m);
  t.match(text, "redis://***@redis.example:6379");
  t.match(text, /^ALLOW_ANONYMOUS=0 /m);
  t.match(printConfig({}), /^ALLOW_ANONYMOUS=1 /m);
  t.throws(() => printConfig({ PORT: "x" }), ConfigError);
});
