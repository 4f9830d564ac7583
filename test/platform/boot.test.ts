// From a folder to a function that listens: bootstrap, interpreter, port 9000, init timeout.

import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import t, { type Test } from "tap";
import { VirtualClock } from "../../platform/clock.js";
import { deploy } from "../../platform/deployment.js";
import type { InvocationRecord } from "../../platform/invocation.js";
import { whyNoOwnNetwork } from "../../platform/own-network.js";
import { startPlatform } from "../../platform/platform.js";
import { readProject } from "../../platform/project.js";
import { presets } from "../../platform/rules.js";
import {
  ask,
  describe,
  directoryOf,
  fetchPlain,
  meet,
  openClient,
  plainEnv,
  processLives,
  until,
} from "../fixtures/functions/platform.js";

/** The bootstrap of the documents' example. */
const BOOTSTRAP = "#!/bin/bash\n/var/lang/node12/bin/node app.js\n";

/** A folder of a function; nothing but its own package.json says what kind of JavaScript it has. */
function functionFolder(
  t: Test,
  files: Record<string, string>,
  mode = 0o755,
): string {
  const folder = t.testdir({
    "package.json": '{"name":"echo","version":"1.0.0"}',
    ...files,
  });
  if (files["scf_bootstrap"] !== undefined)
    chmodSync(`${folder}/scf_bootstrap`, mode);
  return folder;
}

/** A WebSocket server as the documents' example describes it: `ws`, port 9000 written into it, an echo. */
const ECHO = `
const WebSocket = require("ws");
const server = new WebSocket.Server({ port: 9000 });
server.on("connection", (socket) => {
  socket.on("message", (message) => socket.send(message.toString() + " from " + process.pid));
});
`;

t.test(
  "WS-BOOT-1, WS-BOOT-3, WS-BOOT-4, WS-CONN-2: a foreign echo server on hard-coded 9000, started by node12, runs unchanged",
  async (t) => {
    const folder = functionFolder(t, {
      "app.js": ECHO,
      scf_bootstrap: BOOTSTRAP,
      "serverless.yml":
        "component: scf\nname: echo\ninputs: {type: web, protocolType: WS, timeout: 60, src: ./}\n",
    });
    const project = await readProject(folder, {
      rules: presets.documented,
      env: {},
    });
    if (Array.isArray(project)) throw new Error(project.join("\n"));
    t.match(project.functions, [{ route: "/", description: { name: "echo" } }]);
    const notes: string[] = [];
    const log = {
      debug() {},
      warn() {},
      error() {},
      info: (_: object, message: string) => void notes.push(message),
    };
    const { functions } = project;
    const platform = await startPlatform({ functions, env: plainEnv, log });
    t.teardown(() => platform.close());
    const clients = await Promise.all([
      openClient(platform.port, "/"),
      openClient(platform.port, "/any/path?x=1"),
    ]);
    const answers = await Promise.all(
      clients.map((client) => {
        client.socket.send("hello");
        return client.next();
      }),
    );
    for (const answer of answers) t.match(String(answer), /^hello from \d+$/);
    t.equal(new Set(answers.map(String)).size, 2, "one instance each");
    for (const client of clients) client.socket.close(1000);
    await Promise.all(clients.map((client) => client.closed));
    t.equal(readFileSync(`${folder}/scf_bootstrap`, "utf8"), BOOTSTRAP);
    t.match(notes, [/^echo: \/var\/lang\/node12 is Node \d/]);
  },
);

