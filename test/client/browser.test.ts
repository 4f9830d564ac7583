/** The client as a browser loads it: one file, the browser's own WebSocket, a cut line. */

import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import t from "tap";
import {
  clientScript,
  NO_BROWSER,
  startBrowser,
} from "../../scripts/lab/browser.js";
import { startScriptedBridge } from "../fixtures/scripted-bridge.js";

const PAGE = `<!doctype html><link rel="icon" href="data:,"><script type="module">
import { connect } from "/client.js";
window.got = [];
window.states = [];
window.start = (url, token) => {
  window.bridge = connect(url, {
    token,
    random: () => 0,
    onMessage: ({ text, bytes }) => got.push(text ?? [...bytes]),
    onState: (state) => states.push(state),
    onError: (error) => got.push(error.code + " " + error.closeCode),
  });
  return window.bridge.ready.then(({ connectionId }) => connectionId);
};
</script>`;

t.test("in a browser", async (t) => {
  const browser = await startBrowser(t);
  if (browser === undefined) {
    t.pass(`skipped: ${NO_BROWSER}`, { skip: NO_BROWSER });
    return;
  }
  const script = await clientScript();
  const web = createServer((request, response) => {
    const isScript = request.url === "/client.js";
    response
      .setHeader("Content-Type", isScript ? "text/javascript" : "text/html")
      .end(isScript ? script : PAGE);
  }).listen(0, "127.0.0.1");
  await once(web, "listening");
  t.teardown(() => {
    web.close();
    web.closeAllConnections();
  });
  const { port } = web.address() as AddressInfo;

  const open = async () => {
    const page = await browser.newPage();
    await page.goto(`http://127.0.0.1:${port}/`);
    await page.waitForFunction("window.start !== undefined");
    const got = (count: number): Promise<unknown> =>
      page
        .waitForFunction(`got.length >= ${count} && got`)
        .then((handle) => handle.jsonValue());
    return { page, got };
  };

  t.test("it receives, and resumes after a cut", async (t) => {
    const server = await startScriptedBridge(t);
    const { page, got } = await open();
    t.equal(
      await page.evaluate(`start(${JSON.stringify(server.url)}, "a.b.c")`),
      "c_scripted",
    );
    t.match(
      server.requests[0]?.protocols,
      /^bridge\.v1\.json, ?bearer\.a\.b\.c$/,
    );
    server.push("one");
    await got(1);
    server.cut();
    server.push("two");
    server.push(Uint8Array.of(0, 128, 255));
    server.push("ü€😀".repeat(50_000));
    t.same(await got(4), ["one", "two", [0, 128, 255], "ü€😀".repeat(50_000)]);
    t.same(await page.evaluate("states"), ["open", "resuming", "open"]);
    t.equal(server.requests[1]?.url.searchParams.get("resume"), "r1");

    await page.evaluate("bridge.close()");
    t.equal(server.closes.at(-1), 1000);
  });

  t.test("it moves at a drain", async (t) => {
    const server = await startScriptedBridge(t);
    const { page, got } = await open();
    await page.evaluate(`start(${JSON.stringify(server.url)})`);
    server.say({ type: "drain", reconnectAfterMs: 1 });
    await page.waitForFunction("states.length === 3");
    server.push("here");
    t.same(await got(1), ["here"]);
    t.same(server.closes, [1000]);
  });

  t.test("it stays away after a close for good", async (t) => {
    const server = await startScriptedBridge(t);
    const { page, got } = await open();
    await page.evaluate(`start(${JSON.stringify(server.url)})`);
    server.sockets[0]?.close(4510, "closed by the backend");
    t.same(await got(1), ["closed 4510"]);
    t.same(await page.evaluate("states"), ["open", "closed"]);
    t.equal(server.requests.length, 1);
  });
});
