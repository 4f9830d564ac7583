// The audience of the broadcast bench: opens the sockets, posts one broadcast at a time, and notes by one clock when each
// socket has it, whole and once.
import { quantile } from "./book.js";
import { CastSocket, textFrame, type Dial } from "./cast-socket.js";
import { HttpClient } from "./http-client.js";
import type { Pushing } from "./load.js";
import { BODY_BYTES, bodyOf, FIRST_NUMBER, findNumber } from "./message.js";

/** How the sockets of a system speak. */
export type Speech = "raw" | "bridge.v1.json" | "socket.io";

/** What one broadcast took, milliseconds from before the POST. */
export interface CastResult {
  last: number;
  p50: number;
  faults: string[];
}

/** Sockets that are opened at the same time. */
const OPENING_AT_ONCE = 20;
/** Waiting for the last one ends when no socket has got anything for this long. */
const PATIENCE_MS = 10_000;

/** Frames that are no message, by their beginning: the answer, and whether messages flow from here on. */
const others: Record<
  Speech,
  { begins: string; answer?: Buffer; opens?: true }[]
> = {
  raw: [{ begins: '{"type":"welcome"', opens: true }],
  "bridge.v1.json": [
    { begins: '{"type":"welcome"', opens: true },
    { begins: '{"type":"ping"', answer: textFrame('{"type":"pong"}') },
  ],
  "socket.io": [
    { begins: "0{", answer: textFrame("40") },
    { begins: "40{", opens: true },
    { begins: "2", answer: textFrame("3") },
  ],
};

export class CastLoad {
  readonly #pushing: Pushing;
  readonly #path: string;
  readonly #speech: Speech;
  readonly #sockets: CastSocket[] = [];
  #arrivedAt = new Float64Array(0);
  #arrived = 0;
  #faults = new Map<string, number>();
  #number = FIRST_NUMBER;
  /** The last frame that was a message of this broadcast: the others are compared with it, not parsed. */
  #frame: Buffer | undefined;
  #ack: Buffer | undefined;
  #settled: (() => void) | undefined;

  constructor(pushing: Pushing, path: string, speech: Speech) {
    this.#pushing = pushing;
    this.#path = path;
    this.#speech = speech;
  }

  /** Opens one socket for each; resolves when messages flow to all of them. */
  async open(dials: Dial[]): Promise<void> {
    const waiting = dials.values();
    const opener = async (): Promise<void> => {
      for (const dial of waiting) await this.#open(dial);
    };
    await Promise.all(Array.from({ length: OPENING_AT_ONCE }, opener));
  }

  async #open(dial: Dial): Promise<void> {
    const place = this.#sockets.length;
    let opened: () => void = () => undefined;
    let failed: (cause: Error) => void = () => undefined;
    const flows = new Promise<void>((resolve, reject) => {
      opened = resolve;
      failed = reject;
    });
    // Its failure is told by whoever awaits it, which comes a little later.
    flows.catch(() => undefined);
    // Taken before the first await: frames name their socket by it.
    this.#sockets.length += 1;
    this.#sockets[place] = await CastSocket.open(dial, {
      onText: (payload) => this.#onText(payload, place, opened),
      onEnd: (cause) => {
        failed(new Error(cause));
        this.#fault(cause);
      },
    });
    await flows;
  }

  #onText(
    payload: Buffer,
    place: number,
    opened: () => void,
  ): Buffer | undefined {
    if (this.#frame?.equals(payload)) {
      this.#arrive(place);
      return undefined;
    }
    const text = payload.toString("latin1");
    const other = others[this.#speech].find(({ begins }) =>
      text.startsWith(begins),
    );
    if (other) {
      if (other.opens) opened();
      return other.answer;
    }
    if (findNumber(text) !== this.#number) {
      this.#fault("damaged or of another broadcast");
      return undefined;
    }
    this.#frame = Buffer.from(payload);
    const offset = /"group":"([^"]+)".*?"offset":(\d+)/.exec(text);
    if (offset)
      this.#ack = textFrame(
        `{"type":"ack","groups":{"${offset[1]}":${offset[2]}}}`,
      );
    this.#arrive(place);
    return undefined;
  }

  #arrive(place: number): void {
    if (!Number.isNaN(this.#arrivedAt[place])) this.#fault("arrived twice");
    else {
      this.#arrivedAt[place] = performance.now();
      this.#arrived++;
      if (this.#arrived === this.#sockets.length) this.#settled?.();
    }
  }

  #fault(what: string): void {
    this.#faults.set(what, (this.#faults.get(what) ?? 0) + 1);
  }

  /** One broadcast, from before the POST until every socket has it; then all of them ack it, where that is the custom. */
  async cast(): Promise<CastResult> {
    const { port, headers } = this.#pushing;
    const request =
      `POST ${this.#path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${BODY_BYTES}\r\n${headers}\r\n${bodyOf(++this.#number)}`;
    this.#arrivedAt = new Float64Array(this.#sockets.length).fill(NaN);
    this.#arrived = 0;
    this.#frame = this.#ack = undefined;
    const all = new Promise<void>((resolve) => {
      this.#settled = resolve;
    });
    // A new one each time: servers end one that was silent for a while.
    const http = await HttpClient.connect(port);
    const postedAt = performance.now();
    const status = await http.send(request);
    http.close();
    if (status !== 202) this.#fault(`answered ${status}`);
    else await this.#patiently(all);
    const missing = this.#sockets.length - this.#arrived;
    if (missing > 0) this.#faults.set("lost", missing);
    if (this.#ack) for (const socket of this.#sockets) socket.write(this.#ack);
    const sorted = this.#arrivedAt
      .filter((at) => !Number.isNaN(at))
      .map((at) => at - postedAt)
      .sort();
    const faults = [...this.#faults].map(([what, count]) => `${count} ${what}`);
    this.#faults = new Map();
    return { last: sorted.at(-1) ?? NaN, p50: quantile(sorted, 0.5), faults };
  }

  /** Resolves with `all`, or when nothing more comes. */
  async #patiently(all: Promise<void>): Promise<void> {
    let before = -1;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setInterval(() => {
        if (this.#arrived === before) resolve();
        before = this.#arrived;
      }, PATIENCE_MS);
    });
    await Promise.race([all, late]);
    clearInterval(timer);
  }
}