t.test(
  "WS-BOOT-1, WS-BOOT-3: a bootstrap that cannot be run is 445, and the sentence says what is wrong with it",
  async (t) => {
    const refusal = async (
      text: string | undefined,
      says: RegExp,
      { mode = 0o755, strict = false } = {},
    ) => {
      await t.test(String(says), async (t) => {
        const files = text === undefined ? {} : { scf_bootstrap: text };
        const directory = functionFolder(t, files, mode);
        const options = {
          name: "echo",
          directory,
          folder: t.testdirName + "-made",
          env: plainEnv,
          strict,
        };
        await t.rejects(deploy(options), { status: 445, message: says });
      });
    };
    await refusal(undefined, /scf_bootstrap is missing \[WS-BOOT-1\]/);
    await refusal(BOOTSTRAP, /not executable: chmod 755/, { mode: 0o644 });
    await refusal(BOOTSTRAP.replaceAll("\n", "\r\n"), /CR LF/);
    await refusal("node app.js\n", /first line must be #!\/bin\/bash/);
    await refusal(
      "#!/bin/nosuch\n",
      /names \/bin\/nosuch, which does not exist/,
    );
    await refusal(
      "#!/bin/bash\n/var/lang/node99/bin/node app.js\n",
      /names \/var\/lang\/node99, and there is no such interpreter here/,
    );
    await refusal(
      "#!/bin/bash\n/var/lang/php8/bin/php app.php\n",
      /names \/var\/lang\/php8, /,
    );
    await refusal(
      "#!/bin/bash\nexec node app.js\n",
      /leaves "node" to the PATH/,
      { strict: true },
    );
    const directory = functionFolder(t, {
      scf_bootstrap: "#!/bin/bash\nexec node app.js\n",
    });
    const lenient = await deploy({
      name: "echo",
      directory,
      folder: `${directory}-made`,
      env: plainEnv,
      strict: false,
    });
    t.strictSame(lenient.directory, directory, "it is started where it is");
    t.match(lenient.notes, [/leaves "node" to the PATH.*\[WS-BOOT-3\]/]);
  },
);

t.test(
  "WS-BOOT-1: a refused bootstrap can be put right without a new start of the platform",
  async (t) => {
    const directory = functionFolder(
      t,
      { scf_bootstrap: BOOTSTRAP, "app.js": ECHO },
      0o644,
    );
    const platform = await startPlatform({
      functions: [
        { description: describe("echo", directory, "WS"), route: "/" },
      ],
      env: plainEnv,
    });
    t.teardown(() => platform.close());
    await t.rejects(openClient(platform.port, "/"), /503/);
    t.match(await ask(platform.port, "invocations"), [{ statusCode: 445 }]);
    chmodSync(`${directory}/scf_bootstrap`, 0o755);
    const client = await openClient(platform.port, "/");
    client.socket.close(1000);
    await client.closed;
  },
);

t.test(
  "WS-BOOT-2, WS-BOOT-5: nothing on port 9000 within the init timeout is 446, with the reason, and the process is killed",
  async (t) => {
    const listening = (how: string) => `
const server = require("http").createServer();
const say = () => console.log("pid " + process.pid);
${how}`;
    const apps = {
      port: listening(
        `server.listen(9001 + process.pid % 7000, "127.0.0.1", say);`,
      ),
      loopback: listening(`server.listen(9000, "127.0.0.1", say);`),
      nothing: listening(`setInterval(() => {}, 1000); say();`),
    };
    const says = {
      port: /did not listen on port 9000 within 3 s: it listens on port \d+ instead \[WS-BOOT-2\]/,
      loopback: /it listens on 127\.0\.0\.1 only, .*: listen on 0\.0\.0\.0/,
      nothing: /it does not listen at all|something listens on port 9000/,
    };
    const names = Object.keys(apps) as (keyof typeof apps)[];
    const root = t.testdir(
      Object.fromEntries(
        names.map((name) => [
          name,
          {
            "package.json": "{}",
            scf_bootstrap: BOOTSTRAP,
            "app.js": apps[name],
          },
        ]),
      ),
    );
    const clock = new VirtualClock();
    const pids = new Map<string, number>();
    const { port, close } = await startPlatform({
      functions: names.map((name) => {
        chmodSync(`${root}/${name}/scf_bootstrap`, 0o755);
        const description = describe(name, `${root}/${name}`, "WS", {
          initTimeoutSeconds: 3,
        });
        return { description, route: `/${name}` };
      }),
      env: plainEnv,
      clock,
      print: ({ functionName, line }) => {
        const pid = Number(/^pid (\d+)/.exec(line)?.[1]);
        if (pid > 0) pids.set(functionName, pid);
      },
    });
    t.teardown(close);
    const refused = names.map((name) =>
      t.rejects(openClient(port, `/${name}`), /503/),
    );
    await until("all to be up", () => pids.size === names.length);
    await clock.advance(2_999);
    const before = await ask<InvocationRecord[]>(port, "invocations");
    t.ok(before.every((one) => one.state === "accepted"));
    await clock.advance(1);
    await Promise.all(refused);
    for (const record of await ask<InvocationRecord[]>(port, "invocations"))
      t.match(record, {
        statusCode: 446,
        why: says[record.functionName as keyof typeof says],
        billing: null,
      });
    for (const pid of pids.values())
      await until("it to end", () => !processLives(pid));
  },
);

t.test(
  "WS-BOOT-2: what asks for port 9000 in any way, or for PORT, gets its own; X-Scf headers and variables are the platform's",
  async (t) => {
    const { port, close } = await startPlatform({
      functions: [
        {
          description: describe("web", directoryOf("light"), "HTTP", {
            memoryMb: 256,
            environment: { SHOWN: "yes", SCF_FUNCTIONNAME: "spoofed" },
          }),
          route: "/",
        },
      ],
      env: { ...plainEnv, NODE_OPTIONS: "--no-warnings" },
    });
    t.teardown(close);
    const headers = JSON.parse(
      (
        await fetchPlain(port, "/headers", {
          headers: {
            "X-Scf-Request-Id": "mine",
            "x-scf-memory": "1",
            "X-SCF-Secret-Key": "mine",
          },
        })
      ).body,
    ) as Record<string, string>;
    t.match(headers, {
      "x-scf-request-id": /^[0-9a-f-]{36}$/,
      "x-scf-memory": "256",
      "x-scf-timeout": "900",
      "x-scf-version": "$LATEST",
      "x-scf-name": "web",
      "x-scf-namespace": "default",
      "x-scf-region": /./,
      "x-scf-appid": /^\d+$/,
      "x-scf-uin": /^\d+$/,
    });
    t.notOk(headers["x-scf-secret-key"]);
    const env = JSON.parse((await fetchPlain(port, "/env")).body) as Record<
      string,
      string
    >;
    t.match(env, {
      SHOWN: "yes",
      TENCENTCLOUD_RUNENV: "SCF",
      SCF_FUNCTIONNAME: "web",
      SCF_FUNCTIONVERSION: "$LATEST",
      USER_CODE_ROOT: /\/$/,
      NODE_OPTIONS: /--no-warnings.*--import=.*port-shim/,
    });
    t.match(env["PORT"], /^\d{5}$/);
  },
);

t.test("the forms of listen that the shim has to know", async (t) => {
  const app = `
import http from "node:http";
import net from "node:net";
const forms = [
  (s) => s.listen(9000), (s) => s.listen("9000"), (s) => s.listen(9000, "0.0.0.0"), (s) => s.listen(9000, "::", 5),
  (s) => s.listen({ port: 9000, host: "::", ipv6Only: true }), (s) => s.listen({ port: 9000 }),
  (s) => s.listen(Number(process.env.PORT)), (s) => s.listen(process.env.PORT, "0.0.0.0"),
];
const say = [];
for (const form of forms) {
  const server = http.createServer();
  await new Promise((resolve) => form(server).once("listening", resolve));
  say.push(server.address().port === Number(process.env.PORT) && server.address().address === "127.0.0.1");
  await new Promise((resolve) => server.close(resolve));
}
for (const free of [() => net.createServer().listen(0), () => net.createServer().listen()]) {
  const server = free();
  await new Promise((resolve) => server.once("listening", resolve));
  say.push(server.address().port !== Number(process.env.PORT));
  server.close();
}
await new Promise((resolve) => {
  const server = net.createServer().listen(9000, () => { say.push("called"); server.close(resolve); });
});
http.createServer((_, res) => res.end(JSON.stringify(say))).listen(9000);
`;
  const directory = functionFolder(t, {
    "app.mjs": app,
    scf_bootstrap: BOOTSTRAP.replace("app.js", "app.mjs"),
  });
  const { port, close } = await startPlatform({
    functions: [
      { description: describe("web", directory, "HTTP"), route: "/" },
    ],
    env: plainEnv,
  });
  t.teardown(close);
  // An early listen of its own makes it look ready; what it is ready for comes a moment later.
  const said = await until("the last listen", async () => {
    const { status, body } = await fetchPlain(port, "/");
    return status === 200 && body !== "" && (JSON.parse(body) as unknown[]);
  });
  t.strictSame(said, [...Array.from({ length: 10 }, () => true), "called"]);
});

t.test(
  "WS-CONN-1, WS-CONN-6, SCN-MIX-2: several functions by their folders' names; the wrong protocol is refused without an instance",
  async (t) => {
    const yaml = (protocol: string) =>
      `inputs: {type: web, protocolType: ${protocol}, timeout: 60}\n`;
    const app = readFileSync(`${directoryOf("light")}/app.mjs`, "utf8");
    const one = (protocol: string) => ({
      "serverless.yml": yaml(protocol),
      "app.mjs": app,
      scf_bootstrap: BOOTSTRAP.replace("app.js", "app.mjs"),
    });
    const root = t.testdir({
      chat: one("WS"),
      web: one("HTTP"),
      admin: one("HTTP"),
      docs: { "readme.txt": "no function" },
    });
    for (const name of ["chat", "web", "admin"])
      chmodSync(`${root}/${name}/scf_bootstrap`, 0o755);
    const read = async () =>
      readProject(root, { rules: presets.documented, env: {} });
    const project = await read();
    if (Array.isArray(project)) throw new Error(project.join("\n"));
    t.strictSame(
      project.functions.map(({ route }) => route),
      ["/admin", "/chat", "/web"],
    );
    const { port, close } = await startPlatform({ ...project, env: plainEnv });
    t.teardown(close);
    for (const [path, status] of [
      ["/chat", 426],
      ["/chat/x", 426],
      ["/", 404],
      ["/chatty", 404],
    ] as const)
      t.equal((await fetchPlain(port, path)).status, status, path);
    for (const path of ["/web", "/nowhere", "/_platform/x"])
      await t.rejects(meet(port, path), {
        message: /^HTTP\/1\.1 404/,
      });
    t.strictSame(await ask(port, "invocations"), []);
    t.strictSame(await ask(port, "instances"), []);
    const client = await meet(port, "/chat");
    t.equal(client.served, 1);
    client.drop();
    const stripped = await fetchPlain(port, "/web/headers");
    t.match(JSON.parse(stripped.body), { "x-scf-name": "web" });

    writeFileSync(
      `${root}/web/serverless.yml`,
      "inputs: {name: chat, type: web}",
    );
    t.match(await read(), ["chat: two functions have this name."]);
    t.match(
      await readProject(`${root}/docs`, { rules: presets.documented, env: {} }),
      [/no scf_bootstrap here or in a folder of it/],
    );
  },
);

t.test(
  "WS-BOOT-2: in networks of their own two instances have the same port 9000, whatever they are written in",
  async (t) => {
    const why = await whyNoOwnNetwork();
    if (why !== undefined) {
      t.pass("skipped", { skip: why });
      return;
    }
    const python = "#!/bin/bash\n/var/lang/python3/bin/python3 -m http.server";
    const root = t.testdir({
      echo: {
        scf_bootstrap: "#!/bin/bash\n/var/lang/node20/bin/node app.mjs\n",
        "app.mjs": `
          import { createServer } from "node:http";
          const server = createServer();
          server.on("upgrade", (request, socket) => socket.write(
            "HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n\\r\\n" +
            JSON.stringify({ pid: process.pid, served: 1, ...server.address(), isMapped: /port-shim/.test(process.env.NODE_OPTIONS) })
          ));
          server.listen(9000, "0.0.0.0");
        `,
      },
      python: { scf_bootstrap: `${python} 9000\n`, "hello.txt": "from python" },
      loopback: { scf_bootstrap: `${python} --bind 127.0.0.1 9000\n` },
    });
    for (const name of ["echo", "python", "loopback"])
      chmodSync(`${root}/${name}/scf_bootstrap`, 0o755);
    const one = (
      name: string,
      protocol: "HTTP" | "WS",
      initTimeoutSeconds: number,
    ) => ({
      description: describe(name, `${root}/${name}`, protocol, {
        initTimeoutSeconds,
      }),
      route: `/${name}`,
      isRouteStripped: true,
    });
    const { port, close } = await startPlatform({
      functions: [
        one("echo", "WS", 60),
        one("python", "HTTP", 60),
        one("loopback", "HTTP", 2),
      ],
      rules: { network: "own" },
      env: plainEnv,
    });
    t.teardown(close);
    const [first, second] = await Promise.all([
      meet(port, "/echo"),
      meet(port, "/echo"),
    ]);
    t.match(first, { port: 9000, address: "0.0.0.0", isMapped: false });
    t.match(second, { port: 9000, address: "0.0.0.0", isMapped: false });
    first.drop();
    second.drop();
    const answer = await fetchPlain(port, "/python/hello.txt");
    t.equal(answer.status, 200);
    t.equal(answer.body, "from python");
    await fetchPlain(port, "/loopback/");
    const all = await ask<InvocationRecord[]>(port, "invocations");
    t.match(
      all.find(({ functionName }) => functionName === "loopback"),
      { statusCode: 446 },
    );
  },
);
