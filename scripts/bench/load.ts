// The load of one phase: posts messages to the clients in turn, flat out or in a steady rhythm. What arrives is checked in the book.
import { setTimeout as sleep } from "node:timers/promises";
import { Book, type PhaseResult } from "./book.js";
import type { Crowd } from "./crowd.js";
import { HttpClient } from "./http-client.js";
import { BODY_BYTES, bodyOf } from "./message.js";
import type { Pushing } from "./pushing.js";

export interface Posting {
  /** At most so many. */
  messages: number;
  publishers: number;
  /** A steady rhythm of so many a second; undefined: as fast as they are taken. */
  perSecond?: number;
  /** The last one is posted before this is over. */
  forMs?: number;
}

/**
 * Posts to the next client each time, `publishers` of them at a time, each over a keep-alive socket of its own. A single
 * publisher also waits for every message to arrive before it posts the next. Ends early when `signal` says so.
 */
export async function post(
  crowd: Crowd,
  pushing: Pushing,
  first: number,
  { messages, publishers, perSecond, forMs = Infinity }: Posting,
  signal?: AbortSignal,
): Promise<PhaseResult> {
  const { port } = pushing;
  const book = new Book(messages, publishers, crowd.size, first);
  crowd.counting = book;
  const requests = crowd.listeners.map(({ id }) =>
    requestTo(`/v1/connections/${id}/messages`, pushing),
  );
  const clients = await Promise.all(
    Array.from({ length: publishers }, () => HttpClient.connect(port)),
  );
  const startedAt = performance.now();
  let next = 0;
  const goesOn = (): boolean =>
    next < messages &&
    signal?.aborted !== true &&
    performance.now() - startedAt < forMs;
  const publish = async (
    client: HttpClient,
    publisher: number,
  ): Promise<void> => {
    while (goesOn()) {
      const message = next++;
      if (perSecond !== undefined)
        await until(startedAt + (message * 1_000) / perSecond);
      const request = requests[message % requests.length] ?? "";
      const body = bodyOf(first + message);
      book.posting(message, publisher);
      book.answered(await client.send(request + body));
      if (publishers === 1 && !(await book.settled())) return;
    }
  };
  try {
    await Promise.all(clients.map(publish));
    await book.settled();
  } finally {
    for (const client of clients) client.close();
  }
  const result = book.result();
  result.faults.push(...crowd.breaks.splice(0));
  return result;
}

/** The head of a POST of one body. */
export function requestTo(path: string, { port, headers }: Pushing): string {
  return (
    `POST ${path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nContent-Type: application/json\r\n` +
    `Content-Length: ${BODY_BYTES}\r\n${headers}\r\n`
  );
}

async function until(at: number): Promise<void> {
  const waitMs = at - performance.now();
  if (waitMs > 0) await sleep(waitMs);
}
