// The platform's page in a real browser: what runs, how it ended, what was printed, and that nothing of it is markup.

import t from "tap";
import { NO_BROWSER, startBrowser } from "../../scripts/lab/browser.js";
import {
  fetchPlain,
  openClient,
  startTestPlatform,
  until,
} from "../fixtures/functions/platform.js";

/** Enough for a busy machine; who waits this long has failed. */
const DEADLINE_MS = 15_000;

t.test("the page", async (t) => {
  const browser = await startBrowser(t);
  if (!browser) {
    t.pass(`skipped: ${NO_BROWSER}`, { skip: NO_BROWSER });
    return;
  }
  const { port, token } = await startTestPlatform(t);
  const origin = `http://127.0.0.1:${port}`;
  const page = await browser.newPage({
    viewport: { width: 1280, height: 900 },
  });
  page.setDefaultTimeout(DEADLINE_MS);
  const complaints: string[] = [];
  page.on("console", (message) => complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  const requested: string[] = [];
  page.on("request", (request) => requested.push(request.url()));

  t.test("opens with the token, which then leaves the address", async (t) => {
    t.equal((await fetchPlain(port, "/_platform/")).status, 401, "not without");
    await page.goto(`${origin}/_platform/?token=${token}`);
    t.equal(page.url(), `${origin}/_platform/`);
    await page.locator('#live[data-state="live"]').waitFor();
    t.equal(await page.evaluate("document.cookie"), "", "HttpOnly");
    t.equal(await page.locator("#preset").textContent(), "rules: documented");
    await page.locator('.tile[data-state="ready"]').first().waitFor();
  });

  t.test(
    "WS-CLOSE-4: a connection lights a tile, and its failure says who, which code and why",
    async (t) => {
      const client = await openClient(port);
      const tile = page.locator('#pool-ws-fn [data-state="serving"]');
      await tile.waitFor();
      t.equal(await tile.count(), 1);
      await page.locator("#rows .running").waitFor();
      client.socket.send("!close 4000");
      await client.closed;
      const row = page.locator("#rows .bad").first();
      await row.waitFor();
      const text = await row.locator("summary").innerText();
      t.match(text, "439");
      t.match(text, "by server, 4000");
      t.match(
        text,
        "The server closed with code 4000, which counts as a failure: 1000 is the code of a success.",
      );
      await until("the figure", async () => {
        return (await page.locator("#failed").textContent()) === "1";
      });
      await tile.waitFor({ state: "detached" });
    },
  );

  t.test("a row opens by keyboard and shows its log alone", async (t) => {
    const row = page.locator("#rows .bad").first();
    await row.locator("summary").focus();
    await page.keyboard.press("Enter");
    await row.locator(".facts meter").first().waitFor();
    t.match(await row.locator(".facts").innerText(), /128 MB × /);
    await row.getByRole("button", { name: "Show its log" }).press("Enter");
    const lines = page.locator("#lines li:visible");
    await lines.filter({ hasText: "Report RequestId" }).waitFor();
    const shown = await lines.allInnerTexts();
    t.match(shown[0], /START RequestId/);
    t.ok(shown.some((line) => /ERROR .*by server, close code 4000/.test(line)));
    const requests: string[] = await page.evaluate(
      "[...document.querySelectorAll('#lines li:not([hidden])')].map((li) => li.dataset.request)",
    );
    t.equal(new Set(requests).size, 1, "of no other request");
    await page.locator("#log-request").click();
  });

  t.test("what a function prints is text, never markup", async (t) => {
    const evil = "<img/src=x/onerror=document.title='owned'>";
    const client = await openClient(port);
    client.socket.send(`!print ${evil}`);
    await page.locator("#lines li", { hasText: evil }).waitFor();
    t.equal(await page.locator("#lines img").count(), 0);
    client.socket.close(1000);
    await client.closed;
    t.equal(await page.title(), "Local platform");
  });

  t.test("the filters show failures only, and one function only", async (t) => {
    await page.getByRole("button", { name: "failed" }).click();
    t.equal(await page.locator("#rows > li:visible").count(), 1);
    await page.getByRole("button", { name: "all", exact: true }).click();
    await fetchPlain(port, "/hello");
    await page.locator("#rows li", { hasText: "http-fn" }).waitFor();
    await page.locator("#function").selectOption("http-fn");
    const rows = await page.locator("#rows > li:visible").allInnerTexts();
    t.ok(rows.length > 0 && rows.every((row) => row.includes("http-fn")));
    await page.locator("#function").selectOption("");
  });

  t.test("Kill ends a connection from the page: 439", async () => {
    const client = await openClient(port);
    const tile = page.locator('#pool-ws-fn [data-state="serving"]');
    await tile.hover();
    await tile.getByRole("button", { name: /^Kill/ }).click();
    await client.closed;
    await page.locator("#rows .bad", { hasText: "by server, 1006" }).waitFor();
  });

  t.test("the bill runs up and answers what-if", async (t) => {
    await until("a bill", async () => {
      const cost = await page.locator("#cost").textContent();
      return Number(cost) > 0;
    });
    await page.locator('#what-if [name="memoryMb"]').selectOption("256");
    await page
      .locator("#what-if output", { hasText: "a month instead of" })
      .waitFor();
    t.match(await page.locator("#chains").innerText(), /idle → 455/);
  });

  t.test("fits a phone and a dark room, and asks nobody else", async (t) => {
    for (const colorScheme of ["dark", "light"] as const) {
      await page.emulateMedia({ colorScheme });
      for (const width of [1280, 400]) {
        await page.setViewportSize({ width, height: 800 });
        const needed = await page.evaluate(
          "document.documentElement.scrollWidth",
        );
        t.equal(needed, width, `${colorScheme} ${width}`);
      }
    }
    t.ok(
      requested.every(
        (url) =>
          url.startsWith(`${origin}/_platform/`) || url.startsWith("data:"),
      ),
    );
    t.strictSame(complaints, [], "no error, no violation of the policy");
  });
});
