/**
 * Secrets in every variable that holds one, and in every odd place of a request: none of them may come out of a log, an
 * answer, `--print-config`, a message of a start that failed, a command line, or Redis, however it is written.
 */
import { createHash } from "node:crypto";
import { once } from "node:events";
import { readdir, readFile } from "node:fs/promises";
import { SignJWT } from "jose";
import t, { type Test } from "tap";
import { WebSocket } from "ws";
import {
  startHttpFn,
  startProcess,
  startWsFn,
} from "../../scripts/lab/processes.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";
import { startReceiver } from "../../scripts/lab/webhook-receiver.js";
import { ask, type Reply, type Server } from "../../scripts/resp.js";
import { rawAnswer } from "../fixtures/raw-answer.js";
import { formsOf } from "../fixtures/secret-forms.js";

/** Everything that is asked of a password by somebody who likes trouble. */
const redisPassword = `kanaryRedis@:/?#[]%!$&'()*+,;= "<>^|{}~`;
const apiKey = "kanaryApiKey_live-0123456789";
const tokenSecret = Buffer.from("kanaryTokenSecret-0123456789abcdefg");
const signingSecret = Buffer.from("kanarySigningSecret-0123456789abcdef");
const webhookPath = "kanaryWebhookPath/B0123";
const webhookQuery = "kanaryWebhookQuery";

interface Canary {
  name: string;
  forms: readonly string[];
}

const canary = (name: string, ...values: string[]): Canary => ({
  name,
  forms: [...new Set(values.flatMap(formsOf))].filter(
    (form) => form.length >= 8,
  ),
});

/** What of a text is a canary; empty is what everybody wants. */
const found = (text: string, canaries: readonly Canary[]): string[] =>
  canaries.flatMap(({ name, forms }) => {
    const form = forms.find((each) => text.includes(each));
    return form === undefined ? [] : [`${name} as ${form}`];
  });

/** All keys of a Redis with all that is in them, as text. */
async function contentsOf(server: Server): Promise<string> {
  const reads: Record<string, (key: string) => string[]> = {
    string: (key) => ["GET", key],
    hash: (key) => ["HGETALL", key],
    list: (key) => ["LRANGE", key, "0", "-1"],
    set: (key) => ["SMEMBERS", key],
    zset: (key) => ["ZRANGE", key, "0", "-1", "WITHSCORES"],
    stream: (key) => ["XRANGE", key, "-", "+"],
  };
  const flat = (reply: Reply): string =>
    Array.isArray(reply) ? reply.map(flat).join("\n") : String(reply);
  const all = [];
  for (const key of flat(await ask(server, "KEYS", "*")).split("\n")) {
    const type = String(await ask(server, "TYPE", key));
    const read = reads[type]?.(key);
    all.push(key, read ? flat(await ask(server, ...read)) : "");
  }
  return all.join("\n");
}

/** The command lines of everything that runs here. */
async function commandLines(): Promise<string> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const lines = pids.map((pid) =>
    readFile(`/proc/${pid}/cmdline`, "latin1").catch(() => ""),
  );
  return (await Promise.all(lines)).join("\n");
}

const upgrade = (path: string, ...headers: string[]): string =>
  [
    `GET ${path} HTTP/1.1`,
    "Host: 127.0.0.1",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ...headers,
    "\r\n",
  ].join("\r\n");

const plain = (line: string, body: string, ...headers: string[]): string =>
  [
    `${line} HTTP/1.1`,
    "Host: 127.0.0.1",
    "Connection: close",
    ...(line.startsWith("GET")
      ? []
      : [`Content-Length: ${Buffer.byteLength(body)}`]),
    ...headers,
    "",
    body,
  ].join("\r\n");

