// What a function's file may say, what the platform says about mistakes, and what may change later.

import { readFileSync } from "node:fs";
import t from "tap";
import type { FunctionDescription } from "../../platform/function-description.js";
import {
  parseFunctionFile,
  readFunctionFile,
  type FunctionFileOptions,
} from "../../platform/function-file.js";
import { timeoutChain, update } from "../../platform/function-rules.js";
import { presets } from "../../platform/rules.js";

const rules = presets.documented;
const options: FunctionFileOptions = { rules, env: {} };

/** A file of a WebSocket function with these inputs on top. */
function ws(inputs = "", over: Partial<FunctionFileOptions> = {}) {
  const text = `component: scf\nname: chat\ninputs:\n  type: web\n  protocolType: WS\n${inputs}`;
  return parseFunctionFile(text, "/code/chat", { ...options, ...over });
}
const wsWith = (timeout: number, idle: number, over = {}) =>
  ws(
    `  timeout: ${timeout}\n  protocolParams: {wsParams: {idleTimeOut: ${idle}}}\n`,
    over,
  );

function described(
  file: ReturnType<typeof parseFunctionFile>,
): FunctionDescription {
  if (Array.isArray(file)) throw new Error(file.join("\n"));
  return file.description;
}

t.test("the component's words are understood, others left alone", (t) => {
  const text = `
app: demo
component: scf
name: chat
inputs:
  name: chat-\${stage}
  src: { src: ./, exclude: [.env] }
  type: web
  protocolType: WS
  protocolParams: { wsParams: { idleTimeOut: 30 } }
  timeout: 60
  initTimeout: 10
  memorySize: 256
  entryFile: app.js
  layers: [{ name: x, version: 1 }]
  instanceConcurrencyConfig: { enable: true, dynamicEnabled: false, maxConcurrency: 7 }
  environment:
    variables: { PLAIN: yes, NUMBER: 5, FROM: "\${env:SOMEWHERE}", GONE: "\${env:NOWHERE}" }
  events: [{ apigw: { parameters: { protocols: [http, https] } } }]
`;
  const file = parseFunctionFile(text, "/code/my chat", {
    ...options,
    env: { SOMEWHERE: "here" },
  });
  t.strictSame(described(file), {
    name: "my-chat",
    directory: "/code/my chat",
    protocol: "WS",
    timeoutSeconds: 60,
    initTimeoutSeconds: 10,
    idleSeconds: 30,
    memoryMb: 256,
    concurrency: 7,
    environment: { PLAIN: "yes", NUMBER: "5", FROM: "here" },
  });
  t.match(file, { notes: [/GONE is not known here/] });
  t.end();
});

t.test("WS-BOOT-5: init is 3 to 300 s; default 60, of an image 90", (t) => {
  const init = (text: string) =>
    ws(`  timeout: 900\n${text}`) as ReturnType<typeof ws>;
  for (const seconds of [3, 300])
    t.equal(
      described(init(`  initTimeout: ${seconds}\n`)).initTimeoutSeconds,
      seconds,
    );
  for (const seconds of [2, 301, 3.5])
    t.match(init(`  initTimeout: ${seconds}\n`), [
      `chat: initTimeout must be a whole number of seconds from 3 to 300, not ${seconds} [WS-BOOT-5].`,
    ]);
  t.equal(described(init("")).initTimeoutSeconds, 60);
  t.equal(described(init("  image: { imageUrl: x }\n")).initTimeoutSeconds, 90);
  t.end();
});

t.test("WS-TIME-1: the idle timeout's range, by the profile", (t) => {
  for (const [profile, low, high] of [
    ["2022+", 10, 7_200],
    ["2021", 1, 600],
    ["api", 1, 1_800],
  ] as const) {
    const over = { rules: { profile, maxExecutionSeconds: 7_200 } };
    for (const idle of [low, high])
      t.equal(described(wsWith(7_200, idle, over)).idleSeconds, idle, profile);
    for (const idle of [low - 1, high + 1])
      t.match(
        wsWith(7_200, idle, over),
        [/^chat: idleTimeOut must be .* \[WS-TIME-1\]/],
        `${profile} ${idle}`,
      );
  }
  t.equal(described(ws("  timeout: 900\n")).idleSeconds, 15);
  t.end();
});

t.test("WS-TIME-2: execution is not below idle", (t) => {
  t.match(wsWith(30, 31), [
    "chat: timeout (30 s) must not be below idleTimeOut (31 s) [WS-TIME-2].",
  ]);
  t.equal(described(wsWith(30, 30)).timeoutSeconds, 30);
  t.end();
});

