/** TOKEN_KEYS: every slip stops the start, with a sentence that names the key and shows no secret. */
import { generateKeyPairSync, randomBytes } from "node:crypto";
import path from "node:path";
import t from "tap";
import { ConfigError, parseConfig } from "../../shared/config.js";
import { parseTokenKeys, usableKeys } from "../../shared/token-keys.js";

const secret = randomBytes(32).toString("base64");
const short = randomBytes(31).toString("base64");
const k = Buffer.from(secret, "base64").toString("base64url");

/** What the start says to this TOKEN_KEYS. */
function mistake(value: string): string {
  try {
    parseConfig({ TOKEN_KEYS: value });
  } catch (error) {
    if (error instanceof ConfigError) return error.lines.join("\n");
    throw error;
  }
  return "";
}

t.test("what is taken", async (t) => {
  t.same(parseTokenKeys(""), { kind: "generated" });
  t.match(parseTokenKeys(`a:${secret}, b.2:${secret.replace(/=+$/, "")}`), {
    kind: "secrets",
    set: { keys: [{ kty: "oct", kid: "a", alg: "HS256", k }, { kid: "b.2" }] },
  });
  t.match(parseTokenKeys("https://idp.example/jwks"), { kind: "url" });
  t.match(parseTokenKeys("http://127.0.0.1:8/jwks"), { kind: "url" });
  const dir = t.testdir({
    "keys.json": JSON.stringify({ keys: [{ kty: "oct", kid: "a", k }] }),
  });
  const file = path.join(dir, "keys.json");
  t.same(parseTokenKeys(file), { kind: "file", path: file });
});

t.test("what is not", async (t) => {
  const one = (key: object) => JSON.stringify({ keys: [key] });
  const rsa = generateKeyPairSync("rsa", { modulusLength: 1_024 });
  const dir = t.testdir({
    "none.json": '{"keys":[]}',
    "list.json": "[1]",
    "cut.json": `{"keys":[{"kty":"oct","k":"${k}"`,
    "short.json": one({ kty: "oct", kid: "a", k: "AAAA" }),
    "hs512.json": one({ kty: "oct", kid: "a", alg: "HS512", k }),
    "curve.json": one({ kty: "EC", crv: "P-521", kid: "a", x: k, y: k }),
    "wrong.json": one({ kty: "OKP", crv: "Ed25519", kid: "a", x: "AA" }),
    "rsa.json": one({
      ...rsa.publicKey.export({ format: "jwk" }),
      kid: "small",
    }),
    "ours.json": one({ kty: "oct", kid: "bridge", k }),
    "twice.json": JSON.stringify({
      keys: [
        { kty: "oct", kid: "a", k },
        { kty: "oct", kid: "a", k },
      ],
    }),
  });
  for (const [value, words] of [
    [secret, /key 1 is not kid:base64/],
    [k, /key 1 is not kid:base64/],
    [`a:${short}`, /key "a" has a secret of 31 bytes, at least 32 are needed/],
    ["a:AA==", /key "a" has a secret of 1 bytes/],
    [`a:${secret},b`, /key "b" is not kid:base64/],
    [`a:${secret}:c`, /key "a" is not kid:base64/],
    [`a b:${secret}`, /key 1: a kid is/],
    [`:${secret}`, /key 1: a kid is/],
    [`a:${secret},a:${secret}`, /key "a" is there twice/],
    [`a:${secret.slice(0, 9)}!${secret}`, /key "a": .* is not base64/],
    // The two the wrong way round: the secret stands where the kid should.
    [`${k}:main`, /key 1 has a secret of 3 bytes/],
    [one({ kty: "oct", kid: "a", k }), /is JSON itself/],
    [` [${one({ k })}]`, /is JSON itself/],
    [`/${k}`, /its file cannot be read \(ENOENT\)/],
    ["./none/keys.json", /its file cannot be read \(ENOENT\)/],
    ["http://idp.example/jwks", /by https/],
    [`https://u:${k}@idp.example/`, /no user and password/],
    [`redis://x:${k}@y`, /by https/],
    [path.join(dir, "none.json"), /no JWKS/],
    [path.join(dir, "list.json"), /no JWKS/],
    [path.join(dir, "cut.json"), /is not JSON/],
    [path.join(dir, "short.json"), /key "a" has a secret of 3 bytes/],
    [path.join(dir, "hs512.json"), /key "a": kty, crv, alg and use/],
    [path.join(dir, "curve.json"), /key "a": kty, crv, alg and use/],
    [path.join(dir, "wrong.json"), /key "a" is no valid OKP key/],
    [path.join(dir, "rsa.json"), /key "small" is an RSA key of 1024 bits/],
    [path.join(dir, "ours.json"), /key "bridge": this kid is taken/],
    [path.join(dir, "twice.json"), /key "a" is there twice/],
  ] as const) {
    const line = mistake(value);
    t.match(line, /^TOKEN_KEYS=\*\*\*: /, String(words));
    t.match(line, words);
    for (const text of [secret, k, short, secret.slice(0, 9)])
      t.notMatch(line, text, "shows no secret");
  }
});

t.test("of others' keys what is of no use is left out", async (t) => {
  const { publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const good = { ...publicKey.export({ format: "jwk" }), kid: "good" };
  const odd = [
    { kty: "oct", kid: "secret", k },
    { ...good, kid: "bridge" },
    { ...good, kid: "enc", use: "enc" },
    { kty: "EC", crv: "P-521", kid: "curve" },
    { kty: "new", kid: "type" },
  ];
  t.same(
    usableKeys({ keys: [...odd, good] }).keys.map(({ kid }) => kid),
    ["good"],
  );
  t.throws(() => usableKeys({ keys: odd }), /no key of/);
});
