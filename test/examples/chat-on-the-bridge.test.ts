/**
 * The chat room of the source documents, built on the bridge (`examples/chat`), as its README shows it: members are pages in
 * real Chromium, behind the local platform with its documented rules, so each has an instance of ws-fn of its own.
 * SCN-CHAT-1 register, SCN-CHAT-2 transmit, SCN-CHAT-3 clean up, in each way in which a member can go.
 */
import type { BrowserContext } from "playwright-core";
import t from "tap";
import {
  NO_BROWSER,
  startBrowser,
  type Page,
} from "../../scripts/lab/browser.js";
import { startApplication } from "../../scripts/lab/application.js";
import { startPairOnPlatform } from "../../scripts/lab/pair.js";
import { startProcess } from "../../scripts/lab/processes.js";
import { ROOT } from "../../scripts/lab/root.js";
import { until } from "../../scripts/lab/until.js";

const WAIT_MS = 20_000;

interface Instance {
  readonly functionName: string;
  readonly instanceId: string;
  readonly pid: number;
  readonly requestIds: readonly string[];
}

interface Invocation {
  readonly requestId: string;
  readonly instanceId: string;
  readonly state: string;
  readonly statusCode: number;
  readonly closeCode: number | null;
  readonly closeInitiator: string | null;
}

/** A member's tab, as its owner sees it. */
class Tab {
  readonly page: Page;
  readonly context: BrowserContext;

  constructor(page: Page, context: BrowserContext) {
    this.page = page;
    this.context = context;
  }

  async join(name: string): Promise<void> {
    await this.page.fill("#name", name);
    await this.page.click("#enter");
  }

  /** Joins, and is let in. */
  async enter(name: string): Promise<void> {
    await this.join(name);
    await this.page.getByText(`Connected as ${name}`).waitFor();
  }

  async says(text: string, to = "Everybody"): Promise<void> {
    await this.page.selectOption("#to", { label: to });
    await this.page.fill("#text", text);
    await this.page.press("#text", "Enter");
  }

  /** "Name: text" of everything that was said to all. */
  said(): Promise<string[]> {
    return this.page.$$eval("#lines .said", (items) =>
      items.map(
        (item) =>
          `${item.querySelector(".name")?.textContent}: ${item.querySelector(".text")?.textContent}`,
      ),
    );
  }

  alone(): Promise<string[]> {
    return this.page.$$eval("#lines .direct", (items) =>
      items.map(
        (item) =>
          `${item.querySelector(".head")?.textContent?.replace(/ \d.*$/, "")}: ${item.querySelector(".text")?.textContent}`,
      ),
    );
  }

  news(): Promise<string[]> {
    return this.page.$$eval("#lines .news", (items) =>
      items.map((item) => item.textContent?.replace(/ \d\d:\d\d.*$/, "") ?? ""),
    );
  }

  /** As the list says it, with "you" and "away". */
  members(): Promise<string[]> {
    return this.page.$$eval("#members li", (items) =>
      items.map((item) => item.textContent ?? ""),
    );
  }

  async sees(members: readonly string[]): Promise<void> {
    const wanted = members.join(", ");
    await until(async () => (await this.members()).join(", ") === wanted, {
      ms: WAIT_MS,
      message: `the list says ${wanted}`,
    }).catch(async (error: Error) => {
      throw new Error(`${error.message}: ${(await this.members()).join(", ")}`);
    });
  }

  async hears(text: string): Promise<void> {
    await this.page
      .locator("#lines li")
      .filter({ hasText: text })
      .waitFor({ timeout: WAIT_MS });
  }
}

