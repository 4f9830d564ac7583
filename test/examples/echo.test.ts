// The echo example: a stranger's project, written from the platform's documents alone, on plain Node.

import { readFileSync, readdirSync } from "node:fs";
import path from "node:path";
import t from "tap";
import { WebSocket } from "ws";

import { folderOf, startOn } from "../fixtures/examples.js";

void t.test("WS-BOOT-4: the echo server echoes text and bytes", async (t) => {
  const { url } = await startOn(t, "node", "echo");
  const socket = new WebSocket(url);
  t.teardown(() => socket.terminate());
  const heard: [string, boolean][] = [];
  const both = new Promise<void>((resolve, reject) => {
    socket.on("error", reject);
    socket.on("open", () => {
      socket.send("hello");
      socket.send(Buffer.from("bytes"));
    });
    socket.on("message", (data: Buffer, isBinary) => {
      heard.push([data.toString(), isBinary]);
      if (heard.length === 2) resolve();
    });
  });
  await both;
  t.same(heard, [
    ["hello", false],
    ["bytes", true],
  ]);
});

void t.test("the echo example knows nothing of this project", (t) => {
  const folder = folderOf("echo");
  for (const file of readdirSync(folder)) {
    const text = readFileSync(path.join(folder, file), "utf8");
    t.notMatch(text, /bridge|process\.env|\.\.\//i, file);
  }
  t.end();
});
