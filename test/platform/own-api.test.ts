// `/_platform/…` by itself: who may read, who may change, and what a browser that was led astray gets.

import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import t, { type Test } from "tap";
import { realClock } from "../../platform/clock.js";
import type { InvocationRecord } from "../../platform/invocation.js";
import { silentLog } from "../../platform/logs.js";
import { createOwnApi } from "../../platform/own-api.js";
import { Guard } from "../../platform/own-guard.js";
import { presets, type Rules } from "../../platform/rules.js";
import { Watch } from "../../platform/watch.js";
import {
  describe,
  fetchPlain,
  rawClient,
} from "../fixtures/functions/platform.js";

const description = describe("ws", "/nowhere", "WS", {
  timeoutSeconds: 7_200,
  environment: { SECRET: "do not show" },
});

/** The platform's own interface over one instance that only notes what is done to it. */
async function serve(t: Test, rules: Partial<Rules> = {}) {
  const watch = new Watch({
    functions: [description],
    rules: { ...presets.documented, ...rules },
    invocationsKept: 100,
    clock: realClock,
    log: silentLog,
  });
  const guard = new Guard();
  const done: string[] = [];
  const instance = {
    id: "ab12",
    functionName: "ws",
    pid: 1,
    port: 2,
    state: "frozen",
    stateSince: 3_000,
    startedAt: 1_000,
    served: 1,
    active: 0,
    isProvisioned: true,
    kill: () => void done.push("kill"),
  };
  const server = createServer(
    createOwnApi({
      watch,
      guard,
      instances: () => [instance],
      recycle: ({ id }) => void done.push(`recycle ${id}`),
    }),
  );
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return {
    watch,
    port,
    done,
    token: guard.token,
    origin: `http://127.0.0.1:${port}`,
    cookie: `platform-${port}=${guard.token}`,
    get: (page: string, headers: Record<string, string> = {}) =>
      fetchPlain(port, `/_platform/${page}`, { headers }),
    post: (page: string, headers: Record<string, string> = {}) =>
      fetchPlain(port, `/_platform/${page}`, { method: "POST", headers }),
    async json<T>(page: string): Promise<T> {
      const { body } = await fetchPlain(port, `/_platform/${page}`);
      return JSON.parse(body) as T;
    },
  };
}

const reads = ["invocations", "instances", "billing", "rules", "logs"];
const changes = ["instances/ab12/recycle", "instances/ab12/kill"];

t.test("a program on this machine reads without a token", async (t) => {
  const { get } = await serve(t);
  for (const page of reads) {
    const { status, head } = await get(page);
    t.equal(status, 200, page);
    t.match(head, /^Cache-Control: no-store$/m);
    t.notMatch(head, /access-control/i);
  }
});

t.test(
  "a foreign page, a page without the token and a rebound name read nothing, with or without the cookie",
  async (t) => {
    const { get, cookie, port, token } = await serve(t);
    const bad: Record<string, string>[] = [
      { Origin: "https://evil.example" },
      { Origin: "null" },
      { Origin: `http://127.0.0.1:${port + 1}` },
      { Origin: `http://localhost:${port}` },
      { "Sec-Fetch-Site": "cross-site" },
      { "Sec-Fetch-Site": "same-site" },
      { Host: "evil.example" },
      { Host: `localhost.evil.example:${port}` },
      { Host: "evil.example", Origin: "http://evil.example" },
    ];
    for (const page of [...reads, "", "events", "page.js"])
      for (const headers of bad)
        for (const more of [
          {},
          { Cookie: cookie },
          { Authorization: `Bearer ${token}` },
        ]) {
          const { status, body } = await get(page, { ...headers, ...more });
          t.equal(status, 403, `${page} ${JSON.stringify(headers)}`);
          t.match(JSON.parse(body), { code: /^forbidden_(host|origin)$/ });
        }
    for (const page of reads) {
      const { status } = await get(page, { "Sec-Fetch-Site": "same-origin" });
      t.equal(status, 403, "a page of this origin, but without the token");
    }
  },
);

t.test("a page of this origin with the cookie reads", async (t) => {
  const { get, cookie, origin } = await serve(t);
  for (const page of ["", "page.js", "page.css", ...reads])
    for (const headers of [
      { "Sec-Fetch-Site": "same-origin", Origin: origin },
      { "Sec-Fetch-Site": "same-origin" },
      { "Sec-Fetch-Site": "none" },
    ])
      t.equal(
        (await get(page, { ...headers, Cookie: cookie })).status,
        200,
        page,
      );
});

