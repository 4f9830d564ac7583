/**
 * The wire between the two functions, as its reader sees it: entries of the log, and what rings over a doorbell. Its
 * writers are the scripts in log-scripts.ts.
 */
import { messageId, scheduledMessageId } from "./ids.js";

/** Longest place of a scheduled message, characters (ids.ts). */
const placeMax = 12;

/** One message of the log. */
export interface Entry {
  seq: number;
  id: string;
  expiresAtMs: number;
  /** Bytes of the log up to and with this message, since its connection began. */
  total: number;
  binary: boolean;
  /** Its sender waits for a reply. */
  asks?: boolean;
  /** With `ttl` 0: the only epoch in which it may be sent. */
  onlyEpoch: number | undefined;
  contentType: string;
  body: Buffer;
}

/** What an entry is, in one digit: 1 binary, 2 its sender waits for a reply. */
export const flagsOf = (binary: boolean, asks: boolean): number =>
  (binary ? 1 : 0) + (asks ? 2 : 0);

/** Reads what `flagsOf` wrote. */
export function parseFlags(flags: string): { binary: boolean; asks: boolean } {
  return {
    binary: flags === "1" || flags === "3",
    asks: flags === "2" || flags === "3",
  };
}

export type Bell =
  | { kind: "message"; prev: number; entry: Entry }
  | { kind: "append"; seq: number; prev: number }
  /** The webhook has answered an event of the client (answers.ts). */
  | { kind: "answer"; eventId: string }
  /** The backend changed the connection's groups. */
  | { kind: "groups" }
  | { kind: "fenced" }
  | { kind: "closed"; code: number; reason: string }
  | { kind: "recall"; seq: number; nonce: string };

/** Reads an entry of the log: its header (log-scripts.ts) and its body. */
export function parseEntry(
  connectionId: string,
  seq: number,
  header: string,
  body: Buffer,
): Entry {
  // expiresAt total scheduledId onlyEpoch topic flags contentType, the last of which may have spaces.
  const [exp = "0", total = "0", scheduled = "-", epoch = "-", , flags = "0"] =
    header.split(" ", 6);
  let at = -1;
  for (let i = 0; i < 6; i++) at = header.indexOf(" ", at + 1);
  return {
    seq,
    id:
      scheduled === "-"
        ? messageId(connectionId, seq)
        : // The place of a scheduled message is short, the whole ID of a user's is not.
          scheduled.length > placeMax
          ? `m_${scheduled}`
          : scheduledMessageId(connectionId, scheduled),
    expiresAtMs: Number(exp),
    total: Number(total),
    ...parseFlags(flags),
    onlyEpoch: epoch === "-" ? undefined : Number(epoch),
    contentType: header.slice(at + 1),
    body,
  };
}

/** Reads what came over a doorbell channel; undefined for what no version of ours sends. */
export function parseBell(
  connectionId: string,
  payload: Buffer,
): Bell | undefined {
  const kind = payload[0];
  if (kind === 0x6d /* m */) {
    const end = payload.indexOf(10);
    const line = payload.toString("latin1", 2, end);
    const first = line.indexOf(" ");
    const second = line.indexOf(" ", first + 1);
    const seq = Number(line.slice(0, first));
    return {
      kind: "message",
      prev: Number(line.slice(first + 1, second)),
      entry: parseEntry(
        connectionId,
        seq,
        line.slice(second + 1),
        payload.subarray(end + 1),
      ),
    };
  }
  const [word, first = "", second = "", ...rest] = payload
    .toString("utf8")
    .split(" ");
  switch (word) {
    case "n":
      return { kind: "append", seq: Number(first), prev: Number(second) };
    case "answer":
      return { kind: "answer", eventId: first };
    case "groups":
      return { kind: "groups" };
    case "fenced":
      return { kind: "fenced" };
    case "closed":
      return {
        kind: "closed",
        code: Number(first),
        reason: [second, ...rest].join(" "),
      };
    case "recall":
      return { kind: "recall", seq: Number(first), nonce: second };
    default:
      return undefined;
  }
}
