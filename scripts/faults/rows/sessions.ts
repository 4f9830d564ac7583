/** A19, A21, A23, A26: a page that is loaded again, a log that is full, a session claimed twice, a deadly message. */
import { once } from "node:events";
import http from "node:http";
import type { AddressInfo } from "node:net";

import type { Page } from "playwright-core";

import { CLOSE_TAKEN_OVER } from "../../../shared/close-codes.js";
import { NO_BROWSER, startBrowser } from "../../lab/browser.js";
import { until } from "../../lab/until.js";
import { post } from "../load.js";
import { percentile } from "../report.js";
import { row, type Run } from "../row.js";
import { openWire, type Wire } from "../wire.js";
import { badLines } from "./lines.js";

const PATIENCE_MS = 30_000;

interface Kept {
  token: string;
  seq: number;
  texts: string[];
  welcomes: { connectionId: string; resumed: boolean; lost: boolean }[];
}

/**
 * A page that survives its reload: token, position and what it got are in sessionStorage, written before the ack. Text,
 * because it runs in the browser.
 */
const script = (url: string, token: string) => `
const kept = JSON.parse(sessionStorage.getItem("kept") ?? '{"token":"","seq":0,"texts":[],"welcomes":[]}');
const keep = () => sessionStorage.setItem("kept", JSON.stringify(kept));
const dial = () => {
  const socket = kept.token
    ? new WebSocket("${url}/ws?resume=" + kept.token + "&seq=" + kept.seq, ["bridge.v1.json"])
    : new WebSocket("${url}/ws", ["bridge.v1.json", "bearer.${token}"]);
  let timer;
  const ack = () => {
    timer = undefined;
    if (socket.readyState === 1) socket.send(JSON.stringify({ type: "ack", seq: kept.seq }));
  };
  socket.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    if (frame.type === "ping") socket.send('{"type":"pong"}');
    if (frame.type === "welcome") {
      kept.token = frame.resumeToken;
      kept.seq = Math.max(kept.seq, frame.seq);
      kept.welcomes.push(frame);
      keep();
    }
    if (frame.type !== "message" || frame.seq <= kept.seq) return;
    kept.seq = frame.seq;
    kept.texts.push(frame.data);
    keep();
    timer ??= setTimeout(ack, 250);
  };
  socket.onclose = () => setTimeout(dial, 50);
};
dial();
`;

export const reloaded = row({
  id: "A19",
  title: "a Chromium tab reloaded, the same session resumed",
  world: { redis: "single" },
  sizes: {
    short: { reloads: 3, messages: 20 },
    long: { reloads: 100, messages: 40 },
  },
  async inject(run, { reloads, messages }) {
    const { world, ledger } = run;
    const browser = await startBrowser(world.scope);
    if (!browser) return run.skip(NO_BROWSER);
    try {
      const { connectionId, token } = await world.backends[0].prepare();
      const page = await browser.newPage();
      const body = `<!doctype html><script type="module">${script(world.address(0), token)}</script>`;
      await page.goto(await serve(run, body));
      const welcomes = async () => (await keptBy(page))?.welcomes ?? [];
      await until(async () => (await welcomes()).length === 1, {
        ms: PATIENCE_MS,
        message: "the page has its welcome",
      });
      const load = run.load([{ connection: connectionId }], { ahead: 60 });
      const times: number[] = [];
      for (let reload = 1; reload <= reloads; reload += 1) {
        await load.more(messages);
        run.fault();
        const began = performance.now();
        await page.reload({ waitUntil: "commit" });
        await until(async () => (await welcomes()).length > reload, {
          ms: PATIENCE_MS,
          message: "the page is welcome again",
        });
        times.push(performance.now() - began);
      }
      await load.stop();
      const sent = ledger.verdict().ok;
      await until(
        async () => ((await keptBy(page))?.texts.length ?? 0) >= sent,
        { ms: PATIENCE_MS, message: "the page has everything" },
      ).catch(() => undefined);
      const kept = await keptBy(page);
      for (const text of kept?.texts ?? []) ledger.receive(connectionId, text);
      const all = kept?.welcomes ?? [];
      run.check(
        all.length === reloads + 1 &&
          all.every(
            (one, index) =>
              one.connectionId === connectionId &&
              !one.lost &&
              one.resumed === index > 0,
          ),
        "every reload resumed the same session",
      );
      run.figure("reload to welcome ms p50", Math.round(percentile(times, 50)));
    } finally {
      await browser.close();
    }
  },
});

