// `npm run platform -- <folder>` as a user calls it.

import { execFile } from "node:child_process";
import { promisify } from "node:util";
import t from "tap";
import { WebSocket } from "ws";
import { findProgram } from "../../scripts/programs.js";
import {
  directoryOf,
  meet,
  processLives,
  until,
} from "../fixtures/functions/platform.js";
import { startProcess } from "../../scripts/lab/processes.js";

const run = promisify(execFile);
const openssl = findProgram("openssl");

t.test(
  "WS-CONN-1: a folder is served at a printed ws:// address, and with a certificate at wss:// on the same port",
  { skip: openssl ? false : "no openssl" },
  async (t) => {
    const folder = t.testdir();
    const [key, cert] = [`${folder}/key.pem`, `${folder}/cert.pem`];
    await run("openssl", [
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt"],
      ...["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"],
      ...["-subj", "/CN=localhost", "-keyout", key, "-out", cert],
    ]);
    const platform = await startProcess(t, {
      name: "npm run platform",
      args: [
        "dist/scripts/platform.js",
        directoryOf("light"),
        ...["--ws", "--port", "0", "--preset", "hostile"],
        ...["--set", "afterClose=kill", "--cert", cert, "--key", key],
      ],
    });
    t.ok(
      await platform.waitForLine(/^light: no serverless.yml, so it is a WebS/),
    );
    t.ok(await platform.waitForLine(/^light +the gateway waits 960 s/));
    const [, port = ""] = await platform.waitForLine(
      /^light +ws:\/\/127\.0\.0\.1:(\d+)\/$/,
    );
    const [, secure = ""] = await platform.waitForLine(/^light +(wss:\S+)$/);
    await platform.waitForLine(/^ready /);

    const plain = await meet(Number(port));
    await plain.leave();
    await until("afterClose=kill", () => !processLives(plain.pid));
    const socket = new WebSocket(secure, { rejectUnauthorized: false });
    const [data] = await new Promise<Buffer[]>((resolve, reject) => {
      socket.once("message", (...args) => resolve(args as Buffer[]));
      socket.once("error", reject);
    });
    const { pid } = JSON.parse(String(data)) as { pid: number };
    platform.kill("SIGTERM");
    t.match(await platform.exited, { code: 0 });
    t.notOk(processLives(pid));
    socket.terminate();
  },
);

t.test("mistakes are one line each, and exit code 1", async (t) => {
  const start = (...args: string[]) =>
    startProcess(t, { args: ["dist/scripts/platform.js", ...args] });
  const wrong = await start("nowhere", "--prewarm", "x", "--cert", "a");
  t.match(await wrong.exited, { code: 1 });
  t.match(wrong.logs, [/^--cert and --key/, /^--prewarm must be/]);
  const rules = await start("nowhere", "--preset", "cruel", "--set", "x=1");
  t.match(await rules.exited, { code: 1 });
  t.match(rules.logs, [/^PLATFORM_PRESET must/, /there is no rule "x"/]);
  const nothing = await start("docs");
  t.match(await nothing.exited, { code: 1 });
  t.match(nothing.logs, [/no scf_bootstrap here/]);
  const usage = await start();
  t.match(await usage.exited, { code: 1 });
  t.match(usage.logs[0], /^npm run platform -- <folder>/);
});
