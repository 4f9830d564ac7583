// The platform as a process: what it prints, how it stops, and that its functions end with it in every case.

import { spawn } from "node:child_process";
import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t, { type Test } from "tap";
import ts from "typescript";
import {
  ask,
  directoryOf,
  fetchPlain,
  openClient,
  plainEnv,
  processLives,
  processState,
  until,
} from "../fixtures/functions/platform.js";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** A built tree in miniature: the platform's files without their types, and the fixtures in place of the functions. */
function buildTree(t: Test): string {
  const tree = t.testdir();
  const files = readdirSync(join(root, "platform"));
  const sources = [
    ...files.map((name) => `platform/${name}`),
    "shared/errors.ts",
    "shared/logging.ts",
    "shared/protection.ts",
    "shared/secrets.ts",
    "shared/visible.ts",
  ];
  for (const folder of ["platform", "shared"]) mkdirSync(join(tree, folder));
  const shim = "platform/port-shim.mjs";
  cpSync(join(root, shim), join(tree, shim));
  for (const source of sources.filter((name) => name.endsWith(".ts"))) {
    const { outputText } = ts.transpileModule(
      readFileSync(join(root, source), "utf8"),
      {
        compilerOptions: {
          module: ts.ModuleKind.ESNext,
          target: ts.ScriptTarget.ES2022,
        },
      },
    );
    writeFileSync(join(tree, source.replace(/\.ts$/, ".js")), outputText);
  }
  for (const name of files.filter((name) => !name.endsWith(".ts")))
    cpSync(join(root, "platform", name), join(tree, "platform", name), {
      recursive: true,
    });
  cpSync(directoryOf("http"), join(tree, "http-fn"), { recursive: true });
  cpSync(directoryOf("ws"), join(tree, "ws-fn"), { recursive: true });
  for (const name of ["http-fn", "ws-fn"])
    cpSync(
      join(root, name, "serverless.yml"),
      join(tree, name, "serverless.yml"),
    );
  return tree;
}

function startMain(t: Test, tree: string, env: Record<string, string>) {
  const child = spawn(process.execPath, [join(tree, "platform/main.js")], {
    env: { ...plainEnv, LOG_LEVEL: "warn", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let out = "";
  let err = "";
  child.stdout.on("data", (chunk: Buffer) => (out += String(chunk)));
  child.stderr.on("data", (chunk: Buffer) => (err += String(chunk)));
  const ended = new Promise<number | string | null>((resolve) =>
    child.once("close", (code, signal) => resolve(code ?? signal)),
  );
  t.teardown(async () => {
    child.kill("SIGKILL");
    await ended;
  });
  return {
    child,
    ended,
    out: () => out,
    err: () => err,
    async ready() {
      const [, port] = await until("the ready line", () =>
        /^ready http:\/\/127\.0\.0\.1:(\d+)\n/m.exec(out),
      );
      return Number(port);
    },
  };
}

async function pidsOf(port: number): Promise<number[]> {
  const instances = await ask<{ pid: number }[]>(port, "instances");
  return instances.map((instance) => instance.pid);
}

t.test("one built tree", async (t) => {
  const tree = buildTree(t);

  t.test(
    "it says ready once, serves, and SIGTERM ends it and all its functions",
    async (t) => {
      const main = startMain(t, tree, { GATEWAY_PORT: "0", PREWARM: "1" });
      const port = await main.ready();
      t.match(
        main.out(),
        /^ws-fn +the gateway waits 960 s = init 60 s \+ execution 900 s, idle 600 s$/m,
      );
      t.equal((await fetchPlain(port, "/readyz")).status, 200);
      const client = await openClient(port);
      const pids = await pidsOf(port);
      t.ok(pids.length >= 2);
      main.child.kill("SIGTERM");
      t.equal(await client.closed, 1012);
      t.equal(await main.ended, 0);
      for (const pid of pids) t.notOk(processLives(pid));
      t.equal(main.out().match(/^ready /gm)?.length, 1);
      t.match(
        main.out(),
        /^\[ws-fn [0-9a-f]{8}\] listening 127\.0\.0\.1:\d+$/m,
      );
    },
  );

  t.test(
    "killed outright, it takes its functions along, frozen ones too",
    async (t) => {
      const main = startMain(t, tree, { GATEWAY_PORT: "0", PREWARM: "1" });
      const port = await main.ready();
      const client = await openClient(port);
      const { pid } = await client.about();
      client.socket.close(1000);
      await until("one to be frozen", () => processState(pid) === "T");
      const pids = await pidsOf(port);
      t.ok(pids.includes(pid));
      main.child.kill("SIGKILL");
      await main.ended;
      await until("the functions to end", () => !pids.some(processLives));
    },
  );

  t.test("a signal during the start stops it", async (t) => {
    const main = startMain(t, tree, {
      GATEWAY_PORT: "0",
      NOT_READY_MS: "60000",
    });
    await until("a function to listen", () => main.out().includes("listening"));
    main.child.kill("SIGINT");
    t.equal(await main.ended, 0);
    t.notMatch(main.out(), /^ready/m);
  });

  t.test(
    "a taken port and bad variables are one line each, and exit code 1",
    async (t) => {
      const first = startMain(t, tree, { GATEWAY_PORT: "0", PREWARM: "0" });
      const port = await first.ready();
      const second = startMain(t, tree, { GATEWAY_PORT: String(port) });
      t.equal(await second.ended, 1);
      t.equal(
        second.err(),
        `port ${port} is taken: set GATEWAY_PORT or stop what uses it\n`,
      );
      const third = startMain(t, tree, { GATEWAY_PORT: "x", PREWARM: "many" });
      t.equal(await third.ended, 1);
      t.equal(third.err().trim().split("\n").length, 2);
      first.child.kill("SIGTERM");
      t.equal(await first.ended, 0);
    },
  );
});
