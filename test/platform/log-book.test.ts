// The log by itself: which line is of which request, in which order, in which form, and what is dropped when it is too much.

import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import t from "tap";
import { realClock } from "../../platform/clock.js";
import { InvocationBook } from "../../platform/invocation-book.js";
import { followLog } from "../../platform/live-feed.js";
import { LogBook, type LogFilter } from "../../platform/log-book.js";
import type { LineLimits } from "../../platform/log-lines.js";
import { writeRecord, type LogRecord } from "../../platform/log-record.js";
import { silentLog } from "../../platform/logs.js";
import { residentBytes } from "../../platform/memory-use.js";
import { describe, rawClient, until } from "../fixtures/functions/platform.js";

const description = describe("ws", "/nowhere", "WS", { timeoutSeconds: 7_200 });

/** A log over two functions: one takes one request at a time, the other many. */
function open(limits?: LineLimits) {
  const functions = [
    description,
    { ...description, name: "http", concurrency: 100 },
  ];
  const logs = new LogBook({
    functions,
    clock: realClock,
    ...(limits && { limits }),
  });
  const book = new InvocationBook(100, realClock, silentLog, [logs]);
  return {
    logs,
    book,
    instance(id: string, functionName = "ws") {
      const instance = {
        id,
        functionName,
        pid: process.pid,
        startedAt: 1_000,
        spawnedAt: 1_010,
        initialisingAt: 1_013,
        readyAt: 1_200,
      };
      logs.instanceCreated(instance);
      return instance;
    },
    print(line: string, instanceId = "i1", functionName = "ws") {
      logs.printed({ functionName, instanceId, stream: "stdout", line });
    },
    begin(instanceId = "i1", coldStart = false, functionName = "ws") {
      const invocation = book.begin(functionName);
      invocation.dispatched(instanceId, coldStart);
      return invocation;
    },
    read: (filter: LogFilter = {}, limit = 1_000) =>
      logs.records(filter, book.all(), limit),
  };
}

const messages = (records: readonly LogRecord[]) =>
  records.map(({ message }) => message);

t.test(
  "WS-LOG-1: a cold start's request has START, its init output and Init Report, its lines, Response, END, Report",
  (t) => {
    const { instance, print, book, logs, read } = open();
    const invocation = book.begin("ws");
    const one = instance("i1");
    print("loading");
    logs.instanceReady(one);
    invocation.dispatched("i1", true);
    print("hello");
    book.end(invocation, { cause: "closed", by: "client", code: 1000 });
    const id = invocation.requestId;
    const records = read({ requestId: id });
    t.match(messages(records), [
      `START RequestId: ${id}`,
      "loading",
      new RegExp(
        `^Init Report RequestId: ${id} Coldstart: 200ms \\(PullCode: 10ms InitRuntime: 3ms InitFunction: 187ms\\) Memory: 128MB MemUsage: \\d+\\.\\d\\dMB$`,
      ),
      "hello",
      `Response RequestId: ${id} RetMsg: `,
      `END RequestId: ${id}`,
      new RegExp(
        `^Report RequestId: ${id} Duration: \\d+ms Memory: 128MB MemUsage: \\d+\\.\\d\\dMB$`,
      ),
    ]);
    t.ok(records.every((record) => record.requestId === id));
    t.strictSame(
      records.map(({ type }) => type[0]).join(""),
      "PCPCPPP",
      "platform and custom",
    );
    t.equal(read({ requestId: "another" }).length, 0);
    t.end();
  },
);

t.test(
  "WS-LOG-2: a failure has an ERROR line with code, name, initiator and why",
  (t) => {
    const { instance, begin, book, read } = open();
    instance("i1");
    const invocation = begin();
    book.end(invocation, { cause: "closed", by: "server", code: 4000 });
    const id = invocation.requestId;
    const error = read().find(({ level }) => level === "ERROR");
    t.equal(
      error?.message,
      `ERROR RequestId: ${id} 439 UserProcessExit (by server, close code 4000): ` +
        "The server closed with code 4000, which counts as a failure: 1000 is the code of a success.",
    );
    t.equal(error?.statusCode, 439);
    t.equal(read()[0]?.statusCode, 202, "it ran when it began");
    t.end();
  },
);

