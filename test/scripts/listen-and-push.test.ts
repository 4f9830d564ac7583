/** `npm run listen` and `npm run push`, as built: what they print where, and how they end. */

import { once } from "node:events";
import { createServer } from "node:http";
import { connect as connectTo, type AddressInfo } from "node:net";
import t, { type Test } from "tap";
import { WebSocketServer } from "ws";
import { startProcess } from "../../scripts/lab/processes.js";
import { startScriptedBridge } from "../fixtures/scripted-bridge.js";
import { until } from "../../scripts/lab/until.js";

const listen = (t: Test, ...args: string[]) =>
  startProcess(t, { args: ["dist/scripts/listen.js", ...args] });

t.test("listen", async (t) => {
  t.test("prints its address, then each message on a line", async (t) => {
    const server = await startScriptedBridge(t);
    server.push("waited for you");
    const listener = await listen(t, "--url", server.url);
    await listener.waitForLine(/^waited for you$/);
    server.push("two\nlines\u001b[31m\u009b1m\u202egnp.\u2028\ufeff");
    server.push(Uint8Array.of(0, 255));
    await listener.waitForLine(/^\[2 bytes as base64\] AP8=$/);
    const { origin } = new URL(server.url.replace("ws:", "http:"));
    t.strictSame(
      listener.logs.filter((line) => !line.startsWith("push with: ")),
      [
        "c_scripted",
        "waited for you",
        String.raw`two\nlines\u001b[31m\u009b1m\u202egnp.\u2028\ufeff`,
        "[2 bytes as base64] AP8=",
      ],
    );
    t.ok(
      listener.logs.includes(
        `push with: curl -d hello ${origin}/v1/connections/c_scripted/messages`,
      ),
    );
    listener.kill("SIGINT");
    t.match(await listener.exited, { code: 0 });
    await until(() => server.closes.length === 1);
    t.same(server.closes, [1000]);
  });

  t.test("goes on after a cut", async (t) => {
    const server = await startScriptedBridge(t);
    const listener = await listen(t, "--url", server.url);
    await listener.waitForLine(/^c_scripted$/);
    server.cut();
    server.push("still there");
    await listener.waitForLine(/^still there$/);
  });

  t.test("says in one line why it was refused", async (t) => {
    const server = await startScriptedBridge(t);
    server.refusal = {
      status: 401,
      problem: { code: "unauthorized", detail: "no token" },
    };
    const listener = await listen(t, "--url", server.url);
    t.match(await listener.exited, { code: 1 });
    t.same(listener.logs, [
      "the server refused: status 401: unauthorized, no token",
    ]);
  });

  t.test(
    "as a user and member of groups it asks for a connection",
    async (t) => {
      const server = await startScriptedBridge(t);
      const asked: unknown[] = [];
      let status = 201;
      const http = createServer((request, response) => {
        void request.toArray().then((chunks) => {
          asked.push(JSON.parse(Buffer.concat(chunks as Buffer[]).toString()));
          response.writeHead(status);
          response.end(
            status === 201
              ? '{"token":"a.b.c"}'
              : '{"code":"invalid_body","detail":"/body/userId is no user ID"}',
          );
        });
      });
      // One address for both, as the stack has it: sockets go on to the scripted bridge.
      const { port: ws } = new URL(server.url);
      http.on("upgrade", (request, socket) => {
        const onward = connectTo(Number(ws), "127.0.0.1");
        onward.write(
          [
            `GET ${request.url} HTTP/1.1`,
            ...request.rawHeaders.flatMap((name, at) =>
              at % 2 === 0 ? [`${name}: ${request.rawHeaders[at + 1]}`] : [],
            ),
            "\r\n",
          ].join("\r\n"),
        );
        socket.pipe(onward).pipe(socket);
        for (const end of [socket, onward]) end.on("error", () => undefined);
      });
      http.listen(0, "127.0.0.1");
      t.teardown(() => http.close());
      await once(http, "listening");
      const { port } = http.address() as AddressInfo;
      const args = ["--url", `ws://127.0.0.1:${port}/ws`, "--user", "ann o'x"];
      const listener = await listen(t, ...args, "--group", "g", "--group", "h");
      await listener.waitForLine(/^c_scripted$/);
      await listener.waitForLine(/groups\/h/);
      t.same(asked, [{ userId: "ann o'x", groups: ["g", "h"] }]);
      t.same(
        listener.logs
          .filter((line) => line.startsWith("push with: "))
          .map((line) => line.replace(/.*\/v1\//, "")),
        [
          "connections/c_scripted/messages",
          "users/ann%20o%27x/messages",
          "groups/g/messages",
          "groups/h/messages",
        ],
      );
      await listener.stop();

      status = 400;
      const refused = await listen(t, ...args);
      t.match(await refused.exited, { code: 1 });
      t.same(refused.logs, ["invalid_body: /body/userId is no user ID"]);
    },
  );

  t.test("says how it is used", async (t) => {
    const help = await listen(t, "--help");
    t.match(await help.exited, { code: 0 });
    t.match(help.logs, [/^usage: npm run listen/]);
    const wrong = await listen(t, "--usr", "ann");
    t.match(await wrong.exited, { code: 1 });
    t.match(wrong.logs.join("\n"), /--usr.*\nusage: /s);
  });

  t.test("--raw takes every frame as it is", async (t) => {
    const server = new WebSocketServer({ host: "127.0.0.1", port: 0 });
    t.teardown(() => server.close());
    await once(server, "listening");
    let closeCode = 0;
    server.on("connection", (socket, request) => {
      t.equal(request.headers["sec-websocket-protocol"], undefined);
      t.equal(request.headers.authorization, "Bearer a.b.c");
      socket.on("close", (code) => (closeCode = code));
      socket.send('{"type":"welcome","connectionId":"c_raw"}');
      socket.send("plain");
      socket.send(Uint8Array.of(1, 2, 3));
    });
    const { port } = server.address() as AddressInfo;
    const url = `ws://127.0.0.1:${port}/ws`;
    const listener = await listen(t, "--raw", "--url", url, "--token", "a.b.c");
    await listener.waitForLine(/AQID/);
    t.same(
      listener.logs.filter((line) => !line.startsWith("push with: ")),
      ["c_raw", "plain", "[3 bytes as base64] AQID"],
    );
    listener.kill("SIGINT");
    t.match(await listener.exited, { code: 0 });
    await until(() => closeCode === 1000);
  });
});

t.test("push", async (t) => {
  const requests: object[] = [];
  let answer: [number, string] = [202, '{"id":"m_1"}\n'];
  const server = createServer((request, response) => {
    void request.toArray().then((chunks) => {
      const { method, url, headers } = request;
      const body = Buffer.concat(chunks as Buffer[]).toString();
      requests.push({ method, url, headers, body });
      response.writeHead(answer[0]).end(answer[1]);
    });
  }).listen(0, "127.0.0.1");
  t.teardown(() => server.close());
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const push = (t: Test, ...args: string[]) =>
    startProcess(t, {
      args: ["dist/scripts/push.js", ...args],
      env: {
        BRIDGE_HTTP_URL: `http://127.0.0.1:${port}`,
        BRIDGE_API_KEY: "secret",
      },
    });

  t.test("sends the text and prints the answer", async (t) => {
    const pusher = await push(t, "c_1", "hello", "world", "--wait", "5");
    t.match(await pusher.exited, { code: 0 });
    t.same(pusher.logs, ['{"id":"m_1"}']);
    t.match(requests, [
      {
        method: "POST",
        url: "/v1/connections/c_1/messages",
        headers: {
          "content-type": "text/plain",
          prefer: "wait=5",
          authorization: "Bearer secret",
        },
        body: "hello world",
      },
    ]);
  });

  t.test("says a problem in one line and ends with 1", async (t) => {
    answer = [404, '{"code":"not_found","detail":"No such connection."}'];
    const pusher = await push(t, "c_2", "hello");
    t.match(await pusher.exited, { code: 1 });
    t.same(pusher.logs, ["not_found: No such connection."]);
  });

  t.test("an answer steers no terminal", async (t) => {
    const odd = "\u001b]0;x\u0007\u009b2J\u202e\n";
    const shown = String.raw`\u001b]0;x\u0007\u009b2J\u202e`;
    answer = [202, `{"id":"${odd.trim()}"}\n`];
    const pusher = await push(t, "c_1", "hello");
    await pusher.exited;
    t.same(pusher.logs, [`{"id":"${shown}"}`]);
    answer = [404, JSON.stringify({ code: "x", detail: odd })];
    const refused = await push(t, "c_1", "hello");
    await refused.exited;
    t.same(refused.logs, [String.raw`x: ${shown}\n`]);
  });

  t.test("says when nobody is there", async (t) => {
    const gone = createServer().listen(0, "127.0.0.1");
    await once(gone, "listening");
    const { port } = gone.address() as AddressInfo;
    gone.close();
    const pusher = await startProcess(t, {
      args: ["dist/scripts/push.js", "c_1", "hello"],
      env: { BRIDGE_HTTP_URL: `http://127.0.0.1:${port}` },
    });
    t.match(await pusher.exited, { code: 1 });
    t.match(pusher.logs, [/ECONNREFUSED/]);
    t.equal(pusher.logs.length, 1);
  });
});
