/** Identifiers: unguessable, routable, and nothing else is taken for one. */
import t from "tap";
import {
  isConnectionId,
  messageId,
  newConnectionId,
  newScheduledId,
  parseMessageId,
  randomBase62,
  scheduledMessageId,
} from "../../shared/ids.js";

t.test("connection IDs are base62 and never the same", async (t) => {
  const ids = new Set(Array.from({ length: 2_000 }, newConnectionId));
  t.equal(ids.size, 2_000);
  for (const id of ids)
    if (!isConnectionId(id) || !/^c_[0-9A-Za-z]{22}$/.test(id)) t.fail(id);
});

t.test("every character is as likely as any other", async (t) => {
  const seen = new Map<string, number>();
  for (const char of randomBase62(62_000))
    seen.set(char, (seen.get(char) ?? 0) + 1);
  t.equal(seen.size, 62);
  // 1,000 each, give or take; seven standard deviations are not chance.
  for (const [char, times] of seen)
    if (times < 780 || times > 1_220) t.fail(`${char}: ${times}`);
});

t.test("a message ID says where its message is", async (t) => {
  const connectionId = newConnectionId();
  for (const seq of [0, 1, 61, 62, 1_763_868_000_000_123, 2 ** 53 - 1]) {
    const id = messageId(connectionId, seq);
    t.match(id, /^m_[0-9A-Za-z]+$/);
    t.same(parseMessageId(id), { connectionId, kind: "sequence", seq });
  }
  const scheduledId = newScheduledId();
  t.same(parseMessageId(scheduledMessageId(connectionId, scheduledId)), {
    connectionId,
    kind: "scheduled",
    scheduledId,
  });
});

t.test("what is none of ours is none", async (t) => {
  const connectionId = newConnectionId();
  const good = messageId(connectionId, 1);
  for (const id of [
    "",
    "m_",
    "c_",
    connectionId,
    good.slice(0, -1),
    `${good}0000`,
    good.replace("m_C", "m_X"),
    `${good.slice(0, -1)}.`,
    `${good.slice(0, -1)}é`,
    ` ${good}`,
    `${good}\n`,
    `m_C${connectionId.slice(2)}zzzzzzzzzzzz`,
  ])
    t.equal(parseMessageId(id), undefined, JSON.stringify(id));
  for (const id of [
    "",
    "c_",
    `${connectionId}0`,
    connectionId.slice(0, -1),
    `C${connectionId.slice(1)}`,
    `${connectionId.slice(0, -1)}:`,
    `${connectionId}\n`,
  ])
    t.equal(isConnectionId(id), false, JSON.stringify(id));
});
