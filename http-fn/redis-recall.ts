/** Recalls on Redis: of a message to a connection, to a user, to a group. */
import type { Receipt } from "../shared/api.js";
import { BridgeError } from "../shared/errors.js";
import {
  parseGroupMessageId,
  parseMessageId,
  randomBase62,
  type MessageRoute,
} from "../shared/ids.js";
import { channels } from "../shared/keys.js";
import type { Receipts } from "../shared/receipts.js";
import type { Stores } from "../shared/stores.js";

/** How long the owner of a connection may take to decide about a recall (rule 10). */
const recallDeadlineMs = 1_000;

/** `fromGroup` recalls a message of a group. */
export function createRecall(
  {
    redis,
    log,
    users,
    queues,
  }: Pick<Stores, "redis" | "log" | "users" | "queues">,
  receipts: Receipts,
  fromGroup: (messageId: string) => Promise<Receipt>,
): (messageId: string) => Promise<Receipt> {
  /** Asks the owner, who alone knows what it has sent. */
  async function recallFromOwner(
    connectionId: string,
    seq: number,
    epoch: number,
  ): Promise<string> {
    const nonce = randomBase62(8);
    let answer: (word: string) => void = () => undefined;
    const answered = new Promise<string>((resolve) => {
      answer = resolve;
    });
    const channel = channels.news(connectionId);
    const { heard, stop } = receipts.listen(channel, (news) => {
      const [kind, forWhom, word = ""] = news.split(" ");
      if (kind === "recalled" && forWhom === nonce) answer(word);
    });
    const timer = setTimeout(() => answer("maybe"), recallDeadlineMs);
    try {
      await Promise.race([heard, answered]);
      await redis.publish(
        `${channels.bell(connectionId)}${epoch}`,
        `recall ${seq} ${nonce}`,
      );
      return await answered;
    } finally {
      clearTimeout(timer);
      stop();
    }
  }

  /** How a recall of a message to one connection went. */
  async function recallOne(
    route: Exclude<MessageRoute, { kind: "user" }>,
  ): Promise<string> {
    const { connectionId } = route;
    let seq: number;
    if (route.kind === "scheduled") {
      const word = await log.recallScheduled(connectionId, route.scheduledId);
      if (typeof word !== "number") {
        if (word === "recalled")
          // Only tidiness: a job that still runs finds the recall in the connection's hash.
          await queues.unschedule(route.scheduledId).catch(() => undefined);
        return word;
      }
      seq = word;
    } else ({ seq } = route);
    const word = await log.recall(connectionId, seq);
    return typeof word === "string"
      ? word
      : await recallFromOwner(connectionId, seq, word.ask);
  }

  /** From everybody who does not have it yet: recalled when nobody has. */
  async function recallFromUser({
    userTag,
    place,
  }: Extract<MessageRoute, { kind: "user" }>): Promise<string> {
    const word = await users.recall(userTag, place);
    if (word !== "given") return word;
    const record = await users.record(userTag, place);
    const words = await Promise.all(
      (record?.deliveries ?? []).map(({ connectionId, seq }) =>
        recallOne({ kind: "sequence", connectionId, seq }),
      ),
    );
    // What is worst tells: one that has it outweighs all that had not.
    for (const worst of ["sent", "final", "maybe", "recalled"])
      if (words.includes(worst)) return worst;
    return words[0] ?? "not_found";
  }

  async function recall(messageId: string): Promise<Receipt> {
    if (parseGroupMessageId(messageId)) return fromGroup(messageId);
    const route = parseMessageId(messageId);
    // Tells an unknown message from one that cannot be recalled.
    await receipts.read(messageId);
    if (!route) throw new Error("a readable message has a route");
    const outcome =
      route.kind === "user"
        ? await recallFromUser(route)
        : await recallOne(route);
    switch (outcome) {
      case "recalled":
        return receipts.read(messageId);
      case "sent":
        throw new BridgeError("already_sent", {
          detail: "the message was handed to the client's socket",
        });
      case "not_found":
        throw new BridgeError("message_not_found");
      case "final": {
        const { status } = await receipts.read(messageId);
        throw new BridgeError("already_final", {
          detail: `the message is ${status}`,
        });
      }
      default:
        throw new BridgeError("may_have_been_delivered", {
          detail: "whether the client has the message is not known yet",
        });
    }
  }

  return recall;
}
