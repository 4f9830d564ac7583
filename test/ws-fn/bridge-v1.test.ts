/** bridge.v1.json: every frame is as openapi.yaml says and within the limit, and what was posted comes out again. */
import { readFileSync } from "node:fs";
import { Ajv2020 } from "ajv/dist/2020.js";
import formats from "ajv-formats";
import t, { type Test } from "tap";
import { parse } from "yaml";
import { BridgeError, toProblem } from "../../shared/errors.js";
import {
  messageId,
  newConnectionId,
  newScheduledId,
  scheduledMessageId,
} from "../../shared/ids.js";
import type { Entry } from "../../shared/entry.js";
import { bridgeSpeaker } from "../../ws-fn/bridge-v1.js";
import type { Frame } from "../../ws-fn/speaker.js";

const frameBytesMax = 262_144;
const bodyBytesMax = 262_144;
const speaker = bridgeSpeaker();

const ajv = new Ajv2020({ strict: false });
formats.default(ajv);
ajv.addSchema(
  parse(
    readFileSync(new URL("../../openapi.yaml", import.meta.url), "utf8"),
  ) as object,
  "contract",
  false,
  false,
);
const validator = (name: string) =>
  ajv.compile({ $ref: `contract#/components/schemas/${name}` });
const isMessage = validator("MessageFrame");
const isWelcome = validator("WelcomeFrame");
const isServerFrame = validator("ServerFrame");

const connectionId = newConnectionId();
const seq = 1_763_868_000_000_123;
const entry = (body: Buffer | string, fields: Partial<Entry> = {}): Entry => ({
  seq,
  id: messageId(connectionId, seq),
  expiresAtMs: Date.UTC(2026, 10, 23),
  binary: false,
  total: 0,
  onlyEpoch: undefined,
  contentType: "text/plain",
  body: Buffer.from(body),
  ...fields,
});

interface Message {
  id: string;
  seq: number;
  data?: string;
  dataBase64?: string;
  part?: number;
  parts?: number;
}

/** Checks all frames of a message; what the client makes of them. */
function joined(t: Test, frames: Frame[]): Buffer {
  const bodies: Buffer[] = [];
  for (const [index, { data, binary }] of frames.entries()) {
    if (binary || Buffer.byteLength(data) > frameBytesMax)
      t.fail(`frame ${index} has ${Buffer.byteLength(data)} bytes`);
    const said = JSON.parse(String(data)) as Message;
    if (!isMessage(said) || !isServerFrame(said))
      t.fail(JSON.stringify(isMessage.errors));
    if (frames.length === 1) {
      if ("part" in said || "parts" in said) t.fail("one part has no number");
    } else if (said.part !== index + 1 || said.parts !== frames.length)
      t.fail(`part ${said.part} of ${said.parts} is ${index + 1}`);
    bodies.push(
      said.data === undefined
        ? Buffer.from(said.dataBase64 ?? "", "base64")
        : Buffer.from(said.data),
    );
  }
  return Buffer.concat(bodies);
}

t.test("the worst texts fit their frames and come out the same", async (t) => {
  const longType = `text/plain; x="${"\\\\".repeat(119)}"`;
  for (const [name, unit] of [
    ["letters", "a"],
    ["quotes", '"'],
    ["backslashes", "\\"],
    ["control characters", "\u0001"],
    ["line ends", "\n"],
    ["two bytes", "é"],
    ["three bytes", "\u2028"],
    ["surrogate pairs", "😀"],
    ["mixed", 'a"\u0000😀é\\'],
    ["byte order marks", "\uFEFF"],
  ] as const)
    for (const shift of ["", "a", "ab", "abc"]) {
      const count = Math.floor(
        (bodyBytesMax - shift.length) / Buffer.byteLength(unit),
      );
      const body = Buffer.from(shift + unit.repeat(count));
      const frames = speaker.message(
        entry(body, { contentType: longType }),
        true,
      );
      t.ok(joined(t, frames).equals(body), `${name}, ${frames.length} frames`);
    }
});

