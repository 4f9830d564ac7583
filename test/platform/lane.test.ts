// One direction by itself: what goes on, what does not and when, with a clock moved by hand.

import t, { type Test } from "tap";
import {
  Lane,
  type LaneLimits,
  type MessageFate,
} from "../../platform/lane.js";
import { handClock } from "../fixtures/hand-clock.js";
import {
  closePayload,
  frame,
  someMask,
} from "../fixtures/functions/platform.js";
import {
  anySeed,
  cutAnywhere,
  randomTraffic,
  seeded,
} from "../fixtures/random-frames.js";

const wide: LaneLimits = {
  maxMessageBytes: 1_000,
  messageSizePolicy: "warn",
  bytesPerSecond: Infinity,
  bytesPolicy: "warn",
  messagesPerSecond: Infinity,
  messagesPolicy: "warn",
  rateWindow: "sliding",
};

function start(
  limits: Partial<LaneLimits>,
  begins?: (nth: number) => MessageFate,
) {
  const sent: Buffer[] = [];
  const exceeded: string[] = [];
  const { clock, pass, waiting } = handClock();
  let isHeld = false;
  let halves = 0;
  const lane = new Lane({
    limits: { ...wide, ...limits },
    clock,
    send: (bytes) => sent.push(Buffer.from(bytes)),
    hold: (isHolding) => (isHeld = isHolding),
    exceeded: (limit) => exceeded.push(limit),
    begins,
    halved: () => halves++,
  });
  return {
    lane,
    pass,
    waiting,
    exceeded,
    sent: () => Buffer.concat(sent),
    isHeld: () => isHeld,
    halves: () => halves,
  };
}

const message = (size: number, fill = 97, mask = someMask) =>
  frame({ opcode: 2, payload: Buffer.alloc(size, fill), mask });
const ping = frame({ opcode: 9, payload: Buffer.from("?"), mask: someMask });
const fragments = (...sizes: number[]) =>
  sizes.map((size, i) =>
    frame({
      opcode: i === 0 ? 1 : 0,
      payload: Buffer.alloc(size, 98),
      final: i === sizes.length - 1,
      mask: someMask,
    }),
  );

function same(test: Test, actual: Buffer, expected: Buffer[], what: string) {
  test.ok(actual.equals(Buffer.concat(expected)), what);
}

t.test(
  "WS-CONN-4: whatever the policies, what breaks no limit goes on byte for byte",
  (t) => {
    const seed = anySeed();
    t.comment(`seed ${seed}`);
    const random = seeded(seed);
    for (const policy of ["warn", "close", "throttle", "drop"] as const)
      for (let run = 0; run < 20; run++) {
        const { lane, sent } = start(
          {
            maxMessageBytes: 1e6,
            bytesPerSecond: 1e9,
            messagesPerSecond: 1e6,
            messageSizePolicy: policy,
            bytesPolicy: policy,
            messagesPolicy: policy,
          },
          run % 2 === 0 ? () => "pass" : undefined,
        );
        const traffic = randomTraffic(random, { close: run % 3 === 0 });
        // Perhaps the line ends in the middle of something.
        const bytes =
          run % 4 === 0
            ? traffic.bytes.subarray(0, traffic.bytes.length - 1 - run)
            : traffic.bytes;
        for (const chunk of cutAnywhere(random, bytes)) lane.push(chunk);
        lane.end();
        t.ok(sent().equals(bytes), `${policy}, run ${run}`);
        if (bytes !== traffic.bytes) continue;
        t.equal(lane.reader.messages, traffic.messages);
        t.equal(lane.reader.bytes, traffic.payload);
      }
    t.end();
  },
);

t.test(
  "WS-LIM-1, WS-LIM-4: with close nothing of a message that is too large goes on, but for its first fragments",
  (t) => {
    for (const isWhole of [true, false]) {
      const { lane, sent, exceeded } = start({ messageSizePolicy: "close" });
      const good = message(1_000);
      const frames = isWhole ? [message(1_001)] : fragments(500, 500, 1);
      lane.push(good);
      for (const bytes of frames) lane.push(bytes);
      t.strictSame(exceeded, ["size"]);
      same(t, sent(), [good, ...frames.slice(0, -1)], `whole: ${isWhole}`);
    }
    t.end();
  },
);

t.test("WS-LIM-4: with warn everything goes on, and is counted", (t) => {
  const { lane, sent } = start({ bytesPerSecond: 10, messagesPerSecond: 2 });
  const frames = [message(4), message(4), message(4), message(2_000)];
  lane.push(Buffer.concat(frames));
  same(t, sent(), frames, "all of it");
  t.match(lane.excess, { messages: 2, bytes: 1 });
  t.equal(lane.messages.peak, 4);
  t.equal(lane.bytes.peak, 2_012);
  t.end();
});

