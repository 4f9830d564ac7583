/**
 * Every Redis key, queue and channel name, in one place.
 *
 * All keys of a connection carry the hash tag `{connectionId}`, so a connection lives in one Cluster slot and a script
 * may touch all of it at once. Never two connections in one script; where there are no slots, what several ask goes in one
 * call (gathering.ts, many.ts).
 *
 * All keys of a group carry `{g:<name>}`, so that a publish is one script, too. Never a connection's key and a group's in
 * one script.
 *
 * Only text that is an ID becomes part of a name, and that is checked here: whatever a token, a backend or a client said,
 * it cannot name keys that are not its own. All of these functions throw `NotAnIdError`.
 *
 * If you add a key of a connection: add it to `connectionKeys` as well, or it outlives its connection.
 */
import { isConnectionId, isGroupName, isQuotaTag, isUserTag } from "./ids.js";

/** The group that every connection is a member of; no client or backend can name it. */
export const everybody = "$all";

/** Nothing of a connection outlives the last time somebody looked after it by more than this, whoever dies; milliseconds. */
export const horizonMs = 2 * 86_400_000;

/** BullMQ's key prefix. */
export const bullPrefix = "bull";

/** Text that is no ID was about to become part of a key. Says which kind was wanted, and the text in short. */
export class NotAnIdError extends TypeError {
  constructor(kind: string, text: unknown) {
    const shown = JSON.stringify(String(text).slice(0, 40));
    super(`${shown} is no ${kind}: it cannot be part of a Redis key`);
    this.name = "NotAnIdError";
  }
}

/** `text`, if it is one. */
function checked(
  kind: string,
  is: (text: string) => boolean,
  text: string,
): string {
  if (typeof text === "string" && is(text)) return text;
  throw new NotAnIdError(kind, text);
}

const idOf = (text: string) => checked("connection ID", isConnectionId, text);
const userOf = (text: string) => checked("user's tag", isUserTag, text);

/** What processes draw for themselves and what we hash: letters, digits, `-`, `_` and `.`. */
const wordPattern = /^[0-9A-Za-z_.-]{1,128}$/;
const wordOf = (text: string) =>
  checked("word", (word) => wordPattern.test(word), text);
/** As `wordOf`; a script completes the name, or nothing was asked for. */
const wordOrNoneOf = (text: string) => (text === "" ? text : wordOf(text));

/** Of a connection or a user. */
const tagOf = (text: string) =>
  checked(
    "connection ID or user's tag",
    (tag) => isConnectionId(tag) || isUserTag(tag),
    text,
  );

const named = (tag: string, part: string) => `bridge:{${tag}}:${part}`;

const own = (connectionId: string, part: string) =>
  named(idOf(connectionId), part);
const ofTag = (tag: string, part: string) => named(tagOf(tag), part);
const ofUser = (tag: string, part: string) => named(userOf(tag), part);

/** What stands in braces in the keys of the stream of events. */
export const eventsTag = "events";

/** What stands in braces in the names of BullMQ's queue of scheduled pushes, which holds their bodies in base64. */
export const scheduleTag = "schedule";

/** What stands in braces in the keys of a group. Those of `$all` are the directory of all connections (directory.ts). */
export const groupTag = (name: string): string =>
  `g:${checked("group's name", isGroup, name)}`;

const isGroup = (name: string) => name === everybody || isGroupName(name);

/** Of a connection, a user or a group. */
const anyTagOf = (tag: string) =>
  /^g:/.test(tag) ? groupTag(tag.slice(2)) : tagOf(tag);

const ofGroup = (group: string, part: string) => named(groupTag(group), part);

