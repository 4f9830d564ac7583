// The bootstrap in a small project of its own, with our node_modules.

import {
  cp,
  mkdir,
  mkdtemp,
  readFile,
  rm,
  symlink,
  writeFile,
} from "node:fs/promises";
import { existsSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import t, { type Test } from "tap";

import { startProcess } from "../../scripts/lab/processes.js";
import { ROOT } from "../../scripts/lab/root.js";

/** How long a start may take on a busy machine, in ms. */
const STARTED_MS = 60_000;
/** No types of Node: reading those takes longer than everything else here. */
const AMBIENT = `
declare const console: { log(...words: unknown[]): void };
declare const process: {
  argv: string[];
  on(event: string, handler: () => void): void;
  exit(code: number): void;
};
declare function setInterval(handler: () => void, ms: number): void;
`;
const HELLO = `
console.log("hello", ...process.argv.slice(2));
if (process.argv.includes("stay")) {
  setInterval(() => undefined, 1_000);
  process.on("SIGTERM", () => { console.log("asked to end"); process.exit(7); });
  process.on("disconnect", () => { console.log("orphaned"); process.exit(0); });
} else {
  process.exit(Number(process.argv.at(-1)) || 0);
}
`;
const OPENAPI = `openapi: 3.1.0
info: { title: test, version: "1" }
paths: {}
`;

async function project(t: Test) {
  const dir = await mkdtemp(path.join(tmpdir(), "bridge-project-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  for (const room of ["scripts", "shared", "http-fn"]) {
    await mkdir(path.join(dir, room));
  }
  for (const file of [
    "package.json",
    "package-lock.json",
    "scripts/bootstrap.mjs",
  ]) {
    await cp(path.join(ROOT, file), path.join(dir, file));
  }
  await symlink(
    path.join(ROOT, "node_modules"),
    path.join(dir, "node_modules"),
  );
  const write = (file: string, text: string) =>
    writeFile(path.join(dir, file), text);
  const options = {
    ...{ target: "ES2022", lib: ["ES2022"], types: [], module: "NodeNext" },
    ...{ strict: true, skipLibCheck: true, rootDir: ".", outDir: "dist" },
  };
  const include = ["scripts", "shared"];
  const tsconfig = JSON.stringify({ compilerOptions: options, include });
  await write("tsconfig.json", tsconfig);
  await write("tsconfig.build.json", tsconfig);
  await write("scripts/ambient.d.ts", AMBIENT);
  await write("scripts/hello.ts", HELLO);
  await write("shared/api.d.ts", "export {};\n");
  await write("http-fn/scf_bootstrap", "#!/bin/sh\n");
  const run = (...args: string[]) =>
    startProcess(t, {
      name: "bootstrap",
      args: ["scripts/bootstrap.mjs", ...args],
      cwd: dir,
    });
  return { dir, write, run };
}

t.test(
  "the lock file is complete, so that npm ci takes it anywhere",
  async (t) => {
    // Optional packages of other systems are left out where the registry in use does not have them.
    const lock = JSON.parse(
      await readFile(path.join(ROOT, "package-lock.json"), "utf8"),
    ) as { packages: Record<string, Record<string, object>> };
    const places = Object.keys(lock.packages);
    const missing = Object.values(lock.packages)
      .flatMap((entry) => [
        ...Object.keys(entry["dependencies"] ?? {}),
        ...Object.keys(entry["optionalDependencies"] ?? {}),
      ])
      .filter(
        (name) => !places.some((at) => at.endsWith(`node_modules/${name}`)),
      );
    t.strictSame(missing, []);
  },
);

// One project for all of it: what a step leaves behind is where the next one begins.
t.test("the bootstrap in a project of its own", async (t) => {
  const { dir, write, run } = await project(t);

  await t.test("two at once build once and both run", async (t) => {
    const both = await Promise.all([run("hello", "a"), run("hello", "b")]);
    for (const one of both) t.same(await one.exited, { code: 0, signal: null });
    const logs = both.flatMap(({ logs }) => logs);
    t.equal(logs.filter((line) => line === "Building …").length, 1);
    t.equal(logs.filter((line) => line.startsWith("hello ")).length, 2);
    t.notOk(existsSync(path.join(dir, ".bridge/setup.lock")));
  });

  await t.test("arguments go in, the exit code comes out", async (t) => {
    const hello = await run("hello", "world", "3");
    t.same(await hello.exited, { code: 3, signal: null });
    t.same(hello.logs, ["hello world 3"], "and nothing is built again");
  });

  await t.test("the start file stays executable in dist", (t) => {
    const copied = statSync(path.join(dir, "dist/http-fn/scf_bootstrap"));
    t.equal(copied.mode & 0o777, 0o755);
    t.end();
  });

  await t.test(
    "SIGTERM reaches the script, whose exit code counts",
    async (t) => {
      const bootstrap = await run("hello", "stay");
      await bootstrap.waitForLine(/^hello stay$/, STARTED_MS);
      bootstrap.kill("SIGTERM");
      t.same(await bootstrap.exited, { code: 7, signal: null });
      t.same(bootstrap.logs, ["hello stay", "asked to end"]);
    },
  );

  await t.test("a script learns that its bootstrap was killed", async (t) => {
    const bootstrap = await run("hello", "stay");
    await bootstrap.waitForLine(/^hello stay$/, STARTED_MS);
    bootstrap.kill("SIGKILL");
    t.ok(await bootstrap.waitForLine(/^orphaned$/));
  });

  await t.test("types generated from the contract are compared", async (t) => {
    await write("openapi.yaml", OPENAPI);
    const stale = await run("generate", "--check");
    t.same(await stale.exited, { code: 1, signal: null });
    t.match(stale.logs.at(-1), /run `npm run generate`/);
    t.match(await (await run("generate")).exited, { code: 0 });
    t.match(await (await run("generate", "--check")).exited, { code: 0 });
  });

  await t.test("a change is built, a type error shown", async (t) => {
    await write("scripts/hello.ts", `export const n: number = "text";`);
    const build = await run("hello");
    t.same(await build.exited, { code: 1, signal: null });
    t.match(build.logs.join("\n"), /hello\.ts\(1,14\): error TS2322/);
  });

  await t.test("a verb that does not exist is said", async (t) => {
    const unknown = await run("nonsense");
    t.same(await unknown.exited, { code: 1, signal: null });
    t.match(unknown.logs, [/^Unknown verb "nonsense"/]);
  });
});