/** Odd places for a secret, in requests good and bad; `isFull`: in a path also in the spellings that hide it. */
function requestsWith(secret: string, isFull = false): string[] {
  const written = encodeURIComponent(secret);
  const twice = encodeURIComponent(written);
  const every = [...Buffer.from(secret)]
    .map((byte) => `%${byte.toString(16).padStart(2, "0")}`)
    .join("");
  const spellings = isFull ? [written, every, twice] : [written];
  const bearer = `Authorization: Bearer ${secret}`;
  const id = "c_kanary";
  const paths = spellings.flatMap((text) => [
    `/${text}`,
    `/ws/${text}`,
    `/${text}/ws`,
    `/ws;token=${text}`,
    `/ws?token=${text}`,
    `/ws?${text}`,
    `/ws?${text}=1`,
    `/ws?resume=${text}&seq=${text}`,
    `/ws?token=${text}#${text}`,
    `/ws?x=${text}&attempt=${text}`,
    `/ws%3Ftoken%3D${text}`,
    `http://${text}@127.0.0.1/ws`,
    `/%zz${text}`,
    `//${text}@x/ws`,
  ]);
  const http = spellings.flatMap((text) => [
    `/v1/connections/${text}`,
    `/v1/connections/${id}/messages?wait=${text}`,
    `/v1/messages/${text}`,
    `/v1/users/${text}`,
    `/v1/nothing/${text}`,
    `/v1/connections?cursor=${text}`,
    `/${text}?token=${text}`,
    `/%zz${text}`,
    `http://${text}@127.0.0.1/v1/connections`,
  ]);
  return [
    ...paths.map((path) => upgrade(path)),
    ...paths.map((path) => plain(`GET ${path}`, "")),
    ...http.map((path) => plain(`GET ${path}`, "")),
    ...http
      // Who may read a user's presence is told the name that he asked for.
      .filter((path) => !path.startsWith("/v1/users/"))
      .map((path) =>
        plain(`GET ${path}`, "", `Authorization: Bearer ${apiKey}`),
      ),
    upgrade("/ws", bearer),
    upgrade("/ws", `Authorization: ${secret}`),
    upgrade("/ws", `Cookie: a=${secret}`, `X-Odd: ${secret}`),
    upgrade("/ws", `Origin: https://${written}.example`),
    upgrade("/ws", `Sec-WebSocket-Protocol: bridge.raw, bearer.${written}`),
    upgrade("/ws", `Sec-WebSocket-Protocol: ${written}`),
    upgrade("/ws", `X-Scf-Request-Id: ${secret}`, `X-Forwarded-For: ${secret}`),
    plain("GET /v1/connections", "", bearer),
    plain("GET /v1/connections", "", `Authorization: ${secret}`),
    plain("GET /v1/connections", "", `Authorization: Basic ${secret}`),
    plain("GET /v1/connections", "", `Cookie: ${secret}`),
    plain("GET /nothing", "", `X-Scf-Request-Id: ${secret}`),
    plain(
      "GET /nothing",
      "",
      `X-Forwarded-For: ${secret}`,
      `Accept: ${secret}`,
    ),
    plain(
      `POST /v1/connections`,
      `{"userId":"${secret}`,
      `Authorization: Bearer ${apiKey}`,
    ),
    plain(
      `POST /v1/connections/${id}/messages`,
      "x",
      `Authorization: Bearer ${apiKey}`,
      `Content-Type: ${written}`,
    ),
    plain(
      `POST /v1/batch`,
      secret,
      `Authorization: Bearer ${apiKey}`,
      "Content-Type: application/x-ndjson",
    ),
    `GET /${secret} HTTP/1.1\r\nHost: x\r\n${secret}\r\n\r\n`,
    `${secret} / HTTP/1.1\r\n\r\n`,
  ];
}

