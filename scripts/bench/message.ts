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

/** A `message` frame of bridge.v1.json; its number is undefined when the body is damaged. Undefined: another frame. */
export function readBridge(
  frame: string,
): { seq: number; number: number | undefined } | undefined {
  if (!frame.startsWith(MESSAGE)) return undefined;
  const seqAt = frame.indexOf(SEQ, MESSAGE.length) + SEQ.length;
  const seq = Number(frame.slice(seqAt, frame.indexOf(",", seqAt)));
  const dataAt = frame.indexOf(DATA, seqAt) + DATA.length;
  return { seq, number: readNumber(frame, dataAt, QUOTED_HEAD, QUOTED_TAIL) };
}

/** The number of a body anywhere in a frame, plain or inside a JSON string; undefined when there is no undamaged one. */
export function findNumber(frame: string): number | undefined {
  const plainAt = frame.indexOf(HEAD);
  if (plainAt >= 0) return readNumber(frame, plainAt, HEAD, TAIL);
  const at = frame.indexOf(QUOTED_HEAD);
  return at < 0 ? undefined : readNumber(frame, at, QUOTED_HEAD, QUOTED_TAIL);
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
