/**
 * Identifiers. A connection ID is `c_` and 22 base62 characters (131 bits, unguessable). A message ID is `m_`,
 * a letter for its kind, the 22 characters of its connection (or of its user's digest) or the name of its group, and its
 * place there: routing without a lookup.
 */
import { createHash, randomBytes } from "node:crypto";

const alphabet =
  "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const connectionPattern = /^c_[0-9A-Za-z]{22}$/;
const userTagPattern = /^u:[0-9A-Za-z]{22}$/;
const messagePattern = /^m_([CSU])([0-9A-Za-z]{22})([0-9A-Za-z]{9,12})$/;
/** G: a name and an offset of 9 characters; H: a name and the 11 characters of a scheduled ID. */
const groupMessagePattern =
  /^m_(?:G([0-9A-Za-z]+)([0-9A-Za-z]{9})|H([0-9A-Za-z]+)([0-9A-Za-z]{11}))$/;
/** Not `.` and `..`: every HTTP client takes them out of a path, with whatever stands before them. */
const groupNamePattern = /^(?!\.{1,2}$)[0-9A-Za-z_.~@+=-]{1,128}$/;

/** `length` random base62 characters; bytes of 248 and more are thrown away so that none is likelier. */
export function randomBase62(length: number): string {
  let out = "";
  while (out.length < length)
    for (const byte of randomBytes(length + 8)) {
      if (byte < 248) out += alphabet[byte % 62];
      if (out.length === length) break;
    }
  return out;
}

export const newConnectionId = (): string => `c_${randomBase62(22)}`;
export const isConnectionId = (text: string): boolean =>
  connectionPattern.test(text);

function toBase62(number: number): string {
  let rest = number;
  let out = "";
  do {
    out = (alphabet[rest % 62] ?? "") + out;
    rest = Math.floor(rest / 62);
  } while (rest > 0);
  return out.padStart(9, "0");
}

function fromBase62(text: string): number {
  let out = 0;
  for (const char of text) out = out * 62 + alphabet.indexOf(char);
  return out;
}

/** A name that a backend or client may give to a group. */
export const isGroupName = (text: string): boolean =>
  groupNamePattern.test(text);

/** The schema UserId, for what did not come through it; characters, not code units. */
const userIdPattern = /^(?!\.{1,2}$)[^\p{Cc}\p{Cs}]{1,128}$/u;
export const isUserId = (text: string): boolean => userIdPattern.test(text);

/** Any name as base62, so that a message ID has letters and digits only. */
function nameToBase62(name: string): string {
  let rest = BigInt(`0x${Buffer.from(name, "latin1").toString("hex")}`);
  let out = "";
  for (; rest > 0n; rest /= 62n)
    out = (alphabet[Number(rest % 62n)] ?? "") + out;
  return out;
}

function nameFromBase62(text: string): string {
  let number = 0n;
  for (const char of text)
    number = number * 62n + BigInt(alphabet.indexOf(char));
  const hex = number.toString(16);
  return Buffer.from(
    hex.padStart(hex.length + (hex.length % 2), "0"),
    "hex",
  ).toString("latin1");
}

/** Names are few and messages many. */
const knownNames = new Map<string, string>();
const knownNamesMax = 1_000;

function groupPart(group: string): string {
  let part = knownNames.get(group);
  if (part === undefined) {
    if (knownNames.size >= knownNamesMax) knownNames.clear();
    part = nameToBase62(group);
    knownNames.set(group, part);
  }
  return part;
}

/** Where a message is: by its seq, by its own ID while it waits for its time, or with its user. */
export type MessageRoute =
  | { connectionId: string; kind: "sequence"; seq: number }
  | { connectionId: string; kind: "scheduled"; scheduledId: string }
  | { kind: "user"; userTag: string; place: string };

/** Where a message of a group is. */
export type GroupRoute = { group: string } & (
  | { kind: "offset"; offset: number }
  | { kind: "scheduled"; scheduledId: string }
);

/** The ID of the message that has `offset` in a group. */
export const groupMessageId = (group: string, offset: number): string =>
  `m_G${groupPart(group)}${toBase62(offset)}`;

/** The ID of a group's message that waits, or waited, for its time. */
export const scheduledGroupMessageId = (
  group: string,
  scheduledId: string,
): string => `m_H${groupPart(group)}${scheduledId}`;

/** Reads the ID of a group's message; undefined when it cannot be one of ours. */
export function parseGroupMessageId(id: string): GroupRoute | undefined {
  const match = groupMessagePattern.exec(id);
  if (!match) return undefined;
  const [, direct, offset = "", scheduled, scheduledId = ""] = match;
  const group = nameFromBase62(direct ?? scheduled ?? "");
  if (!isGroupName(group) && group !== "$all") return undefined;
  if (direct === undefined) return { group, kind: "scheduled", scheduledId };
  const number = fromBase62(offset);
  return Number.isSafeInteger(number)
    ? { group, kind: "offset", offset: number }
    : undefined;
}

/** The ID of the message that has `seq` in a connection's log. */
export const messageId = (connectionId: string, seq: number): string =>
  `m_C${connectionId.slice(2)}${toBase62(seq)}`;

/** The ID of a message that waits for its time and has no seq yet. */
export const scheduledMessageId = (
  connectionId: string,
  scheduledId: string,
): string => `m_S${connectionId.slice(2)}${scheduledId}`;

/**
 * A user as part of keys and message IDs: 128 bits of SHA-256 as 22 base62 characters. User IDs may be any text; this
 * never breaks a hash tag, has one length, and shows nobody who it is.
 */
export const userTag = (userId: string): string => `u:${digestOf(userId)}`;

/** A token by its `jti`, as part of what is revoked. */
export const tokenTag = (jti: string): string => `j:${digestOf(jti)}`;

/** Whose quotas they are, as part of a key: a kind such as `user`, and its name. */
export const quotaTag = (kind: string, name: string): string =>
  `q:${kind}:${digestOf(name)}`;

function digestOf(name: string): string {
  const digest = createHash("sha256").update(name).digest("hex");
  let rest = BigInt(`0x${digest.slice(0, 32)}`);
  let out = "";
  for (; rest > 0n; rest /= 62n)
    out = (alphabet[Number(rest % 62n)] ?? "") + out;
  return out.padStart(22, "0");
}

export const isUserTag = (text: string): boolean => userTagPattern.test(text);
export const isQuotaTag = (text: string): boolean =>
  /^q:[a-z]+:[0-9A-Za-z]{22}$/.test(text);

/** How a message of a user is called in logs of connections: its ID without `m_`. */
export const userMessageLabel = (tag: string, place: string): string =>
  `U${tag.slice(2)}${place}`;

/** The ID of a message to a user. */
export const userMessageId = (tag: string, place: string): string =>
  `m_${userMessageLabel(tag, place)}`;

export const newScheduledId = (): string => randomBase62(11);

/** Reads a message ID; undefined when it cannot be one of ours. */
export function parseMessageId(id: string): MessageRoute | undefined {
  const match = messagePattern.exec(id);
  if (!match) return undefined;
  const [, kind, connection = "", place = ""] = match;
  if (kind === "U") return { kind: "user", userTag: `u:${connection}`, place };
  const connectionId = `c_${connection}`;
  if (kind === "S")
    return { connectionId, kind: "scheduled", scheduledId: place };
  const seq = fromBase62(place);
  return Number.isSafeInteger(seq)
    ? { connectionId, kind: "sequence", seq }
    : undefined;
}