/** As an application that may, so that there is something to log and to store. */
async function goodWork(t: Test, http: string, ws: string, token: string) {
  const authorization = `Bearer ${apiKey}`;
  const prepared = (await (
    await fetch(`${http}/v1/connections`, {
      method: "POST",
      headers: { authorization },
    })
  ).json()) as { connectionId: string; token: string };
  const sockets = [
    new WebSocket(`${ws}/ws?token=${prepared.token}`),
    new WebSocket(`${ws}/ws`, ["bridge.v1.json", `bearer.${token}`]),
    new WebSocket(`${ws}/ws`, {
      headers: { authorization: `Bearer ${token}` },
    }),
  ];
  await Promise.all(
    sockets.map((socket) => {
      t.teardown(() => socket.terminate());
      return once(socket, "message");
    }),
  );
  sockets[1]?.send('{"type":"event","event":"said","data":"hello"}');
  const pushed = await fetch(
    `${http}/v1/connections/${prepared.connectionId}/messages?wait=5`,
    { method: "POST", headers: { authorization }, body: "hello" },
  );
  t.equal(pushed.status, 200, "a push arrives");
}

/** Variables that are wrong, each with secrets in it. */
const wrong: readonly (readonly [name: string, value: string])[] = [
  ["REDIS_URL", `redis://:${redisPassword}@127.0.0.1:1`],
  ["REDIS_URL", `rediss//:${redisPassword}@127.0.0.1`],
  ["REDIS_URL", `redis://:${encodeURIComponent(redisPassword)}@127.0.0.1:1:2`],
  ["REDIS_URL", redisPassword],
  ["API_KEYS", apiKey],
  ["API_KEYS", `backend:push:${apiKey}`],
  ["API_KEYS", `${apiKey}:push`],
  ["WEBHOOK_URL", `https://me:${redisPassword}@127.0.0.1/`],
  ["WEBHOOK_URL", `https://127.0.0.1/${webhookPath}#x`],
  ["WEBHOOK_URL", `ftp://127.0.0.1/${webhookPath}?key=${webhookQuery}`],
  ["WEBHOOK_URL", `//127.0.0.1/${webhookPath}?key=${webhookQuery}`],
  ["WEBHOOK_SECRETS", signingSecret.toString("base64")],
  ["WEBHOOK_SECRETS", `whsek_${signingSecret.toString("base64url")}`],
];

