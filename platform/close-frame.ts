// The one frame the platform ever writes itself: a Close with a code [WS-CLOSE-15, WS-LIM-4].

import { randomBytes } from "node:crypto";
import type { Side } from "./relay.js";

const FINAL_CLOSE = 0x88;
const MASKED = 0x80;
const CODE_BYTES = 2;

/** A Close frame for the client, or a masked one for the function: a server takes no other (RFC 6455 section 5.1). */
export function closeFrame(code: number, to: Side): Buffer {
  const payload = Buffer.alloc(CODE_BYTES);
  payload.writeUInt16BE(code);
  if (to === "client")
    return Buffer.concat([Buffer.from([FINAL_CLOSE, CODE_BYTES]), payload]);
  const mask = randomBytes(4);
  const masked = payload.map((byte, i) => byte ^ (mask[i] ?? 0));
  const head = Buffer.from([FINAL_CLOSE, MASKED | CODE_BYTES]);
  return Buffer.concat([head, mask, masked]);
}
