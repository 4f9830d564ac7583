// The doctor's findings: one folder for each mistake, and the command that shows them.

import t from "tap";

import { RULES, type RuleName } from "../../platform/doctor/finding.js";
import { folderOf } from "../fixtures/examples.js";
import {
  app,
  bootstrap,
  found,
  onConnection,
  settings,
  SOUND,
  write,
  type Files,
} from "../fixtures/function-folder.js";
import { startProcess } from "../../scripts/lab/processes.js";

interface Mistake {
  readonly what: string;
  readonly files: Files;
  readonly mode?: number;
  /** `rule file:line`, all of them. */
  readonly finds: readonly `${RuleName} ${string}:${number}`[];
}

const MISTAKES: readonly Mistake[] = [
  {
    what: "there is no bootstrap",
    files: { scf_bootstrap: undefined },
    finds: ["bootstrap-missing scf_bootstrap:1"],
  },
  {
    what: "the bootstrap has another name",
    files: {
      scf_bootstrap: undefined,
      "scf_bootstrap.sh": SOUND["scf_bootstrap"],
    },
    finds: ["bootstrap-missing scf_bootstrap:1"],
  },
  {
    what: "the bootstrap is a folder",
    files: { scf_bootstrap: undefined, "scf_bootstrap/start.sh": "" },
    finds: ["bootstrap-missing scf_bootstrap:1"],
  },
  {
    what: "the bootstrap is not executable",
    files: {},
    mode: 0o644,
    finds: ["bootstrap-mode scf_bootstrap:1"],
  },
  {
    what: "only its owner may execute the bootstrap",
    files: {},
    mode: 0o744,
    finds: ["bootstrap-mode scf_bootstrap:1"],
  },
  {
    what: "the bootstrap has no shebang",
    files: bootstrap("/var/lang/node20/bin/node app.js\n"),
    finds: ["bootstrap-shebang scf_bootstrap:1"],
  },
  {
    what: "the shebang is on the second line",
    files: bootstrap("\n#!/bin/bash\n/var/lang/node20/bin/node app.js\n"),
    finds: ["bootstrap-shebang scf_bootstrap:1"],
  },
  {
    what: "the bootstrap begins with a byte order mark",
    files: bootstrap(`\uFEFF${SOUND["scf_bootstrap"]}`),
    finds: ["bootstrap-bom scf_bootstrap:1"],
  },
  {
    what: "the bootstrap comes from an editor on Windows",
    files: bootstrap("#!/bin/bash\r\n/var/lang/node20/bin/node app.js\r\n"),
    finds: ["bootstrap-crlf scf_bootstrap:1"],
  },
  {
    what: "the bootstrap's last line does not end",
    files: bootstrap("#!/bin/bash\n/var/lang/node20/bin/node app.js"),
    finds: ["bootstrap-final-newline scf_bootstrap:2"],
  },
  {
    what: "the interpreter is looked for on the PATH",
    files: bootstrap("#!/bin/bash\nnode app.js\n"),
    finds: ["bootstrap-interpreter scf_bootstrap:2"],
  },
  {
    what: "the platform has no such Node",
    files: bootstrap("#!/bin/bash\n/var/lang/node11/bin/node app.js\n"),
    finds: ["bootstrap-runtime scf_bootstrap:2"],
  },
  {
    what: "the bootstrap starts nothing",
    files: bootstrap("#!/bin/bash\nexport PORT=9000\n"),
    finds: ["bootstrap-starts-nothing scf_bootstrap:1"],
  },
  {
    what: "the started file is not there",
    files: bootstrap("#!/bin/bash\n/var/lang/node20/bin/node server.js\n"),
    finds: ["started-file-missing scf_bootstrap:2"],
  },
  {
    what: "the started file is in another folder than the one gone to",
    files: bootstrap(
      "#!/bin/bash\ncd dist\n/var/lang/node20/bin/node app.js\n",
    ),
    finds: ["started-file-missing scf_bootstrap:3"],
  },
  {
    what: "the code has a syntax error",
    files: app("const a = ;\nnew (require('ws').Server)({ port: 9000 });\n"),
    finds: ["source-unreadable app.js:1"],
  },
  {
    what: "the server listens on another port",
    files: app("require('http').createServer().listen(8080);\n"),
    finds: ["listen-port app.js:1"],
  },
  {
    what: "the WebSocket server listens on another port",
    files: app("new (require('ws').WebSocketServer)({ port: 3000 });\n"),
    finds: ["listen-port app.js:1"],
  },
  {
    what: "the fallback of PORT is another port",
    files: app(
      "const port = process.env.PORT || 3000;\nrequire('http').createServer().listen(port);\n",
    ),
    finds: ["listen-port app.js:2"],
  },
  {
    what: "nothing sets the PORT it listens on",
    files: app("require('http').createServer().listen(process.env.PORT);\n"),
    finds: ["listen-port app.js:1"],
  },
  {
    what: "the server listens on loopback",
    files: app("require('http').createServer().listen(9000, '127.0.0.1');\n"),
    finds: ["listen-loopback app.js:1"],
  },
  {
    what: "the WebSocket server listens on localhost",
    files: app(
      "const { WebSocketServer } = require('ws');\nnew WebSocketServer({ port: 9000, host: 'localhost' });\n",
    ),
    finds: ["listen-loopback app.js:2"],
  },
  {
    what: "fastify is not told an address",
    files: {
      ...app(
        "const app = require('fastify')();\napp.listen({ port: 9000 });\n",
      ),
      "package.json": '{ "dependencies": { "fastify": "5" } }\n',
    },
    finds: ["listen-loopback app.js:2"],
  },
  {
    what: "nothing listens",
    files: app("console.log('hello');\n"),
    finds: ["listen-nowhere app.js:1"],
  },
  {
    what: "a package is not among the dependencies",
    files: { "package.json": '{ "dependencies": {} }\n' },
    finds: ["dependency-missing app.js:1"],
  },
  {
    what: "a package is a devDependency",
    files: { "package.json": '{ "devDependencies": { "ws": "8" } }\n' },
    finds: ["dependency-missing app.js:1"],
  },
  {
    what: "a package is not installed",
    files: {
      "package.json":
        '{ "dependencies": { "ws": "8", "@nobody/has-this": "1" } }\n',
      "app.js": `${SOUND["app.js"]}require("@nobody/has-this/sub");\n`,
    },
    finds: ["dependency-not-installed app.js:8"],
  },
  {
    what: "an imported file is not there",
    files: app(`${SOUND["app.js"]}require("./room");\n`),
    finds: ["import-missing app.js:8"],
  },
  {
    what: "an imported file is outside of the package",
    files: app(`${SOUND["app.js"]}require("../../../package.json");\n`),
    finds: ["import-missing app.js:8"],
  },
  {
    what: "the mistake is in a file that is imported",
    files: {
      ...app(`${SOUND["app.js"]}require("./lib/log");\n`),
      "lib/log.js":
        "const fs = require('fs');\n\nfs.appendFileSync('chat.log', '');\n",
    },
    finds: ["write-outside-tmp lib/log.js:3"],
  },
  {
    what: "a socket is closed without a code",
    files: onConnection("client.close();"),
    finds: ["close-without-code app.js:4"],
  },
  {
    what: "a socket is closed without a code in another file",
    files: {
      ...app(`import { WebSocketServer } from "ws";
import { refuse } from "./refuse.mjs";
const server = new WebSocketServer({ port: 9000 });
server.on("connection", (client) => serve(client, "x"));
function serve(one, name) {
  refuse(name, one);
}
`),
      "refuse.mjs": `export const refuse = (name, it) => {
  it.close();
};
`,
    },
    finds: ["close-without-code refuse.mjs:2"],
  },
  {
    what: "all sockets are closed with 1001",
    files: app(
      `${SOUND["app.js"]}process.on("SIGTERM", () => server.clients.forEach((one) => one.close(1001)));\n`,
    ),
    finds: ["close-with-failing-code app.js:8"],
  },
  {
    what: "everybody is sent to by server.clients.forEach",
    files: onConnection(
      "client.on('message', (data) =>",
      "  server.clients.forEach((one) => one.send(data)));",
    ),
    finds: ["broadcast-in-process app.js:5"],
  },
  {
    what: "everybody is sent to by a loop over server.clients",
    files: onConnection("for (const one of server.clients) one.send('hi');"),
    finds: ["broadcast-in-process app.js:4"],
  },
  {
    what: "sockets are kept in a Set and sent to",
    files: app(`${SOUND["app.js"]}const all = new Set();
server.on("connection", (client) => {
  all.add(client);
  all.forEach((one) => one.send("new"));
});
`),
    finds: ["sockets-in-memory app.js:10", "broadcast-in-process app.js:11"],
  },
  {
    what: "sockets are kept in a Map of objects",
    files: app(`${SOUND["app.js"]}const rooms = new Map();
server.on("connection", (client, request) => {
  const member = { client, name: request.url };
  rooms.set(request.url, member);
});
`),
    finds: ["sockets-in-memory app.js:11"],
  },
  {
    what: "sockets are kept in a field and sent to",
    files: app(`${SOUND["app.js"]}class Hub {
  all = new Set();
  add(client) {
    this.all.add(client);
  }
  say(text) {
    for (const one of this.all) one.send(text);
  }
}
const hub = new Hub();
server.on("connection", (ws) => {
  const add = (client) => hub.all.add(client);
  add(ws);
});
`),
    finds: ["broadcast-in-process app.js:14"],
  },
  {
    what: "a file is written beside the code",
    files: app(`${SOUND["app.js"]}const fs = require("node:fs");
const path = require("node:path");
const LOG = path.join(__dirname, "logs");
fs.mkdirSync(LOG);
fs.promises.writeFile(\`\${__dirname}/a\`, "");
`),
    finds: ["write-outside-tmp app.js:11", "write-outside-tmp app.js:12"],
  },
  {
    what: "there is no serverless.yml",
    files: { "serverless.yml": undefined },
    finds: ["settings-missing serverless.yml:1"],
  },
  {
    what: "serverless.yml is no YAML",
    files: settings("  src: ./", "\t- : ["),
    finds: ["settings-unreadable serverless.yml:5"],
  },
  {
    what: "it is no Web function",
    files: settings("type: web", "type: event"),
    finds: ["settings-unreadable serverless.yml:6"],
  },
  {
    what: "the idle timeout is below 10 s",
    files: settings("idleTimeOut: 60", "idleTimeOut: 9"),
    finds: ["idle-timeout-range serverless.yml:10"],
  },
  {
    what: "the idle timeout is above 7200 s",
    files: {
      "serverless.yml": SOUND["serverless.yml"]
        ?.replace("idleTimeOut: 60", "idleTimeOut: 7201")
        .replace("timeout: 600", "timeout: 7201"),
    },
    finds: [
      "idle-timeout-range serverless.yml:10",
      "timeout-above-quota serverless.yml:11",
    ],
  },
  {
    what: "the execution timeout is left at 3 s",
    files: settings("  timeout: 600\n", ""),
    finds: ["timeout-default serverless.yml:3"],
  },
  {
    what: "the execution timeout is below the idle timeout",
    files: settings("timeout: 600", "timeout: 59"),
    finds: ["timeout-below-idle serverless.yml:11"],
  },
  {
    what: "the execution timeout is below any idle timeout",
    files: {
      "serverless.yml": SOUND["serverless.yml"]
        ?.replace("      idleTimeOut: 60\n", "      {}\n")
        .replace("timeout: 600", "timeout: 9"),
    },
    finds: ["timeout-below-idle serverless.yml:11"],
  },
  {
    what: "the execution timeout needs another quota",
    files: settings("timeout: 600", "timeout: 901"),
    finds: ["timeout-above-quota serverless.yml:11"],
  },
  {
    what: "the init timeout is below 3 s",
    files: settings("initTimeout: 60", "initTimeout: 2"),
    finds: ["init-timeout-range serverless.yml:12"],
  },
  {
    what: "the init timeout is above 300 s",
    files: settings("initTimeout: 60", "initTimeout: 301"),
    finds: ["init-timeout-range serverless.yml:12"],
  },
  {
    what: "a variable has the platform's prefix",
    files: settings("GREETING", "TENCENTCLOUD_REGION"),
    finds: ["environment-name serverless.yml:15"],
  },
  {
    what: "a variable begins with an underscore",
    files: settings("GREETING", "_GREETING"),
    finds: ["environment-name serverless.yml:15"],
  },
  {
    what: "the environment is larger than 4 KB",
    files: settings("hello", "x".repeat(4_089)),
    finds: ["environment-size serverless.yml:14"],
  },
];

