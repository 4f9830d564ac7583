// What a developer sees of a real function: its lines, live and in order, how its connections ended, and the bill.

import t from "tap";
import type { InvocationRecord } from "../../platform/invocation.js";
import {
  ask,
  connectionsOf,
  fetchPlain,
  lastEnded,
  openClient,
  rawClient,
  startTestPlatform,
  until,
} from "../fixtures/functions/platform.js";

interface LogLine {
  requestId: string | null;
  instanceId: string;
  functionName: string;
  type: string;
  level: string;
  message: string;
}

/** Follows the log as `curl -N` does. */
function follow(port: number, query: string) {
  const client = rawClient(port);
  client.socket.write(
    `GET /_platform/logs?follow=1&${query} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nAccept: application/x-ndjson\r\n\r\n`,
  );
  const lines = () =>
    String(client.received())
      .split(/\r?\n/)
      .filter((line) => line.startsWith("{") && line.endsWith("}"))
      .map((line) => JSON.parse(line) as LogLine);
  return { ...client, lines };
}

async function logOf(port: number, requestId: string): Promise<LogLine[]> {
  const { body } = await fetchPlain(
    port,
    `/_platform/logs?format=json&requestId=${requestId}`,
  );
  return body
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as LogLine);
}

interface Bill {
  total: { invocations: number; notBilled: number; durationMs: number };
  functions: {
    functionName: string;
    invocations: number;
    durationMs: number;
  }[];
}

const billOf = async (port: number) => {
  const bill = await ask<Bill>(port, "billing");
  const ws = bill.functions.find((one) => one.functionName === "ws-fn");
  if (ws === undefined) throw new Error("ws-fn has no bill");
  return ws;
};

t.test("one platform", async (t) => {
  const { port, token } = await startTestPlatform(t, {
    // This client sends more than ten messages a second.
    rules: { messagesPolicy: "warn" },
  });

  t.test(
    "WS-LOG-1: what a function prints is seen live, in order, with its request and instance",
    async (t) => {
      const log = follow(port, "functionName=ws-fn");
      await log.hears("\r\n\r\n");
      const client = await openClient(port);
      const [running] = await connectionsOf(port);
      const steps = [
        ["!print first", "first", "INFO"],
        ["!complain second", "second", "ERROR"],
        ['!print {"user":"u1"}', '{"user":"u1"}', "INFO"],
      ] as const;
      for (const [command, message, level] of steps) {
        client.socket.send(command);
        // The two streams of a process have no order between them: one line after the other.
        const line = await until(message, () =>
          log.lines().find((one) => one.message === message),
        );
        t.match(line, {
          requestId: running?.requestId,
          instanceId: running?.instanceId,
          functionName: "ws-fn",
          type: "Custom",
          level,
        });
      }
      t.equal((await connectionsOf(port))[0]?.state, "established", "live");
      client.socket.close(1000);
      await client.closed;
      const { requestId } = await lastEnded(port);
      const wanted = [
        `START RequestId: ${requestId}`,
        ...steps.map(([, message]) => message),
        `Response RequestId: ${requestId} RetMsg: `,
        `END RequestId: ${requestId}`,
        `Report RequestId: ${requestId}`,
      ];
      await log.hears(`Report RequestId: ${requestId}`);
      const isWanted = ({ message }: LogLine) =>
        wanted.some((one) => message.startsWith(one));
      const startsOf = (lines: LogLine[]) =>
        lines
          .filter((line) => line.requestId === requestId && isWanted(line))
          .map(({ message }) => message.replace(/ Duration:.*/, ""));
      t.strictSame(startsOf(log.lines()), wanted, "as they came");
      t.strictSame(startsOf(await logOf(port, requestId)), wanted, "later");
      log.socket.destroy();
      await log.ended;
    },
  );

  t.test(
    "WS-LOG-2: code, cause and initiator stand in the record and in the log; a dead process shows its last words",
    async (t) => {
      for (const [command, code, initiator, why] of [
        ["!close 4000", 439, "server", "code 4000"],
        ["!exit 3", 439, "server", "exit code 3: about to exit"],
      ] as const) {
        const client = await openClient(port);
        const [running] = await connectionsOf(port);
        client.socket.send(command);
        await client.closed;
        const ended = await until("the end", async () =>
          (await connectionsOf(port)).find(
            (one) =>
              one.requestId === running?.requestId && one.state === "ended",
          ),
        );
        t.match(ended, { statusCode: code, closeInitiator: initiator });
        t.match(ended.why, why);
        const error = (await logOf(port, ended.requestId)).find((line) =>
          line.message.startsWith("ERROR"),
        );
        t.match(error?.message, `${code} UserProcessExit (by ${initiator}`);
        t.match(error?.message, why);
      }
    },
  );

  t.test(
    "WS-BILL-1, WS-BILL-2: connections are billed, messages are not; a running one is part of the bill",
    async (t) => {
      const before = await billOf(port);
      const clients = await Promise.all([1, 2, 3].map(() => openClient(port)));
      for (const client of clients) {
        for (let sent = 0; sent < 50; sent++) client.socket.send("hello");
        for (let heard = 0; heard < 50; heard++) await client.next();
      }
      const during = await billOf(port);
      t.equal(during.invocations, before.invocations + 3);
      await until("time to pass", async () => {
        const { durationMs } = await billOf(port);
        return durationMs > during.durationMs;
      });
      for (const client of clients) client.socket.close(1000);
      await until("all to end", async () =>
        (await connectionsOf(port)).every((one) => one.state === "ended"),
      );
      t.equal((await billOf(port)).invocations, before.invocations + 3);
      const [newest] = await connectionsOf(port);
      const { billing } = newest ?? {};
      t.equal(billing?.memoryMb, 128);
      const gbSeconds = ((billing?.durationMs ?? 0) * 128) / 1_024_000;
      t.equal(Number(billing?.gbSeconds), gbSeconds);
      const sum = (await connectionsOf(port)).reduce(
        (total, one) => total + (one.billing?.durationMs ?? 0),
        0,
      );
      t.equal((await billOf(port)).durationMs, sum, "the sum of its parts");
    },
  );

  t.test(
    "WS-BILL-5: an answer's bytes are counted, of a message its payload",
    async (t) => {
      const answer = await fetch(`http://127.0.0.1:${port}/hello`);
      const { length } = await answer.text();
      const record = await until("the record", async () => {
        const [newest] = await ask<InvocationRecord[]>(
          port,
          "invocations?functionName=http-fn&limit=1",
        );
        return newest?.state === "ended" && newest;
      });
      t.equal(record.billing?.egressBytes, length);
    },
  );

  t.test(
    "a killed instance ends its connection as a crash does; a replaced one says goodbye",
    async (t) => {
      const headers = { Authorization: `Bearer ${token}` };
      for (const [change, code] of [
        ["kill", 1006],
        ["recycle", 1012],
      ] as const) {
        const client = await openClient(port);
        const [running] = await connectionsOf(port);
        const path = `/_platform/instances/${running?.instanceId}/${change}`;
        const answer = await fetchPlain(port, path, {
          method: "POST",
          headers,
        });
        t.equal(answer.status, 202);
        t.equal(await client.closed, code);
        const instances = () =>
          ask<{ instanceId: string }[]>(port, "instances");
        await until(
          "it to be gone",
          async () =>
            !(await instances()).some(
              (one) => one.instanceId === running?.instanceId,
            ),
        );
        const next = await openClient(port);
        t.not(
          (await connectionsOf(port))[0]?.instanceId,
          running?.instanceId,
          "another one serves",
        );
        next.socket.close(1000);
        await next.closed;
      }
    },
  );
});