t.test(
  "a start that failed is logged too, and what was never executed lasted 0 ms",
  (t) => {
    const { book, read } = open();
    const invocation = book.begin("ws");
    book.end(invocation, {
      cause: "not-started",
      status: 446,
      reason: "It did not listen.",
    });
    t.match(messages(read()), [
      /^START/,
      /446 PortBindingFailed .*It did not listen\./,
      /^Response/,
      /^END/,
      /Duration: 0ms/,
    ]);
    t.end();
  },
);

t.test("the log service's record has its fourteen fields", (t) => {
  const { instance, print, begin, book, read } = open();
  instance("i1");
  const invocation = begin();
  print("hello");
  book.end(invocation, { cause: "closed", by: "client", code: 1000 });
  const records = read().map(
    (record) =>
      JSON.parse(writeRecord(record, "scf")) as Record<string, unknown>,
  );
  for (const record of records)
    t.strictSame(Object.keys(record).sort(), [
      "SCF_Alias",
      "SCF_Duration",
      "SCF_FunctionName",
      "SCF_Level",
      "SCF_LogTime",
      "SCF_MemUsage",
      "SCF_Message",
      "SCF_Namespace",
      "SCF_Qualifier",
      "SCF_RequestId",
      "SCF_RetryNum",
      "SCF_StartTime",
      "SCF_StatusCode",
      "SCF_Type",
    ]);
  t.match(records[1], {
    SCF_FunctionName: "ws",
    SCF_RequestId: invocation.requestId,
    SCF_StartTime: invocation.startedAt,
    SCF_Type: "Custom",
    SCF_Level: "INFO",
    SCF_Message: "hello",
    SCF_StatusCode: 202,
    SCF_Duration: 0,
  });
  t.match(records.at(-1), { SCF_StatusCode: 200, SCF_Type: "Platform" });
  t.end();
});

t.test(
  "one line of JSON becomes fields, one level deep, and cannot replace the documented ones",
  (t) => {
    const { instance, print, begin, read } = open();
    instance("i1");
    begin();
    const line =
      '{"user":"u1","n":2,"deep":{"a":[1]},"SCF_Level":"FAKE","__proto__":{"x":1}}';
    print(line);
    print('{"not": JSON}');
    print("[1]");
    const [json, not, list] = read().filter(({ type }) => type === "Custom");
    if (!json || !not || !list) throw new Error("three lines were printed");
    const scf = JSON.parse(writeRecord(json, "scf")) as Record<string, unknown>;
    t.match(scf, {
      user: "u1",
      n: 2,
      deep: '{"a":[1]}',
      SCF_Level: "INFO",
      SCF_Message: line,
    });
    t.match(JSON.parse(writeRecord(json, "json")), {
      message: line,
      fields: { user: "u1", n: 2, deep: '{"a":[1]}' },
    });
    for (const other of [not, list])
      t.notOk("fields" in (JSON.parse(writeRecord(other, "json")) as object));
    t.end();
  },
);

t.test(
  "a line heard just after the end is still of its request, before its last lines",
  (t) => {
    const { instance, print, begin, book, read } = open();
    instance("i1");
    const first = begin();
    book.end(first, { cause: "closed", by: "client", code: 1000 });
    print("bye");
    t.match(messages(read({ requestId: first.requestId })), [
      /^START/,
      "bye",
      /^Response/,
      /^END/,
      /^Report/,
    ]);
    const second = begin();
    print("hello again");
    t.match(messages(read({ requestId: second.requestId })), [
      /^START/,
      "hello again",
    ]);
    t.end();
  },
);

t.test(
  "where several requests are served at once, a line is of none of them",
  (t) => {
    const { instance, print, begin, read } = open();
    instance("h1", "http");
    begin("h1", false, "http");
    print("whose?", "h1", "http");
    const line = read().find(({ message }) => message === "whose?");
    t.match(line, { requestId: null, instanceId: "h1" });
    t.equal(
      JSON.parse(writeRecord(line as LogRecord, "scf")).SCF_RequestId,
      "",
    );
    t.end();
  },
);

