/**
 * A page in real Chromium opens a plain `new WebSocket(url)`; what curl posts appears on it, as text and as binary. Through
 * the local platform, as `npm start` runs it: gateway, an instance for the connection, http-fn. And the page at `/`.
 */
import { execFile } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { promisify } from "node:util";
import type { Locator } from "playwright-core";
import t from "tap";
import { NO_BROWSER, startBrowser } from "../../scripts/lab/browser.js";
import { startProcess } from "../../scripts/lab/processes.js";
import { singleRedis } from "../../scripts/lab/redis.js";

const run = promisify(execFile);

/** Ten lines, as somebody would write them. */
const page = `<!doctype html><meta charset="utf-8"><ul id="list"></ul><script>
  const socket = new WebSocket(new URLSearchParams(location.search).get("url"));
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => {
    const item = document.createElement("li");
    item.textContent = typeof data === "string" ? data : "bytes " + [...new Uint8Array(data)].join(" ");
    document.getElementById("list").append(item);
  };
</script>`;

async function curl(...args: string[]): Promise<string> {
  const { stdout } = await run("curl", ["-sS", "--max-time", "20", ...args]);
  return stdout;
}

t.test("a message of curl on a page", async (t) => {
  const redis = await singleRedis(t);
  const platform = await startProcess(t, {
    name: "platform",
    args: ["dist/platform/main.js"],
    env: { REDIS_URL: redis.url, GATEWAY_PORT: "0" },
  });
  const [, origin = ""] = await platform.waitForLine(/^ready (\S+)$/, 60_000);
  const browser = await startBrowser(t);
  if (!browser) {
    t.pass(`skipped: ${NO_BROWSER}`, { skip: NO_BROWSER });
    return;
  }

  await t.test("on a plain WebSocket, as text and as binary", async (t) => {
    // Another port of localhost is another origin: allowed while the bridge is keyless (section 6).
    const server = createServer((_, response) => {
      response.setHeader("content-type", "text/html").end(page);
    }).listen(0, "127.0.0.1");
    t.teardown(() => void server.close());
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    const url = `${origin.replace("http", "ws")}/ws`;
    const tab = await browser.newPage();
    await tab.goto(`http://127.0.0.1:${port}/?url=${encodeURIComponent(url)}`);
    const item = (n: number): Locator =>
      tab.locator(`#list li:nth-child(${n})`);
    await item(1).waitFor();
    const welcome = JSON.parse(await item(1).innerText()) as {
      type: string;
      connectionId: string;
    };
    t.match(welcome, { type: "welcome", connectionId: /^c_/ });

    const messages = `${origin}/v1/connections/${welcome.connectionId}/messages`;
    await curl("-d", "hello <b>page</b>", messages);
    await item(2).waitFor();
    t.equal(await item(2).innerText(), "hello <b>page</b>");

    const receipt = JSON.parse(
      await curl(
        "-H",
        "Content-Type: application/octet-stream",
        "-H",
        "Prefer: wait=10",
        "--data-binary",
        "\u0001Az\u007f",
        messages,
      ),
    ) as { status: string; ack: string };
    t.match(receipt, { status: "delivered", ack: "socket" });
    await item(3).waitFor();
    t.equal(await item(3).innerText(), "bytes 1 65 122 127");
    await tab.close();
  });

  await t.test("on the page at /, through the client library", async (t) => {
    const tab = await browser.newPage();
    const mistakes: string[] = [];
    tab.on("pageerror", (error) => mistakes.push(error.message));
    await tab.goto(origin);
    const shown = tab.getByText(/c_[0-9A-Za-z]{22}/).first();
    await shown.waitFor();
    const [id] = /c_[0-9A-Za-z]{22}/.exec(await shown.innerText()) ?? [];
    const answer = JSON.parse(
      await curl(
        "-d",
        "hello page",
        `${origin}/v1/connections/${id}/messages?wait=10`,
      ),
    ) as { status: string; ack: string };
    t.match(answer, { status: "delivered", ack: "client" });
    await tab.getByText("hello page").first().waitFor();
    t.same(mistakes, []);
    await tab.close();
  });
});
