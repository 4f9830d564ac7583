// The passive frame reader, fed by hand-made bytes cut at every place.

import t, { type Test } from "tap";
import { FrameReader, NO_CODE } from "../../platform/frames.js";
import {
  closePayload,
  frame,
  someMask,
} from "../fixtures/functions/platform.js";

interface Seen {
  messages: number;
  bytes: number;
  dataFrames: number;
  largestMessage: number;
  closeCode: number | undefined;
}

function seen(reader: FrameReader): Seen {
  const { messages, bytes, dataFrames, largestMessage, closeCode } = reader;
  return { messages, bytes, dataFrames, largestMessage, closeCode };
}

function read(...chunks: Buffer[]): Seen {
  const reader = new FrameReader();
  for (const chunk of chunks) reader.push(chunk);
  return seen(reader);
}

/** The same bytes whole, cut in two at every offset, and byte by byte must look the same. */
function check(test: Test, bytes: Buffer, expected: Seen): void {
  test.strictSame(read(bytes), expected, "whole");
  for (let cut = 1; cut < bytes.length; cut++) {
    const halves = [bytes.subarray(0, cut), bytes.subarray(cut)];
    const result = read(...halves);
    if (JSON.stringify(result) !== JSON.stringify(expected))
      test.strictSame(result, expected, `cut at ${cut}`);
  }
  const single = Array.from(bytes, (byte) => Buffer.from([byte]));
  test.strictSame(read(...single), expected, "byte by byte");
}

t.test("the examples of RFC 6455 section 5.7 are read", (t) => {
  const hello = { messages: 1, bytes: 5, dataFrames: 1, largestMessage: 5 };
  const none = { closeCode: undefined };
  check(t, Buffer.from("810548656c6c6f", "hex"), { ...hello, ...none });
  check(t, Buffer.from("818537fa213d7f9f4d5158", "hex"), { ...hello, ...none });
  check(t, Buffer.from("010348656c80026c6f", "hex"), {
    ...hello,
    ...none,
    dataFrames: 2,
  });
  check(t, Buffer.from("890548656c6c6f8a8537fa213d7f9f4d5158", "hex"), {
    messages: 0,
    bytes: 0,
    dataFrames: 0,
    largestMessage: 0,
    ...none,
  });
  t.end();
});

t.test("lengths of 7, 16 and 64 bits, masked and not, are read", (t) => {
  for (const size of [0, 1, 125, 126, 127, 65_535, 65_536]) {
    const payload = Buffer.alloc(size, 0x81);
    const bytes = Buffer.concat([
      frame({ opcode: 2, payload }),
      frame({ opcode: 1, payload, mask: someMask }),
    ]);
    const expected = {
      messages: 2,
      bytes: 2 * size,
      dataFrames: 2,
      largestMessage: size,
      closeCode: undefined,
    };
    if (size < 1_000) check(t, bytes, expected);
    else t.strictSame(read(bytes), expected, `${size}`);
  }
  t.end();
});

t.test("a ping between fragments belongs to no message", (t) => {
  const bytes = Buffer.concat([
    frame({ opcode: 1, payload: Buffer.from("abc"), final: false }),
    frame({ opcode: 9, payload: Buffer.from("are you there") }),
    frame({ opcode: 0, payload: Buffer.from("defg"), final: false }),
    frame({ opcode: 0 }),
    frame({ opcode: 2, payload: Buffer.from("xy") }),
  ]);
  check(t, bytes, {
    messages: 2,
    bytes: 9,
    dataFrames: 4,
    largestMessage: 7,
    closeCode: undefined,
  });
  t.end();
});

t.test(
  "the code of a Close frame is read, masked or not, with a reason or none",
  (t) => {
    const nothing = { messages: 0, bytes: 0, dataFrames: 0, largestMessage: 0 };
    for (const code of [1000, 1010, 4999]) {
      for (const reason of ["", "bye for now"]) {
        const payload = closePayload(code, reason);
        check(t, frame({ opcode: 8, payload }), {
          ...nothing,
          closeCode: code,
        });
        check(t, frame({ opcode: 8, payload, mask: someMask }), {
          ...nothing,
          closeCode: code,
        });
      }
    }
    t.end();
  },
);

t.test("WS-CLOSE-8: a Close frame without a code is noted as 1005", (t) => {
  const expected = {
    messages: 0,
    bytes: 0,
    dataFrames: 0,
    largestMessage: 0,
    closeCode: NO_CODE,
  };
  check(t, frame({ opcode: 8 }), expected);
  check(t, frame({ opcode: 8, mask: someMask }), expected);
  t.end();
});

t.test("what follows a Close frame is not read", (t) => {
  const bytes = Buffer.concat([
    frame({ opcode: 8, payload: closePayload(1000) }),
    frame({ opcode: 8, payload: closePayload(4000) }),
    frame({ opcode: 1, payload: Buffer.from("late") }),
  ]);
  check(t, bytes, {
    messages: 0,
    bytes: 0,
    dataFrames: 0,
    largestMessage: 0,
    closeCode: 1000,
  });
  t.end();
});

t.test(
  "a message is known to be large as soon as its header has passed",
  (t) => {
    const size = 10_000_000_000;
    const header = Buffer.from([0x82, 127, 0, 0, 0, 0, 0, 0, 0, 0]);
    header.writeBigUInt64BE(BigInt(size), 2);
    t.match(read(header, Buffer.alloc(1_000)), {
      messages: 0,
      bytes: 0,
      largestMessage: size,
    });
    t.end();
  },
);

t.test("a length no peer can mean ends the reading, not the program", (t) => {
  const header = Buffer.from("82ffffffffffffffffff00000000", "hex");
  const result = read(header, frame({ opcode: 8 }));
  t.equal(result.messages, 0);
  t.equal(result.closeCode, undefined);
  t.end();
});
