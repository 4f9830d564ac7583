// How connections end under the switches, and how the platform itself ends them.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { silentLog } from "../../platform/logs.js";
import type { PlatformOptions } from "../../platform/platform.js";
import {
  closePayload,
  connectionsOf,
  directoryOf,
  frame,
  lastEnded,
  openClient,
  processLives,
  rawClient,
  rawWebSocket,
  someMask,
  splitAnswer,
  startTestPlatform,
  type TestPair,
  until,
  upgradeRequest,
} from "../fixtures/functions/platform.js";
import { skippingClock } from "../fixtures/skipping-clock.js";

const SECOND = 1_000;
const HOUR = 3_600_000;

/** A platform whose time can be skipped, and the lines its functions print. */
async function start(
  t: Parameters<typeof startTestPlatform>[0],
  options: Partial<PlatformOptions> & TestPair = {},
) {
  const { clock, skip } = skippingClock();
  const printed: string[] = [];
  const { port } = await startTestPlatform(t, {
    clock,
    print: ({ line }) => printed.push(line),
    ...options,
    // A function that is stopped or killed at once has no time to say what it heard.
    rules: { graceAfterCloseMs: HOUR, sigtermGraceMs: HOUR, ...options.rules },
    // What is skipped must not be missing elsewhere: neither to a start nor to the end of a line.
    limits: {
      readySeconds: 10_000,
      lingerMs: 600_000,
      stopGraceMs: 500,
      ...options.limits,
    },
    http: { initTimeoutSeconds: 10_000 },
    ws: { initTimeoutSeconds: 10_000, idleSeconds: 10, ...options.ws },
  });
  return {
    port,
    skip: (seconds: number) => skip(seconds * SECOND),
    heard: (code: number) =>
      until(`the function to hear ${code}`, () => {
        const at = printed.indexOf(`closed ${code}`);
        return at >= 0 && printed.splice(0, at + 1).length > 0;
      }),
  };
}

t.test("the switches of one platform, documented", async (t) => {
  const { port, skip, heard } = await start(t);

  t.test(
    "WS-CLOSE-12: either direction keeps a connection, and silence counts from the last message",
    async (t) => {
      const client = await openClient(port);
      for (let i = 0; i < 3; i++) {
        // Only upstream: there is no answer to wait for, so the record is asked.
        client.socket.send("!hush");
        await until("the message to pass", async () => {
          const [newest] = await connectionsOf(port);
          return newest?.counters.clientMessages === i + 1;
        });
        skip(7);
      }
      client.socket.send("!push 20");
      for (let i = 0; i < 3; i++) {
        // Only downstream.
        await client.next();
        skip(7);
        await client.next();
      }
      const [newest] = await connectionsOf(port);
      t.equal(newest?.state, "established");
      client.socket.close(1000);
      await client.closed;
      t.match(await lastEnded(port), { statusCode: 200 });
      await heard(1000);
    },
  );

  t.test(
    "WS-CLOSE-11, WS-CLOSE-13, WS-CLOSE-15: pings do not keep it; it ends with 455, without a Close frame",
    async (t) => {
      const client = await openClient(port);
      const pinged = new Promise((resolve) =>
        client.socket.once("ping", resolve),
      );
      client.socket.send("!ping");
      await pinged;
      skip(7);
      client.socket.ping();
      await new Promise((resolve) => client.socket.once("pong", resolve));
      skip(7);
      t.equal(await client.closed, 1006);
      await heard(1006);
      t.match(await lastEnded(port), {
        statusCode: 455,
        statusMessage: "WebSocketIdleTimeout",
        closeInitiator: "platform",
        closeCode: 1006,
        why: "No data in either direction for the idle timeout of 10 s (pings do not count): send a small message more often than that.",
      });
    },
  );

  t.test(
    "WS-CLOSE-9: a client that only stops sending, without a Close frame, has dropped its line",
    async (t) => {
      const client = await rawWebSocket(port, "/ws", { allowHalfOpen: true });
      client.socket.end();
      await client.ended;
      await heard(1006);
      t.match(await lastEnded(port), {
        statusCode: 456,
        closeInitiator: "client",
        closeCode: 1006,
      });
    },
  );

  t.test(
    "WS-CLOSE-8: a Close frame without a code gives a warning that names the way out",
    async (t) => {
      const client = await openClient(port);
      client.socket.close();
      await client.closed;
      t.match(await lastEnded(port), {
        statusCode: 456,
        warnings: [
          "A side closed without a code: close with an explicit 1000 [WS-CLOSE-8].",
        ],
      });
    },
  );

  t.test(
    "WS-CLOSE-10, WS-LIFE-9: a process that has no memory left is 434, and is not used again",
    async (t) => {
      const client = await openClient(port);
      const { pid } = await client.about();
      client.socket.send("!no-memory");
      t.equal(await client.closed, 1006);
      const record = await lastEnded(port);
      t.match(record, { statusCode: 434, exit: { signal: "SIGABRT" } });
      t.match(record.exit?.stderr.join("\n"), /heap out of memory/);
      await until("the process to end", () => !processLives(pid));
    },
  );
});