t.test(
  "WS-TIME-4: the default execution timeout is no good for a WebSocket, and above 900 s it takes a quota",
  (t) => {
    t.match(ws(), [
      /^chat: timeout is 3 s, the default, .*\[WS-TIME-4\]: set timeout/,
    ]);
    t.match(wsWith(901, 600), [
      /^chat: timeout 901 s .* 900 s \[WS-TIME-4\]: .*PLATFORM_SET=maxExecutionSeconds=901\.$/,
    ]);
    const raised = { ...rules, maxExecutionSeconds: 7_200 };
    t.equal(
      described(wsWith(7_200, 7_200, { rules: raised })).timeoutSeconds,
      7_200,
    );
    t.end();
  },
);

t.test(
  "WS-TIME-2: an update of either value is checked again, and the old description stays",
  (t) => {
    const old = described(wsWith(60, 30));
    for (const change of [{ timeoutSeconds: 29 }, { idleSeconds: 61 }])
      t.match(update(old, { ...old, ...change }, rules), [/\[WS-TIME-2\]/]);
    t.match(update(old, { ...old, idleSeconds: 60 }, rules), {
      idleSeconds: 60,
    });
    t.equal(old.idleSeconds, 30);
    t.end();
  },
);

t.test(
  "WS-TIME-5, WS-TIME-6: WebSocket support is for ever, and nothing turns into it",
  (t) => {
    const old = described(wsWith(60, 30));
    const plain = { ...old, protocol: "HTTP" } as const;
    t.match(update(old, plain, rules), [/\[WS-TIME-5\]: create a new/]);
    t.match(update(plain, old, rules), [/\[WS-TIME-6\]: create a new/]);
    t.end();
  },
);

t.test("every other mistake has its own line too", (t) => {
  const file = ws(
    `  timeout: soon
  memorySize: 100
  initTimeout: 1
  instanceConcurrencyConfig: { enable: true, maxConcurrency: 101 }
  environment: { variables: { SCF_X: 1, TENCENTCLOUD_Y: 1, 9Z: 1, BIG: ${"x".repeat(4_100)} } }
`,
  );
  t.match(file, [
    /timeout must be a number, not "soon"/,
    /initTimeout must be/,
    /timeout is 3 s, the default/,
    /memorySize must be 64 or a multiple of 128/,
    /maxConcurrency must be a whole number from 1 to 100, not 101/,
    /SCF_X: names that begin with SCF_ belong to the platform/,
    /TENCENTCLOUD_Y: names that begin with TENCENTCLOUD_/,
    /"9Z": a name begins with a letter/,
    /the environment variables have \d+ bytes; 4096 are allowed/,
  ]);
  t.equal((file as string[]).length, 9);
  for (const [text, says] of [
    ["inputs: [", /is not YAML/],
    ["service: x", /has no "inputs"/],
    ["inputs: {type: event}", /type must be web, not event/],
    ["inputs: {protocolType: MQTT, type: web}", /protocolType must be/],
  ] as const)
    t.match(parseFunctionFile(text, "/code/chat", options), [says]);
  t.match(parseFunctionFile("inputs: {timeout: 5}", "/code/chat", options), {
    notes: [/"type: web" is missing/],
  });
  t.end();
});

t.test(
  "WS-BOOT-1: a folder without a file gets the documented defaults and a line that says so",
  async (t) => {
    const directory = t.testdir({ echo: {} }) + "/echo";
    const plain = await readFunctionFile(directory, options);
    t.match(plain, {
      description: { name: "echo", protocol: "HTTP", timeoutSeconds: 3 },
      notes: [/echo: no serverless.yml, so it is an HTTP function/],
    });
    const socket = await readFunctionFile(directory, {
      ...options,
      protocol: "WS",
    });
    t.match(socket, {
      description: { protocol: "WS", timeoutSeconds: 900, idleSeconds: 15 },
      notes: [/so it is a WebSocket function/],
    });
  },
);

t.test("our own two files are right under every preset", (t) => {
  for (const preset of Object.values(presets)) {
    const read = (name: string) =>
      described(
        parseFunctionFile(
          readFileSync(`${name}/serverless.yml`, "utf8"),
          `/code/${name}`,
          { env: {}, rules: preset },
        ),
      );
    t.match(read("ws-fn"), {
      name: "ws-fn",
      protocol: "WS",
      timeoutSeconds: 900,
      idleSeconds: 600,
      concurrency: 1,
    });
    t.match(read("http-fn"), { protocol: "HTTP", concurrency: 100 });
  }
  t.equal(
    timeoutChain(described(wsWith(900, 600))),
    "the gateway waits 960 s = init 60 s + execution 900 s, idle 600 s",
  );
  t.end();
});