t.test(
  "a prewarmed instance has a Provisioned Report and no request",
  async (t) => {
    const { instance, logs, read } = open();
    logs.instanceReady(instance("i1"));
    await until("the report", () => read().length > 0);
    t.match(read(), [
      {
        requestId: null,
        instanceId: "i1",
        message: /^Provisioned Report Coldstart: 200ms/,
      },
    ]);
  },
);

t.test(
  "too many lines: the last ones of a request stay, and their number is told",
  (t) => {
    const { instance, print, begin, read } = open({
      linesPerFunction: 100,
      charactersPerFunction: 10_000,
      linesPerRequest: 10,
    });
    instance("i1");
    instance("i2");
    const quiet = begin("i2");
    print("important", "i2");
    const noisy = begin("i1");
    for (let line = 1; line <= 500; line++) print(`line ${line}`);
    t.match(messages(read({ requestId: noisy.requestId })), [
      /^START/,
      "(490 lines dropped)",
      ...Array.from({ length: 10 }, (_, i) => `line ${491 + i}`),
    ]);
    t.match(
      messages(read({ requestId: quiet.requestId })),
      [/^START/, "important"],
      "the noise of one does not push out another",
    );
    t.equal(read({}, 3).length, 3);
    t.equal(read({}, 3).at(-1)?.message, "line 500");
    t.end();
  },
);

t.test("the lines of a function are bounded in number and in size", (t) => {
  const { print, read } = open({
    linesPerFunction: 100,
    charactersPerFunction: 10_000,
    linesPerRequest: 1_000,
  });
  for (let line = 0; line < 1_000; line++) print(`${line}`);
  t.equal(read().length, 100);
  t.equal(read()[0]?.message, "900");
  print("x".repeat(9_990));
  t.ok(read().length <= 11);
  t.equal(read().at(-1)?.message.length, 9_990);
  t.end();
});

t.test(
  "a follower hears each record once, in order, and of a request its init output too",
  async (t) => {
    const { instance, print, begin, book, logs } = open();
    const all: string[] = [];
    const own: string[] = [];
    const stop = logs.follow({}, ({ message }) => all.push(message));
    instance("i1");
    print("loading");
    const invocation = book.begin("ws");
    const { requestId } = invocation;
    logs.follow({ requestId }, ({ message }) => own.push(message));
    invocation.dispatched("i1", true);
    print("hello");
    book.end(invocation, { cause: "closed", by: "client", code: 1000 });
    print("bye");
    await until("the last line", () =>
      own.some((one) => one.startsWith("Report")),
    );
    t.match(own, ["loading", "hello", "bye", /^Response/, /^END/, /^Report/]);
    t.match(all, [
      "loading",
      /^START/,
      "hello",
      "bye",
      /^Response/,
      /^END/,
      /^Report/,
    ]);
    stop();
    begin();
    t.equal(all.length, 7);
  },
);

t.test(
  "a follower who does not read misses lines and is told how many; the memory stays",
  async (t) => {
    const { print, logs } = open();
    let answer: ServerResponse | undefined;
    const server = createServer((_, res) => {
      answer = res;
      followLog(logs, {}, "text", [], res);
    });
    await new Promise<void>((resolve) =>
      server.listen(0, "127.0.0.1", resolve),
    );
    t.teardown(() => server.close());
    const client = rawClient((server.address() as AddressInfo).port);
    client.socket.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    await until("the request", () => answer);
    client.socket.pause();
    let most = 0;
    for (let batch = 0; batch < 50; batch++) {
      for (let line = 0; line < 100; line++) print("x".repeat(10_000));
      most = Math.max(most, answer?.writableLength ?? 0);
      await new Promise((resolve) => setImmediate(resolve));
    }
    t.ok(most < 1_100_000, `${most} bytes wait for the reader`);
    client.socket.resume();
    await until("room", () => answer?.writableLength === 0);
    print("the next line");
    await client.hears("the next line");
    t.match(String(client.received()), /\(\d+ lines dropped\)\r?\n/);
    client.socket.destroy();
    await client.ended;
  },
);

t.test(
  "memory in use is that of the process and what it started",
  { skip: process.platform !== "linux" && "no /proc" },
  (t) => {
    const mine = residentBytes(process.pid);
    t.ok(mine > 10_000_000);
    t.equal(residentBytes(2 ** 22 + 1), 0);
    t.end();
  },
);
