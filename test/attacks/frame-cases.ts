/**
 * What a WebSocket server has to make of frames (RFC 6455), as data: the sections of Autobahn's test suite, written anew,
 * and the bridge's own limits. A case is what goes over the wire and the code of the close frame that comes back.
 */
import {
  frameOf,
  OPCODE,
  type FrameParts,
} from "../../scripts/attacks/wire.js";

export interface FrameCase {
  readonly name: string;
  /** Written one after the other, each in a segment of its own where the kernel lets it be. */
  readonly writes: readonly Buffer[];
  /** What the server closes with. The cases that are right end with our own Close 1000, which it echoes. */
  readonly code: number;
  /** Messages that it took. */
  readonly messages?: number;
  /** Payloads of the pongs that it answers. */
  readonly pongs?: readonly Buffer[];
}

const { text, binary, ping, pong, close } = OPCODE;
const continuation = 0;
const hello = Buffer.from("Hello, world!");
const hex = (bytes: string): Buffer =>
  Buffer.from(bytes.replaceAll(" ", ""), "hex");
const of = (
  opcode: number,
  payload: Buffer | string = "",
  parts?: FrameParts,
) => frameOf(opcode, payload, parts);
const closing = (code: number, reason: Buffer | string = ""): Buffer => {
  const head = Buffer.alloc(2);
  head.writeUInt16BE(code);
  return of(close, Buffer.concat([head, Buffer.from(reason)]));
};
const goodbye = closing(1_000);
const part = (opcode: number, payload: Buffer | string = "") =>
  of(opcode, payload, { fin: false });
const byteByByte = (bytes: Buffer): Buffer[] =>
  Array.from(bytes, (byte) => Buffer.from([byte]));
const cut = (bytes: Buffer, size: number): Buffer[] =>
  Array.from({ length: Math.ceil(bytes.length / size) }, (_, n) =>
    bytes.subarray(n * size, (n + 1) * size),
  );

/** All of it is right: taken, and then we say goodbye. */
const right = (
  name: string,
  writes: readonly Buffer[],
  {
    messages = 0,
    pongs = [],
  }: { messages?: number; pongs?: readonly Buffer[] } = {},
): FrameCase => ({
  name,
  writes: [...writes, goodbye],
  code: 1_000,
  messages,
  pongs,
});
const wrong = (name: string, code: number, ...writes: Buffer[]): FrameCase => ({
  name,
  writes,
  code,
});

const sizes = [0, 1, 125, 126, 127, 128, 65_535, 65_536];
const framing: FrameCase[] = [
  ...[text, binary].flatMap((opcode) => [
    ...sizes.map((size) =>
      right(
        `framing: opcode ${opcode}, ${size} bytes`,
        [of(opcode, Buffer.alloc(size, "*"))],
        { messages: 1 },
      ),
    ),
    right(
      `framing: opcode ${opcode}, 65,536 bytes in pieces of 997`,
      cut(of(opcode, Buffer.alloc(65_536, "*")), 997),
      { messages: 1 },
    ),
    right(
      `framing: opcode ${opcode}, byte by byte, a mask`,
      byteByByte(of(opcode, hello, { mask: hex("37fa213d") })),
      { messages: 1 },
    ),
    wrong(
      `framing: opcode ${opcode} without a mask`,
      1_002,
      of(opcode, hello, { masked: false }),
    ),
    wrong(
      `framing: opcode ${opcode}, a length of 2^63`,
      1_009,
      of(opcode, "", { length: { form: 64, value: 2 ** 63 } }),
    ),
    wrong(
      `framing: opcode ${opcode}, a length of 2^53`,
      1_009,
      of(opcode, "", { length: { form: 64, value: 2 ** 53 } }),
    ),
  ]),
  wrong(
    "framing: a ping without a mask",
    1_002,
    of(ping, "", { masked: false }),
  ),
  wrong(
    "framing: a close without a mask",
    1_002,
    of(close, hex("03e8"), { masked: false }),
  ),
];

const bytes125 = Buffer.alloc(125, 0xfe);
const pinging: FrameCase[] = [
  ...[Buffer.alloc(0), hello, hex("00fffefdfcfb00ff"), bytes125].map(
    (payload) =>
      right(`ping: ${payload.length} bytes`, [of(ping, payload)], {
        pongs: [payload],
      }),
  ),
  right("ping: 125 bytes, byte by byte", byteByByte(of(ping, bytes125)), {
    pongs: [bytes125],
  }),
  wrong("ping: 126 bytes", 1_002, of(ping, Buffer.alloc(126))),
  wrong("pong: 126 bytes", 1_002, of(pong, Buffer.alloc(126))),
  right("pong: nobody asked, empty", [of(pong)]),
  right("pong: nobody asked, a payload", [of(pong, hello)]),
  right("pong: nobody asked, then a ping", [of(pong, hello), of(ping, "a")], {
    pongs: [Buffer.from("a")],
  }),
  right(
    "ping: five in one write",
    [Buffer.concat(["1", "2", "3", "4", "5"].map((one) => of(ping, one)))],
    {
      pongs: ["1", "2", "3", "4", "5"].map((one) => Buffer.from(one)),
    },
  ),
];