t.test(
  "?token= becomes a cookie that scripts cannot read and leaves the address",
  async (t) => {
    const { get, cookie, token } = await serve(t);
    const { status, head } = await get(`?token=${token}`, {
      "Sec-Fetch-Site": "none",
    });
    t.equal(status, 303);
    t.match(head, /^Location: \/_platform\/$/m);
    t.match(
      head,
      `Set-Cookie: ${cookie}; Path=/_platform; HttpOnly; SameSite=Strict`,
    );
    const link = {
      "Sec-Fetch-Site": "cross-site",
      "Sec-Fetch-Mode": "navigate",
    };
    t.equal((await get(`?token=${token}`, link)).status, 303, "a link to it");
    t.equal((await get("?token=wrong", link)).status, 403);
    t.equal(
      (await get(`?token=${token}`, { ...link, "Sec-Fetch-Mode": "no-cors" }))
        .status,
      403,
    );
  },
);

t.test(
  "the page needs the token: none, a wrong one and one of another port are refused",
  async (t) => {
    const { get, port, token } = await serve(t);
    for (const headers of [
      {},
      { Cookie: `platform-${port}=wrong` },
      { Cookie: `platform-${port + 1}=${token}` },
      { Authorization: "Bearer wrong" },
    ]) {
      const { status, body } = await get("", headers);
      t.equal(status, 401);
      t.match(JSON.parse(body), { code: "token_invalid" });
      t.notMatch(body, token);
    }
    t.equal((await get("?token=wrong")).status, 401);
  },
);

t.test(
  "the page loads nothing from elsewhere and lets nobody frame it",
  async (t) => {
    const { get, cookie } = await serve(t);
    for (const page of ["", "page.js", "page.css"]) {
      const { head } = await get(page, { Cookie: cookie });
      t.match(
        head,
        /^Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self';.* frame-ancestors 'none'$/m,
      );
      t.match(head, /^X-Content-Type-Options: nosniff$/m);
      t.match(head, /^Referrer-Policy: no-referrer$/m);
    }
    const { body } = await get("", { Cookie: cookie });
    t.notMatch(body, /https?:\/\/|<script>|<style|style=| on\w+=/);
  },
);

t.test(
  "changes need the token, and with a cookie the own page as well",
  async (t) => {
    const { post, get, cookie, origin, token, done, port } = await serve(t);
    const page = { Cookie: cookie, "Sec-Fetch-Site": "same-origin" };
    for (const change of changes) {
      t.equal((await post(change)).status, 401, "no token");
      t.equal(
        (await post(change, { Authorization: "Bearer wrong" })).status,
        401,
      );
      t.equal(
        (await post(change, { Cookie: cookie })).status,
        403,
        "no Origin",
      );
      t.equal((await post(change, page)).status, 403, "no Origin");
      t.equal(
        (await post(change, { ...page, Origin: "http://evil.example" })).status,
        403,
      );
      t.equal(
        (await post(`${change}?token=${token}`)).status,
        401,
        "a token in the address is for the page",
      );
      t.equal(
        (await get(change, { Authorization: `Bearer ${token}` })).status,
        405,
      );
    }
    t.strictSame(done, []);
    t.equal(
      (await post("instances/ab12/recycle", { ...page, Origin: origin }))
        .status,
      202,
    );
    t.equal(
      (await post("instances/ab12/kill", { Authorization: `Bearer ${token}` }))
        .status,
      202,
    );
    t.strictSame(done, ["recycle ab12", "kill"]);
    const localhost = { ...page, Host: `localhost:${port}` };
    t.equal(
      (
        await post("instances/ab12/kill", {
          ...localhost,
          Origin: `http://localhost:${port}`,
        })
      ).status,
      202,
    );
    t.equal(
      (await post("instances/ff/kill", { Authorization: `Bearer ${token}` }))
        .status,
      404,
    );
    for (const read of reads)
      t.equal(
        (await post(read, { Authorization: `Bearer ${token}` })).status,
        405,
      );
  },
);

