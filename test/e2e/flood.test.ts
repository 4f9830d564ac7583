/** What a client says all at once, in one TCP segment where it can: counted as it is parsed, and what is too much is never heard. */
import { connect } from "node:net";
import { once } from "node:events";
import t, { type Test } from "tap";
import type { BridgeEvent } from "../../shared/api.js";
import { startPair } from "../../scripts/lab/pair.js";
import { until } from "../../scripts/lab/until.js";

const pair = await startPair(t);
const { backend } = pair;
const [wsFn] = pair.wsFns;

/** Three seconds' worth (WS-LIM-2): what a client may say at once. */
const BURST = 30;
const MANY = 10_000;
const TEXT = 0x81;
const PING = 0x89;
const PONG = 0x8a;

/** A client's frame of less than 126 bytes, masked with zeros. */
const frame = (opcode: number, text = "") =>
  Buffer.concat([
    Buffer.of(opcode, 0x80 | text.length, 0, 0, 0, 0),
    Buffer.from(text),
  ]);

/** A socket that can say anything, and how it was closed. */
async function dial(t: Test) {
  const { connectionId, token } = await backend.prepare();
  const socket = connect(wsFn.port, "127.0.0.1");
  t.teardown(() => socket.destroy());
  let heard = Buffer.alloc(0);
  socket.on("data", (chunk) => (heard = Buffer.concat([heard, chunk])));
  socket.on("error", () => undefined);
  const ended = once(socket, "close");
  socket.write(
    `GET /ws?token=${token} HTTP/1.1\r\nHost: 127.0.0.1:${wsFn.port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==\r\n\r\n",
  );
  await until(() => heard.includes('"welcome"'));
  return {
    connectionId,
    socket,
    ended,
    /** The code of the Close frame; undefined while there is none. */
    closeCode: () => {
      const at = heard.lastIndexOf(0x88);
      return at < 0 || heard.length < at + 4
        ? undefined
        : heard.readUInt16BE(at + 2);
    },
  };
}

/** What the stream of events has of a connection. */
async function said(connectionId: string): Promise<BridgeEvent[]> {
  const { text } = await backend.ask(
    "GET",
    `/v1/events?lastEventId=0&wait=0&type=event&connection=${connectionId}`,
    { headers: { accept: "application/x-ndjson" } },
  );
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as BridgeEvent);
}

t.test("10,000 frames in one write: the burst is stored", async (t) => {
  const { socket, connectionId, closeCode, ended } = await dial(t);
  socket.write(
    Buffer.concat(Array.from({ length: MANY }, (_, n) => frame(TEXT, `${n}`))),
  );
  await ended;
  t.equal(closeCode(), 4029);
  const events = await until(async () => {
    const all = await said(connectionId);
    return all.length >= BURST ? all : undefined;
  });
  t.same(
    events.map(({ data }) => "data" in data && data.data),
    Array.from({ length: BURST }, (_, n) => `${n}`),
  );
});

for (const [name, opcode] of [
  ["pongs that nobody asked for", PONG],
  ["pings", PING],
] as const)
  t.test(`${name} are frames like any other`, async (t) => {
    const { socket, closeCode, ended } = await dial(t);
    socket.write(
      Buffer.concat(Array.from({ length: BURST }, () => frame(opcode))),
    );
    // Throttled for two seconds, not closed: more is more than three seconds' worth.
    socket.write(frame(TEXT, "still here"));
    t.equal(closeCode(), undefined);
    const flood = Buffer.concat(
      Array.from({ length: MANY }, () => frame(opcode)),
    );
    socket.write(flood);
    await ended;
    t.equal(closeCode(), 4029);
  });

t.test("a socket that is closed as too fast is not read on", async (t) => {
  const { socket, closeCode } = await dial(t);
  const flood = Buffer.concat(Array.from({ length: MANY }, () => frame(PONG)));
  socket.write(flood);
  await until(() => closeCode() === 4029);
  // It neither answers the Close frame nor hangs up, and goes on: the line is cut before the 3 s of a closing handshake.
  const timer = setInterval(() => socket.write(flood), 1);
  t.teardown(() => clearInterval(timer));
  await until(() => socket.destroyed);
  t.ok(
    socket.bytesWritten < 50_000_000,
    `${socket.bytesWritten} bytes went out before the line was cut`,
  );
});