/** Serves one page on a free port; resolves with its address. */
async function serve({ world }: Run, body: string): Promise<string> {
  const server = http.createServer((_, response) => {
    response.setHeader("content-type", "text/html");
    response.end(body);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  world.scope.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
}

function keptBy(page: Page): Promise<Kept | undefined> {
  return page.evaluate<Kept | undefined>(
    'JSON.parse(sessionStorage.getItem("kept") ?? "null") ?? undefined',
  );
}

export const logFull = row({
  id: "A21",
  title: "one message more than may wait for a client",
  world: badLines,
  sizes: {
    short: { rounds: 2, limit: 300, over: 20 },
    long: { rounds: 5, limit: 1_000, over: 100 },
  },
  async inject(run, { rounds, limit, over }) {
    const [client] = await run.clients(1);
    if (!client) return;
    const { connection } = client;
    for (let round = 0; round < rounds; round += 1) {
      // One that gets nothing and one that cannot say so: for the log both are messages that wait.
      client.hearing = round % 2 === 0 ? "deaf" : "mute";
      client.impair(client.hearing);
      const wrong: string[] = [];
      let taken = 0;
      const one = async (index: number) => {
        const sent = run.ledger.invoke(connection, `round${round}-${index}`);
        const answer = await run.world.backends[index % 2 === 0 ? 0 : 1].push(
          connection,
          sent.text,
        );
        if (answer.status === 202) {
          taken += 1;
          sent.outcome = "ok";
          sent.id = answer.json<{ id: string }>().id;
          return;
        }
        sent.outcome = "refused";
        const { code, limit: named } = answer.json<Record<string, unknown>>();
        const wait = Number(answer.headers["retry-after"]);
        if (
          answer.status !== 429 ||
          code !== "log_full" ||
          named !== limit ||
          !(wait > 0)
        ) {
          wrong.push(`${answer.status} ${String(code)}`);
        }
      };
      const width = 16;
      await Promise.all(
        Array.from({ length: width }, async (_, lane) => {
          for (let index = lane; index < limit + over; index += width) {
            await one(index);
          }
        }),
      );
      run.fault(over);
      run.check(taken === limit, `${taken} of ${limit} were taken`);
      run.check(wrong.length === 0, `answered ${wrong.join(", ")}`);
      client.hearing = "all";
      client.cut();
      // Probes are refused until the acks of what waited have made room.
      await run.healed([client]);
      await post(run.world.backends, run.ledger.invoke(connection, "after"));
      await until(() => run.ledger.missing().length === 0, {
        ms: PATIENCE_MS,
        message: "all that was taken is handed over",
      });
      await until(async () => (await pending(run, connection)) === 0, {
        ms: PATIENCE_MS,
        message: "all of it is acked",
      });
    }
  },
});

async function pending(run: Run, connection: string): Promise<number> {
  const path = `/v1/connections/${connection}`;
  const answer = await run.world.backends[0].ask("GET", path);
  return answer.json<{ pending: number }>().pending;
}

export const claimedTwice = row({
  id: "A23",
  title: "two sockets claim one session in the same moment",
  world: { redis: "single" },
  sizes: {
    short: { sessions: 3, rounds: 10 },
    long: { sessions: 20, rounds: 50 },
  },
  async inject(run, { sessions, rounds }) {
    const { world, ledger } = run;
    let splitBrains = 0;
    let other = 0;
    const session = async () => {
      const { connectionId, token } = await world.backends[0].prepare();
      let seen = 0;
      for (let round = 0; round < rounds; round += 1) {
        const getters = new Set<Wire>();
        const open = (place: number) =>
          openWire(world.scope, {
            url: world.address(place),
            token,
            onMessage: ({ seq, text }, wire) => {
              ledger.frame(connectionId, seq, seq <= seen);
              if (seq <= seen) return;
              seen = seq;
              getters.add(wire);
              ledger.receive(connectionId, text);
              wire.ack(seq);
            },
          });
        const both = [open(round), open(round + 1)];
        run.fault();
        await until(() => both.some(({ closed }) => closed !== undefined), {
          ms: PATIENCE_MS,
          message: "one of two sockets is superseded",
        });
        const sent = ledger.invoke(connectionId, "both");
        await post(world.backends, sent, { first: round });
        await until(() => ledger.hasReceived(sent), {
          ms: PATIENCE_MS,
          message: "the other one gets what comes",
        });
        const closed = both.filter((wire) => wire.closed !== undefined);
        if (closed.length !== 1) splitBrains += 1;
        if (closed.some((wire) => wire.closed !== CLOSE_TAKEN_OVER)) other += 1;
        if ([...getters].some((wire) => closed.includes(wire))) {
          splitBrains += 1;
        }
        for (const wire of both) wire.cut();
      }
    };
    await Promise.all(Array.from({ length: sessions }, session));
    run.figure("split brains", splitBrains);
    run.check(splitBrains === 0, `${splitBrains} times not exactly one lived`);
    run.check(other === 0, `${other} times the other was not told 4509`);
  },
});

/** The rule gives up after twenty sockets; a few come first, which tell nothing of which message it was. */
const SOCKETS_MAX = 30;

export const poison = row({
  id: "A26",
  title: "a message that kills every page it is sent to",
  world: { redis: "single" },
  isPoisonous: true,
  sizes: {
    short: { connections: 3, after: 5 },
    long: { connections: 100, after: 50 },
  },
  async inject(run, { connections, after }) {
    const { world, ledger } = run;
    let most = 0;
    const one = async (nth: number) => {
      const backend = world.backends[nth % 2 === 0 ? 0 : 1];
      const { connectionId, token } = await backend.prepare();
      const path = `/v1/connections/${connectionId}`;
      const sendAll = async (publisher: string, count: number) => {
        const all = [];
        for (let at = 0; at < count; at += 1) {
          const sent = ledger.invoke(connectionId, publisher);
          await post(world.backends, sent, { first: at });
          all.push(sent);
        }
        return all;
      };
      await sendAll("before", 2);
      const [deadly] = await sendAll("deadly", 1);
      const last = (await sendAll("after", after)).at(-1);
      if (!deadly || !last) return;
      let sockets = 0;
      let seen = 0;
      while (!ledger.hasReceived(last) && sockets < SOCKETS_MAX) {
        const wire = openWire(world.scope, {
          url: world.address(nth + sockets),
          token,
          onMessage: ({ seq, text }, self) => {
            if (text === deadly.text) {
              run.fault();
              self.cut();
              return;
            }
            if (seq <= seen) return;
            seen = seq;
            ledger.receive(connectionId, text);
            self.ack(seq);
          },
        });
        sockets += 1;
        await until(
          () => wire.closed !== undefined || ledger.hasReceived(last),
          {
            ms: PATIENCE_MS,
            message: "it dies, or gets what comes after",
          },
        );
        wire.cut();
        // A page is not loaded faster than its end is noticed.
        await until(
          async () =>
            (await backend.ask("GET", path)).json<{ state: string }>().state ===
            "away",
          { ms: PATIENCE_MS, message: "its end is noticed" },
        );
      }
      most = Math.max(most, sockets);
      const receipt = await backend.receipt(deadly.id ?? "");
      run.check(
        receipt.status === "undeliverable" && receipt.reason === "poison",
        `its receipt says ${receipt.status} ${receipt.reason ?? ""}`,
      );
      run.check(ledger.hasReceived(last), "what comes after it is delivered");
    };
    await Promise.all(
      Array.from({ length: connections }, (_, nth) => one(nth)),
    );
    run.figure("sockets until it is given up", most);
  },
});
