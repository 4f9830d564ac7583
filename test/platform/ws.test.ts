// A WebSocket's way through the platform: what passes, who serves, how it ends.

import t from "tap";
import {
  ask,
  closePayload,
  connectionsOf,
  directoryOf,
  frame,
  lastEnded,
  openClient,
  plainEnv,
  processLives,
  rawClient,
  rawWebSocket,
  someMask,
  splitAnswer,
  startTestPlatform,
  testPair,
  until,
  upgradeRequest,
} from "../fixtures/functions/platform.js";
import { realClock } from "../../platform/clock.js";
import { silentLog } from "../../platform/logs.js";
import { startPlatform } from "../../platform/platform.js";

interface InstanceLine {
  functionName: string;
  instanceId: string;
  pid: number;
  state: string;
  served: number;
}

/** These tests say much at once; that it is too much has files of its own. */
const onlyWarn = {
  messageSizePolicy: "warn",
  bytesPolicy: "warn",
  messagesPolicy: "warn",
} as const;

t.test("one platform", async (t) => {
  const { port } = await startTestPlatform(t, { rules: onlyWarn });

  t.test(
    "WS-CONN-4: text, binary, empty and large messages come back as they were",
    async (t) => {
      const client = await openClient(port);
      const messages = [
        Buffer.from("hello"),
        Buffer.alloc(0),
        Buffer.from(Array.from({ length: 256 }, (_, i) => i)),
        Buffer.alloc(200_000, "é"),
        Buffer.alloc(3_000_000, 7),
      ];
      for (const message of messages) client.socket.send(message);
      for (const message of messages)
        t.ok((await client.next()).equals(message), `${message.length} bytes`);
      client.socket.close(1000);
      await client.closed;
      const { counters, warnings } = await lastEnded(port);
      const bytes = messages.reduce((sum, one) => sum + one.length, 0);
      t.strictSame(counters, {
        clientMessages: 5,
        clientBytes: bytes,
        serverMessages: 5,
        serverBytes: bytes,
      });
      const tooLarge = warnings.filter((one) => one.includes("WS-LIM-1"));
      t.equal(tooLarge.length, 2, "reported in both directions");
    },
  );

  t.test(
    "WS-CONN-4: raw bytes, frames cut anywhere and pings pass unchanged",
    async (t) => {
      const client = await rawWebSocket(port);
      const head = client.received().length;
      const payload = Buffer.from("fragmented");
      const bytes = Buffer.concat([
        frame({ opcode: 1, payload, final: false, mask: someMask }),
        frame({ opcode: 9, payload: Buffer.from("?"), mask: someMask }),
        frame({ opcode: 0, payload, mask: someMask }),
      ]);
      for (const byte of bytes) client.socket.write(Buffer.from([byte]));
      await client.hears("fragmentedfragmented");
      t.strictSame(
        client.received().subarray(head),
        Buffer.concat([
          frame({ opcode: 10, payload: Buffer.from("?") }),
          frame({ opcode: 1, payload: Buffer.concat([payload, payload]) }),
        ]),
      );
      client.socket.destroy();
      await client.ended;
    },
  );

  t.test(
    "WS-CONN-3: the function chooses the subprotocol and sees the request as it was",
    async (t) => {
      const client = await openClient(port, "/ws/deep?x=%20y", ["a", "b"], {
        headers: {
          Cookie: "k=v",
          "X-Own": "yes",
          "X-Forwarded-For": "6.6.6.6",
          "X-Scf-Request-Id": "mine",
        },
      });
      t.equal(client.socket.protocol, "b");
      const { url, headers, maxSockets, local } = await client.about();
      t.equal(url, "/ws/deep?x=%20y");
      t.match(headers, {
        host: `127.0.0.1:${port}`,
        cookie: "k=v",
        "x-own": "yes",
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-host": `127.0.0.1:${port}`,
        "x-forwarded-proto": "http",
      });
      t.equal(maxSockets, "1");
      t.equal(local, "1");
      const [running] = await connectionsOf(port);
      t.match(running, {
        statusCode: 202,
        state: "established",
        endedAt: null,
      });
      t.equal(headers["x-scf-request-id"], running?.requestId);
      client.socket.close(1000);
      await client.closed;
    },
  );

  t.test(
    "WS-CONN-3: a refusal by the function arrives unchanged, body and all",
    async (t) => {
      const client = rawClient(port);
      client.socket.write(upgradeRequest(port, "/ws?refuse"));
      await client.ended;
      const { status, head, body } = splitAnswer(String(client.received()));
      t.equal(status, 401);
      t.match(head, /^X-Reason: none$/m);
      t.equal(body, '{"code":"token_invalid"}');
      t.match(await lastEnded(port), {
        statusCode: 200,
        closeInitiator: "none",
        closeCode: null,
        establishedAt: null,
        why: "The function answered the upgrade with HTTP 401.",
      });
    },
  );

  t.test(
    "WS-CONN-6: a plain request to the WebSocket function, and a WebSocket elsewhere, are refused without an instance",
    async (t) => {
      const before = (await connectionsOf(port)).length;
      const plain = rawClient(port);
      plain.socket.write(
        `GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n`,
      );
      await plain.ended;
      t.equal(splitAnswer(String(plain.received())).status, 426);
      for (const path of ["/v1/x", "/wsx", "/_platform/invocations"]) {
        const elsewhere = rawClient(port);
        elsewhere.socket.write(upgradeRequest(port, path));
        await elsewhere.ended;
        t.equal(splitAnswer(String(elsewhere.received())).status, 404);
      }
      t.equal((await connectionsOf(port)).length, before);
    },
  );

  t.test(
    "WS-LIFE-3: two simultaneous connects get two instances",
    async (t) => {
      const clients = await Promise.all([
        openClient(port),
        openClient(port),
        openClient(port),
      ]);
      const pids = await Promise.all(
        clients.map(async (client) => (await client.about()).pid),
      );
      t.equal(new Set(pids).size, 3);
      const instances = await ask<InstanceLine[]>(port, "instances");
      for (const pid of pids)
        t.match(
          instances.find((one) => one.pid === pid),
          { functionName: "ws-fn", state: "serving" },
        );
      for (const client of clients) client.socket.close(1000);
      await Promise.all(clients.map((client) => client.closed));
    },
  );

  t.test(
    "WS-LIFE-1, WS-LIFE-8: one connection is one invocation, and a warm instance serves the next one",
    async (t) => {
      const first = await openClient(port);
      const { pid } = await first.about();
      for (let i = 0; i < 20; i++) first.socket.send("x");
      for (let i = 0; i < 20; i++) await first.next();
      const before = (await connectionsOf(port)).length;
      first.socket.close(1000);
      await first.closed;
      const ended = await lastEnded(port);
      t.equal((await connectionsOf(port)).length, before);
      t.equal(ended.counters.clientMessages, 21);
      t.type(ended.billing?.durationMs, "number");

      await until("the instance to be free again", async () => {
        const instances = await ask<InstanceLine[]>(port, "instances");
        return instances.find((one) => one.pid === pid)?.state === "frozen";
      });
      // Any instance that has served may be chosen, but no fresh one.
      const second = await openClient(port);
      t.ok((await second.about()).connections > 1);
      second.socket.close(1000);
      await second.closed;
      t.match(await lastEnded(port), { coldStart: false });
    },
  );

  t.test("WS-CLOSE-1: 1000 from the client is a success", async (t) => {
    const client = await openClient(port);
    client.socket.close(1000);
    t.equal(await client.closed, 1000);
    t.match(await lastEnded(port), {
      statusCode: 200,
      closeInitiator: "client",
      closeCode: 1000,
    });
  });

  t.test("WS-CLOSE-1: 1000 from the server is a success", async (t) => {
    const client = await openClient(port);
    client.socket.send("!close 1000");
    t.equal(await client.closed, 1000);
    t.match(await lastEnded(port), {
      statusCode: 200,
      closeInitiator: "server",
      closeCode: 1000,
    });
  });

  t.test("WS-CLOSE-2: 1010 from the client is a success", async (t) => {
    const client = await rawWebSocket(port);
    const payload = closePayload(1010);
    client.socket.write(frame({ opcode: 8, payload, mask: someMask }));
    await client.ended;
    t.match(await lastEnded(port), {
      statusCode: 200,
      closeInitiator: "client",
      closeCode: 1010,
    });
  });

  t.test("WS-CLOSE-3: 1011 from the server is a success", async (t) => {
    const client = await openClient(port);
    client.socket.send("!close 1011");
    t.equal(await client.closed, 1011);
    t.match(await lastEnded(port), {
      statusCode: 200,
      closeInitiator: "server",
      closeCode: 1011,
    });
  });

  t.test(
    "WS-CLOSE-4, WS-LIFE-9: any other code from the server is 439, and its instance is not used again",
    async (t) => {
      for (const code of [1001, 1002, 1008, 1009, 3000, 4000, 4999]) {
        const client = await openClient(port);
        const { pid } = await client.about();
        client.socket.send(`!close ${code}`);
        t.equal(await client.closed, code);
        t.match(await lastEnded(port), {
          statusCode: 439,
          closeInitiator: "server",
          closeCode: code,
        });
        await until("the process to end", () => !processLives(pid));
      }
    },
  );

  t.test("WS-CLOSE-5: any other code from the client is 456", async (t) => {
    for (const code of [1001, 1002, 1008, 1009, 3000, 4000, 4999]) {
      const client = await rawWebSocket(port);
      const payload = closePayload(code);
      client.socket.write(frame({ opcode: 8, payload, mask: someMask }));
      await client.ended;
      t.match(await lastEnded(port), {
        statusCode: 456,
        closeInitiator: "client",
        closeCode: code,
      });
    }
  });

  t.test(
    "WS-CLOSE-8: a Close frame without a code is a failure of the side that sent it",
    async (t) => {
      const byClient = await openClient(port);
      byClient.socket.close();
      await byClient.closed;
      t.match(await lastEnded(port), {
        statusCode: 456,
        closeInitiator: "client",
        closeCode: 1005,
        why: /explicit 1000/,
      });
      const byServer = await openClient(port);
      byServer.socket.send("!close-empty");
      await byServer.closed;
      t.match(await lastEnded(port), {
        statusCode: 439,
        closeInitiator: "server",
        closeCode: 1005,
      });
    },
  );

  t.test(
    "WS-CLOSE-6: when both sides close, the first Close frame at the gateway counts",
    async (t) => {
      const client = await rawWebSocket(port);
      const command = Buffer.from("!close 4000");
      client.socket.write(
        Buffer.concat([
          frame({ opcode: 1, payload: command, mask: someMask }),
          frame({ opcode: 8, payload: closePayload(1000), mask: someMask }),
        ]),
      );
      await client.ended;
      t.match(await lastEnded(port), {
        statusCode: 200,
        closeInitiator: "client",
        closeCode: 1000,
        warnings: [
          "Both sides closed, the client with 1000 and the function with 4000: the first Close frame at the gateway counts [WS-CLOSE-6].",
        ],
      });
      const late = await rawWebSocket(port);
      late.socket.write(frame({ opcode: 1, payload: command, mask: someMask }));
      const heard = frame({ opcode: 8, payload: closePayload(4000) });
      await late.hears(heard.toString("latin1"));
      const payload = closePayload(1000);
      late.socket.write(frame({ opcode: 8, payload, mask: someMask }));
      await late.ended;
      t.match(await lastEnded(port), {
        statusCode: 439,
        closeInitiator: "server",
        closeCode: 4000,
        warnings: [/the client with 1000 and the function with 4000/],
      });
    },
  );

  t.test("WS-CLOSE-9: a client's line that drops is 456", async (t) => {
    const client = await openClient(port);
    client.socket.terminate();
    await client.closed;
    t.match(await lastEnded(port), {
      statusCode: 456,
      closeInitiator: "client",
      closeCode: 1006,
    });
  });

  t.test(
    "WS-CLOSE-9: a line dropped by a function that lives on is 439",
    async (t) => {
      const client = await openClient(port);
      client.socket.send("!drop");
      t.equal(await client.closed, 1006);
      t.match(await lastEnded(port), {
        statusCode: 439,
        closeInitiator: "server",
        closeCode: 1006,
        why: "The function dropped the line without a Close frame.",
      });
    },
  );

  t.test(
    "WS-CLOSE-10: a process that exits is 439, with its exit code and last words",
    async (t) => {
      const client = await openClient(port);
      client.socket.send("!exit 3");
      t.equal(await client.closed, 1006);
      t.match(await lastEnded(port), {
        statusCode: 439,
        closeInitiator: "server",
        closeCode: 1006,
        why: "The function's process ended (exit code 3: about to exit).",
        exit: { code: 3, signal: null, stderr: ["about to exit"] },
      });
    },
  );

  t.test(
    "a function that hangs up before it answers gives a problem, and 439",
    async (t) => {
      const client = rawClient(port);
      client.socket.write(upgradeRequest(port, "/ws?hangup"));
      await client.ended;
      const { status, body } = splitAnswer(String(client.received()));
      t.equal(status, 503);
      t.match(JSON.parse(body), { code: "outcome_unknown", status: 503 });
      t.match(await lastEnded(port), { statusCode: 439, establishedAt: null });
    },
  );

  t.test("a client that goes away before the answer is 499", async (t) => {
    const client = rawClient(port);
    client.socket.write(upgradeRequest(port, "/ws?mute"));
    await until("the hand-over", async () => {
      const [newest] = await connectionsOf(port);
      return newest?.state === "dispatched";
    });
    client.socket.destroy();
    t.match(await lastEnded(port), { statusCode: 499 });
  });

  t.test("frames sent together with the upgrade arrive", async (t) => {
    const client = rawClient(port);
    const hello = frame({
      opcode: 1,
      payload: Buffer.from("early bird"),
      mask: someMask,
    });
    client.socket.write(
      Buffer.concat([Buffer.from(upgradeRequest(port)), hello]),
    );
    await client.hears("early bird");
    t.match((await connectionsOf(port))[0]?.counters, { clientMessages: 1 });
    client.socket.destroy();
    await client.ended;
  });

  t.test(
    "a client that does not read holds the function back, and gets everything once it reads",
    async (t) => {
      const client = await openClient(port);
      const size = 40_000_000;
      client.socket.pause();
      client.socket.send(`!big ${size}`);
      // Read by another connection meanwhile: the slow one blocks nobody.
      const other = await openClient(port);
      await other.about();
      client.socket.resume();
      t.equal((await client.next()).length, size);
      for (const one of [client, other]) one.socket.close(1000);
      await Promise.all([client.closed, other.closed]);
    },
  );
});

