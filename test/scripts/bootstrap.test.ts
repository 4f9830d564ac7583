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

import { ROOT, startProcess } from "../fixtures/processes.js";

const HELLO = `
console.log("hello", ...process.argv.slice(2));
process.on("disconnect", () => { console.log("orphaned"); process.exit(0); });
if (process.argv.includes("stay")) {
  setInterval(() => undefined, 1_000);
  process.on("SIGTERM", () => { console.log("asked to end"); process.exit(7); });
} else {
  process.exit(Number(process.argv.at(-1)) || 0);
}
export {};
`;

async function project(t: Test) {
  const dir = await mkdtemp(path.join(tmpdir(), "bridge-project-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  await mkdir(path.join(dir, "scripts"));
  await mkdir(path.join(dir, "shared"));
  await mkdir(path.join(dir, "http-fn"));
  for (const file of [
    "package.json",
    "package-lock.json",
    "tsconfig.json",
    "tsconfig.build.json",
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

t.test(
  "it builds what changed, only then, and passes on arguments and exit code",
  async (t) => {
    const { dir, write, run } = await project(t);
    const first = await run("hello", "world", "3");
    t.same(await first.exited, { code: 3, signal: null });
    await first.waitForLine(/^hello world 3$/);
    t.same(first.logs, ["Building …", "hello world 3"]);
    const copied = statSync(path.join(dir, "dist/http-fn/scf_bootstrap"));
    t.equal(copied.mode & 0o777, 0o755);

    const second = await run("hello");
    t.same(await second.exited, { code: 0, signal: null });
    t.same(second.logs, ["hello"]);

    await write("scripts/hello.ts", `console.log("new");`);
    const third = await run("hello");
    await third.exited;
    t.same(third.logs, ["Building …", "new"]);
  },
);

t.test("a type error stops it and is shown", async (t) => {
  const { write, run } = await project(t);
  await write("scripts/hello.ts", `export const n: number = "text";`);
  const build = await run("build");
  t.same(await build.exited, { code: 1, signal: null });
  t.match(build.logs.join("\n"), /hello\.ts\(1,14\): error TS2322/);
});

t.test("two at once build once and both run", async (t) => {
  const { dir, run } = await project(t);
  const both = await Promise.all([run("hello", "a"), run("hello", "b")]);
  for (const one of both) t.same(await one.exited, { code: 0, signal: null });
  const logs = both.flatMap(({ logs }) => logs);
  t.equal(logs.filter((line) => line === "Building …").length, 1);
  t.equal(logs.filter((line) => line.startsWith("hello ")).length, 2);
  t.notOk(existsSync(path.join(dir, ".bridge/setup.lock")));
});

t.test("SIGTERM reaches the script, whose exit code counts", async (t) => {
  const { run } = await project(t);
  const bootstrap = await run("hello", "stay");
  await bootstrap.waitForLine(/^hello stay$/, 60_000);
  bootstrap.kill("SIGTERM");
  t.same(await bootstrap.exited, { code: 7, signal: null });
  t.match(bootstrap.logs, ["Building …", "hello stay", "asked to end"]);
});

t.test("a script learns that its bootstrap was killed", async (t) => {
  const { run } = await project(t);
  const bootstrap = await run("hello", "stay");
  await bootstrap.waitForLine(/^hello stay$/, 60_000);
  bootstrap.kill("SIGKILL");
  await bootstrap.exited;
  await bootstrap.waitForLine(/^orphaned$/);
});

t.test("what cannot work is said in one line", async (t) => {
  const { run, dir } = await project(t);
  const unknown = await run("nonsense");
  t.same(await unknown.exited, { code: 1, signal: null });
  t.match(unknown.logs, [/^Unknown verb "nonsense"/]);

  await writeFile(
    path.join(dir, "openapi.yaml"),
    "openapi: 3.1.0\ninfo: {title: t, version: '1'}\npaths: {}\n",
  );
  const stale = await run("generate", "--check");
  t.same(await stale.exited, { code: 1, signal: null });
  t.match(stale.logs.at(-1), /run `npm run generate`/);
  t.same(await (await run("generate")).exited, { code: 0, signal: null });
  t.same(await (await run("generate", "--check")).exited, {
    code: 0,
    signal: null,
  });
});
