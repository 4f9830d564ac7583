// A plain request's way through the platform, and the platform's own pages.

import { request } from "node:http";
import t from "tap";
import {
  ask,
  directoryOf,
  fetchPlain,
  plainEnv,
  processLives,
  rawClient,
  splitAnswer,
  startTestPlatform,
  testPair,
  until,
} from "../fixtures/functions/platform.js";
import type { InvocationRecord } from "../../platform/invocation.js";
import { silentLog } from "../../platform/logs.js";
import { PlatformError, startPlatform } from "../../platform/platform.js";

interface Told {
  method: string;
  url: string;
  rawHeaders: string[];
  headers: Record<string, string>;
  bytes: number;
  body: string;
  pid: number;
}

const without = { limits: { wsPrewarm: 0 } };

t.test("one platform", async (t) => {
  const { port } = await startTestPlatform(t, without);

  t.test(
    "method, path, query, headers and body arrive as they were; what only the platform says cannot be spoofed",
    async (t) => {
      const answer = await fetchPlain(port, "/v1/x?a=%2F&b", {
        method: "POST",
        headers: {
          Host: "localhost:1",
          "X-OWN": "yes",
          "X-Forwarded-For": "6.6.6.6",
          Forwarded: "for=6.6.6.6",
          "X-Scf-Request-Id": "mine",
          "X-Forwarded-Port": "1",
        },
        body: "hello",
      });
      t.equal(answer.status, 200);
      t.match(answer.head, /^X-Pid: \d+$/m, "case of header names is kept");
      const told = JSON.parse(answer.body) as Told;
      t.match(told, {
        method: "POST",
        url: "/v1/x?a=%2F&b",
        body: "hello",
        headers: {
          host: "localhost:1",
          "x-forwarded-for": "127.0.0.1",
          "x-forwarded-host": "localhost:1",
          "x-forwarded-proto": "http",
          "content-length": "5",
        },
      });
      t.ok(told.rawHeaders.includes("X-OWN"));
      t.notOk(told.headers["forwarded"]);
      t.notOk(told.headers["x-forwarded-port"]);
      const [newest] = await ask<InvocationRecord[]>(port, "invocations");
      t.match(newest, { functionName: "http-fn", statusCode: 200 });
      t.equal(told.headers["x-scf-request-id"], newest?.requestId);
    },
  );

  t.test(
    "a POST without a body has length 0, and a chunked one passes",
    async (t) => {
      const empty = await fetchPlain(port, "/empty", { method: "POST" });
      const told = JSON.parse(empty.body) as Told;
      t.equal(told.headers["content-length"], "0");
      const chunked = await fetch(`http://127.0.0.1:${port}/chunked`);
      t.equal(await chunked.text(), "one two three");
      t.equal(await chunkedUpload(port), 3 * 100_000);
    },
  );

  t.test("a large body passes both ways", async (t) => {
    const answer = await fetch(`http://127.0.0.1:${port}/large`, {
      method: "PUT",
      body: Buffer.alloc(5_000_000, 65),
    });
    t.equal(((await answer.json()) as Told).bytes, 5_000_000);
  });

  t.test("HEAD, 304 and unknown methods pass", async (t) => {
    t.equal((await fetchPlain(port, "/x", { method: "HEAD" })).body, "");
    const { status, head, body } = await fetchPlain(port, "/not-modified");
    t.equal(status, 304);
    t.match(head, /^ETag: "a"$/m);
    t.equal(body, "");
    const odd = await fetchPlain(port, "/x", { method: "PROPFIND" });
    t.equal((JSON.parse(odd.body) as Told).method, "PROPFIND");
  });

  t.test("a stream's head and events pass as they are written", async (t) => {
    const answer = await fetch(`http://127.0.0.1:${port}/stream`);
    t.equal(answer.headers.get("content-type"), "text/event-stream");
    const reader = answer.body?.getReader();
    for (let i = 0; i < 3; i++) {
      await fetchPlain(port, "/tick");
      const { value } = (await reader?.read()) ?? {};
      t.equal(Buffer.from(value ?? []).toString(), "data: tick\n\n");
    }
    await reader?.cancel();
    await until("the function to hear of the end", async () => {
      const { body } = await fetchPlain(port, "/tick");
      return body === "0";
    });
  });

  t.test(
    "a client that goes away aborts its request in the function, which is 499",
    async (t) => {
      const client = rawClient(port);
      client.socket.write("GET /hang HTTP/1.1\r\nHost: x\r\n\r\n");
      await until("the request to run", async () => {
        const all = await ask<InvocationRecord[]>(port, "invocations");
        return all.some((one) => one.statusCode === 202);
      });
      client.socket.destroy();
      await until(
        "the abort",
        async () => (await fetchPlain(port, "/aborted")).body === "1",
      );
      const all = await ask<InvocationRecord[]>(port, "invocations");
      t.equal(all.filter((one) => one.statusCode === 499).length, 1);
    },
  );

  t.test("many requests share one connection", async (t) => {
    const client = rawClient(port);
    const one = "GET /x HTTP/1.1\r\nHost: x\r\n\r\n";
    const last = "GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    client.socket.write(one.repeat(9) + last);
    await client.ended;
    const heads = String(client.received()).match(/HTTP\/1\.1 200/g);
    t.equal(heads?.length, 10);
  });

  t.test(
    "an offer of another protocol (h2c) is ignored and the request answered, body included, twice",
    async (t) => {
      const client = rawClient(port);
      const offer = (path: string) =>
        `POST ${path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n` +
        `HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nContent-Length: 5\r\n\r\nhello`;
      client.socket.write(offer("/first"));
      await client.hears('"bytes":5');
      client.socket.write(offer("/second"));
      await client.hears('"url":"/second"');
      const first = splitAnswer(String(client.received()));
      t.equal(first.status, 200);
      t.notMatch(first.body, /h2c/);
      client.socket.destroy();
      await client.ended;
    },
  );

  t.test("an answer that breaks off looks broken off", async (t) => {
    await t.rejects(
      fetch(`http://127.0.0.1:${port}/break`).then((answer) => answer.text()),
    );
    const all = await ask<InvocationRecord[]>(port, "invocations");
    t.match(all[0], { statusCode: 439 });
  });

  t.test(
    "the platform's pages are for local programs: no page, no rebound name, nothing to change",
    async (t) => {
      const page = "/_platform/instances";
      for (const headers of [
        { Origin: "http://127.0.0.1:1" },
        { "Sec-Fetch-Site": "same-origin" },
        { Host: "evil.example" },
        { Host: "localhost.evil.example" },
      ]) {
        const { status, body } = await fetchPlain(port, page, { headers });
        t.equal(status, 403);
        t.match(JSON.parse(body), { code: /^forbidden_(host|origin)$/ });
      }
      for (const Host of [`localhost:${port}`, "[::1]", "127.0.0.1"])
        t.equal(
          (await fetchPlain(port, page, { headers: { Host } })).status,
          200,
        );
      t.equal((await fetchPlain(port, page, { method: "DELETE" })).status, 405);
      t.equal((await fetchPlain(port, "/_platform/other")).status, 404);
      t.equal((await fetchPlain(port, "/_platform")).status, 401);
    },
  );

  t.test("what is not HTTP gets a problem too", async (t) => {
    for (const [bytes, status] of [
      ["how are you\r\n\r\n", 400],
      [`GET / HTTP/1.1\r\nHost: x\r\nX: ${"x".repeat(20_000)}\r\n\r\n`, 431],
    ] as const) {
      const client = rawClient(port);
      client.socket.write(bytes);
      await client.ended;
      const answer = splitAnswer(String(client.received()));
      t.equal(answer.status, status);
      t.match(JSON.parse(answer.body), { status });
    }
  });

  t.test(
    "a function that dies is replaced; meanwhile requests are told to come again",
    async (t) => {
      const before = JSON.parse((await fetchPlain(port, "/x")).body) as Told;
      const lost = await fetchPlain(port, "/exit");
      t.equal(lost.status, 503);
      t.match(JSON.parse(lost.body), { code: "outcome_unknown" });
      const after = await until("the next process", async () => {
        const answer = await fetchPlain(port, "/x");
        if (answer.status === 200) return JSON.parse(answer.body) as Told;
        t.equal(answer.status, 503);
        t.match(answer.head, /^Retry-After: 1$/m);
        return undefined;
      });
      t.not(after.pid, before.pid);
      t.notOk(processLives(before.pid));
    },
  );
});