t.test(
  "invocations are filtered, newest first, with every field of the contract",
  async (t) => {
    const { watch, json, get } = await serve(t);
    const { book } = watch;
    const good = book.begin("ws");
    good.dispatched("ab12", false);
    good.established(Date.now());
    book.end(good, { cause: "closed", by: "client", code: 1000 });
    const bad = book.begin("ws");
    bad.dispatched("ab12", false);
    bad.established(Date.now());
    book.end(bad, { cause: "closed", by: "server", code: 4000 });
    const running = book.begin("ws");
    const list = (query: string) =>
      json<InvocationRecord[]>(`invocations${query}`);
    const ids = async (query: string) =>
      (await list(query)).map(({ requestId }) => requestId);
    t.strictSame(
      await ids(""),
      [running, bad, good].map((one) => one.requestId),
    );
    t.strictSame(await ids("?status=failed"), [bad.requestId]);
    t.strictSame(await ids("?status=439"), [bad.requestId]);
    t.strictSame(await ids("?status=running"), [running.requestId]);
    t.strictSame(await ids("?limit=1"), [running.requestId]);
    t.strictSame(await ids(`?requestId=${good.requestId}`), [good.requestId]);
    t.strictSame(await ids("?functionName=other"), []);
    t.strictSame(await ids("?instanceId=ab12"), [
      bad.requestId,
      good.requestId,
    ]);
    const [record = {}] = await list("?status=failed");
    for (const field of [
      "requestId",
      "functionName",
      "instanceId",
      "coldStart",
      "startedAt",
      "establishedAt",
      "endedAt",
      "closeInitiator",
      "closeCode",
      "statusCode",
      "statusMessage",
      "why",
      "counters",
      "billing",
    ])
      t.ok(field in record, field);
    t.match(
      record,
      {
        why: "The server closed with code 4000, which counts as a failure: 1000 is the code of a success.",
      },
      "WS-CLOSE-4: says why",
    );
    for (const [query, code] of [
      ["?status=bad", "invalid_parameter"],
      ["?limit=0", "invalid_parameter"],
      ["?statsu=200", "unknown_parameter"],
    ] as const) {
      const { status, body } = await get(`invocations${query}`);
      t.equal(status, 400);
      t.match(JSON.parse(body), { code });
    }
  },
);

t.test(
  "instances, rules and timeouts are shown; values of the environment are not",
  async (t) => {
    const { json } = await serve(t, { lenientNoCode: true });
    t.match(await json("instances"), [
      {
        instanceId: "ab12",
        state: "frozen",
        frozen: true,
        provisioned: true,
        memoryMb: 128,
        pid: 1,
        since: "1970-01-01T00:00:03.000Z",
        requestIds: [],
      },
    ]);
    const rules = await json<{ preset: string | null }>("rules");
    t.match(rules, {
      preset: null,
      rules: { lenientNoCode: true },
      changed: { lenientNoCode: false },
      functions: [
        {
          functionName: "ws",
          environment: ["SECRET"],
          timeouts: [
            { name: "init", seconds: 60, status: 446 },
            { name: "idle", seconds: 600, status: 455 },
            { name: "execution", seconds: 7_200, status: 433, note: /900 s/ },
          ],
        },
      ],
    });
    t.notMatch(JSON.stringify(rules), /do not show/);
    const plain = await (await serve(t)).json<{ preset: string }>("rules");
    t.equal(plain.preset, "documented");
  },
);

t.test(
  "the log is text or JSON by Accept, or as the format says",
  async (t) => {
    const { watch, get } = await serve(t);
    watch.printed({
      functionName: "ws",
      instanceId: "ab12",
      stream: "stderr",
      line: "hello",
    });
    const text = await get("logs");
    t.match(text.head, /^Content-Type: text\/plain; charset=utf-8$/m);
    t.match(text.body, /Z ws ab12 hello\n$/);
    const json = await get("logs", { Accept: "application/x-ndjson" });
    t.match(json.head, /^Content-Type: application\/x-ndjson$/m);
    t.match(JSON.parse(json.body), {
      message: "hello",
      level: "ERROR",
      type: "Custom",
    });
    t.match(JSON.parse((await get("logs?format=scf")).body), {
      SCF_Message: "hello",
      SCF_Level: "ERROR",
    });
    t.equal((await get("logs?instanceId=other")).body, "");
    t.equal((await get("logs?format=xml")).status, 400);
  },
);

t.test(
  "events begin with the whole picture and go on with what changes",
  async (t) => {
    const { watch, port } = await serve(t);
    const client = rawClient(port);
    client.socket.write(
      `GET /_platform/events HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`,
    );
    await client.hears("event: picture");
    const invocation = watch.book.begin("ws");
    await client.hears(invocation.requestId);
    watch.printed({
      functionName: "ws",
      instanceId: "ab12",
      stream: "stdout",
      line: "a line of it",
    });
    await client.hears("a line of it");
    client.socket.destroy();
    await client.ended;
  },
);

t.test(
  "the bill answers what-if questions, and only possible ones",
  async (t) => {
    const { json, get } = await serve(t);
    t.match(await json("billing"), {
      currency: "USD",
      total: { invocations: 0, gbSeconds: "0" },
      projection: { month: "0" },
    });
    t.match(await json("billing?memoryMb=256&idleTimeoutSeconds=60"), {
      whatIf: {
        memoryMb: 256,
        idleSeconds: 60,
        functions: [{ memoryMb: 256 }],
      },
    });
    t.equal((await get("billing?memoryMb=1")).status, 400);
  },
);
