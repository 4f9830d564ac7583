/** Secrets are taken out of a text however they are written, and words stay words. */
import t from "tap";
import { keepSecret, withoutSecrets } from "../../shared/secrets.js";
import { formsOf } from "../fixtures/secret-forms.js";

const reserved = `p@:/?#[]!$&'()*+,;=% "\\<>^\`{|}~-_.ü漢`;

t.test("known ones, in every form", async (t) => {
  for (const secret of [
    `canary1${reserved}`,
    "canary2PlainPassword",
    "canary3/path/of+a=webhook",
    "canary4 with spaces",
  ]) {
    const before = formsOf(secret).map((form) => withoutSecrets(`x ${form} y`));
    t.ok(
      before.some((text) => text.includes("canary")),
      "not known yet: some stay",
    );
    keepSecret(secret);
    for (const form of formsOf(secret)) {
      const shown = withoutSecrets(`before ${form} after`);
      t.match(shown, /^before .*\*{3}.* after$/, form);
      // A base64 of more than the secret keeps its neighbours; of the secret no ten characters stay.
      for (let at = 0; at + 10 <= form.length; at++)
        if (shown.includes(form.slice(at, at + 10)))
          t.fail(`${form} became ${shown}`);
    }
  }
});

t.test("a short one is not looked for: it is a part of words", async (t) => {
  keepSecret("redis");
  t.equal(withoutSecrets("redis_unavailable"), "redis_unavailable");
});

const part = (value: object) =>
  Buffer.from(JSON.stringify(value)).toString("base64url");
const jwt = `${part({ alg: "HS256", kid: "k" })}.${part({ cid: "c_x" })}.${Buffer.alloc(32, 5).toString("base64url")}`;

t.test("tokens, wherever they stand", async (t) => {
  const [head = "", body = "", signature = ""] = jwt.split(".");
  for (const text of [
    jwt,
    `/ws?token=${jwt}&seq=1`,
    `/ws/${jwt}/x`,
    `/ws#${jwt}`,
    `/ws?${jwt}`,
    `/ws?${jwt}=1`,
    `they-${jwt}`,
    `eyewitness_${jwt}`,
    `x=${encodeURIComponent(`/ws?token=${jwt}`)}`,
    jwt.replaceAll(".", "%2E"),
    jwt.replaceAll(".", "%252e"),
    [...jwt].map((c) => `%${c.charCodeAt(0).toString(16)}`).join(""),
    `%65${jwt.slice(1)}`,
    JSON.stringify({ deep: { text: `bearer.${jwt}` } }),
    `Bearer ${jwt}`,
    `${head}.${body}`,
    jwt.slice(0, 60),
    `${head}.${body}.${signature}.${signature}.${signature}`,
    `${Buffer.from('{ "alg":"HS256"}').toString("base64url")}.${body}.`,
  ]) {
    const shown = withoutSecrets(text);
    for (const piece of [head.slice(0, 12), body.slice(0, 12), signature])
      t.notMatch(shown, piece, text);
    t.match(shown, "***", text);
  }
});

t.test("by form: signing secrets, credentials, user information", async (t) => {
  const whsec = `whsec_${Buffer.alloc(32, 9).toString("base64")}`;
  for (const [text, shown] of [
    [`secret ${whsec} here`, "secret whsec_*** here"],
    ["Authorization: Bearer k_live-1.2/3+4=", "Authorization: Bearer ***"],
    ["authorization: basic dXNlcjpwdw==", "authorization: basic ***"],
    ["bridge.raw, bearer.abc.def", "bridge.raw, bearer.***"],
    ["redis://:p/a?s#s@w@host:1/2", "redis://***@host:1/2"],
    ["rediss://me:pw@h", "rediss://***@h"],
    ["redis+sentinel://:pw@a:1,b:2/m", "redis+sentinel://***@a:1,b:2/m"],
    ["at https://u:p@h.example/x failed", "at https://***@h.example/x failed"],
  ] as const)
    t.equal(withoutSecrets(text), shown);
});

t.test("words stay words", async (t) => {
  for (const text of [
    "a token is needed",
    "send it as Authorization: Bearer, or as subprotocol bearer",
    "eyewitness-report.example.com",
    "http://127.0.0.1:8080/v1/connections/c_9fK2mQxR4vT7bN1pL8sD",
    '{"level":30,"time":"2026-01-01T00:00:00.000Z","msg":"Redis connected"}',
    "100%",
    "%zz %e0",
  ])
    t.equal(withoutSecrets(text), text);
});