for (const { what, files, mode, finds } of MISTAKES)
  void t.test(`found: ${what}`, (t) => {
    t.strictSame(found(write(t, files, mode)), finds);
    t.end();
  });

void t.test("every rule is broken by one of the mistakes", (t) => {
  const broken = MISTAKES.flatMap(({ finds }) =>
    finds.map((one) => one.split(" ")[0] ?? ""),
  );
  t.strictSame([...new Set(broken)].sort(), Object.keys(RULES).sort());
  t.end();
});

void t.test("the command: findings, exit codes, JSON", async (t) => {
  const run = async (...args: string[]) => {
    const doctor = await startProcess(t, {
      args: ["dist/scripts/doctor.js", ...args],
    });
    const { code } = await doctor.exited;
    return { code, text: doctor.logs.join("\n") };
  };
  const bad = write(t, {}, 0o644);
  const [warned, wrong, json, nothing] = await Promise.all([
    run(folderOf("chat-in-memory")),
    run(bad),
    run("--json", bad),
    run("no-such-folder"),
  ]);
  t.match(warned, { code: 0, text: /room\.js:\d+[^]*0 errors, 2 warnings$/ });
  t.match(wrong, {
    code: 1,
    text: /^error {4}scf_bootstrap:1 {2}mode 644\n.*\[WS-BOOT-1\]\n.*chmod 755[^]*1 error, 0 warnings$/,
  });
  t.equal(json.code, 1);
  t.match(JSON.parse(json.text), [
    { name: "bootstrap-mode", severity: "error", requirement: "WS-BOOT-1" },
  ]);
  t.match(nothing, { code: 2, text: /no-such-folder is not a folder/ });
});
