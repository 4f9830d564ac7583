/** Standard Webhooks 1.0: who sent it, when this attempt was made, and that nothing of it was changed. */
import { createHmac } from "node:crypto";

/** An ID must not hold the dot that separates it from what follows in the signed text. */
export const webhookId = (id: string): string => id.replaceAll(".", "_");

/** One signature for each live secret, so that a receiver may change to the new one at any time in between. */
export function signatureHeaders(
  secrets: readonly Buffer[],
  id: string,
  body: Buffer,
  nowMs: number,
): Record<string, string> {
  const name = webhookId(id);
  const timestamp = String(Math.floor(nowMs / 1_000));
  const signatures = secrets.map((secret) => {
    const hmac = createHmac("sha256", secret);
    return `v1,${hmac.update(`${name}.${timestamp}.`).update(body).digest("base64")}`;
  });
  return {
    "webhook-id": name,
    "webhook-timestamp": timestamp,
    "webhook-signature": signatures.join(" "),
  };
}
