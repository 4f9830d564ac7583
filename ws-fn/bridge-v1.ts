/**
 * bridge.v1.json: JSON frames, at-least-once on the wire, resumable (PROTOCOL.md). `data` is always the body's exact
 * text; JSON is not serialised again. A message whose frame would exceed the limit goes out in parts.
 */
import type { Problem, WelcomeFrame } from "../shared/api.js";
import { BridgeError } from "../shared/errors.js";
import type { Entry } from "../shared/entry.js";
import type { GroupEntry } from "../shared/fanout.js";
import { isGroupName } from "../shared/ids.js";
import {
  checkBody,
  fromBase64,
  hasUtf8,
  mediaTypeOf,
  parseJson,
  type MediaType,
} from "../shared/media.js";
import { isoTimes } from "../shared/time.js";
import { bridgeProtocol } from "./handshake.js";
import type { Answer, Frame, Said, Speaker, WelcomeFacts } from "./speaker.js";
import {
  bytesPerSecond,
  frameBytesMax,
  messagesPerSecond,
} from "./upstream.js";

/** Shortest time between two acks that a client should keep; with pongs it stays well below the limits. */
const ackIntervalMs = 250;
/** Likewise for groups: what was acked of one counts only for a client that comes back without its offsets. */
const groupAckIntervalMs = 5_000;
/** Bytes of a part's body: base64 needs a third more, escaped text up to six times as much in the worst case. */
const binaryPartBytes = 180_000;
/** Everything of a frame but the body: at most 700 with a group, a content type of 256 characters that may be escaped, a user of 128. */
const envelopeBytes = 2_000;

/** What a client may publish to a group: text, so that its `data` is the body. */
const textTypePattern =
  /^(text\/[\w.+-]{1,64}|application\/([\w.-]{1,64}\+)?json)( *; *charset=utf-8)?$/i;

/** As in openapi.yaml (`EventName`). */
const eventNamePattern = /^[^\p{Cc}\p{Surrogate}]{1,128}$/u;
/** As in openapi.yaml (`Ref`). */
const refMax = 64;

const publishedAt = isoTimes();
const expiresAt = isoTimes();

const frame = (value: object): Frame => ({
  data: JSON.stringify(value),
  binary: false,
});

function violation(detail: string): Said {
  return {
    kind: "violation",
    error: new BridgeError("invalid_frame", { detail }),
  };
}

/** Cuts text so that each piece fits a frame once it is escaped; never inside a surrogate pair. */
function cutText(text: string): string[] {
  const pieces: string[] = [];
  let from = 0;
  while (from < text.length) {
    let to = Math.min(text.length, from + frameBytesMax - envelopeBytes);
    for (;;) {
      const last = text.charCodeAt(to - 1);
      if (to < text.length && last >= 0xd800 && last <= 0xdbff) to -= 1;
      const bytes = Buffer.byteLength(JSON.stringify(text.slice(from, to)));
      if (bytes + envelopeBytes <= frameBytesMax) break;
      to =
        from +
        Math.max(
          2,
          Math.floor(((to - from) * (frameBytesMax - envelopeBytes)) / bytes) -
            1,
        );
    }
    pieces.push(text.slice(from, to));
    from = to;
  }
  return pieces;
}

/** What a message of a connection and one of a group have in common. */
interface Content {
  contentType: string;
  expiresAtMs: number;
  binary: boolean;
  body: Buffer;
}

function message(entry: Entry, redelivered: boolean): Frame[] {
  const asks = entry.asks ? `,"replyTo":"${entry.id}"` : "";
  return frames(
    `"id":"${entry.id}","seq":${entry.seq}${asks}`,
    entry,
    entry.seq,
    redelivered,
  );
}

function groupMessage(entry: GroupEntry, redelivered: boolean): Frame[] {
  const { id, group, epoch, offset, from } = entry;
  const by = from ? `,"from":${JSON.stringify(from)}` : "";
  const all = frames(
    `"id":"${id}","group":"${group}","epoch":"${epoch}","offset":${offset}${by}`,
    entry,
    offset,
    redelivered,
  );
  for (const each of all) each.shared = true;
  return all;
}