t.test("the same switches the other way", async (t) => {
  const { port, skip, heard } = await start(t, {
    rules: {
      strictCloseDirection: true,
      lenientNoCode: true,
      countControlFrames: true,
      platformClose: 1001,
      reuseAfterFailure: false,
    },
  });

  t.test(
    "WS-CLOSE-7: strictly, 1010 from the server and 1011 from the client are failures",
    async (t) => {
      const byServer = await openClient(port);
      byServer.socket.send("!close 1010");
      t.equal(await byServer.closed, 1010);
      t.match(await lastEnded(port), { statusCode: 439, closeCode: 1010 });
      const byClient = await rawWebSocket(port);
      const payload = closePayload(1011);
      byClient.socket.write(frame({ opcode: 8, payload, mask: someMask }));
      await byClient.ended;
      t.match(await lastEnded(port), { statusCode: 456, closeCode: 1011 });
    },
  );

  t.test("WS-CLOSE-8: leniently, no code is a success", async (t) => {
    const client = await openClient(port);
    client.socket.close();
    await client.closed;
    t.match(await lastEnded(port), {
      statusCode: 200,
      closeCode: 1005,
      warnings: [/explicit 1000/],
    });
  });

  t.test(
    "WS-CLOSE-13, WS-CLOSE-15: pings keep it; when they stop, both sides hear the Close frame of the switch",
    async (t) => {
      const client = await openClient(port);
      const { pid } = await client.about();
      for (let i = 0; i < 3; i++) {
        skip(7);
        client.socket.ping();
        await new Promise((resolve) => client.socket.once("pong", resolve));
      }
      skip(11);
      t.equal(await client.closed, 1001);
      await heard(1001);
      t.match(await lastEnded(port), {
        statusCode: 455,
        closeInitiator: "platform",
        closeCode: 1001,
      });
      await until("WS-LIFE-9: no reuse", () => !processLives(pid));
    },
  );

  t.test(
    "WS-CLOSE-15: in the middle of a client's frame the function hears no Close; after its end it does",
    async (t) => {
      const client = await rawWebSocket(port, "/ws", { allowHalfOpen: true });
      const message = frame({
        opcode: 2,
        payload: Buffer.alloc(1_000, 5),
        mask: someMask,
      });
      client.socket.write(message.subarray(0, 500));
      await until("half of it to be there", async () => {
        const [newest] = await connectionsOf(port);
        return newest?.meter?.client.peakBytesPerSecond;
      });
      skip(11);
      const close = frame({ opcode: 8, payload: closePayload(1001) });
      await client.hears(close.toString("latin1"));
      client.socket.write(message.subarray(500));
      await heard(1001); // a broken frame would be 1002 or 1006
      client.socket.end();
      await client.ended;
      t.match(await lastEnded(port), {
        statusCode: 455,
        counters: { clientMessages: 1 },
      });
    },
  );
});

