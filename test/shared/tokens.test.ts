/** Tokens: what is let in, what is not, and what a client may come back with. */
import { writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import {
  exportJWK,
  exportPKCS8,
  generateKeyPair,
  importPKCS8,
  SignJWT,
  UnsecuredJWT,
  type JWTPayload,
} from "jose";
import t from "tap";
import { until } from "../../scripts/lab/until.js";
import { tokenTag } from "../../shared/ids.js";
import { keys } from "../../shared/keys.js";
import type { RedisLink } from "../../shared/redis.js";
import { parseTokenKeys } from "../../shared/token-keys.js";
import { Tokens, type TokenRules } from "../../shared/tokens.js";

/** The two commands that tokens need: SET … NX and GET. */
function fakeRedis(): RedisLink {
  const stored = new Map<string, string>();
  const command = (name: string, key: string, value?: string) => {
    if (name === "SET" && !stored.has(key)) stored.set(key, value ?? "");
    return Promise.resolve(stored.get(key));
  };
  return { command } as unknown as RedisLink;
}

/** As ws-fn and http-fn have them with this TOKEN_KEYS. */
const make = (
  source: string,
  redis = fakeRedis(),
  more: Partial<TokenRules> = {},
) =>
  new Tokens(
    { keys: parseTokenKeys(source), issuer: "", audience: "", ...more },
    redis,
  );

const secret = (text: string) => Buffer.from(text.padEnd(32, "."));
const source = (kid: string) => `${kid}:${secret(kid).toString("base64")}`;
const now = () => Math.floor(Date.now() / 1_000);

/** A token of HS256 under `kid`; of a type of ours where `typ` says so. */
const hs256 = (
  kid: string,
  payload: JWTPayload,
  key = secret(kid),
  typ = "JWT",
) =>
  new SignJWT(payload).setProtectedHeader({ alg: "HS256", kid, typ }).sign(key);
const connectionType = "bridge-connection+jwt";

const invalid = { code: "token_invalid", status: 401 };
const cid = "c_0000000000000000000000";

t.test("HS256: claims come through", async (t) => {
  const tokens = make(source("a"));
  const exp = now() + 60;
  const said = {
    sub: "u",
    groups: ["g"],
    // An identity provider's are for many applications.
    permissions: ["read:items", "join:*", "everything"],
  };
  t.same(await tokens.verify(await hs256("a", { ...said, exp, jti: "j" })), {
    kind: "user",
    connectionId: undefined,
    epoch: undefined,
    userId: "u",
    groups: ["g"],
    permissions: ["join:*"],
    expiresAtMs: exp * 1_000,
    kid: "a",
    origin: { kid: "a", token: tokenTag("j"), issuedAt: 0, userId: "u" },
  });
  t.match(await tokens.verify(await hs256("a", { exp })), {
    kind: "user",
    userId: "",
    groups: [],
  });
  // Our own, made by a backend that has our key.
  const own = { cid, sub: "u", exp };
  t.match(
    await tokens.verify(await hs256("a", own, secret("a"), connectionType)),
    { kind: "connection", connectionId: cid, expiresAtMs: exp * 1_000 },
  );
});

t.test(
  "claims are what the schema says, and it says which is not",
  async (t) => {
    const tokens = make(source("a"));
    const exp = now() + 60;
    for (const [claims, words] of [
      [{ sub: ".." }, /sub is no user ID/],
      [{ sub: "a\u0000" }, /sub is no user ID/],
      [{ sub: 7 }, /sub is no user ID/],
      [{ groups: ["g", 7] }, /groups\[1\] is no name of a group/],
      [{ groups: ["}a"] }, /groups\[0\] is no name/],
      [{ groups: "g" }, /groups is no list/],
      [{ groups: Array(101).fill("g") }, /groups is no list of 100/],
      [{ permissions: ["join:a b"] }, /permissions\[0\] is no permission/],
      [{ jti: 7 }, /jti is no token ID/],
    ] as const)
      await t.rejects(
        tokens.verify(await hs256("a", { exp, ...claims } as JWTPayload)),
        { ...invalid, message: words },
        JSON.stringify(claims).slice(0, 60),
      );
    for (const wrong of ["schedule", "c_1", "g:room", 7, undefined])
      await t.rejects(
        tokens.verify(
          await hs256("a", { cid: wrong, exp }, secret("a"), connectionType),
        ),
        { ...invalid, message: /cid/ },
        String(wrong),
      );
  },
);

t.test("whose token it is, by type and key", async (t) => {
  const tokens = make(source("a"));
  const exp = now() + 60;
  await t.rejects(
    tokens.verify(await hs256("a", { cid, exp })),
    { ...invalid, message: /cid is for tokens of the type/ },
    "a cid without the type",
  );
  t.match(
    await tokens.verify(await hs256("a", { use: "resume", exp })),
    { kind: "user" },
    "a claim makes no resume token",
  );
  await t.rejects(
    tokens.verify(
      await hs256("a", { cid, exp }, secret("a"), "bridge-resume+jwt"),
    ),
    { ...invalid, message: /epc/ },
    "a resume token is of an epoch",
  );
});

t.test("users' tokens run out, within 5 s", async (t) => {
  const tokens = make(source("a"));
  await t.rejects(tokens.verify(await hs256("a", { sub: "u" })), {
    ...invalid,
    message: /there is no exp/,
  });
  const since = (seconds: number) => hs256("a", { exp: now() - seconds });
  t.match(await tokens.verify(await since(2)), { kind: "user" });
  await t.rejects(tokens.verify(await since(7)), { code: "token_expired" });
  const early = await hs256("a", { exp: now() + 60, nbf: now() + 3 });
  t.match(await tokens.verify(early), { kind: "user" });
});

t.test("TOKEN_ISSUER and TOKEN_AUDIENCE", async (t) => {
  const [iss, aud] = ["https://idp.example/", "bridge"];
  const redis = fakeRedis();
  const strict = make(source("a"), redis, { issuer: iss, audience: aud });
  const any = make(source("a"), redis);
  const exp = now() + 60;
  for (const [claims, good] of [
    [{ iss, aud }, true],
    [{ iss, aud: ["other", aud] }, true],
    [{ iss }, false],
    [{ iss, aud: "other" }, false],
    [{ aud }, false],
    [{ iss: "https://other.example/", aud }, false],
  ] as const) {
    const token = await hs256("a", { ...claims, exp } as JWTPayload);
    t.match(await any.verify(token), { kind: "user" });
    const words = JSON.stringify(claims);
    if (good) t.match(await strict.verify(token), { kind: "user" }, words);
    else await t.rejects(strict.verify(token), invalid, words);
  }
  // Ours have neither.
  t.match(await strict.verify(await strict.forConnection(cid, "u")), {
    kind: "connection",
  });
});

t.test("keys are rotated by kid, the first signs", async (t) => {
  const redis = fakeRedis();
  const before = make(source("old"), redis);
  const both = make(`${source("new")},${source("old")}`, redis);
  const after = make(source("new"), redis);
  const old = await before.forConnection(cid, "u");
  const fresh = await both.forConnection(cid, "u");
  t.match(await both.verify(old), { connectionId: cid, userId: "u" });
  t.match(await after.verify(fresh), { connectionId: cid });
  await t.rejects(before.verify(fresh), invalid);
  await t.rejects(after.verify(old), invalid);
});

t.test("what is refused", async (t) => {
  const tokens = make(source("a"));
  const good = await hs256("a", { exp: now() + 60 });
  const [head = "", body = "", signature = ""] = good.split(".");
  for (const [name, token] of [
    ["no token at all", ""],
    ["no JWT", "abc"],
    ["another key", await hs256("a", { exp: now() + 60 }, secret("b"))],
    ["an unknown kid", await hs256("b", { exp: now() + 60 })],
    ["no algorithm", new UnsecuredJWT({ cid }).encode()],
    ["no signature", `${head}.${body}.`],
    [
      "another body",
      `${head}.${Buffer.from('{"cid":"c_1"}').toString("base64url")}.${signature}`,
    ],
    [
      "another algorithm of the family",
      await new SignJWT({ cid })
        .setProtectedHeader({ alg: "HS512", kid: "a" })
        .sign(Buffer.concat([secret("a"), secret("a")])),
    ],
    ["not yet", await hs256("a", { exp: now() + 99, nbf: now() + 60 })],
  ] as const)
    await t.rejects(tokens.verify(token), invalid, name);
  await t.rejects(tokens.verify(await hs256("a", { exp: now() - 7 })), {
    code: "token_expired",
    status: 401,
  });
});

t.test("a JWKS file: each type of key for its algorithms", async (t) => {
  const dir = t.testdir();
  const pair = async (kid: string, alg: string, states = true) => {
    const made = await generateKeyPair(alg, { extractable: true });
    const jwk = { ...(await exportJWK(made.publicKey)), kid };
    return { ...made, kid, alg, jwk: states ? { ...jwk, alg } : jwk };
  };
  const pairs = await Promise.all([
    pair("one", "EdDSA"),
    pair("two", "RS256"),
    pair("three", "PS256"),
    pair("four", "ES256", false),
    pair("five", "RS256", false),
  ]);
  const stranger = await pair("stranger", "EdDSA");
  const file = path.join(dir, "jwks.json");
  await writeFile(file, JSON.stringify({ keys: pairs.map(({ jwk }) => jwk) }));
  const tokens = make(file);
  const sign = (
    { kid, privateKey }: Pick<typeof stranger, "kid" | "privateKey">,
    alg: string,
    payload: JWTPayload = {},
    typ = "JWT",
  ) =>
    new SignJWT({ sub: "u", exp: now() + 60, ...payload })
      .setProtectedHeader({ alg, kid, typ })
      .sign(privateKey);
  for (const one of pairs)
    t.match(
      await tokens.verify(await sign(one, one.alg)),
      { kind: "user", userId: "u" },
      one.kid,
    );
  const [one, two] = pairs;
  if (!one || !two) throw new Error("pairs");
  await t.rejects(tokens.verify(await sign(stranger, "EdDSA")), invalid);
  await t.rejects(
    tokens.verify(await sign({ ...stranger, kid: "one" }, "EdDSA")),
    invalid,
    "a known kid, another key",
  );
  const other = await importPKCS8(await exportPKCS8(two.privateKey), "PS256");
  await t.rejects(
    tokens.verify(await sign({ kid: "two", privateKey: other }, "PS256")),
    invalid,
    "a key that says RS256 is for nothing else",
  );
  // A public key is no secret: nobody may sign with its text.
  const x = Buffer.from(String(one.jwk.x), "base64url");
  await t.rejects(
    tokens.verify(await hs256("one", { exp: now() + 60 }, x)),
    invalid,
  );
  t.match(
    await tokens.verify(await sign(one, "EdDSA", { cid })),
    { kind: "user", connectionId: undefined },
    "others' cid is their own",
  );
  await t.rejects(
    tokens.verify(await sign(one, "EdDSA", { cid }, connectionType)),
    invalid,
    "no key of others opens a connection of ours",
  );
  const own = await tokens.forConnection(cid, "");
  t.match(await tokens.verify(own), { kind: "connection", connectionId: cid });
});

t.test("a file with a private key signs with it", async (t) => {
  const { privateKey, publicKey } = await generateKeyPair("EdDSA", {
    extractable: true,
  });
  const dir = t.testdir({
    "private.json": JSON.stringify({
      keys: [{ ...(await exportJWK(privateKey)), kid: "k", alg: "EdDSA" }],
    }),
    "public.json": JSON.stringify({
      keys: [{ ...(await exportJWK(publicKey)), kid: "k", alg: "EdDSA" }],
    }),
  });
  const of = (name: string) => make(path.join(dir, name));
  const token = await of("private.json").forConnection(cid, "u");
  t.match(await of("private.json").verify(token), { connectionId: cid });
  await t.rejects(of("public.json").verify(token), invalid, "none of its own");
});

t.test("keyless: one secret, made once, kept in Redis", async (t) => {
  const redis = fakeRedis();
  const token = await make("", redis).forConnection(cid, "u");
  t.match(await make("", redis).verify(token), {
    connectionId: cid,
  });
  await t.rejects(make("").verify(token), invalid);
  const stored = await redis.command("GET", keys.tokenSecret);
  t.equal(Buffer.from(String(stored), "base64url").length, 32);
});

t.test("a Redis that answers nothing gives no secret", async (t) => {
  const command = () => Promise.resolve(null);
  const tokens = make("", { command } as unknown as RedisLink);
  await t.rejects(tokens.forConnection(cid, ""), {
    code: "token_keys_unavailable",
    status: 503,
  });
});

t.test("a file is read again when it has changed", async (t) => {
  const dir = t.testdir();
  const file = path.join(dir, "keys.json");
  const write = (...kids: string[]) =>
    writeFile(
      file,
      JSON.stringify({
        keys: kids.map((kid) => ({
          kty: "oct",
          kid,
          alg: "HS256",
          k: secret(kid).toString("base64url"),
        })),
      }),
    );
  await write("a");
  const failures: unknown[] = [];
  const tokens = make(file, fakeRedis(), {
    refreshMs: 0,
    failed: (error) => failures.push(error),
  });
  const user = (kid: string) => hs256(kid, { exp: now() + 60 });
  const isGood = async (kid: string) =>
    tokens.verify(await user(kid)).then(
      () => true,
      () => false,
    );
  t.ok(await isGood("a"));
  await write("b");
  await until(() => isGood("b"));
  await until(async () => !(await isGood("a")));
  await writeFile(file, "{");
  await until(async () => {
    t.ok(await isGood("b"), "what was known is used on");
    return failures.length > 0;
  });
});

t.test(
  "a resume token is of an epoch, for a week, and never for longer than the first",
  async (t) => {
    const tokens = make(source("a"));
    const week = 7 * 86_400;
    const claims = (token: string) =>
      JSON.parse(
        Buffer.from(token.split(".")[1] ?? "", "base64url").toString(),
      ) as JWTPayload;

    const free = await tokens.forResume(cid, 7);
    t.match(await tokens.verify(free), {
      connectionId: cid,
      kind: "resume",
      epoch: 7,
      expiresAtMs: undefined,
    });
    const { exp = 0, iat = 0 } = claims(free);
    t.ok(Math.abs(exp - iat - week) <= 1);

    const soon = (now() + 100) * 1_000;
    const bound = await tokens.forResume(cid, 7, soon);
    t.equal(claims(bound).exp, soon / 1_000);
    t.match(await tokens.verify(bound), { kind: "resume", expiresAtMs: soon });

    const late = (now() + 10 * week) * 1_000;
    const capped = await tokens.forResume(cid, 7, late);
    t.ok((claims(capped).exp ?? 0) <= now() + week + 1);

    await t.rejects(
      tokens.verify(await tokens.forResume(cid, 7, Date.now() - 7_000)),
      { code: "token_expired" },
    );
  },
);

t.test("keys that do not come say nothing of a token", async (t) => {
  const { publicKey, privateKey } = await generateKeyPair("EdDSA");
  const jwk = { ...(await exportJWK(publicKey)), kid: "one", alg: "EdDSA" };
  let status = 500;
  const server = createServer((_request, response) => {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(JSON.stringify({ keys: [jwk] }));
  });
  t.teardown(() => server.close());
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const sign = (kid: string) =>
    new SignJWT({ sub: "u", exp: now() + 60 })
      .setProtectedHeader({ alg: "EdDSA", kid })
      .sign(privateKey);
  const unavailable = { code: "token_keys_unavailable", status: 503 };

  const tokens = make(`http://127.0.0.1:${port}/`);
  await t.rejects(tokens.verify(await sign("one")), unavailable);
  t.match(
    await tokens.verify(await tokens.forConnection(cid, "")),
    { connectionId: cid },
    "ours need nobody else",
  );
  status = 200;
  t.match(await tokens.verify(await sign("one")), { userId: "u" });
  await t.rejects(tokens.verify(await sign("another")), invalid);
  status = 500;
  t.match(
    await tokens.verify(await sign("one")),
    { userId: "u" },
    "what is known is used on",
  );
  server.close();
});
