// Posts one batch of messages; counts the items that were accepted without parsing each.
import { request as httpRequest, type Agent } from "node:http";

export interface BatchTo {
  agent: Agent;
  port: number;
  /** Value of the Authorization header; undefined: none. */
  authorization: string | undefined;
}

/** One line of a batch. */
export function batchLine(connection: string, data: string): string {
  return `${JSON.stringify({ to: { connection }, data, contentType: "application/json" })}\n`;
}

/** The number of items that were answered 202. */
export function postBatch(
  { agent, port, authorization }: BatchTo,
  body: string,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const request = httpRequest({
      agent,
      port,
      host: "127.0.0.1",
      method: "POST",
      path: "/v1/batch",
      headers: {
        ...(authorization !== undefined && { authorization }),
        "content-type": "application/x-ndjson",
        "content-length": Buffer.byteLength(body),
      },
    });
    request.on("error", reject);
    request.on("response", (response) => {
      let text = "";
      response.setEncoding("latin1");
      response.on("data", (chunk: string) => (text += chunk));
      response.on("error", reject);
      response.on("end", () => {
        resolve(text.split('"status":202,').length - 1);
      });
    });
    request.end(body);
  });
}
