/** Tokens: what is let in, what is not, and what a client may come back with. */
import { writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import {
  exportJWK,
  generateKeyPair,
  SignJWT,
  UnsecuredJWT,
  type JWTPayload,
} from "jose";
import t from "tap";
import { keys } from "../../shared/keys.js";
import type { RedisLink } from "../../shared/redis.js";
import { Tokens } from "../../shared/tokens.js";

/** The two commands that tokens need: SET … NX and GET. */
function fakeRedis(): RedisLink {
  const stored = new Map<string, string>();
  const command = (name: string, key: string, value?: string) => {
    if (name === "SET" && !stored.has(key)) stored.set(key, value ?? "");
    return Promise.resolve(stored.get(key));
  };
  return { command } as unknown as RedisLink;
}

const secret = (text: string) => Buffer.from(text.padEnd(32, "."));
const source = (kid: string) => `${kid}:${secret(kid).toString("base64")}`;
const now = () => Math.floor(Date.now() / 1_000);

/** A token of HS256 under `kid`. */
const hs256 = (kid: string, payload: JWTPayload, key = secret(kid)) =>
  new SignJWT(payload).setProtectedHeader({ alg: "HS256", kid }).sign(key);

const invalid = { code: "token_invalid", status: 401 };
const cid = "c_0000000000000000000000";

t.test("HS256: claims come through", async (t) => {
  const tokens = new Tokens(source("a"), false, fakeRedis());
  const exp = now() + 60;
  t.same(
    await tokens.verify(
      await hs256("a", {
        cid,
        sub: "u",
        groups: ["g", 7],
        permissions: ["join"],
        exp,
      }),
    ),
    {
      connectionId: cid,
      userId: "u",
      groups: ["g"],
      permissions: ["join"],
      resume: false,
      expiresAtMs: exp * 1_000,
    },
  );
  t.match(await tokens.verify(await hs256("a", {})), {
    connectionId: undefined,
    userId: "",
    groups: [],
    expiresAtMs: undefined,
  });
});

t.test("keys are rotated by kid, the first signs", async (t) => {
  const redis = fakeRedis();
  const before = new Tokens(source("old"), false, redis);
  const both = new Tokens(`${source("new")},${source("old")}`, false, redis);
  const after = new Tokens(source("new"), false, redis);
  const old = await before.forConnection(cid, "u");
  const fresh = await both.forConnection(cid, "u");
  t.match(await both.verify(old), { connectionId: cid, userId: "u" });
  t.match(await after.verify(fresh), { connectionId: cid });
  await t.rejects(before.verify(fresh), invalid);
  await t.rejects(after.verify(old), invalid);
});

t.test("what is refused", async (t) => {
  const tokens = new Tokens(source("a"), false, fakeRedis());
  const good = await hs256("a", { cid });
  const [head = "", body = "", signature = ""] = good.split(".");
  for (const [name, token] of [
    ["no token at all", ""],
    ["no JWT", "abc"],
    ["another key", await hs256("a", { cid }, secret("b"))],
    ["an unknown kid", await hs256("b", { cid })],
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
    ["not yet", await hs256("a", { cid, nbf: now() + 60 })],
  ] as const)
    await t.rejects(tokens.verify(token), invalid, name);
  await t.rejects(tokens.verify(await hs256("a", { cid, exp: now() - 1 })), {
    code: "token_expired",
    status: 401,
  });
});

t.test("EdDSA by a JWKS file", async (t) => {
  const dir = t.testdir();
  const pairs = await Promise.all(
    ["one", "two", "stranger"].map(async (kid) => ({
      kid,
      ...(await generateKeyPair("EdDSA", { extractable: true })),
    })),
  );
  const file = path.join(dir, "jwks.json");
  const [one, two, stranger] = pairs;
  if (!one || !two || !stranger) throw new Error("three pairs");
  const jwk = async ({ kid, publicKey }: typeof one) => ({
    ...(await exportJWK(publicKey)),
    kid,
    alg: "EdDSA",
  });
  await writeFile(
    file,
    JSON.stringify({ keys: [await jwk(one), await jwk(two)] }),
  );
  const tokens = new Tokens(file, false, fakeRedis());
  const sign = ({ kid, privateKey }: typeof one, payload: JWTPayload) =>
    new SignJWT(payload)
      .setProtectedHeader({ alg: "EdDSA", kid })
      .sign(privateKey);
  for (const pair of [one, two])
    t.match(await tokens.verify(await sign(pair, { cid, sub: "u" })), {
      connectionId: cid,
      userId: "u",
    });
  await t.rejects(tokens.verify(await sign(stranger, { cid })), invalid);
  await t.rejects(
    tokens.verify(await sign({ ...stranger, kid: "one" }, { cid })),
    invalid,
    "a known kid, another key",
  );
  // A public key is no secret: nobody may sign with its text.
  const { x = "" } = await jwk(one);
  await t.rejects(
    tokens.verify(await hs256("one", { cid }, Buffer.from(x, "base64url"))),
    invalid,
  );
  const own = await tokens.forConnection(cid, "");
  t.match(await tokens.verify(own), { connectionId: cid, userId: "" });
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
  const of = (name: string) =>
    new Tokens(path.join(dir, name), false, fakeRedis());
  const token = await of("private.json").forConnection(cid, "u");
  t.match(await of("public.json").verify(token), { connectionId: cid });
});

t.test("keyless: one secret, made once, kept in Redis", async (t) => {
  const redis = fakeRedis();
  const token = await new Tokens("", true, redis).forConnection(cid, "u");
  t.match(await new Tokens("", true, redis).verify(token), {
    connectionId: cid,
  });
  await t.rejects(new Tokens("", true, fakeRedis()).verify(token), invalid);
  const stored = await redis.command("GET", keys.tokenSecret);
  t.equal(Buffer.from(String(stored), "base64url").length, 32);
});

t.test("keys that could not be read are read again", async (t) => {
  const dir = t.testdir();
  const file = path.join(dir, "later.json");
  const tokens = new Tokens(file, false, fakeRedis());
  await t.rejects(tokens.forConnection(cid, ""));
  const k = secret("a").toString("base64url");
  await writeFile(
    file,
    JSON.stringify({ keys: [{ kty: "oct", kid: "a", alg: "HS256", k }] }),
  );
  t.match(await tokens.verify(await tokens.forConnection(cid, "")), {
    connectionId: cid,
  });
});

t.test(
  "a resume token is for a week, and never for longer than the first",
  async (t) => {
    const tokens = new Tokens(source("a"), false, fakeRedis());
    const week = 7 * 86_400;
    const claims = (token: string) =>
      JSON.parse(
        Buffer.from(token.split(".")[1] ?? "", "base64url").toString(),
      ) as JWTPayload;

    const free = await tokens.forResume(cid);
    t.match(await tokens.verify(free), {
      connectionId: cid,
      resume: true,
      expiresAtMs: undefined,
    });
    const { exp = 0, iat = 0 } = claims(free);
    t.ok(Math.abs(exp - iat - week) <= 1);

    const soon = (now() + 100) * 1_000;
    const bound = await tokens.forResume(cid, soon);
    t.equal(claims(bound).exp, soon / 1_000);
    t.match(await tokens.verify(bound), { resume: true, expiresAtMs: soon });

    const late = (now() + 10 * week) * 1_000;
    const capped = await tokens.forResume(cid, late);
    t.ok((claims(capped).exp ?? 0) <= now() + week + 1);

    await t.rejects(
      tokens.verify(await tokens.forResume(cid, Date.now() - 5_000)),
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
    new SignJWT({ cid })
      .setProtectedHeader({ alg: "EdDSA", kid })
      .sign(privateKey);
  const unavailable = { code: "token_keys_unavailable", status: 503 };

  const tokens = new Tokens(`http://127.0.0.1:${port}/`, false, fakeRedis());
  await t.rejects(tokens.verify(await sign("one")), unavailable);
  status = 200;
  t.match(await tokens.verify(await sign("one")), { connectionId: cid });
  await t.rejects(tokens.verify(await sign("another")), invalid);
  // Our own tokens need nobody else.
  status = 500;
  t.match(await tokens.verify(await tokens.forConnection(cid, "")), {
    connectionId: cid,
  });

  const missing = new Tokens(
    path.join(t.testdir(), "none"),
    false,
    fakeRedis(),
  );
  await t.rejects(missing.verify(await sign("one")), unavailable);
});