export const keys = {
  /** Hash: who it is, state, epoch, owner, lease, positions. `bridge:{c_…}:conn` */
  connection: (id: string) => own(id, "conn"),
  /** Stream: messages not acked yet, entry ID `<seq>-0`. `bridge:{c_…}:log` */
  log: (id: string) => own(id, "log"),
  /** Stream: one small entry for every accepted message, as long as its receipt lives. `bridge:{c_…}:index` */
  index: (id: string) => own(id, "index"),
  /** Stream: when which position was sent and acked. `bridge:{c_…}:marks` */
  marks: (id: string) => own(id, "marks"),
  /** Sorted set by seq: messages that ended otherwise than by an ack. `bridge:{c_…}:fates` */
  fates: (id: string) => own(id, "fates"),
  /** Hash: topic to the newest pending seq. `bridge:{c_…}:topics` */
  topics: (id: string) => own(id, "topics"),
  /** Hash: scheduled messages that wait for their time. `bridge:{c_…}:scheduled` */
  scheduled: (id: string) => own(id, "scheduled"),
  /** String: first answer to an Idempotency-Key; of a connection or a user. `bridge:{c_…}:idem:<hash>` */
  idempotency: (tag: string, hash: string) =>
    ofTag(tag, `idem:${wordOrNoneOf(hash)}`),

  /** Hash: a group's epoch, its last offset, the bytes of its history. `bridge:{g:room}:meta` */
  group: (name: string) => ofGroup(name, "meta"),
  /** Stream: the short history of a group, entry ID `<offset>-0`. `bridge:{g:room}:history` */
  groupHistory: (name: string) => ofGroup(name, "history"),
  /** Stream: one small entry for every message of a group, as long as its receipt lives. `bridge:{g:room}:index` */
  groupIndex: (name: string) => ofGroup(name, "index"),
  /** Hash: how many sockets were handed which offset, and since when. `bridge:{g:room}:facts` */
  groupFacts: (name: string) => ofGroup(name, "facts"),
  /** Sorted set of a group's members, all with score 0, for listing in order of ID. `bridge:{g:room}:members` */
  groupMembers: (name: string) => ofGroup(name, "members"),
  /** Sorted set of members by the time (ms) until which they are members if nobody says more. `bridge:{g:room}:until` */
  groupUntil: (name: string) => ofGroup(name, "until"),
  /** Sorted set of members whose socket is open, by the time (ms) until which that counts if nobody says more. `bridge:{g:room}:online` */
  groupOnline: (name: string) => ofGroup(name, "online"),
  /** Hash: scheduled messages of a group. `bridge:{g:room}:scheduled` */
  groupScheduled: (name: string) => ofGroup(name, "scheduled"),
  /** String: first answer to an Idempotency-Key. `bridge:{g:room}:idem:<hash>` */
  groupIdempotency: (name: string, hash: string) =>
    ofGroup(name, `idem:${wordOrNoneOf(hash)}`),

  /** Hash: the reply to a message, or that somebody waits for it; of a connection or a user. Expires by itself. `bridge:{c_…}:reply:<seq>` */
  reply: (tag: string, place: string) => ofTag(tag, `reply:${wordOf(place)}`),

  /** Hash: what the webhook answered to an event of a connection's client. Expires by itself. `bridge:{c_…}:answer:<event>` */
  answer: (id: string, event: string) => own(id, `answer:${wordOf(event)}`),

  /** String, gone within a second: what a WAIT waits for (replication.ts). `bridge:{c_…}:witness` */
  witness: (tag: string) =>
    named(tag === scheduleTag ? tag : anyTagOf(tag), "witness"),

  // Of users, in the slot of `{u:<digest of the user ID>}`; `tag` is what `userTag` gives.
  /** Sorted set: a user's connections by arrival (µs). Stale ones may be in it and are checked on read. `bridge:{u:…}:connections` */
  userConnections: (tag: string) => ofUser(tag, "connections"),
  /** Hash: a message to the user and what became of it; goes when its receipt does. `bridge:{u:…}:message:<place>` */
  userMessage: (tag: string, place: string) =>
    ofUser(tag, `message:${wordOf(place)}`),
  /** Stream: messages that wait for the user's first connection. `bridge:{u:…}:parked` */
  userParked: (tag: string) => ofUser(tag, "parked"),
  /** Hash: which connection is to get which of those. `bridge:{u:…}:claims` */
  userClaims: (tag: string) => ofUser(tag, "claims"),

  /** Sorted set of connections by the time (ms) at which their time is over, or somebody has to clear up after them. */
  due: ofGroup(everybody, "due"),
  /** Sorted set of ws-fn processes by the end (ms) of their lease. */
  instances: ofGroup(everybody, "instances"),
  /** Set: the connections whose sockets a ws-fn process holds. `bridge:{g:$all}:held:<instance>` */
  held: (instance: string) =>
    ofGroup(everybody, `held:${wordOrNoneOf(instance)}`),
  /** Stream: events for backends, entry ID `<position>-0`. Its slot is its own. */
  events: "bridge:{events}:stream",
  /** String: position of the newest event there ever was. Stays. */
  lastEvent: "bridge:{events}:last",
  /** String: bytes of all events that were ever appended, as long as any of them is kept. */
  eventBytes: "bridge:{events}:bytes",
  /** Sorted set: clients, by when their share of the events would be free again (ms): a user's tag, or a connection without one. */
  eventShares: "bridge:{events}:shares",
  /** Sorted set: identities of events that somebody might append again, by when to forget them (ms). */
  eventIdentities: "bridge:{events}:identities",
  // What waits for the webhook (lane-scripts.ts), in the slot of the events; a member is `<connection ID> <position>`.
  /** Sorted set, all with score 0: which events wait, by connection and position. */
  webhookPending: "bridge:{events}:pending",
  /** Hash: those events, by the same members. */
  webhookBodies: "bridge:{events}:bodies",
  /** Sorted set: connections with something that waits, by when to look for their job (ms). */
  webhookLanes: "bridge:{events}:lanes",
  /** Hash: each lane's generation, owner, attempts and client; bytes that wait, and of each client; what is known of the receiver. */
  webhookState: "bridge:{events}:webhook",
  /** String, for a day: who gave permission to send, and how often. */
  webhookProof: "bridge:{events}:proof",
  /** Hash: what a subject has used of each quota (quotas.ts); it goes once that has run down. `bridge:{q:<kind>:<digest>}:quota` */
  quota: (tag: string) =>
    named(checked("quota's tag", isQuotaTag, tag), "quota"),
  /** Sorted set: what was revoked (revocations.ts), by when (ms). Its slot is its own. */
  revoked: "bridge:{revoked}:names",
  /** String: the generated token secret of a keyless installation. */
  tokenSecret: "bridge:token-secret",

  /** BullMQ queue of a ws-fn process: messages that it did not hear of. Redis keys `bull:{i-<instance>}:wait` and so on. */
  deliverQueue: (instance: string) => `{i-${wordOf(instance)}}`,
  /** BullMQ queue of all scheduled pushes. */
  scheduleQueue: `{${scheduleTag}}`,
  /** BullMQ queue of lanes that wait for the webhook. */
  webhookQueue: "{webhooks}",
} as const;

