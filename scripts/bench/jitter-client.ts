// One client of the jitter test: the client library as shipped, on a line that is cut and stays dead for a while.
import { connect as dialTcp, type Socket } from "node:net";
import { WebSocket } from "ws";
import { connect, type Bridge } from "../../client/client.js";
import { FIRST_NUMBER, readPlain } from "./message.js";
import type { Prepared } from "./systems.js";

export interface BadLine {
  /** Numbers of messages are below. */
  messages: number;
  cutEveryMs: number;
  awayMs: number;
}

/** A cut comes between 1 - this and 1 + this times the mean. */
const CUT_SPREAD = 0.2;

export class JitterClient {
  readonly reconnects: number[] = [];
  readonly replays: number[] = [];
  /** What the library complained about, in words. */
  readonly faults: string[] = [];
  acceptedCount = 0;
  delivered = 0;
  duplicates = 0;
  inversions = 0;
  cuts = 0;
  readonly #target: Prepared;
  readonly #wsPorts: readonly number[];
  readonly #line: BadLine;
  readonly #seen: Uint8Array;
  #newest = -1;
  #newestAccepted = -1;
  #bridge: Bridge | undefined;
  /** The TCP socket of the last dial. */
  #tcp: Socket | undefined;
  #cutTimer: NodeJS.Timeout | undefined;
  #dialTimer: NodeJS.Timeout | undefined;
  /** When the line is back after the last cut; undefined once it was used. */
  #backAt: number | undefined;
  /** What this socket has to bring of the past: up to which message, since when. */
  #replay: { upTo: number; since: number } | undefined;

  constructor(target: Prepared, wsPorts: readonly number[], line: BadLine) {
    this.#target = target;
    this.#wsPorts = wsPorts;
    this.#line = line;
    this.#seen = new Uint8Array(line.messages);
  }

  /** Accepted and not handed over yet. */
  get missing(): number {
    return this.acceptedCount - this.delivered;
  }

  async open(): Promise<void> {
    const { url, token } = this.#target;
    const createConnection = this.#dial.bind(this);
    class OnThisLine extends WebSocket {
      constructor(url: string, offered: string[]) {
        super(url, offered, { perMessageDeflate: false, createConnection });
      }
    }
    this.#bridge = connect(url, {
      WebSocket: OnThisLine,
      token,
      onMessage: ({ text }) => this.#received(readPlain(text ?? "")),
      onState: (state) => {
        if (state === "open") this.#welcomed();
      },
      onError: (error) => this.faults.push(error.message),
      onLost: () => this.faults.push("told that something is lost"),
    });
    await this.#bridge.ready;
  }

  accepted(message: number): void {
    this.acceptedCount++;
    this.#newestAccepted = message;
  }

  startCutting(): void {
    this.#cutAfter(Math.random() * this.#line.cutEveryMs);
  }

  stopCutting(): void {
    clearTimeout(this.#cutTimer);
  }

  close(): Promise<void> {
    this.stopCutting();
    clearTimeout(this.#dialTimer);
    this.#tcp?.destroy();
    return this.#bridge?.close() ?? Promise.resolve();
  }

  #cutAfter(ms: number): void {
    this.#cutTimer = setTimeout(() => {
      const { cutEveryMs } = this.#line;
      this.#cutAfter(
        cutEveryMs * (1 - CUT_SPREAD + Math.random() * 2 * CUT_SPREAD),
      );
      this.#cut();
    }, ms);
  }

  /** By RST: no FIN and no close frame. */
  #cut(): void {
    if (this.#bridge?.state !== "open") return;
    this.cuts++;
    this.#backAt = performance.now() + this.#line.awayMs;
    this.#replay = undefined;
    this.#tcp?.resetAndDestroy();
  }

  /** While the line is dead a dial gets no answer, as with a network that drops its packets; then it goes on. */
  #dial(
    _options: unknown,
    done: (error: Error | null, socket: Socket) => void,
  ): undefined {
    const waitMs = (this.#backAt ?? 0) - performance.now();
    const go = (): void => {
      const any = Math.floor(Math.random() * this.#wsPorts.length);
      this.#tcp = dialTcp({
        host: "127.0.0.1",
        port: this.#wsPorts[any] ?? 0,
        noDelay: true,
      });
      done(null, this.#tcp);
    };
    if (waitMs > 0) this.#dialTimer = setTimeout(go, waitMs);
    else go();
  }

  #welcomed(): void {
    if (this.#backAt === undefined) return;
    const now = performance.now();
    this.reconnects.push(now - this.#backAt);
    this.#backAt = undefined;
    if (this.#newest < this.#newestAccepted)
      this.#replay = { upTo: this.#newestAccepted, since: now };
  }

  #received(number: number | undefined): void {
    const message = (number ?? NaN) - FIRST_NUMBER;
    const before = this.#seen[message];
    if (before === undefined) {
      this.faults.push("damaged");
      return;
    }
    this.#seen[message] = 1;
    if (before === 1) this.duplicates++;
    else this.delivered++;
    if (message < this.#newest) this.inversions++;
    else this.#newest = message;
    if (this.#replay === undefined || message < this.#replay.upTo) return;
    this.replays.push(performance.now() - this.#replay.since);
    this.#replay = undefined;
  }
}
