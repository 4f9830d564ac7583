/**
 * The poison rule: a message that kills the page it is sent to must not stop its connection. When the same first
 * unacked message was the last thing sent on 20 sockets in a row that each ended within 5 s of it, it is undeliverable,
 * and the log goes on.
 *
 * A page that is sent everything that waits dies of the first bad message and tells nothing of which it was. So after a
 * few such ends the owner is cautious: it sends the first unacked message alone, and the rest once that is acked or
 * 5 s were survived. An ack that gets on clears every suspicion, so a bad line accuses nobody for long. Only the end of
 * a socket is looked at, never a message.
 */
import { drains } from "./full.js";
import { keys } from "./keys.js";
import { bounded, drop, prelude } from "./log-scripts.js";
import { undelivered } from "./outbox.js";
import type { RedisLink, Script } from "./redis.js";

/** A socket that ends this soon after the last message may have died of it. */
export const poisonWithinMs = 5_000;
/** So many in a row, and the message is given up. */
export const poisonSockets = 20;
/** So many, and it is sent alone. */
export const cautiousAfter = 3;

/**
 * A socket has ended. The hash's `suspect` is 'seq ends alone': how many sockets in a row ended at this first unacked
 * message, and on how many of the last of them it was the last thing sent.
 * KEYS conn log fates; ARGV 1 epoch 2 last seq sent 3 '1' when it ended soon after
 * Returns the seq that was given up, or ''.
 */
export const accuseScript: Script = {
  name: "bridgeAccuse",
  keys: 3,
  lua: `${prelude}${bounded}${drop}${undelivered}${drains()}local c = redis.call('HMGET', KEYS[1], 'state', 'epoch', 'acked', 'suspect')
if c[1] ~= 'open' or c[2] ~= ARGV[1] then return '' end
local row = ARGV[3] == '1' and redis.call('XRANGE', KEYS[2], '(' .. (c[3] or '0'), '+', 'COUNT', 1)[1]
local first = row and string.match(row[1], '^%d+')
if not first or tonumber(first) > tonumber(ARGV[2]) then
  if c[4] then redis.call('HDEL', KEYS[1], 'suspect') end
  return ''
end
local seq, ends, alone = string.match(c[4] or '', '^(%d+) (%d+) (%d+)$')
if seq ~= first then ends, alone = 0, 0 end
ends = ends + 1
if ARGV[2] == first then alone = alone + 1 else alone = 0 end
if alone < ${poisonSockets} then
  redis.call('HSET', KEYS[1], 'suspect', first .. ' ' .. text(ends) .. ' ' .. text(alone))
  return ''
end
drop(first)
redis.call('HDEL', KEYS[1], 'suspect')
redis.call('ZADD', KEYS[3], first, first .. ':undeliverable:poison:' .. text(ms))
bounded(KEYS[3])
undelivered({first .. ':undeliverable:poison:' .. text(ms)})
news('f')
return first
`,
};

/** What a claim finds: the message to be sent alone, or 0; and whether there is a suspicion at all. */
export function parseSuspect(record: string): {
  suspect: number;
  suspected: boolean;
} {
  const [seq = 0, ends = 0] = record.split(" ").map(Number);
  return {
    suspect: ends >= cautiousAfter ? seq : 0,
    suspected: record !== "",
  };
}

/** Tells of a socket's end, within the owner's epoch. Resolves with the seq that was given up, if any. */
export async function accuse(
  redis: RedisLink,
  connectionId: string,
  epoch: number,
  end: { sent: number; soon: boolean },
): Promise<number | undefined> {
  const seq = await redis.run(
    accuseScript,
    [
      keys.connection(connectionId),
      keys.log(connectionId),
      keys.fates(connectionId),
    ],
    [epoch, end.sent, end.soon ? 1 : 0],
  );
  return seq === "" ? undefined : Number(seq);
}