/** The fixed keys of a connection, for expiry and removal. */
export function connectionKeys(id: string): string[] {
  return [
    keys.connection(id),
    keys.log(id),
    keys.index(id),
    keys.marks(id),
    keys.fates(id),
    keys.topics(id),
    keys.scheduled(id),
  ];
}

/** The keys of a BullMQ queue that jobs are added to; they expire where no process is left to take them. */
export function queueKeys(queue: string): string[] {
  return ["wait", "meta", "id", "marker", "events"].map(
    (part) => `${bullPrefix}:${queue}:${part}`,
  );
}

export const channels = {
  /** Doorbell prefix; the owner's epoch follows. A takeover changes the channel. `bell:{c_…}:<epoch>` */
  bell: (id: string) => `bell:{${idOf(id)}}:`,
  /** News about receipts of a connection: something was sent, acked or ended. `news:{c_…}` */
  news: (id: string) => `news:{${tagOf(id)}}`,
  /** A new event was appended; its position. */
  events: "news:{events}",
  /** Something was revoked: when, and its name. */
  revoked: "news:{revoked}",
  /** Doorbell of a group, heard by every instance that holds a member. `bell:{g:room}` */
  groupBell: (name: string) => `bell:{${groupTag(name)}}`,
  /** News about receipts of a group's messages. `news:{g:room}` */
  groupNews: (name: string) => `news:{${groupTag(name)}}`,
  /** Canary through a subscriber connection. */
  canary: (instance: string) => `canary:${wordOf(instance)}`,
} as const;
