/** What the webhook is sent for an event: its body, and the attributes beside it. */
import type { LaneItem } from "../../shared/lanes.js";
import type { Post } from "./sender.js";

/** What a client has said (`event`): its body goes out as it is, its name and reference beside it. */
interface ClientEventData {
  userId?: string | null;
  event: string;
  contentType: string;
  data?: string;
  dataBase64?: string;
  ref?: string | number | null;
}

/** For what no header may hold. */
const anyBytes = "application/octet-stream";

export function requestOf({ event, position }: LaneItem): Post {
  const { id, type, subject, time } = event;
  const data = event.data as Partial<ClientEventData>;
  const common = {
    id,
    type,
    subject,
    timeMs: Date.parse(time),
    extensions: {
      connectionid: subject,
      userid: data.userId,
      position: String(position),
    },
  };
  if ((type as string) !== "event")
    return {
      ...common,
      contentType: "application/json",
      body: JSON.stringify(data),
    };
  const { contentType = "", ref } = data;
  return {
    ...common,
    contentType: /^[ -~]+$/.test(contentType) ? contentType : anyBytes,
    body:
      data.dataBase64 === undefined
        ? (data.data ?? "")
        : Buffer.from(data.dataBase64, "base64"),
    extensions: {
      ...common.extensions,
      eventname: data.event,
      ref: ref === undefined || ref === null ? null : String(ref),
    },
  };
}