t.test("any body comes out the same", async (t) => {
  // The same on every run: a small generator with a fixed seed.
  let state = 0x2545f491;
  const random = (below: number): number => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
  const alphabet = [...'aZ0 "\\/\n\t\u0000\u001f\u007fé€\u2028\uFFFD😀𝒳'];
  for (let round = 0; round < 60; round += 1) {
    const limit = [10, 87_000, 130_000, bodyBytesMax][round % 4] ?? 10;
    const few = 1 + random(alphabet.length);
    let text = "";
    for (let bytes = 0; ;) {
      const char = alphabet[random(few)] ?? "";
      const run = char.repeat(1 + random(limit / 8));
      bytes += Buffer.byteLength(run);
      if (bytes > limit) break;
      text += run;
    }
    const binary = round % 3 === 0;
    const body = Buffer.from(text);
    if (
      !joined(t, speaker.message(entry(body, { binary }), false)).equals(body)
    )
      t.fail(`round ${round} does not come out as it went in`);
  }
  t.pass("sixty bodies");
});

t.test("binary bodies are cut by bytes", async (t) => {
  for (const [bytes, frames] of [
    [0, 1],
    [1, 1],
    [180_000, 1],
    [180_001, 2],
    [bodyBytesMax, 2],
  ] as const) {
    const body = Buffer.alloc(bytes, 0xff);
    const sent = speaker.message(
      entry(body, { binary: true, contentType: "image/png" }),
      false,
    );
    t.equal(sent.length, frames);
    t.ok(joined(t, sent).equals(body));
  }
});

t.test("a message has the fields it was posted with", async (t) => {
  const scheduled = scheduledMessageId(connectionId, newScheduledId());
  const [frame] = speaker.message(
    entry('{"a": 1}', { contentType: "application/json", id: scheduled }),
    true,
  );
  t.same(JSON.parse(String(frame?.data)), {
    type: "message",
    id: scheduled,
    seq,
    contentType: "application/json",
    data: '{"a": 1}',
    publishedAt: new Date(Math.floor(seq / 1_000)).toISOString(),
    expiresAt: "2026-11-23T00:00:00.000Z",
    redelivered: true,
  });
  const [empty] = speaker.message(entry(""), false);
  t.match(JSON.parse(String(empty?.data)), { data: "", redelivered: false });
});

t.test("every other frame is as the contract says", async (t) => {
  const problem = toProblem(new BridgeError("invalid_frame", { detail: "d" }));
  for (const userId of ["", "u"]) {
    const welcome = speaker.welcome({
      connectionId,
      userId,
      resumeToken: "secret",
      resumed: false,
      lost: false,
      seq: 0,
      heartbeatMs: 20_000,
      groups: { g: { epoch: "7", offset: 9, recovered: true } },
    });
    const said: unknown = JSON.parse(String(welcome?.data));
    t.ok(isWelcome(said), JSON.stringify(isWelcome.errors));
    t.match(said, { userId: userId === "" ? null : userId });
  }
  for (const frame of [
    speaker.ping(),
    speaker.drain(1_500),
    speaker.error(problem),
    speaker.result("r", problem),
    speaker.done("r", { group: "g" }),
    speaker.group("g", { epoch: "7", offset: 9, recovered: false }),
  ])
    t.ok(
      isServerFrame(JSON.parse(String(frame?.data))),
      JSON.stringify(isServerFrame.errors),
    );
});