const reserved: FrameCase[] = [
  0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70,
].flatMap((rsv) => [
  ...[text, binary, ping, pong].map((opcode) =>
    wrong(
      `reserved bits ${rsv >> 4}: opcode ${opcode}`,
      1_002,
      of(opcode, "a", { rsv }),
    ),
  ),
  wrong(
    `reserved bits ${rsv >> 4}: a close`,
    1_002,
    of(close, hex("03e8"), { rsv }),
  ),
  wrong(
    `reserved bits ${rsv >> 4}: a continuation`,
    1_002,
    part(text, "a"),
    of(continuation, "b", { rsv }),
  ),
  wrong(
    `reserved bits ${rsv >> 4}: after a good one`,
    1_002,
    of(text, "good"),
    of(text, "bad", { rsv }),
  ),
]);

const opcodes: FrameCase[] = [3, 4, 5, 6, 7, 11, 12, 13, 14, 15].flatMap(
  (opcode) => [
    wrong(`opcode ${opcode}: empty`, 1_002, of(opcode)),
    wrong(`opcode ${opcode}: a payload`, 1_002, of(opcode, hello)),
    wrong(
      `opcode ${opcode}: between fragments`,
      1_002,
      part(text, "a"),
      of(opcode),
      of(continuation, "b"),
    ),
  ],
);

const fragments: FrameCase[] = [
  wrong("fragments: of a ping", 1_002, part(ping, "a"), of(continuation, "b")),
  wrong("fragments: of a pong", 1_002, part(pong, "a"), of(continuation, "b")),
  wrong("fragments: of a close", 1_002, part(close, hex("03e8"))),
  right("fragments: two", [part(text, "a"), of(continuation, "b")], {
    messages: 1,
  }),
  right(
    "fragments: two of bytes",
    [part(binary, hex("00ff")), of(continuation, hex("fe"))],
    { messages: 1 },
  ),
  right(
    "fragments: two in one write",
    [Buffer.concat([part(text, "a"), of(continuation, "b")])],
    { messages: 1 },
  ),
  right(
    "fragments: two, byte by byte",
    byteByByte(Buffer.concat([part(text, "a"), of(continuation, "b")])),
    { messages: 1 },
  ),
  right(
    "fragments: empty ones",
    [part(text), part(continuation), of(continuation)],
    { messages: 1 },
  ),
  right(
    "fragments: an empty one between",
    [part(text, "a"), part(continuation), of(continuation, "b")],
    { messages: 1 },
  ),
  right(
    "fragments: a ping between",
    [part(text, "a"), of(ping, "p"), of(continuation, "b")],
    {
      messages: 1,
      pongs: [Buffer.from("p")],
    },
  ),
  right(
    "fragments: a pong between",
    [part(text, "a"), of(pong, "p"), of(continuation, "b")],
    { messages: 1 },
  ),
  right(
    "fragments: five with a ping between each",
    [
      part(text, "1"),
      ...["2", "3", "4"].flatMap((one) => [
        of(ping, one),
        part(continuation, one),
      ]),
      of(continuation, "5"),
    ],
    { messages: 1, pongs: ["2", "3", "4"].map((one) => Buffer.from(one)) },
  ),
  wrong(
    "fragments: a continuation of nothing, the last",
    1_002,
    of(continuation, "a"),
  ),
  wrong(
    "fragments: a continuation of nothing, more to come",
    1_002,
    part(continuation, "a"),
  ),
  wrong(
    "fragments: a continuation after a whole message",
    1_002,
    of(text, "whole"),
    of(continuation, "a"),
  ),
  wrong(
    "fragments: a continuation after the last",
    1_002,
    part(text, "a"),
    of(continuation, "b"),
    of(continuation, "c"),
  ),
  wrong(
    "fragments: a text inside a text",
    1_002,
    part(text, "a"),
    of(text, "b"),
  ),
  wrong(
    "fragments: a beginning inside a text",
    1_002,
    part(text, "a"),
    part(text, "b"),
  ),
  wrong(
    "fragments: bytes inside a text",
    1_002,
    part(text, "a"),
    of(binary, "b"),
  ),
  wrong(
    "fragments: a text inside bytes",
    1_002,
    part(binary, "a"),
    of(text, "b"),
  ),
];