t.test(
  "WS-LIM-3, WS-LIM-4: with close the message beyond the rate does not go on",
  (t) => {
    const { lane, sent, exceeded, pass } = start({
      messagesPerSecond: 10,
      messagesPolicy: "close",
    });
    for (let second = 0; second < 5; second++) {
      for (let i = 0; i < 10; i++) lane.push(message(1));
      pass(1_000);
    }
    t.strictSame(exceeded, [], "ten a second are right");
    for (let i = 0; i < 11; i++) lane.push(message(1));
    t.strictSame(exceeded, ["messages"]);
    t.equal(sent().length, 60 * message(1).length);
    t.end();
  },
);

t.test("WS-LIM-3: a fixed window begins anew with the clock's second", (t) => {
  for (const rateWindow of ["sliding", "fixed"] as const) {
    const limits = { messagesPerSecond: 10, messagesPolicy: "close" } as const;
    const { lane, exceeded, pass } = start({ ...limits, rateWindow });
    pass(950);
    for (let i = 0; i < 10; i++) lane.push(message(1));
    pass(100);
    for (let i = 0; i < 10; i++) lane.push(message(1));
    t.equal(exceeded.length > 0, rateWindow === "sliding", rateWindow);
  }
  t.end();
});

t.test(
  "WS-LIM-2, WS-LIM-4: with close too many bytes end it, and the frame under way can be finished",
  (t) => {
    const { lane, sent, exceeded, pass } = start({
      bytesPerSecond: 100,
      bytesPolicy: "close",
    });
    const [first, second] = [message(100), message(60)];
    lane.push(first);
    t.strictSame(exceeded, []);
    pass(1_000);
    lane.push(message(60));
    lane.push(second.subarray(0, 50)); // 44 of payload
    t.strictSame(exceeded, ["bytes"]);
    let mayClose: boolean | undefined;
    lane.stop((may) => (mayClose = may));
    t.equal(mayClose, undefined, "not in the middle of a frame [WS-CLOSE-15]");
    lane.push(Buffer.concat([second.subarray(50), message(1)]));
    t.equal(mayClose, true);
    same(t, sent(), [first, message(60), second], "up to the frame's end");
    t.end();
  },
);

t.test("WS-LIM-4: throttle holds the sender and loses nothing", (t) => {
  const { lane, sent, isHeld, pass, waiting } = start({
    messagesPerSecond: 2,
    messagesPolicy: "throttle",
  });
  const frames = Array.from({ length: 5 }, (_, i) => message(3, i));
  lane.push(Buffer.concat(frames));
  same(t, sent(), frames.slice(0, 2), "two at once");
  t.ok(isHeld());
  lane.push(ping); // it was on its way
  pass(999);
  same(t, sent(), frames.slice(0, 2), "no more in this second");
  pass(1);
  same(t, sent(), frames.slice(0, 4), "two more in the next one");
  pass(1_000);
  same(t, sent(), [...frames, ping], "the rest");
  t.notOk(isHeld());
  t.equal(waiting(), 0);
  t.equal(lane.excess.messages, 2, "each message that had to wait, once");
  t.equal(lane.messages.peak, 2);
  t.end();
});

t.test("WS-LIM-4: throttle cuts even one message into seconds", (t) => {
  const { lane, sent, isHeld, pass } = start({
    bytesPerSecond: 80,
    bytesPolicy: "throttle",
  });
  const large = message(200);
  lane.push(large);
  t.equal(sent().length, large.length - 120);
  t.ok(isHeld());
  pass(1_000);
  t.equal(sent().length, large.length - 40);
  pass(1_000);
  same(t, sent(), [large], "all of it");
  t.notOk(isHeld());
  t.equal(lane.bytes.peak, 80);
  t.end();
});

t.test(
  "WS-LIM-4: drop takes whole messages, and leaves what is between their fragments",
  (t) => {
    const { lane, sent, pass } = start({
      messageSizePolicy: "drop",
      messagesPerSecond: 4,
      messagesPolicy: "drop",
    });
    const [a = ping, b = ping, c = ping] = fragments(600, 300, 200);
    const fits = fragments(100, 0, 900);
    lane.push(Buffer.concat([message(1), message(1_001), a, ping, b]));
    same(
      t,
      sent(),
      [message(1)],
      "the fragments wait, and the ping in its place",
    );
    lane.push(Buffer.concat([ping, c, ping]));
    same(t, sent(), [message(1), ping, ping, ping], "no fragment is left");
    lane.push(Buffer.concat([...fits, message(2)]));
    pass(10);
    lane.push(Buffer.concat([...fragments(1, 2), ping]));
    same(
      t,
      sent(),
      [message(1), ping, ping, ping, ...fits, message(2), ping],
      "the fifth message, which was fragmented, is too many",
    );
    t.equal(lane.dropped, 3);
    t.end();
  },
);