t.test(
  "WS-CLOSE-15: in the middle of a function's frame the client hears no Close; after its end it does",
  async (t) => {
    const { port, skip } = await start(t, {
      wsDirectory: directoryOf("wire"),
      rules: { platformClose: 1001 },
    });
    const folder = t.testdir();
    const score = join(folder, "score");
    const message = frame({ opcode: 2, payload: Buffer.alloc(1_000, 5) });
    const play = [message.subarray(0, 300), message.subarray(300)].map((one) =>
      one.toString("base64"),
    );
    // The second half is sent when the function hears the platform's Close.
    const record = join(folder, "record");
    writeFileSync(score, JSON.stringify({ record, play, first: 1 }));
    const client = rawClient(port);
    client.socket.write(upgradeRequest(port, `/ws?score=${score}`));
    await client.hears("\r\n\r\n");
    const heard = () => {
      const all = client.received();
      return all.subarray(all.indexOf("\r\n\r\n") + 4);
    };
    await until("the first half", () => heard().length === 300);
    skip(11);
    await client.ended;
    const close = frame({ opcode: 8, payload: closePayload(1001) });
    t.ok(heard().equals(Buffer.concat([message, close])));
    t.match(await lastEnded(port), { statusCode: 455, closeCode: 1001 });
  },
);

t.test(
  "WS-TIME-3: the execution time counts from the ready instance, or from the request with its wait for one",
  async (t) => {
    for (const executionFrom of ["ready", "request"] as const) {
      const { clock, skip } = skippingClock();
      let isSkipped = false;
      const { port } = await startTestPlatform(t, {
        clock,
        rules: { executionFrom },
        limits: { wsPrewarm: 0, readySeconds: 10_000 },
        http: { initTimeoutSeconds: 10_000 },
        ws: {
          initTimeoutSeconds: 10_000,
          idleSeconds: 1_000,
          timeoutSeconds: 1_000,
        },
        log: {
          ...silentLog,
          // The start of the first instance takes longer than the execution timeout.
          debug(facts: { functionName?: string }, text) {
            if (isSkipped || facts.functionName !== "ws-fn") return;
            isSkipped = text.endsWith("-> initialising");
            if (isSkipped) skip(1_001 * SECOND);
          },
        },
      });
      if (executionFrom === "ready") {
        const client = await openClient(port);
        client.socket.close(1000);
        await client.closed;
        t.match(await lastEnded(port), { statusCode: 200, coldStart: true });
        const busy = await openClient(port);
        await busy.about();
        skip(1_001 * SECOND);
        t.equal(await busy.closed, 1006);
      } else {
        const refused = rawClient(port);
        refused.socket.write(upgradeRequest(port));
        await refused.ended;
        t.equal(splitAnswer(String(refused.received())).status, 503);
      }
      t.match(await lastEnded(port), {
        statusCode: 433,
        closeInitiator: "platform",
        why: /^The execution timeout of 1000 s ran out/,
      });
    }
  },
);

t.test(
  "WS-CLOSE-14: a function that does not answer the upgrade in time is 433, and the client hears why",
  async (t) => {
    for (const startFailureAnswer of ["problem", "status"] as const) {
      const { port, skip } = await start(t, {
        rules: { startFailureAnswer },
        ws: { timeoutSeconds: 30 },
      });
      const client = rawClient(port);
      client.socket.write(upgradeRequest(port, "/ws?mute"));
      await until("the hand-over", async () => {
        const [newest] = await connectionsOf(port);
        return newest?.state === "dispatched";
      });
      skip(31);
      await client.ended;
      const { status, body } = splitAnswer(String(client.received()));
      const record = await lastEnded(port);
      t.match(record, { statusCode: 433, establishedAt: null });
      if (startFailureAnswer === "problem") {
        t.equal(status, 503);
        t.match(JSON.parse(body), { code: "outcome_unknown" });
      } else {
        t.equal(status, 433);
        t.strictSame(JSON.parse(body), {
          errorCode: 433,
          errorMessage:
            "TimeLimitReached: The function did not answer in time.",
          requestId: record.requestId,
        });
      }
    }
  },
);