/** The frames of one message; `at` is its seq or offset, which follows the clock. */
function frames(
  names: string,
  entry: Content,
  at: number,
  redelivered: boolean,
): Frame[] {
  const head = `{"type":"message",${names},"contentType":${JSON.stringify(entry.contentType)},`;
  const tail = `"publishedAt":"${publishedAt(Math.floor(at / 1_000))}","expiresAt":"${expiresAt(entry.expiresAtMs)}","redelivered":${redelivered}`;
  if (!entry.binary) {
    const text = entry.body.toString("utf8");
    const quoted = JSON.stringify(text);
    // Most messages are small: no byte count needed to know that they fit.
    if (
      quoted.length * 3 + envelopeBytes <= frameBytesMax ||
      Buffer.byteLength(quoted) + Buffer.byteLength(head) + tail.length + 16 <=
        frameBytesMax
    )
      return [{ data: `${head}"data":${quoted},${tail}}`, binary: false }];
    const pieces = cutText(text);
    return pieces.map((piece, index) => ({
      data: `${head}"data":${JSON.stringify(piece)},${tail},"part":${index + 1},"parts":${pieces.length}}`,
      binary: false,
    }));
  }
  const parts = Math.max(1, Math.ceil(entry.body.length / binaryPartBytes));
  return Array.from({ length: parts }, (_, index) => {
    const base64 = entry.body
      .subarray(index * binaryPartBytes, (index + 1) * binaryPartBytes)
      .toString("base64");
    const part = parts > 1 ? `,"part":${index + 1},"parts":${parts}` : "";
    return {
      data: `${head}"dataBase64":"${base64}",${tail}${part}}`,
      binary: false,
    };
  });
}

const isPlace = (value: unknown): value is number =>
  typeof value === "number" && Number.isSafeInteger(value) && value >= 0;

function isJson(text: string): boolean {
  try {
    parseJson(Buffer.from(text));
    return true;
  } catch {
    return false;
  }
}

function groupRequest(
  action: "join" | "leave" | "publish",
  said: Record<string, unknown>,
  ref: string | undefined,
): Said {
  const { group, data, contentType = "text/plain" } = said;
  if (typeof group !== "string" || !isGroupName(group))
    return {
      kind: "refused",
      ref,
      error: new BridgeError("invalid_parameter", {
        detail: "that is no name of a group",
      }),
    };
  if (action !== "publish") return { kind: "group", action, group, ref };
  if (
    typeof data !== "string" ||
    typeof contentType !== "string" ||
    !textTypePattern.test(contentType) ||
    (/json/i.test(contentType) && !isJson(data))
  )
    return {
      kind: "refused",
      ref,
      error: new BridgeError("invalid_parameter", {
        detail: "publish needs data, and takes a text or JSON contentType",
      }),
    };
  return { kind: "group", action, group, data, contentType, ref };
}

/** What a client says: text by default, or bytes. Throws what is wrong with it as a push of the same would. */
function bodyOf(said: Record<string, unknown>): MediaType & { body: Buffer } {
  const { data, dataBase64, contentType } = said;
  const bad = (detail: string) =>
    new BridgeError("invalid_parameter", { detail });
  if (contentType !== undefined && typeof contentType !== "string")
    throw bad("contentType is text");
  if (data !== undefined && dataBase64 !== undefined)
    throw bad("give one of data and dataBase64, not two");
  let body: Buffer | undefined;
  if (dataBase64 !== undefined) {
    if (typeof dataBase64 === "string") body = fromBase64(dataBase64);
    if (body === undefined) throw bad("dataBase64 is no base64");
  } else {
    if (data !== undefined && typeof data !== "string")
      throw bad(
        "data is text; JSON goes into it as text, bytes into dataBase64",
      );
    if (!hasUtf8(data ?? "")) throw new BridgeError("invalid_utf8");
    body = Buffer.from(data ?? "");
  }
  const type = mediaTypeOf(
    contentType ??
      (dataBase64 === undefined ? "text/plain" : "application/octet-stream"),
  );
  checkBody(body, type);
  return { ...type, body };
}