const goodTexts = [
  "48656c6c6f2dc2b540c39fc3b6c3a4c3bcc3a0c3a12d5554462d382121",
  "cebae1bdb9cf83cebcceb5",
  "00",
  "7f",
  "c280",
  "dfbf",
  "e0a080",
  "efbfbf",
  "efbfbd",
  "efbfbe",
  "f0908080",
  "f48fbfbf",
  "ed9fbf",
  "ee8080",
  "f09f9880",
  "efb790",
  "f09fbfbe",
  "e2808b",
  "efbbbf41",
];
const badTexts = [
  "cebae1bdb9cf83cebcceb5eda080656469746564",
  "cebae1bdb9cf83cebcceb5f4908080656469746564",
  "80",
  "bf",
  "80bf",
  "80bf80bf80",
  "c0",
  "c020",
  "c080",
  "c1bf",
  "c2",
  "e0",
  "e080",
  "e08080",
  "e09fbf",
  "e0a0",
  "f0",
  "f08080",
  "f0808080",
  "f08fbfbf",
  "f09080",
  "f4908080",
  "f5808080",
  "f7bfbfbf",
  "f888808080",
  "fbbfbfbfbf",
  "fc8480808080",
  "fdbfbfbfbfbf",
  "fe",
  "ff",
  "fefeffff",
  "eda080",
  "edadbf",
  "edae80",
  "edafbf",
  "edb080",
  "edbe80",
  "edbfbf",
  "eda080edb080",
  "edadbfedb080",
  "edafbfedbfbf",
  "cebae1bdb9cf83cebcce",
  "41c3",
  "c328",
  "e228a1",
  "f0288cbc",
  "f0289028",
];
const utf8: FrameCase[] = [
  ...goodTexts.map((bytes) =>
    right(`UTF-8: ${bytes}`, [of(text, hex(bytes))], { messages: 1 }),
  ),
  ...badTexts.map((bytes) =>
    wrong(`no UTF-8: ${bytes}`, 1_007, of(text, hex(bytes))),
  ),
  right(
    "UTF-8: cut inside a character",
    [part(text, hex("e282")), of(continuation, hex("ac"))],
    { messages: 1 },
  ),
  right(
    "UTF-8: each byte a fragment",
    [
      part(text, hex("f0")),
      part(continuation, hex("9f")),
      part(continuation, hex("98")),
      of(continuation, hex("80")),
    ],
    { messages: 1 },
  ),
  wrong(
    "no UTF-8: the second fragment",
    1_007,
    part(text, "good"),
    of(continuation, hex("ff")),
  ),
  wrong(
    "no UTF-8: the message ends inside a character",
    1_007,
    part(text, hex("e282")),
    of(continuation),
  ),
  right("bytes may be anything", [of(binary, hex("fffefdc080eda080"))], {
    messages: 1,
  }),
];

const closes: FrameCase[] = [
  { name: "close: without a code", writes: [of(close)], code: 1_005 },
  wrong("close: one byte", 1_002, of(close, hex("03"))),
  ...[
    1_000, 1_001, 1_002, 1_003, 1_007, 1_008, 1_009, 1_010, 1_011, 1_012, 1_013,
    1_014, 3_000, 3_999, 4_000, 4_999,
  ].map((code) => ({ name: `close: ${code}`, writes: [closing(code)], code })),
  ...[
    0, 1, 999, 1_004, 1_005, 1_006, 1_015, 1_016, 1_100, 2_000, 2_999, 5_000,
    65_535,
  ].map((code) =>
    wrong(`close: ${code}, which nobody may send`, 1_002, closing(code)),
  ),
  { name: "close: a reason", writes: [closing(1_000, "done")], code: 1_000 },
  {
    name: "close: a reason of 123 bytes",
    writes: [closing(1_000, "r".repeat(123))],
    code: 1_000,
  },
  wrong("close: a reason of 124 bytes", 1_002, closing(1_000, "r".repeat(124))),
  wrong("close: a reason that is no UTF-8", 1_007, closing(1_000, hex("ff"))),
  {
    name: "close: a message after it",
    writes: [Buffer.concat([goodbye, of(text, "late")])],
    code: 1_000,
    messages: 0,
  },
  {
    name: "close: a ping after it",
    writes: [Buffer.concat([goodbye, of(ping, "late")])],
    code: 1_000,
    pongs: [],
  },
  {
    name: "close: another after it",
    writes: [Buffer.concat([goodbye, closing(1_001)])],
    code: 1_000,
  },
  {
    name: "close: inside a message",
    writes: [part(text, "a"), goodbye],
    code: 1_000,
    messages: 0,
  },
];

const limit = 262_144;
const limits: FrameCase[] = [
  right("limits: the largest message", [of(binary, Buffer.alloc(limit))], {
    messages: 1,
  }),
  wrong("limits: one byte more", 1_009, of(binary, Buffer.alloc(limit + 1))),
  wrong(
    "limits: one byte more is said",
    1_009,
    of(binary, "", { length: { form: 64, value: limit + 1 } }),
  ),
  wrong(
    "limits: 4 GiB are said",
    1_009,
    of(text, "", { length: { form: 64, value: 2 ** 32 } }),
  ),
  wrong(
    "limits: two fragments that are too large together",
    1_009,
    part(binary, Buffer.alloc(limit)),
    of(continuation, "x"),
  ),
  wrong(
    "limits: fragments without end",
    1_008,
    part(text, "a"),
    Buffer.concat(Array.from({ length: 100 }, () => part(continuation, "a"))),
  ),
  wrong(
    "limits: empty fragments without end",
    1_008,
    part(text),
    Buffer.concat(Array.from({ length: 100 }, () => part(continuation))),
  ),
];

export const frameCases: readonly FrameCase[] = [
  ...framing,
  ...pinging,
  ...reserved,
  ...opcodes,
  ...fragments,
  ...utf8,
  ...closes,
  ...limits,
];