t.test(
  "WS-LIFE-5: without prewarmed instances a connect starts one",
  async (t) => {
    const { port } = await startTestPlatform(t, { limits: { wsPrewarm: 0 } });
    const client = await openClient(port);
    client.socket.close(1000);
    await client.closed;
    t.match(await lastEnded(port), { statusCode: 200, coldStart: true });
  },
);

t.test(
  "WS-LIFE-3: when all instances are taken and no more may start, a connect is refused with 432",
  async (t) => {
    const limits = { wsPrewarm: 1, wsMaxInstances: 1, queueMs: 10 };
    const { port } = await startTestPlatform(t, { limits });
    const client = await openClient(port);
    const refused = rawClient(port);
    refused.socket.write(upgradeRequest(port));
    await refused.ended;
    const { status, head } = splitAnswer(String(refused.received()));
    t.equal(status, 503);
    t.match(head, /^Retry-After: 1$/m);
    t.match(await lastEnded(port), { statusCode: 432 });
    client.socket.close(1000);
    await client.closed;
  },
);

t.test(
  "WS-CLOSE-11, WS-CLOSE-13: silence, or nothing but pings, ends with 455 and no Close frame",
  async (t) => {
    const { port } = await startTestPlatform(t, { ws: { idleSeconds: 0.2 } });
    const silent = await openClient(port);
    const pinging = await openClient(port);
    pinging.socket.send("!ping-often 20");
    for (const client of [silent, pinging]) t.equal(await client.closed, 1006);
    await until("both to end", async () =>
      (await connectionsOf(port)).every((one) => one.state === "ended"),
    );
    for (const record of await connectionsOf(port))
      t.match(record, {
        statusCode: 455,
        closeInitiator: "platform",
        closeCode: 1006,
      });
  },
);

