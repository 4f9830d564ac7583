// Faults by rule, through a real platform: each connection of a function has its own.

import { readFileSync } from "node:fs";
import t from "tap";
import { parseFaults } from "../../platform/faults.js";
import {
  connectionsOf,
  lastEnded,
  openClient,
  processLives,
  rawClient,
  splitAnswer,
  startTestPlatform,
  until,
  upgradeRequest,
} from "../fixtures/functions/platform.js";
import { skippingClock } from "../fixtures/skipping-clock.js";

/** `T` while a process is stopped. */
function stateOf(pid: number): string {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  return stat.slice(stat.lastIndexOf(")") + 2).charAt(0);
}

t.test("faults, one connection each", async (t) => {
  const { clock, skip } = skippingClock();
  const client = { on: "message", from: "client" };
  const server = { on: "message", from: "server" };
  const { port } = await startTestPlatform(t, {
    clock,
    // The platform itself stops no process here, or it could not be told apart from a fault.
    rules: { startFailureAnswer: "status", graceAfterCloseMs: 36_000_000 },
    limits: { readySeconds: 10_000 },
    http: { initTimeoutSeconds: 10_000 },
    ws: { initTimeoutSeconds: 10_000, idleSeconds: 600 },
    faults: parseFaults([
      { on: "connect", do: "refuse", status: 449, connection: 1 },
      { ...client, nth: 3, do: "kill", connection: 2 },
      { ...server, nth: 2, do: "kill", connection: 3 },
      { ...client, nth: 2, do: "drop", connection: 4 },
      { ...server, nth: 2, do: "drop", line: "server", connection: 5 },
      { ...client, nth: 2, do: "halfOpen", connection: 6 },
      { ...client, nth: 2, do: "freeze", forMs: 30_000, connection: 7 },
      { ...server, nth: 2, do: "freeze", connection: 8 },
      { on: "connect", do: "slow", delayMs: 30_000, connection: 9 },
      { ...client, nth: 2, do: "slow", bytesPerSecond: 1, connection: 10 },
      { ...client, nth: 1, do: "kill", function: "http-fn" },
    ]),
  });

  await t.test("1: refused, without an instance", async (t) => {
    const refused = rawClient(port);
    refused.socket.write(upgradeRequest(port));
    await refused.ended;
    const { status, head, body } = splitAnswer(String(refused.received()));
    t.equal(status, 449);
    t.match(head, /^HTTP\/1.1 449 InsufficientResources\r\n/);
    const record = await lastEnded(port);
    t.match(record, { statusCode: 449, instanceId: null, establishedAt: null });
    t.match(JSON.parse(body), {
      errorCode: 449,
      requestId: record.requestId,
    });
  });

  for (const [from, echoes] of [
    ["client", 2],
    ["server", 1],
  ] as const)
    await t.test(
      `WS-CLOSE-10: a process killed at a message of the ${from} is 439, and that message does not pass`,
      async (t) => {
        const client = await openClient(port);
        const [newest] = await connectionsOf(port);
        const heard: string[] = [];
        client.socket.on("message", (data: Buffer) =>
          heard.push(data.toString()),
        );
        for (let i = 1; i <= 3; i++) {
          client.socket.send(`${i}`);
          if (i <= echoes) t.equal(String(await client.next()), `${i}`);
          else break;
        }
        t.equal(await client.closed, 1006);
        t.equal(heard.length, echoes);
        t.match(await lastEnded(port), {
          requestId: newest?.requestId,
          statusCode: 439,
          closeInitiator: "server",
          exit: { code: null, signal: "SIGKILL" },
        });
      },
    );

  await t.test("WS-CLOSE-9: 4: the client's line drops", async (t) => {
    const client = await openClient(port);
    client.socket.send("1");
    await client.next();
    client.socket.send("2");
    t.equal(await client.closed, 1006);
    t.match(await lastEnded(port), {
      statusCode: 456,
      closeInitiator: "client",
      closeCode: 1006,
    });
  });

  await t.test(
    "WS-CLOSE-9: 5: the function's line drops and its process lives",
    async (t) => {
      const client = await openClient(port);
      const { pid } = await client.about();
      t.ok(processLives(pid));
      client.socket.send("2");
      t.equal(await client.closed, 1006);
      t.match(await lastEnded(port), {
        statusCode: 439,
        closeInitiator: "server",
        exit: null,
        why: "The function dropped the line without a Close frame.",
      });
    },
  );

  await t.test(
    "WS-CLOSE-11: 6: a half-open line is noticed by nobody but the idle timeout",
    async (t) => {
      const client = await openClient(port);
      client.socket.send("1");
      await client.next();
      client.socket.send("2");
      await until("the third message to be swallowed", async () => {
        client.socket.send("!close 4000");
        const [newest] = await connectionsOf(port);
        return newest?.counters.clientMessages === 1;
      });
      client.socket.terminate();
      await client.closed;
      t.equal((await connectionsOf(port))[0]?.state, "established");
      skip(601_000);
      t.match(await lastEnded(port), {
        statusCode: 455,
        closeInitiator: "platform",
        counters: { clientMessages: 1, serverMessages: 1 },
      });
    },
  );

  await t.test(
    "7: a process frozen in the middle of a message goes on with it",
    async (t) => {
      const client = await openClient(port);
      const { pid } = await client.about();
      client.socket.send("in the middle");
      await until("the process to stand still", () => stateOf(pid) === "T");
      const [newest] = await connectionsOf(port);
      t.match(newest?.counters, { clientMessages: 1, clientBytes: 6 });
      skip(30_001);
      t.equal(String(await client.next()), "in the middle");
      t.not(stateOf(pid), "T");
      client.socket.close(1000);
      t.equal(await client.closed, 1000);
      t.match(await lastEnded(port), { statusCode: 200 });
    },
  );

  await t.test(
    "8: a process that is never thawed runs again when its connection is over",
    async (t) => {
      const client = await openClient(port);
      const { pid } = await client.about();
      client.socket.send("x");
      await until("the process to stand still", () => stateOf(pid) === "T");
      client.socket.terminate();
      await client.closed;
      t.match(await lastEnded(port), { statusCode: 456 });
      await until("it to run again, or to end", () => {
        return !processLives(pid) || stateOf(pid) !== "T";
      });
    },
  );

  await t.test("9: a slow line keeps bytes, order and ends", async (t) => {
    const client = await openClient(port);
    for (const text of ["1", "2", "3"]) client.socket.send(text);
    client.socket.close(1000);
    await until("all of it to be on the way", async () => {
      const [newest] = await connectionsOf(port);
      return newest?.counters.clientMessages === 3;
    });
    t.equal((await connectionsOf(port))[0]?.counters.serverMessages, 0);
    for (const text of ["1", "2", "3"]) {
      const heard = client.next();
      let isThere = false;
      void heard.then(() => (isThere = true));
      await until(`${text} to arrive`, () => {
        if (!isThere) skip(10_000);
        return isThere;
      });
      t.equal(String(await heard), text);
    }
    const closed = client.closed;
    let isClosed = false;
    void closed.then(() => (isClosed = true));
    await until("the end to arrive", () => {
      if (!isClosed) skip(10_000);
      return isClosed;
    });
    t.equal(await closed, 1000);
    t.match(await lastEnded(port), { statusCode: 200 });
  });

  await t.test("10: a narrow line takes its time", async (t) => {
    const client = await openClient(port);
    client.socket.send("1");
    t.equal(String(await client.next()), "1");
    const long = "2".repeat(100);
    client.socket.send(long);
    // A byte a second: minutes on the way there, and on the way back.
    await until("it to be on the way", async () => {
      const [newest] = await connectionsOf(port);
      return newest?.counters.clientMessages === 2;
    });
    t.equal((await connectionsOf(port))[0]?.counters.serverMessages, 1);
    const heard = client.next();
    let isThere = false;
    void heard.then(() => (isThere = true));
    await until("it to arrive", () => {
      if (!isThere) skip(10_000);
      return isThere;
    });
    t.equal(String(await heard), long);
    client.socket.terminate();
    await client.closed;
    await until("the end of it", async () => {
      skip(10_000);
      const [newest] = await connectionsOf(port);
      return newest?.state === "ended";
    });
  });
});
