/** M1, M4, M5: what a mistake in the settings and a foreign text do to logs and terminals. */
import { createHash } from "node:crypto";

import { WebSocket } from "ws";

import { startProcess } from "../../lab/processes.js";
import { call, prepare } from "../target.js";
import { row, type Run } from "../row.js";
import { Wire } from "../wire.js";

interface Ended {
  /** It came to listening, and was ended. */
  readonly isUp: boolean;
  readonly output: string;
}

/** Runs a function's main until it ends by itself or listens; then somebody dials it, and it is ended. */
async function runMain(
  { scope }: Run,
  name: "http-fn" | "ws-fn",
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<Ended> {
  const main = await startProcess(scope, {
    name,
    args: [`dist/${name}/main.js`, ...args],
    env: { PORT: "0", ...env },
  });
  const listening = main
    .waitForLine(/^listening \S+:(\d+)$/, 60_000)
    .catch(() => undefined);
  const up = await Promise.race([main.exited.then(() => undefined), listening]);
  if (up) {
    const port = Number(up[1]);
    if (name === "ws-fn")
      await Wire.dial({ port, path: "/ws?token=e30.e30.e30" }).catch(
        () => undefined,
      );
    await main.stop();
  }
  return { isUp: up !== undefined, output: main.logs.join("\n") };
}

/** Pieces of a secret long enough to be one. */
function shows(output: string, secret: string): boolean {
  for (let at = 0; at + 8 <= secret.length; at += 4)
    if (output.includes(secret.slice(at, at + 8))) return true;
  return false;
}

/** A secret like no other; the same in each run. */
const canary = (name: string) =>
  createHash("sha256").update(name).digest("base64url").replaceAll(/\W/g, "0");

export const badKeys = row<object>({
  id: "M1",
  title: "slips in TOKEN_KEYS: the start says which, and never the secret",
  sizes: { short: {}, long: {} },
  attack: async (run) => {
    const secret = Buffer.from(canary("Key").padEnd(48, "x"));
    const base64 = secret.toString("base64");
    const slips: Readonly<Record<string, string>> = {
      "a dot in the kid": `v1.2:${base64}`,
      "inline JSON": `{"keys":[{"kty":"oct","kid":"a","alg":"HS256","k":"${base64}"}]}`,
      "one byte": "a:QQ==",
      "no base64": `a:${base64}!`,
      "a file that is not there": `./${canary("File")}.json`,
    };
    let started = 0;
    let leaks = 0;
    let silent = 0;
    await Promise.all(
      Object.entries(slips).map(async ([what, value]) => {
        const { isUp, output } = await runMain(run, "ws-fn", [], {
          ...run.world.env,
          TOKEN_KEYS: value,
        });
        if (isUp) {
          started += 1;
          run.check(false, `TOKEN_KEYS with ${what}: it starts`);
        } else if (!output.includes("TOKEN_KEYS")) silent += 1;
        if (shows(output, base64)) leaks += 1;
      }),
    );
    run.atMost("starts", started, 0);
    run.atMost("ends without naming TOKEN_KEYS", silent, 0);
    run.atMost("outputs with the secret", leaks, 0);
  },
});

/** What a terminal obeys or is fooled by: C0, C1, and what turns the direction of text. */
const OBEYED =
  // eslint-disable-next-line no-control-regex -- these are what is looked for
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/u;
const ESCAPES = "\u001b[2J\u009b31m\u202eevil\u2066\u0007\u200f";

/** Text answers in which a foreign text stands. */
async function textsOf(run: Run): Promise<Record<string, string>> {
  const { target } = run;
  const user = encodeURIComponent("ann\u202e\u2066");
  const { connectionId, token } = await prepare(target, {
    userId: "ann\u202e\u2066",
  });
  const socket = new WebSocket(
    `ws://127.0.0.1:${target.wsPort}/ws?token=${token}`,
  );
  run.scope.teardown(() => socket.terminate());
  await new Promise((resolve, reject) => {
    socket.once("message", resolve);
    socket.once("error", reject);
  });
  socket.send(ESCAPES);
  const text = async (path: string, method = "GET", body?: string) => {
    const { body: answer } = await call(target, method, path, {
      headers: { accept: "text/plain" },
      ...(body !== undefined && { body }),
    });
    return answer.toString();
  };
  return {
    list: await text("/v1/connections"),
    inspect: await text(`/v1/connections/${connectionId}`),
    presence: await text(`/v1/users/${user}`),
    explain: await text(`/v1/users/${user}/messages?explain=1`, "POST", "x"),
    events: await text("/v1/events?lastEventId=0&wait=1"),
    refusal: await text(
      `/v1/connections?nonsense=${encodeURIComponent(ESCAPES)}`,
    ),
    wrong: await text(`/v1/connections/${encodeURIComponent(ESCAPES)}`),
  };
}

export const escapes = row<object>({
  id: "M4",
  title: "terminal escapes in text answers and logs",
  sizes: { short: {}, long: {} },
  attack: async (run) => {
    const { httpFn, wsFn } = run.world;
    let obeyed = 0;
    for (const [name, text] of Object.entries(await textsOf(run)))
      if (OBEYED.test(text)) {
        obeyed += 1;
        run.check(false, `${name}: a terminal would obey what it shows`);
      }
    run.atMost("answers that a terminal obeys", obeyed, 0);
    const lines = [...httpFn.logs, ...wsFn.logs].filter((line) =>
      OBEYED.test(line),
    );
    run.atMost("lines of the log that one obeys", lines.length, 0);
  },
});

export const printed = row<object>({
  id: "M5",
  title: "canaries in --print-config and in errors",
  sizes: { short: {}, long: {} },
  attack: async (run) => {
    const secrets = {
      redis: canary("Redis"),
      path: canary("Path"),
      query: canary("Query"),
      webhook: Buffer.from(canary("Webhook")).toString("base64"),
    };
    const env = {
      ...run.world.env,
      REDIS_URL: `redis://user:${secrets.redis}%40p%3Aq@127.0.0.1:1/0`,
      WEBHOOK_URL: `https://hooks.example/services/${secrets.path}?token=${secrets.query}`,
      WEBHOOK_SECRETS: `whsec_${secrets.webhook}`,
    };
    const main = (args: string[], changes: Record<string, string> = {}) =>
      runMain(run, "http-fn", args, { ...env, ...changes });
    const outputs = await Promise.all([
      main(["--print-config"]),
      main([]),
      main([], {
        REDIS_URL: `redis://user:${secrets.redis}/with slash@127.0.0.1:1`,
      }),
      main(["--print-config"], {
        REDIS_URL: `redis+sentinel://u:${secrets.redis}@127.0.0.1:1,127.0.0.1:2/name`,
      }),
      main([], {
        WEBHOOK_URL: `http://u:${secrets.path}@hooks.example:99999/`,
      }),
      // Passwords that nobody encoded: what is behind such a sign is a secret still.
      ...["@", "/", "#"].map((sign) =>
        main(["--print-config"], {
          REDIS_URL: `redis://user:first${sign}${secrets.redis}@127.0.0.1:1/0`,
        }),
      ),
      main([], { WEBHOOK_URL: `ftp://hooks.example/${secrets.path}` }),
    ]);
    let leaks = 0;
    for (const [index, { output }] of outputs.entries())
      for (const [name, secret] of Object.entries(secrets))
        if (shows(output, secret)) {
          leaks += 1;
          run.check(
            false,
            `output ${index} shows (a part of) the ${name} secret`,
          );
        }
    run.atMost("canaries seen", leaks, 0);
  },
});
