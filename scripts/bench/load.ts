// The load generator's work: opens the clients and posts messages to them. What arrives is checked in the book.
import { Book, type PhaseResult } from "./book.js";
import { HttpClient } from "./http-client.js";
import { BODY_BYTES, bodyOf, FIRST_NUMBER } from "./message.js";
import { receive, type Receiver, type Receiving } from "./receiver.js";

/** A connection to push to, and how its client connects. */
export interface Target extends Receiving {
  /** Path of the POST. */
  path: string;
}

/** Where and how to push. */
export interface Pushing {
  port: number;
  /** Extra request header lines, each ending in CRLF. */
  headers: string;
}

/** Sockets that are opened at the same time. */
const OPENING_AT_ONCE = 20;

export class Load {
  readonly #pushing: Pushing;
  readonly #receivers: Receiver[] = [];
  readonly #requests: string[] = [];
  /** Sockets that broke, in words. */
  readonly #breaks: string[] = [];
  #nextNumber = FIRST_NUMBER;
  #phase: { book: Book; first: number } | undefined;

  constructor(pushing: Pushing) {
    this.#pushing = pushing;
  }

  /** Opens one client per target; resolves when messages flow to all of them. */
  async open(targets: Target[]): Promise<void> {
    const { port, headers } = this.#pushing;
    const waiting = targets.entries();
    const opener = async (): Promise<void> => {
      for (const [index, target] of waiting) {
        this.#requests[index] =
          `POST ${target.path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nContent-Type: application/json\r\n` +
          `Content-Length: ${BODY_BYTES}\r\n${headers}\r\n`;
        const receiver = await receive(
          target,
          (number) => this.#received(number, index),
          (cause) => this.#breaks.push(cause),
        );
        this.#receivers.push(receiver);
      }
    };
    await Promise.all(Array.from({ length: OPENING_AT_ONCE }, opener));
  }

  /**
   * Posts `messages` over all connections in turn, `publishers` of them at a time, each over a keep-alive socket of
   * its own. A single publisher also waits for every message to arrive before it posts the next.
   */
  async run(messages: number, publishers: number): Promise<PhaseResult> {
    const book = new Book(messages, publishers, this.#requests.length);
    const first = this.#nextNumber;
    this.#nextNumber += messages;
    this.#phase = { book, first };
    const { port } = this.#pushing;
    const clients = await Promise.all(
      Array.from({ length: publishers }, () => HttpClient.connect(port)),
    );
    let next = 0;
    const publish = async (
      client: HttpClient,
      publisher: number,
    ): Promise<void> => {
      while (next < messages) {
        const message = next++;
        const request = this.#requests[message % this.#requests.length] ?? "";
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
    result.faults.push(...this.#breaks.splice(0));
    return result;
  }

  close(): void {
    for (const receiver of this.#receivers.splice(0)) receiver.close();
  }

  #received(number: number | undefined, target: number): void {
    if (this.#phase === undefined) return;
    const { book, first } = this.#phase;
    if (number === undefined) book.fault("damaged");
    else book.arrived(number - first, target);
  }
}
