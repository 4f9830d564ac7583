// Byte fidelity: random frames, cut anywhere, both ways at once through a real platform, to a function that records.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { WebSocket } from "ws";
import {
  directoryOf,
  lastEnded,
  openClient,
  rawClient,
  splitAnswer,
  startTestPlatform,
  until,
  upgradeRequest,
} from "../fixtures/functions/platform.js";
import {
  anySeed,
  cutAnywhere,
  randomTraffic,
  seeded,
} from "../fixtures/random-frames.js";

const wide = {
  maxMessageBytes: 1e7,
  bytesPerSecond: 1e9,
  messagesPerSecond: 1e6,
  countDownstream: true,
};

const ROUNDS = 6;

for (const policy of ["warn", "close", "throttle", "drop"] as const)
  t.test(
    `WS-CONN-4, WS-CONN-5: random frames both ways arrive byte for byte, under limits that ${policy} and are not broken`,
    async (t) => {
      const { port } = await startTestPlatform(t, {
        wsDirectory: directoryOf("wire"),
        rules: {
          ...wide,
          messageSizePolicy: policy,
          bytesPolicy: policy,
          messagesPolicy: policy,
        },
      });
      const folder = t.testdir();
      const seed = anySeed();
      t.comment(`seed ${seed}`);
      const random = seeded(seed);
      for (let round = 0; round < ROUNDS; round++) {
        const large = round === 0 ? { largest: 70_000, messages: 20 } : {};
        const close = round % 2 === 0;
        const up = randomTraffic(random, { ...large, close });
        const down = randomTraffic(random, { ...large, close, masked: false });
        const score = join(folder, `score-${round}`);
        const record = join(folder, `record-${round}`);
        const headers =
          "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n";
        writeFileSync(
          score,
          JSON.stringify({
            record,
            headers,
            play: cutAnywhere(random, down.bytes).map((chunk) =>
              chunk.toString("base64"),
            ),
          }),
        );
        const client = rawClient(port);
        client.socket.setNoDelay(true);
        client.socket.write(upgradeRequest(port, `/ws?score=${score}`));
        await client.hears("\r\n\r\n");
        for (const chunk of cutAnywhere(random, up.bytes)) {
          client.socket.write(chunk);
          await new Promise((resolve) => setImmediate(resolve));
        }
        const heard = () => {
          const all = client.received();
          return all.subarray(all.indexOf("\r\n\r\n") + 4);
        };
        await until(
          "all of the function's bytes",
          () => heard().length >= down.bytes.length,
        );
        client.socket.end();
        await client.ended;
        const { head } = splitAnswer(String(client.received()));
        t.ok(head.endsWith(`\r\n${headers.trim()}`), "WS-CONN-3: its answer");
        t.ok(heard().equals(down.bytes), `round ${round}: to the client`);
        t.ok(
          readFileSync(record).equals(up.bytes),
          `round ${round}: to the function`,
        );
        const ended = await lastEnded(port);
        t.match(ended.counters, {
          clientMessages: up.messages,
          clientBytes: up.payload,
          serverMessages: down.messages,
          serverBytes: down.payload,
        });
        t.strictSame(ended.warnings, []);
        t.equal(ended.statusCode, close ? 200 : 456);
      }
    },
  );

t.test("one platform", async (t) => {
  const { port } = await startTestPlatform(t, {
    rules: { messagesPolicy: "warn" },
  });

  t.test(
    "WS-CONN-3: compression is the function's business: it accepts it or not",
    async (t) => {
      const text = Buffer.from("the same again and again, ".repeat(500));
      for (const isCompressed of [true, false]) {
        const path = isCompressed ? "/ws?deflate" : "/ws";
        const client = await openClient(port, path);
        t.equal(
          client.socket.extensions,
          isCompressed ? "permessage-deflate" : "",
        );
        client.socket.send(text, { compress: true });
        t.ok((await client.next()).equals(text));
        client.socket.close(1000);
        await client.closed;
        const { counters } = await lastEnded(port);
        t.equal(counters.clientMessages, 1);
        t.equal(
          counters.clientBytes < text.length,
          isCompressed,
          "WS-LIM-1: bytes are counted as they are on the wire",
        );
      }
    },
  );

  t.test(
    "WS-CONN-5: what looks like a command to the platform, or like nothing, passes",
    async (t) => {
      const client = await openClient(port);
      const messages = [
        '{"action":"close","code":1000}',
        '{"type":"ping"}',
        '{"broken": ',
        "GET /_platform/instances HTTP/1.1\r\n\r\n",
        "\u0000\ufeff",
      ];
      for (const message of messages) {
        client.socket.send(message);
        t.equal(String(await client.next()), message);
      }
      t.equal(client.socket.readyState, WebSocket.OPEN);
      client.socket.close(1000);
      await client.closed;
    },
  );
});
