// What the doctor must not take for a mistake: folders that are sound, our own functions and our examples.

import path from "node:path";
import t from "tap";

import { examine } from "../../scripts/doctor/examine.js";
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
import { ROOT } from "../../scripts/lab/root.js";

/** What must not be taken for a mistake. */
const SOUND_TOO: Readonly<Record<string, Files>> = {
  "the folder without a mistake": {},
  "the limits themselves": {
    "serverless.yml": SOUND["serverless.yml"]
      ?.replace("idleTimeOut: 60", "idleTimeOut: 900")
      .replace("timeout: 600", "timeout: 900")
      .replace("initTimeout: 60", "initTimeout: 300")
      .replace("hello", "x".repeat(4_088)),
  },
  "a bootstrap that looks for itself and exports the port": {
    ...bootstrap(`#!/bin/bash
# Starts the server.
export PORT=9000
here="$(cd "$(dirname "\${BASH_SOURCE[0]}")" && pwd)"
node=/var/lang/node20/bin/node
[ -x "$node" ] || node=node
exec "$node" --enable-source-maps -r ./preload.js "$here/app" >/dev/null
`),
    ...app("require('http').createServer().listen(process.env.PORT);\n"),
  },
  "a port from serverless.yml": {
    ...settings("GREETING: hello", 'PORT: "9000"'),
    ...app(
      "const { PORT = 80 } = process.env;\nrequire('http').createServer().listen(Number(PORT));\n",
    ),
  },
  "a second server for something else": app(
    "const http = require('http');\nhttp.createServer().listen(9000, '0.0.0.0');\nhttp.createServer().listen(9100, 'localhost');\n",
  ),
  "a port that cannot be told": app(
    "require('http').createServer().listen(require('./config').port);\n",
  ),
  "a program instead of a script": {
    ...bootstrap("#!/bin/bash\n./server\n"),
    server: "",
  },
  "modules that are deployed with the folder, without a package.json of its own":
    {
      "package.json": undefined,
      "node_modules/ws/package.json": '{ "main": "index.js" }',
      "node_modules/ws/index.js": "",
    },
  "an optional package": app(
    `${SOUND["app.js"]}try { require("bufferutil"); } catch {}\n`,
  ),
  "closes of something else, and of sockets of our own": app(
    `${SOUND["app.js"]}server.close();\nconst { WebSocket } = require("ws");\nnew WebSocket("wss://example.com").close();\n`,
  ),
  "sockets that are ended, not sent to": app(
    `${SOUND["app.js"]}for (const one of server.clients) one.terminate();\n`,
  ),
  "what a connection keeps for itself": app(`${SOUND["app.js"]}
const facts = new WeakMap();
const counts = new Map();
server.on("connection", (client) => {
  const early = [];
  facts.set(client, { at: Date.now() });
  counts.set("all", 1);
  client.on("message", (data) => early.push(data));
  early.forEach((data) => client.send(data));
});
`),
  "files under /tmp": app(`${SOUND["app.js"]}const fs = require("node:fs");
fs.writeFileSync("/tmp/a", "");
fs.readFileSync("config.json");
`),
  "an HTTP function that closes as it likes": {
    ...settings("  protocolType: WS\n", ""),
    ...onConnection("client.close();"),
  },
};

for (const [what, files] of Object.entries(SOUND_TOO))
  void t.test(`sound: ${what}`, (t) => {
    const extra = what.includes("cannot be told")
      ? { "config.js": "exports.port = JSON.parse('9000');\n" }
      : {};
    t.strictSame(found(write(t, { ...files, ...extra })), []);
    t.end();
  });

void t.test("our own functions and examples are sound", (t) => {
  for (const example of ["echo", "chat-over-redis"] as const)
    t.strictSame(found(folderOf(example)), [], example);
  t.strictSame(
    examine(folderOf("chat-in-memory")).map(({ name, file }) => name + file),
    ["sockets-in-memoryroom.js", "broadcast-in-processroom.js"],
    "the chat in memory is there to be wrong",
  );
  for (const name of ["http-fn", "ws-fn"])
    t.strictSame(examine(path.join(ROOT, "dist", name)), [], name);
  t.end();
});