t.test("what clients say", async (t) => {
  const read = (value: unknown) =>
    speaker.read(
      Buffer.from(typeof value === "string" ? value : JSON.stringify(value)),
      false,
    );
  t.match(read({ type: "ack", seq: 5 }), { kind: "ack", seq: 5 });
  t.same(read({ type: "ack", groups: { g: 7 } }), {
    kind: "ack",
    seq: undefined,
    groups: { g: 7 },
  });
  t.same(read({ type: "pong" }), { kind: "pong" });
  t.match(read({ type: "event", event: "e", data: "x", ref: "1" }), {
    kind: "event",
    event: "e",
    ref: "1",
  });
  for (const type of ["join", "leave"])
    t.same(read({ type, group: "g", ref: "1" }), {
      kind: "group",
      action: type,
      group: "g",
      ref: "1",
    });
  const json = { group: "g", data: "[1]", contentType: "application/json" };
  t.same(read({ type: "publish", ...json }), {
    kind: "group",
    action: "publish",
    ...json,
    ref: undefined,
  });
  for (const bad of [
    { type: "join", group: "$all", ref: "1" },
    { type: "leave", ref: "1" },
    { type: "publish", group: "g", ref: "1" },
    { type: "publish", ...json, data: "[1", ref: "1" },
    { type: "publish", ...json, contentType: "image/png", ref: "1" },
  ])
    t.match(read(bad), {
      kind: "refused",
      ref: "1",
      error: { code: "invalid_parameter" },
    });
  t.match(read({ type: "reply", replyTo: "x", dataBase64: "AP8=" }), {
    kind: "reply",
    replyTo: "x",
    contentType: "application/octet-stream",
    body: Buffer.of(0, 255),
  });
  for (const [bad, code] of [
    [{ data: 7 }, "invalid_parameter"],
    [{ data: "x", dataBase64: "" }, "invalid_parameter"],
    [{ dataBase64: "?" }, "invalid_parameter"],
    [{ contentType: 7 }, "invalid_parameter"],
    [{ contentType: "x\ny" }, "unsupported_media_type"],
    [{ data: "{", contentType: "application/json" }, "invalid_json"],
    [{ data: "\ud800" }, "invalid_utf8"],
    [{ dataBase64: "/w==", contentType: "text/plain" }, "invalid_utf8"],
  ] as const) {
    for (const frame of [
      { type: "reply", replyTo: "x" },
      { type: "event", event: "e" },
    ])
      t.match(
        read({ ...frame, ...bad, ref: "1" }),
        { kind: "refused", ref: "1", error: { code } },
        JSON.stringify(bad),
      );
  }
  for (const event of ["", "a\nb", "x".repeat(129), "\ud800"])
    t.match(read({ type: "event", event }), {
      kind: "refused",
      error: { code: "invalid_parameter" },
    });
  for (const bad of [
    "",
    "{",
    "null",
    "[]",
    "7",
    '"ack"',
    { type: "join", group: "g", ref: 5 },
    {},
    { type: "nonsense" },
    { type: "ack" },
    { type: "ack", seq: -1 },
    { type: "ack", seq: 1.5 },
    { type: "ack", seq: "1" },
    { type: "ack", seq: 2 ** 53 },
    { type: "ack", groups: 7 },
    { type: "ack", seq: 1, groups: { g: -1 } },
    { type: "event" },
    { type: "event", event: 1 },
    { type: "event", event: "e", ref: "x".repeat(65) },
    { type: "reply" },
    { type: "reply", replyTo: 1 },
  ])
    t.match(read(bad), { kind: "violation" }, JSON.stringify(bad));
  const nested = (depth: number) => "[".repeat(depth) + "]".repeat(depth);
  // A frame of a quarter of a megabyte of them took 50 ms.
  t.match(read(`{"type":"pong","x":${nested(5_000)}}`), { kind: "violation" });
  t.match(read(`{"type":"pong","x":${nested(1_000)}}`), { kind: "pong" });
  for (const [depth, kind] of [
    [5_000, "refused"],
    [1_000, "event"],
  ] as const)
    t.match(
      read({
        type: "event",
        event: "e",
        data: nested(depth),
        contentType: "application/json",
      }),
      { kind },
    );
  t.match(speaker.read(Buffer.from('{"type":"pong"}'), true), {
    kind: "violation",
  });
});