t.test("WS-LIM-2, WS-LIM-4: drop by bytes asks for a whole message", (t) => {
  const { lane, sent, pass } = start({
    bytesPerSecond: 100,
    bytesPolicy: "drop",
  });
  const [a = ping, b = ping] = fragments(30, 30);
  lane.push(Buffer.concat([message(60), a, b, message(41), message(40)]));
  same(
    t,
    sent(),
    [message(60), message(40)],
    "60 and 40 fit, what is between does not",
  );
  pass(1_000);
  lane.push(Buffer.concat([a, ping, b]));
  same(t, sent(), [message(60), message(40), a, ping, b], "and later it does");
  t.match(lane.excess, { bytes: 2 });
  t.equal(lane.dropped, 2);
  t.end();
});

t.test("a Close frame sets free what waits for the end of its message", (t) => {
  const { lane, sent } = start({ messageSizePolicy: "drop" });
  const [a = ping] = fragments(10, 10);
  const close = frame({ opcode: 8, payload: closePayload(1000) });
  lane.push(Buffer.concat([a, ping]));
  t.equal(sent().length, 0);
  lane.push(close);
  same(t, sent(), [a, ping, close], "in their order");
  t.end();
});

t.test("a message full of pings does not fill the platform's memory", (t) => {
  const { lane, sent } = start({ messageSizePolicy: "drop" });
  const [a = ping, b = ping] = fragments(10, 10);
  const pings = Buffer.concat(Array.from({ length: 10_000 }, () => ping));
  lane.push(Buffer.concat([a, pings, b]));
  t.ok(sent().equals(pings), "the message is dropped, the pings go on");
  t.end();
});

t.test(
  "WS-CLOSE-15: a lane that stops says whether a Close may follow",
  (t) => {
    const close = frame({ opcode: 8, payload: closePayload(1000) });
    const header = message(300).subarray(0, 3);
    const rows: [what: string, bytes: Buffer, may: boolean | undefined][] = [
      ["nothing", Buffer.alloc(0), true],
      ["whole frames", Buffer.concat([message(3), ping]), true],
      ["a fragment", fragments(3, 3)[0] ?? ping, true],
      ["part of a payload", message(3).subarray(0, 7), undefined],
      ["a Close frame", close, false],
    ];
    for (const messageSizePolicy of ["warn", "close"] as const) {
      for (const [what, bytes, expected] of rows) {
        const { lane } = start({ messageSizePolicy });
        lane.push(bytes);
        let mayClose: boolean | undefined;
        lane.stop((may) => (mayClose = may));
        t.equal(mayClose, expected, `${what}, ${messageSizePolicy}`);
      }
      const { lane, sent } = start({ messageSizePolicy });
      lane.push(header);
      let mayClose: boolean | undefined;
      lane.stop((may) => (mayClose = may));
      // Who looks on has let it pass; who cuts has kept it.
      t.equal(mayClose, messageSizePolicy === "close" ? true : undefined);
      lane.push(message(300).subarray(3));
      t.equal(mayClose, true);
      const whole = messageSizePolicy === "warn" ? [message(300)] : [];
      same(t, sent(), whole, "a frame or nothing");
    }
    t.end();
  },
);

t.test("a fault sees each message once, before it goes on", (t) => {
  const asked: number[] = [];
  const { lane, sent, pass } = start(
    { messagesPerSecond: 1, messagesPolicy: "throttle" },
    (nth) => {
      asked.push(nth);
      return nth === 3 ? "end" : "pass";
    },
  );
  lane.push(Buffer.concat([message(1), ping, message(2), message(3), ping]));
  pass(5_000);
  t.strictSame(asked, [1, 2, 3]);
  same(t, sent(), [message(1), ping, message(2)], "and nothing after it");
  t.end();
});

t.test("a fault can stop a message in its middle", (t) => {
  for (const size of [0, 1, 9]) {
    const { lane, sent, halves, isHeld } = start({}, (nth) =>
      nth === 2 ? "halve" : "pass",
    );
    const [first, second] = [message(4), message(size)];
    for (const byte of Buffer.concat([first, second, ping]))
      lane.push(Buffer.from([byte]));
    t.equal(halves(), 1);
    t.ok(isHeld());
    const half = first.length + 6 + (size >> 1);
    same(t, sent(), [Buffer.concat([first, second]).subarray(0, half)], "half");
    lane.proceed();
    same(t, sent(), [first, second, ping], "then the rest");
    t.notOk(isHeld());
  }
  t.end();
});
