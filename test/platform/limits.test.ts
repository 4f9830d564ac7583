// What `npm start` can change, and what it says about mistakes.

import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import t, { type Test } from "tap";
import { defaultLimits, parseSettings } from "../../platform/limits.js";
import { readPair } from "../../platform/pair.js";
import type { FunctionSetup } from "../../platform/platform.js";
import type { Project } from "../../platform/project.js";
import { presets } from "../../platform/rules.js";

t.test("without variables the defaults hold", (t) => {
  t.strictSame(parseSettings({}), {
    gatewayPort: 8080,
    limits: defaultLimits,
    rules: presets.documented,
    ws: {},
    logLevel: "info",
  });
  t.end();
});

/** Our two files, and what `npm start` makes of them under these variables. */
async function start(t: Test, env: Record<string, string>) {
  const settings = parseSettings(env);
  if (Array.isArray(settings)) return settings;
  const folder = t.testdir();
  for (const name of ["http-fn", "ws-fn"]) {
    mkdirSync(`${folder}/${name}`, { recursive: true });
    cpSync(`${name}/serverless.yml`, `${folder}/${name}/serverless.yml`);
  }
  return readPair(`${folder}/http-fn`, `${folder}/ws-fn`, settings, env);
}

function wsOf(pair: Project | string[]): FunctionSetup {
  const ws = Array.isArray(pair) ? undefined : pair.functions[1];
  if (ws === undefined) throw new Error(String(pair));
  return ws;
}

t.test("npm start runs ws-fn by its own file, and tells it", async (t) => {
  t.match(wsOf(await start(t, {})), {
    route: "/ws",
    description: { timeoutSeconds: 900, idleSeconds: 600 },
    env: { EXECUTION_SECONDS: "900", BRIDGE_LOCAL: "1" },
  });
});

t.test(
  "WS-TIME-1, WS-TIME-2, WS-TIME-4: EXECUTION_SECONDS and WS_IDLE_SECONDS are checked like the file",
  async (t) => {
    const times = async (env: Record<string, string>) =>
      wsOf(await start(t, env)).description;
    t.match(await times({ WS_IDLE_SECONDS: "10" }), { idleSeconds: 10 });
    t.match(await times({ WS_IDLE_SECONDS: "30", EXECUTION_SECONDS: "30" }), {
      idleSeconds: 30,
      timeoutSeconds: 30,
    });
    t.match(
      await times({ EXECUTION_SECONDS: "60" }),
      { idleSeconds: 60, timeoutSeconds: 60 },
      "a default does not contradict a wish",
    );
    const raised = { PLATFORM_SET: "maxExecutionSeconds=7200" };
    t.match(
      await times({
        ...raised,
        EXECUTION_SECONDS: "7200",
        WS_IDLE_SECONDS: "7200",
      }),
      { idleSeconds: 7_200, timeoutSeconds: 7_200 },
    );
    for (const [env, says] of [
      [{ WS_IDLE_SECONDS: "9" }, /from 10 to 7200, not 9 \[WS-TIME-1\]/],
      [
        { WS_IDLE_SECONDS: "31", EXECUTION_SECONDS: "30" },
        /timeout \(30 s\) must not be below idleTimeOut \(31 s\) \[WS-TIME-2\]/,
      ],
      [
        { EXECUTION_SECONDS: "7200" },
        /\[WS-TIME-4\]: .*PLATFORM_SET=maxExecutionSeconds=7200/,
      ],
      [{ WS_IDLE_SECONDS: "1.5" }, /^WS_IDLE_SECONDS must be a whole number/],
      [{ EXECUTION_SECONDS: "abc" }, /^EXECUTION_SECONDS must be a whole/],
    ] as const)
      t.match(await start(t, env), [says]);
  },
);

t.test("a file of ours that is wrong is said too", async (t) => {
  const folder = t.testdir({ "http-fn": {}, "ws-fn": {} });
  writeFileSync(`${folder}/ws-fn/serverless.yml`, "inputs: {type: web}\n");
  const settings = parseSettings({});
  if (Array.isArray(settings)) throw new Error(settings.join());
  writeFileSync(
    `${folder}/http-fn/serverless.yml`,
    "inputs: {type: web, initTimeout: 1}\n",
  );
  const lines = await readPair(
    `${folder}/http-fn`,
    `${folder}/ws-fn`,
    settings,
    {},
  );
  t.match(lines, [/^http-fn: initTimeout must be/]);
});

t.test("every mistake has its own line", (t) => {
  const mistakes = parseSettings({
    GATEWAY_PORT: "65536",
    PREWARM: "-1",
    LOG_LEVEL: "loud",
    PLATFORM_PRESET: "cruel",
    PLATFORM_SET: "a=1,b=2",
  });
  t.ok(Array.isArray(mistakes));
  t.equal((mistakes as string[]).length, 6);
  t.end();
});