t.test(
  "WS-CLOSE-12, WS-CLOSE-14: data keeps a connection from 455, and nothing from 433",
  async (t) => {
    const ws = { idleSeconds: 0.4, timeoutSeconds: 1.2 };
    const { port } = await startTestPlatform(t, { ws });
    const client = await openClient(port);
    const { pid } = await client.about();
    client.socket.send("!push 20");
    t.equal(await client.closed, 1006);
    t.match(await lastEnded(port), {
      statusCode: 433,
      closeInitiator: "platform",
    });
    await until("WS-LIFE-9: the process to end", () => !processLives(pid));
  },
);

t.test(
  "WS-CLOSE-16: idle and execution timeout at the same time is 433",
  async (t) => {
    const ws = { idleSeconds: 0.3, timeoutSeconds: 0.3 };
    const { port } = await startTestPlatform(t, { ws });
    const client = await openClient(port);
    t.equal(await client.closed, 1006);
    t.match(await lastEnded(port), { statusCode: 433 });
  },
);

t.test(
  "WS-BOOT-2, WS-LIFE-10: a function that never listens is 446, one that ends at start 405, each once",
  async (t) => {
    for (const [name, status] of [
      ["silent", 446],
      ["broken", 405],
    ] as const) {
      let skippedMs = 0; // the init timeout of a silent function passes as soon as it begins
      const { port } = await startTestPlatform(t, {
        wsDirectory: directoryOf(name),
        limits: { wsPrewarm: 0 },
        clock: { ...realClock, now: () => Date.now() + skippedMs },
        log: {
          ...silentLog,
          debug(facts: { functionName?: string }, message) {
            const starts = message.endsWith("-> initialising");
            const isSilent =
              name === "silent" && facts.functionName === "ws-fn";
            // Not before the deadline is set, which comes next.
            if (starts && isSilent) queueMicrotask(() => (skippedMs = 61_000));
          },
        },
      });
      const client = rawClient(port);
      client.socket.write(upgradeRequest(port));
      await client.ended;
      t.equal(splitAnswer(String(client.received())).status, 503);
      const records = await connectionsOf(port);
      t.equal(records.length, 1);
      t.match(records[0], { statusCode: status, instanceId: null });
    }
  },
);

t.test(
  "closing sends the clients away by the function and leaves no process",
  async (t) => {
    const platform = await startPlatform({
      functions: testPair(),
      env: plainEnv,
    });
    t.teardown(() => platform.close());
    const client = await openClient(platform.port);
    const instances = await ask<InstanceLine[]>(platform.port, "instances");
    t.ok(instances.length >= 2);
    const closing = platform.close();
    t.equal(platform.close(), closing, "twice is once");
    t.equal(await client.closed, 1012);
    await closing;
    for (const { pid } of instances) t.notOk(processLives(pid), `pid ${pid}`);
  },
);