t.test("no canary comes out", { timeout: 280_000 }, async (t) => {
  const redis = await singleRedis(t);
  await redis.cli("CONFIG", "SET", "requirepass", redisPassword);
  const server = { port: redis.port, password: redisPassword };
  const receiver = await startReceiver(t);
  // Refused at first: a failure is what has the most to say.
  receiver.onPost = () => ({ status: receiver.posts.length < 3 ? 500 : 204 });
  const webhookUrl = `http://127.0.0.1:${receiver.port}/${webhookPath}?key=${webhookQuery}`;
  const env = {
    REDIS_URL: `redis://default:${encodeURIComponent(redisPassword)}@127.0.0.1:${redis.port}`,
    API_KEYS: `backend:admin:${createHash("sha256").update(apiKey).digest("hex")}`,
    TOKEN_KEYS: `main:${tokenSecret.toString("base64")}`,
    WEBHOOK_URL: webhookUrl,
    WEBHOOK_SECRETS: `whsec_${signingSecret.toString("base64")}`,
    WEBHOOK_ALLOW: "127.0.0.1",
    LOG_LEVEL: "trace",
    HOST: "127.0.0.1",
  };
  const token = await new SignJWT({ sub: "ann", permissions: ["event"] })
    .setProtectedHeader({ alg: "HS256", kid: "main" })
    .setExpirationTime("1h")
    .sign(tokenSecret);
  const [, , signature = ""] = token.split(".");
  const canaries = [
    canary("the password of Redis", redisPassword),
    canary("the API key", apiKey),
    canary("the token key", tokenSecret.toString()),
    canary("the signing secret", signingSecret.toString()),
    canary("the webhook's path", webhookPath),
    canary("the webhook's query", webhookQuery),
    canary("a user's token", token, signature),
  ];
  const clean = (text: string, what: string) =>
    t.same(found(text, canaries), [], what);

  const httpFn = await startHttpFn(t, env);
  const wsFn = await startWsFn(t, env);
  const stack = await startProcess(t, {
    name: "platform",
    args: ["dist/platform/main.js"],
    env: { ...env, GATEWAY_PORT: "0" },
  });
  const [, gateway = ""] = await stack.waitForLine(/^ready (\S+)$/, 60_000);
  const gatewayPort = Number(new URL(gateway).port);

  await goodWork(t, httpFn.url, wsFn.url, token);
  await goodWork(t, gateway, gateway.replace("http", "ws"), token);
  await until(() => receiver.taken.length > 0, {
    ms: 60_000,
    message: "the webhook has taken something",
  });

  const odd = requestsWith(token, true);
  const all = [
    ...odd,
    ...[
      apiKey,
      redisPassword.replace(/\s/g, ""),
      tokenSecret.toString("base64url"),
    ].flatMap((secret) => requestsWith(secret)),
  ];
  for (const { port, name, requests } of [
    { port: httpFn.port, name: "http-fn", requests: all },
    { port: wsFn.port, name: "ws-fn", requests: all },
    // What it passes on ends in the same functions; what it says itself does not depend on the kind of the secret.
    { port: gatewayPort, name: "platform", requests: odd },
  ]) {
    let count = 0;
    for (let at = 0; at < requests.length; at += 20) {
      const some = requests.slice(at, at + 20);
      const answers = await Promise.all(
        some.map((request) => rawAnswer(port, request)),
      );
      for (const [index, answer] of answers.entries()) {
        if (answer !== "") count += 1;
        const hits = found(answer, canaries);
        if (hits.length > 0)
          t.fail(`${name} answers ${some[index]} with ${answer}`, { hits });
      }
    }
    t.ok(
      count > requests.length / 2,
      `${name} answered ${count} of ${requests.length}`,
    );
  }
  for (const path of ["logs", "logs?format=json", "invocations", "instances"])
    clean(
      await (await fetch(`${gateway}/_platform/${path}`)).text(),
      `/_platform/${path}`,
    );

  clean(await commandLines(), "command lines");
  clean(await contentsOf(server), "what lies in Redis");

  // Redis goes: every error that has an address in it.
  await redis.stop("SIGKILL");
  await Promise.all([
    rawAnswer(httpFn.port, plain("GET /readyz", "")),
    rawAnswer(wsFn.port, upgrade(`/ws?token=${token}`)),
  ]);
  await Promise.all([httpFn.stop(), wsFn.stop(), stack.stop()]);
  clean(httpFn.logs.join("\n"), "the log of http-fn");
  clean(wsFn.logs.join("\n"), "the log of ws-fn");
  clean(stack.logs.join("\n"), "the log of the platform");
  t.ok(wsFn.logs.length > 50, "there is a log");

  for (const main of ["dist/http-fn/main.js", "dist/ws-fn/main.js"]) {
    const shown = await startProcess(t, {
      args: [main, "--print-config"],
      env,
    });
    await shown.exited;
    t.match(shown.logs.join("\n"), /^REDIS_URL=redis:\/\/\*\*\*@127/m);
    clean(shown.logs.join("\n"), `${main} --print-config`);
  }
  const mains = [
    "dist/http-fn/main.js",
    "dist/ws-fn/main.js",
    "dist/scripts/start.js",
  ];
  // All three read the same table; each says its mistakes itself.
  await Promise.all(
    mains.map(async (main, nth) => {
      for (const [at, [name, value]] of wrong.entries()) {
        if (at % mains.length !== nth) continue;
        const failed = await startProcess(t, {
          args: [main],
          env: { ...env, [name]: value },
        });
        const what = `${main} with ${name}=${value}`;
        t.match(await failed.exited, { code: 1 }, what);
        t.match(failed.logs.join("\n"), `${name}=***: `, what);
        clean(failed.logs.join("\n"), what);
      }
    }),
  );
});

t.test("the search finds what it looks for", async (t) => {
  const canaries = [canary("a password", redisPassword)];
  for (const form of formsOf(redisPassword))
    t.equal(found(`before ${form} after`, canaries).length, 1, form);
  t.same(found("nothing", canaries), []);
});
