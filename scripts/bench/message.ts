// The messages of the bench: 200 bytes of JSON that carry a number, and the quickest way to read that number back. The load
// generator shares the cores with what it measures, so frames are compared with what they must be, not parsed.

/** Bytes of every message's body. */
export const BODY_BYTES = 200;

const HEAD = '{"number":';
/** Numbers have a fixed count of digits, so everything else in a body is constant. */
const DIGITS = 8;
/** The first number of a run. */
export const FIRST_NUMBER = 10 ** (DIGITS - 1);
const PADDING = BODY_BYTES - `${HEAD},"padding":""}`.length - DIGITS;
const TAIL = `,"padding":"${"x".repeat(PADDING)}"}`;

/** The body that carries this number. */
export function bodyOf(number: number): string {
  return `${HEAD}${number}${TAIL}`;
}

/** A frame of a baseline is the body. Undefined: it is not one of ours, or damaged. */
export function readPlain(frame: string): number | undefined {
  return readNumber(frame, 0, HEAD, TAIL);
}

const MESSAGE = '{"type":"message",';
const SEQ = '"seq":';
const DATA = '"data":"';
/** The same inside a JSON string. */
const [QUOTED_HEAD, QUOTED_TAIL] = [HEAD, TAIL].map((text) =>
  JSON.stringify(text).slice(1, -1),
) as [string, string];

const EVENT = '42["message","';
const OFFSET = '","';

/** Where a message stands: in its connection's order, in its group's, or in Socket.IO's stream. */
export interface Place {
  seq?: number;
  group?: string;
  offset?: string;
}

export interface Read extends Place {
  /** Undefined: the body is damaged. */
  number: number | undefined;
}

/** A `message` frame of bridge.v1.json. Undefined: another frame. */
export function readBridge(frame: string): Read | undefined {
  if (!frame.startsWith(MESSAGE)) return undefined;
  const dataAt = frame.indexOf(DATA, MESSAGE.length) + DATA.length;
  const number = readNumber(frame, dataAt, QUOTED_HEAD, QUOTED_TAIL);
  const seqAt = frame.indexOf(SEQ, MESSAGE.length) + SEQ.length;
  if (seqAt >= SEQ.length && seqAt < dataAt)
    return {
      seq: Number(frame.slice(seqAt, frame.indexOf(",", seqAt))),
      number,
    };
  const [, group, offset] =
    /"group":"([^"]+)".*?"offset":(\d+)/.exec(frame) ?? [];
  return group === undefined || offset === undefined
    ? { number }
    : { group, offset, number };
}

/** A Socket.IO event packet with the body as its argument, and with the offset that recovery adds. Undefined: another packet. */
export function readSocketIo(frame: string): Read | undefined {
  if (!frame.startsWith(EVENT)) return undefined;
  const number = readNumber(frame, EVENT.length, QUOTED_HEAD, QUOTED_TAIL);
  const restAt =
    EVENT.length + QUOTED_HEAD.length + DIGITS + QUOTED_TAIL.length;
  const rest = frame.slice(restAt);
  return rest.startsWith(OFFSET)
    ? { offset: rest.slice(OFFSET.length, -2), number }
    : { number };
}

function readNumber(
  text: string,
  at: number,
  head: string,
  tail: string,
): number | undefined {
  const from = at + head.length;
  const to = from + DIGITS;
  if (!text.startsWith(head, at) || !text.startsWith(tail, to)) {
    return undefined;
  }
  return Number(text.slice(from, to));
}
