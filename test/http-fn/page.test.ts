/** The page at `/` in a real browser, under the policy it is served with. */

import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import t from "tap";
import { WebSocketServer } from "ws";
import { pageHtml, pageScript } from "../../http-fn/page.js";
import {
  clientScript,
  NO_BROWSER,
  startBrowser,
} from "../../scripts/lab/browser.js";
import { until } from "../../scripts/lab/until.js";

const POLICY =
  "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self' ws:; img-src data:";

t.test("the page", async (t) => {
  const browser = await startBrowser(t);
  if (browser === undefined) {
    t.pass(`skipped: ${NO_BROWSER}`, { skip: NO_BROWSER });
    return;
  }
  const files: Record<string, [type: string, text: string]> = {
    "/": ["text/html; charset=utf-8", pageHtml],
    "/page.js": ["text/javascript; charset=utf-8", pageScript],
    "/client.js": ["text/javascript; charset=utf-8", await clientScript()],
  };
  const web = createServer((request, response) => {
    const [type, text] = files[request.url ?? ""] ?? ["text/plain", ""];
    response
      .setHeader("Content-Type", type)
      .setHeader("Content-Security-Policy", POLICY)
      .writeHead(text === "" ? 404 : 200)
      .end(text);
  }).listen(0, "127.0.0.1");
  await once(web, "listening");
  const sockets = new WebSocketServer({
    server: web,
    path: "/ws",
    handleProtocols: () => "bridge.v1.json",
  });
  t.teardown(() => {
    for (const socket of sockets.clients) socket.terminate();
    web.close();
    web.closeAllConnections();
  });
  const { port } = web.address() as AddressInfo;
  const closes: number[] = [];
  let protocols: string | undefined;
  sockets.on("connection", (socket, request) => {
    protocols = request.headers["sec-websocket-protocol"];
    socket.on("close", (code) => closes.push(code));
    const say = (frame: object): void => socket.send(JSON.stringify(frame));
    say({
      type: "welcome",
      connectionId: "c_page",
      resumeToken: "r",
      resumed: false,
      lost: false,
      seq: 0,
    });
    say({
      type: "message",
      id: "m_1",
      seq: 1,
      contentType: "text/html",
      data: "<b>not bold</b>",
    });
    say({
      type: "message",
      id: "m_2",
      seq: 2,
      contentType: "image/png",
      dataBase64: Buffer.alloc(70, 0xab).toString("base64"),
    });
    for (const [group, offset] of [
      ["room", 3],
      ["$all", 4],
    ])
      say({
        ...{ type: "message", id: `m_${offset}`, group, epoch: "e", offset },
        ...{ contentType: "text/plain", data: "to many" },
      });
  });

  const page = await browser.newPage();
  const complaints: string[] = [];
  page.on("console", (line) => complaints.push(line.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(`http://127.0.0.1:${port}/#token=a.b.c`);
  await page.waitForFunction("document.querySelectorAll('li').length === 4");

  t.match(protocols, /bearer\.a\.b\.c$/, "the token after # is used");
  t.equal(await page.textContent("#state"), "open");
  t.equal(await page.textContent("#connection"), "c_page");
  t.equal(
    await page.textContent("#curl"),
    `curl -H "Authorization: Bearer $KEY" -d hello http://127.0.0.1:${port}/v1/connections/c_page/messages`,
  );
  t.equal(await page.textContent("#count"), "4");
  t.equal(await page.textContent("li:last-child pre"), "<b>not bold</b>");
  t.same(
    await page.$$eval("li .facts span", (all) =>
      all.map(({ textContent }) => textContent),
    ),
    [
      "text/plain, to everybody",
      "text/plain, to group room",
      "image/png, 70 bytes",
      "text/html",
    ],
  );
  t.equal(
    await page.textContent("li:nth-child(3) pre"),
    `${"ab ".repeat(64)}…`,
  );
  t.same(complaints, [], "no error, and nothing against the policy");

  await page.goto("about:blank");
  await until(() => closes.length === 1);
  t.same(closes, [1000], "leaving the page ends the connection properly");
});