function read(data: Buffer, binary: boolean): Said {
  if (binary) return violation("frames of bridge.v1.json are text");
  let said: Record<string, unknown>;
  try {
    const parsed = parseJson(data);
    if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed))
      return violation("a frame is a JSON object");
    said = parsed as Record<string, unknown>;
  } catch {
    return violation("the frame is not JSON");
  }
  const ref = typeof said["ref"] === "string" ? said["ref"] : undefined;
  // Left without a result, its sender would wait for ever.
  if (said["ref"] !== undefined && ref === undefined)
    return violation("a ref is text");
  if (ref !== undefined && (ref.length === 0 || ref.length > refMax))
    return violation(`a ref has 1 to ${refMax} characters`);
  switch (said["type"]) {
    case "ack": {
      const { seq, groups } = said as { seq: unknown; groups: unknown };
      const places =
        typeof groups === "object" && groups !== null ? groups : undefined;
      if (seq === undefined ? !places : !isPlace(seq))
        return violation("ack needs the seq of a message, or groups");
      if (
        groups !== undefined &&
        (!places || !Object.values(places).every(isPlace))
      )
        return violation("groups of an ack are names with offsets");
      return {
        kind: "ack",
        seq: seq as number | undefined,
        groups: places as Record<string, number> | undefined,
      };
    }
    case "pong":
      return { kind: "pong" };
    case "event":
      if (typeof said["event"] !== "string")
        return violation("event needs a name in `event`");
      try {
        if (!eventNamePattern.test(said["event"]))
          throw new BridgeError("invalid_parameter", {
            detail:
              "an event's name has 1 to 128 characters, none of them a control character",
          });
        const { contentType, binary, body } = bodyOf(said);
        return {
          kind: "event",
          event: said["event"],
          ref,
          contentType,
          binary,
          body,
        };
      } catch (error) {
        return { kind: "refused", ref, error: error as Error };
      }
    case "join":
    case "leave":
    case "publish":
      return groupRequest(said["type"], said, ref);
    case "reply":
      if (typeof said["replyTo"] !== "string")
        return violation("reply needs the message in `replyTo`");
      try {
        const { contentType, body } = bodyOf(said);
        return {
          kind: "reply",
          replyTo: said["replyTo"],
          ref,
          contentType,
          body,
        };
      } catch (error) {
        return { kind: "refused", ref, error: error as Error };
      }
    default:
      return violation("unknown type of frame");
  }
}

/** The backend's answer under its type; what is not what its type says goes as bytes. */
function contentOf({ contentType, body }: Answer) {
  try {
    const type = mediaTypeOf(contentType);
    checkBody(body, { ...type, json: false });
    if (!type.binary) return { contentType, data: body.toString("utf8") };
  } catch {
    // As bytes.
  }
  return { contentType, dataBase64: body.toString("base64") };
}

/** It remembers nothing of a client: one for all. */
export const bridgeSpeaker = (): Speaker => speaker;

const speaker: Speaker = {
  protocol: bridgeProtocol,
  acks: true,
  welcome(facts: WelcomeFacts): Frame {
    const welcome: WelcomeFrame = {
      type: "welcome",
      connectionId: facts.connectionId,
      userId: facts.userId === "" ? null : facts.userId,
      groups: facts.groups,
      resumeToken: facts.resumeToken,
      resumed: facts.resumed,
      lost: facts.lost,
      seq: facts.seq,
      heartbeatMs: facts.heartbeatMs,
      limits: {
        messagesPerSecond,
        bytesPerSecond,
        maxBytes: frameBytesMax,
        ackIntervalMs,
        groupAckIntervalMs,
      },
    };
    return frame(welcome);
  },
  message,
  groupMessage,
  group: (group, position) => frame({ type: "group", group, ...position }),
  ping: (resumeToken) =>
    frame(
      resumeToken === undefined
        ? { type: "ping" }
        : { type: "ping", resumeToken },
    ),
  drain: (reconnectAfterMs) => frame({ type: "drain", reconnectAfterMs }),
  error: (problem: Problem) => frame({ type: "error", error: problem }),
  result: (ref, problem) =>
    frame({ type: "result", ref, ok: false, error: problem }),
  done: (ref, value) =>
    frame({
      type: "result",
      ref,
      ok: true,
      ...(value && {
        contentType: "application/json",
        data: JSON.stringify(value),
      }),
    }),
  answered: (ref, answer, problem) => {
    const common = {
      type: "result",
      ref,
      ok: problem === undefined,
      ...(problem && { error: problem }),
    };
    // Nothing is nothing, whatever its type.
    if (answer.body.length === 0) return frame(common);
    const full = frame({ ...common, ...contentOf(answer) });
    return answer.truncated || Buffer.byteLength(full.data) > frameBytesMax
      ? frame({ ...common, omitted: true })
      : full;
  },
  read,
};
