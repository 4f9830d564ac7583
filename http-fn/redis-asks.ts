/** Replies as http-fn asks for them, on Redis: who can reply, and the wait for the first who does. */
import type { Connection, Delivery, Receipt } from "../shared/api.js";
import { BridgeError } from "../shared/errors.js";
import { replyPlace, type ReplyPlace } from "../shared/replies.js";
import { isFinal, type Receipts } from "../shared/receipts.js";
import type { Stores } from "../shared/stores.js";
import type { Bridge, Push, UserPush } from "./bridge.js";

const impossible = (
  detail: string,
  data: ConstructorParameters<typeof BridgeError>[1] = {},
): BridgeError => new BridgeError("reply_impossible", { detail, ...data });

/** The refusal when everybody who is there speaks raw; undefined when somebody can reply, or nobody is there yet. */
export function nobodyCanReply(
  recipients: readonly Pick<Connection, "protocol">[],
): BridgeError | undefined {
  return recipients.length > 0 &&
    recipients.every(({ protocol }) => protocol === "raw")
    ? impossible("a raw socket cannot reply", {
        hint: "Nothing was sent. The client must speak bridge.v1.json.",
      })
    : undefined;
}

type Life = Pick<Delivery, "connection" | "status" | "ack">;

/** A message's lives at connections; none while it waits for its user. */
const livesOf = ({ to, status, ack, deliveries = [] }: Receipt): Life[] =>
  "connection" in to
    ? [{ connection: to.connection, status, ack }]
    : deliveries;

export function createAsks(
  { registry, replies }: Pick<Stores, "registry" | "replies">,
  receipts: Receipts,
) {
  async function inspect(connectionId: string) {
    try {
      return await registry.inspect(connectionId);
    } catch (error) {
      if (error instanceof BridgeError && error.code === "connection_not_found")
        return undefined;
      throw error;
    }
  }

  /** Before a message that asks is stored. Throws reply_impossible. */
  async function checkAsk(push: Push | UserPush): Promise<void> {
    const there =
      "userId" in push
        ? (await registry.ofUser(push.userId)).filter(
            ({ state }) => state === "open",
          )
        : [await inspect(push.connectionId)].filter(
            // What has ended is refused for that.
            (one) => one !== undefined && one.state !== "ended",
          );
    const refusal = nobodyCanReply(there as Connection[]);
    if (refusal) throw refusal;
  }

  /** Why nobody can reply any more; undefined while somebody may. */
  async function hopeless(receipt: Receipt): Promise<BridgeError | undefined> {
    const { id, status, reason } = receipt;
    if (isFinal(status) && status !== "delivered")
      return impossible(`the message is ${status}`, {
        message: id,
        ...(reason === null ? {} : { reason }),
      });
    const lives = livesOf(receipt);
    if (lives.length === 0) return undefined;
    let ended: Connection | undefined;
    for (const life of lives) {
      if (!isFinal(life.status)) return undefined;
      if (life.status !== "delivered" || life.ack === "socket") continue;
      const connection = await inspect(life.connection);
      if (connection && connection.state !== "ended") return undefined;
      ended = connection ?? ended;
    }
    const raw = lives.some(({ ack }) => ack === "socket");
    return impossible(
      raw
        ? "the message went to a raw socket, which cannot reply"
        : "the connection that has the message ended without a reply",
      {
        message: id,
        ...(ended?.reason ? { reason: ended.reason } : {}),
      },
    );
  }

  async function lookUp(
    at: ReplyPlace,
    messageId: string,
  ): Promise<
    | { reply: Awaited<ReturnType<typeof replies.read>> }
    | { receipt: Receipt; why: BridgeError | undefined }
    | undefined
  > {
    try {
      const reply = await replies.read(at);
      if (reply) return { reply };
      const receipt = await receipts.read(messageId);
      return { receipt, why: await hopeless(receipt) };
    } catch {
      // Redis is away, or the receipt is over: the reply may still come.
      return undefined;
    }
  }

  const reply: Bridge["reply"] = async (
    { messageId, accepted, replayed },
    { replyMs, hasKey },
    signal,
  ) => {
    const at = replyPlace(messageId);
    if (!at) throw new Error("a message that asks has a place for its reply");
    // The first request may have made its place long ago.
    if (replayed !== undefined) await replies.open(at, replyMs, hasKey);
    const attention = receipts.attend(signal);
    let { expiresAt } = accepted;
    let why: BridgeError | undefined;
    try {
      attention.to(accepted);
      while (await attention.news({ expiresAt })) {
        const found = await lookUp(at, messageId);
        if (!found) continue;
        if ("reply" in found) {
          if (found.reply) return found.reply;
          continue;
        }
        attention.to(found.receipt);
        ({ expiresAt } = found.receipt);
        ({ why } = found);
        if (why) break;
      }
    } finally {
      attention.stop();
    }
    try {
      // With a key the sender may ask again; without one nobody ever will, and whoever replies now is told so.
      const late = await (hasKey ? replies.read(at) : replies.close(at));
      if (late) return late;
    } catch (error) {
      throw new BridgeError(
        "outcome_unknown",
        { detail: "a reply may be there", message: messageId },
        error,
      );
    }
    throw (
      why ??
      new BridgeError("reply_timeout", {
        detail: "no reply came in time",
        message: messageId,
        hint: hasKey
          ? "The same request with the same Idempotency-Key waits on; the receipt tells whether the client has the message."
          : "The receipt tells whether the client has the message. With an Idempotency-Key the same request could wait on.",
      })
    );
  };

  return { checkAsk, reply };
}
