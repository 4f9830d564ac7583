// The load of the batch row: posts batches to the clients in turn. What arrives is checked in the book.
import { Agent } from "node:http";
import { batchLine, postBatch } from "./batch-post.js";
import { Book, type PhaseResult } from "./book.js";
import type { Crowd } from "./crowd.js";
import { bodyOf } from "./message.js";
import type { Pushing } from "./pushing.js";

export interface Batches {
  messages: number;
  /** Messages of one batch. */
  items: number;
  /** Batches that are under way at a time. */
  publishers: number;
}

export async function postBatches(
  crowd: Crowd,
  { port, headers }: Pushing,
  first: number,
  { messages, items, publishers }: Batches,
): Promise<PhaseResult> {
  const book = new Book(messages, publishers, crowd.size, first);
  crowd.counting = book;
  const agent = new Agent({ keepAlive: true });
  const authorization = /^Authorization: (.*)\r\n/m.exec(headers)?.[1];
  let next = 0;
  const publish = async (publisher: number): Promise<void> => {
    while (next < messages) {
      const from = next;
      next = Math.min(messages, from + items);
      const count = next - from;
      let body = "";
      for (let message = from; message < from + count; message++) {
        const { id = "" } = crowd.listeners[message % crowd.size] ?? {};
        body += batchLine(id, bodyOf(first + message));
        book.posting(message, publisher);
      }
      const taken = await postBatch({ agent, port, authorization }, body);
      for (let item = 0; item < taken; item++) book.answered(202);
      if (taken !== count)
        book.fault(`${count - taken} of a batch not accepted`);
    }
  };
  try {
    await Promise.all(
      Array.from({ length: publishers }, (_, publisher) => publish(publisher)),
    );
    await book.settled();
  } finally {
    agent.destroy();
  }
  const result = book.result();
  result.faults.push(...crowd.breaks.splice(0));
  return result;
}