t.test("the chat room on the bridge, in a real browser", async (t) => {
  const browser = await startBrowser(t);
  if (!browser) {
    t.pass(`skipped: ${NO_BROWSER}`, { skip: NO_BROWSER });
    return;
  }
  const { backend, httpUrl, wsFns } = await startPairOnPlatform(
    t,
    "documented",
    { RESUME_SECONDS: "2", LEASE_SECONDS: "1", DRAIN_SECONDS: "0.1" },
  );
  const startChat = (port: string) =>
    startProcess(t, {
      name: "examples/chat",
      args: ["server.js"],
      cwd: `${ROOT}examples/chat`,
      env: { BRIDGE_URL: httpUrl, PORT: port, CHAT_LOOK_MS: "300" },
    });
  let chat = await startChat("0");
  const [, address = ""] = await chat.waitForLine(/^chat +(http\S+)$/);

  const mistakes: string[] = [];
  const open = async (): Promise<Tab> => {
    const context = await browser.newContext();
    const page = await context.newPage();
    page.setDefaultTimeout(WAIT_MS);
    page.on("pageerror", (error) => mistakes.push(error.message));
    page.on("console", (message) => {
      const text = message.text();
      // Chromium notes every refusal and every cut line; what the page makes of them is what counts.
      if (/^Failed to load resource|WebSocket connection to/.test(text)) return;
      if (message.type() === "error") mistakes.push(text);
    });
    await page.goto(address);
    return new Tab(page, context);
  };
  const platform = async <T>(what: string): Promise<T[]> => {
    const answer = await fetch(`${httpUrl}/_platform/${what}`);
    return (await answer.json()) as T[];
  };
  const invocations = () =>
    platform<Invocation>("invocations?functionName=ws-fn");
  const running = async () =>
    (await invocations()).filter(({ state }) => state !== "ended");
  /** The instance whose invocation began last. */
  const newestInstance = async (): Promise<Instance> => {
    const [newest] = await running(); // newest first
    const all = await platform<Instance>("instances");
    const found = all.find(
      ({ instanceId }) => instanceId === newest?.instanceId,
    );
    if (!found) throw new Error("no invocation is running");
    return found;
  };

  const ended = ({ instanceId }: Instance): Promise<Invocation> =>
    until(async () =>
      (await invocations()).find(
        (one) => one.instanceId === instanceId && one.state === "ended",
      ),
    );
  /** The connections that end from here on, once one has. */
  const closings = () => {
    const before = running();
    return async () => {
      const ids = (await before).map(({ requestId }) => requestId);
      return until(async () => {
        const now = (await invocations()).filter(
          ({ requestId, state }) =>
            state === "ended" && ids.includes(requestId),
        );
        return now.length > 0
          ? now.map(({ statusCode, closeCode }) => ({ statusCode, closeCode }))
          : undefined;
      });
    };
  };

  const [ann, bob, cid] = await Promise.all([open(), open(), open()]);

  await t.test(
    "SCN-CHAT-1: register: names are screened, then remembered",
    async (t) => {
      await ann.enter("Ann");
      for (const [name, why] of [
        ["", "Please enter a name."],
        [
          "x".repeat(25),
          "That name is too long: 24 characters at most, please.",
        ],
        ["<b>Bob</b>", "Please use letters, digits, spaces and . _ ' - only."],
        [" ａnn ", "“ａnn” is taken at the moment. Another name, please?"],
      ] as const) {
        await bob.join(name);
        await bob.page.getByRole("alert").filter({ hasText: why }).waitFor();
      }
      await bob.enter("Bob");
      await cid.enter("Cid");
      await ann.sees(["Ann you", "Bob", "Cid"]);
      await bob.sees(["Ann", "Bob you", "Cid"]);
      await cid.sees(["Ann", "Bob", "Cid you"]);
      t.same(await cid.news(), ["Cid is here"], "nothing of before");
      t.same(await ann.news(), ["Ann is here", "Bob is here", "Cid is here"]);

      const invoked = await running();
      t.same(
        invoked.map(({ statusCode }) => statusCode),
        [202, 202, 202],
      );
      t.equal(new Set(invoked.map(({ instanceId }) => instanceId)).size, 3);
      const serving = (await platform<Instance>("instances")).filter(
        ({ functionName, requestIds }) =>
          functionName === "ws-fn" && requestIds.length > 0,
      );
      t.equal(serving.length, 3, "an instance for each member [WS-LIFE-3]");
    },
  );

  const tabs = [ann, bob, cid];

  await t.test(
    "SCN-CHAT-2: transmit: to all in one order, or to one",
    async (t) => {
      const texts = [
        ...["one", "<img src=x onerror=alert(1)>", "drei", "五"],
        ...Array.from({ length: 8 }, (_, n) => `at once ${n}`),
      ];
      await Promise.all(
        tabs.map(async (tab, index) => {
          const own = texts.map((text) => `${text} ${index}`);
          await tab.says(own[0] ?? "");
          // Faster than the platform allows a client to be [WS-LIM-3]: the page has to wait with them.
          await tab.page.evaluate(`
          for (const text of ${JSON.stringify(own.slice(1))}) {
            document.getElementById("text").value = text;
            document.getElementById("mouth").requestSubmit();
          }`);
        }),
      );
      const all = await Promise.all(
        tabs.map((tab) =>
          until(
            async () => {
              const said = await tab.said();
              return said.length === 36 ? said : undefined;
            },
            { ms: WAIT_MS, message: "all is there" },
          ),
        ),
      );
      // The same order everywhere; only one's own name is "You".
      const orders = all.map((said, index) =>
        said.map((line) =>
          line.replace("You", ["Ann", "Bob", "Cid"][index] ?? ""),
        ),
      );
      t.same(orders[1], orders[0]);
      t.same(orders[2], orders[0]);
      for (const name of ["Ann", "Bob", "Cid"])
        t.same(
          orders[0]
            ?.filter((line) => line.startsWith(name))
            .map((line) => line.replace(/^\w+: | \d$/g, "")),
          texts,
          `what ${name} said is in ${name}'s order`,
        );
      t.equal(await cid.page.locator("#lines img").count(), 0, "text is text");

      await ann.says("psst", "Only Bob");
      await bob.hears("psst");
      await bob.says("yes?", "Only Ann");
      await Promise.all([
        ...[bob.hears("psst"), bob.hears("yes?")],
        ...[ann.hears("psst"), ann.hears("yes?")],
      ]);
      t.same(await bob.alone(), [
        "Ann to you only: psst",
        "You to Ann only: yes?",
      ]);
      t.same(await ann.alone(), [
        "You to Bob only: psst",
        "Bob to you only: yes?",
      ]);
      t.same(await cid.alone(), []);
    },
  );

  await t.test("nobody speaks in another's name", async (t) => {
    const { token } = await backend.prepare({
      userId: "Mallory#00000000",
      permissions: ["publish:lobby"],
    });
    const mallory = startApplication(t, { token, to: () => wsFns[0].url });
    await mallory.bridge.ready;
    for (const claim of [
      { type: "left", name: "Ann" },
      { type: "members", members: [] },
      { type: "direct", userId: "Ann#00000000", text: "trust me" },
      { type: "said", from: { userId: "Ann#00000000" }, key: "k", text: "hi" },
    ])
      await mallory.bridge.publish("lobby", JSON.stringify(claim));
    await bob.hears("hi");
    t.equal((await bob.said()).at(-1), "Mallory: hi");
    t.equal((await bob.alone()).length, 2);
    t.notOk((await bob.news()).includes("Ann has left"));
    await bob.sees(["Ann", "Bob you", "Cid"]);
    await mallory.bridge.close();
  });

  await t.test("the backend may be restarted meanwhile", async () => {
    await chat.stop();
    chat = await startChat(new URL(address).port);
    await chat.waitForLine(/^chat /);
    await ann.says("still there?", "Only Cid");
    await cid.hears("still there?");
  });

  await t.test(
    "an instance that goes in good order is not noticed",
    async (t) => {
      // A tab of its own: what it shows from the first moment on is noted.
      const dee = await open();
      await dee.enter("Dee");
      await dee.page.evaluate(`
      globalThis.shown = [];
      new MutationObserver(() => shown.push(document.getElementById("status").textContent))
        .observe(document.getElementById("status"), { childList: true, characterData: true, subtree: true })`);
      const before = await newestInstance();
      process.kill(before.pid, "SIGTERM");
      await until(
        async () => {
          const { instanceId } = await newestInstance();
          return instanceId !== before.instanceId;
        },
        { ms: WAIT_MS, message: "another instance has Dee" },
      );
      await ann.says("did you notice?");
      await dee.hears("did you notice?");
      t.same(await dee.page.evaluate("shown"), []);
      await dee.page.click("#leave");
      await ann.hears("Dee has left");
      t.equal((await ended(before)).statusCode, 200);
    },
  );

  await t.test("killed under a member, who comes back", async (t) => {
    const eve = await open();
    await eve.enter("Eve");
    const his = await newestInstance();
    process.kill(his.pid, "SIGKILL");
    for (const text of ["k1", "k2", "k3"]) await ann.says(text);
    await eve.hears("k3");
    t.same((await eve.said()).slice(-3), ["Ann: k1", "Ann: k2", "Ann: k3"]);
    t.equal((await ended(his)).statusCode, 439);
    await eve.says("here again");
    await Promise.all([ann, eve].map((one) => one.hears("here again")));

    // A reload is the same: the place is kept, what was there is there.
    const said = await eve.said();
    await eve.page.reload();
    await eve.page.getByText("Connected as Eve").waitFor();
    t.same(await eve.said(), said);
    await ann.sees(["Ann you", "Bob", "Cid", "Eve"]);
    t.notOk((await ann.news()).some((line) => /Eve.*(left|gone)/.test(line)));
  });

  await t.test("SCN-CHAT-3: clean up: by the button, at once", async (t) => {
    const closed = closings();
    await ann.page.selectOption("#to", { label: "Only Bob" });
    await bob.page.click("#leave");
    await bob.page.getByText("You have left.").waitFor();
    await ann.hears("Bob has left");
    await ann.sees(["Ann you", "Cid", "Eve"]);
    await ann.says("for you only", "Only Bob (gone)");
    await ann.hears("Not sent: Bob has left.");
    t.notOk((await cid.said()).some((line) => /for you only/.test(line)));
    t.same(await closed(), [{ statusCode: 200, closeCode: 1000 }]);
    await bob.enter("Bob");
    await ann.sees(["Ann you", "Cid", "Eve", "Bob"]);
    t.same(
      await bob.alone(),
      [],
      "somebody else, who happens to be called Bob",
    );
  });

  await t.test(
    "SCN-CHAT-3: clean up: a closed tab, when its time is over",
    async (t) => {
      const closed = closings();
      await cid.page.close();
      await ann.sees(["Ann you", "Cid away", "Eve", "Bob"]);
      await ann.hears("Cid has lost the line and is gone");
      await ann.sees(["Ann you", "Eve", "Bob"]);
      t.same(await closed(), [{ statusCode: 456, closeCode: 1001 }]);
    },
  );

  await t.test(
    "SCN-CHAT-3: clean up: page and instance gone, by the lease",
    async (t) => {
      const fay = await open();
      await fay.enter("Fay");
      await ann.sees(["Ann you", "Eve", "Bob", "Fay"]);
      const her = await newestInstance();
      process.kill(her.pid, "SIGSTOP"); // so that it cannot hear the tab go
      await fay.context.close();
      process.kill(her.pid, "SIGKILL");
      await ann.hears("Fay has lost the line and is gone");
      await Promise.all([
        ann.sees(["Ann you", "Eve", "Bob"]),
        bob.sees(["Ann", "Eve", "Bob you"]),
      ]);
      t.ok([439, 456].includes((await ended(her)).statusCode));
    },
  );

  // Now, not in the end: the platform would wait for pages that nobody moves any more.
  await browser.close();
  t.same(mistakes, []);
});