t.test(
  "more requests than one instance takes get another instance",
  async (t) => {
    const limits = { wsPrewarm: 0, httpConcurrency: 1, httpMaxInstances: 2 };
    const { port } = await startTestPlatform(t, { limits });
    const stream = await fetch(`http://127.0.0.1:${port}/stream`);
    t.equal((await fetchPlain(port, "/x")).status, 200);
    await stream.body?.cancel();
  },
);

t.test(
  "the gateway listens only when the HTTP function is ready",
  async (t) => {
    const env = { ...plainEnv, NOT_READY_MS: "300" };
    const { port } = await startTestPlatform(t, { ...without, env });
    t.equal((await fetchPlain(port, "/readyz")).status, 200);
  },
);

t.test(
  "a start that cannot succeed says why in one line and leaves no process",
  async (t) => {
    const pids = new Set<number>();
    const base = {
      functions: testPair(),
      env: plainEnv,
      log: {
        ...silentLog,
        debug(facts: { pid?: number }) {
          if (facts.pid) pids.add(facts.pid);
        },
      },
    };
    const { port } = await startTestPlatform(t, without);
    const cases = [
      [
        { ...base, port },
        `port ${port} is taken: set GATEWAY_PORT or stop what uses it`,
      ],
      [
        {
          ...base,
          functions: testPair({ httpDirectory: directoryOf("broken") }),
        },
        "http-fn ended before it listened (exit code 7: no such luck).",
      ],
      [
        {
          ...base,
          functions: testPair({ wsDirectory: directoryOf("broken") }),
        },
        "ws-fn ended before it listened (exit code 7: no such luck).",
      ],
      [
        {
          ...base,
          env: { ...plainEnv, NOT_READY_MS: "60000" },
          limits: { readySeconds: 0.2 },
        },
        "http-fn is not ready after 0.2 s: GET /readyz: 503 not yet",
      ],
    ] as const;
    for (const [options, message] of cases)
      await t.rejects(startPlatform(options), new PlatformError(message));
    t.ok(pids.size >= 3);
    for (const pid of pids) t.notOk(processLives(pid));
  },
);

/** Sends three pieces of 100,000 bytes without saying how many there will be. */
function chunkedUpload(port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const upload = request(
      { host: "127.0.0.1", port, method: "POST", path: "/upload" },
      (answer) => {
        let text = "";
        answer.on("data", (piece: Buffer) => (text += String(piece)));
        answer.on("end", () => resolve((JSON.parse(text) as Told).bytes));
      },
    );
    upload.on("error", reject);
    for (let i = 0; i < 3; i++) upload.write(Buffer.alloc(100_000, 66));
    upload.end();
  });
}
