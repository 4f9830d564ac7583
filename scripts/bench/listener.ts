// One client of the load generator: opens its connection, acks where that is the custom, can be cut and come back.
import { randomBytes } from "node:crypto";
import { Acks } from "./acks.js";
import { LightSocket, textFrame } from "./light-socket.js";
import {
  dialOf,
  entering,
  type Heard,
  type Standing,
  type Target,
  type Welcome,
} from "./speech.js";

/** What a client tells whoever holds it. */
export interface Hearing {
  /** What a frame is. */
  read(payload: Buffer): Heard;
  /** A message for the application; its number is undefined when it is damaged. */
  onMessage(number: number | undefined): void;
  /** An ack of groups is to be written, now or a little later. */
  onGroupAck(write: () => void): void;
  /** The open socket ended by itself. */
  onBreak(cause: string): void;
}

/** From dialling to the first frame that says that messages flow. */
const OPEN_TIMEOUT_MS = 60_000;

export class Listener {
  /** What a POST addresses it by. */
  id: string | undefined;
  /** Messages that came again on the wire and were dropped, as the client library does. */
  repeats = 0;
  ackCount = 0;
  readonly #target: Target;
  readonly #hearing: Hearing;
  readonly #who = randomBytes(6).toString("hex");
  #dials = 0;
  #socket: LightSocket | undefined;
  #opening: { done(): void; failed(cause: Error): void } | undefined;
  #pass: string | undefined;
  #seq = 0;
  #offset: string | undefined;
  #groups = new Map<string, string>();
  #standing: Standing | undefined;
  #acks: Acks | undefined;
  #groupAcks: Acks | undefined;

  constructor(target: Target, hearing: Hearing) {
    this.#target = target;
    this.#hearing = hearing;
    this.id = target.id;
  }

  /** Resolves when messages flow. After `cut` it goes on where it was. */
  async open(timeoutMs = OPEN_TIMEOUT_MS): Promise<void> {
    if (this.#pass !== undefined)
      this.#standing = {
        pass: this.#pass,
        seq: this.#seq,
        offset: this.#offset,
        groups: this.#groups,
      };
    const attempt = `${this.#who}.${++this.#dials}`;
    let timer: NodeJS.Timeout | undefined;
    const flows = new Promise<void>((done, failed) => {
      this.#opening = { done, failed };
      timer = setTimeout(() => {
        this.cut();
        failed(new Error("a socket did not open in time"));
      }, timeoutMs);
    });
    const socket: LightSocket = new LightSocket(
      dialOf(this.#target, attempt, this.#standing),
      {
        onText: (payload) => this.#heard(this.#hearing.read(payload)),
        onEnd: (cause) => this.#ended(cause),
      },
    );
    this.#socket = socket;
    try {
      await flows;
    } finally {
      clearTimeout(timer);
      this.#opening = undefined;
    }
  }

  /** By RST: no FIN and no close frame. */
  cut(): void {
    this.#stopAcks();
    this.#socket?.cut();
  }

  close(): void {
    this.#stopAcks();
    this.#socket?.close();
  }

  #ended(cause: string): void {
    this.#stopAcks();
    if (this.#opening) this.#opening.failed(new Error(cause));
    else this.#hearing.onBreak(cause);
  }

  #stopAcks(): void {
    this.#acks?.stop();
    this.#groupAcks?.stop();
  }

  /** Returns what is written back. */
  #heard(heard: Heard): Buffer | undefined {
    switch (heard?.is) {
      case "message":
        this.#message(heard);
        return undefined;
      case "welcome":
        this.#welcome(heard);
        return undefined;
      case "question":
        return heard.answer;
      case "hello":
        return entering(this.#standing);
      case undefined:
        return undefined;
    }
  }

  #welcome({ id, pass, ackMs, groupAckMs, groups }: Welcome): void {
    this.id = id ?? this.id;
    this.#pass = pass;
    if (groups) this.#groups = new Map(groups);
    if (ackMs !== undefined)
      this.#acks = new Acks(ackMs, () => this.#ack({ seq: this.#seq }));
    if (groupAckMs !== undefined)
      this.#groupAcks = new Acks(groupAckMs, () => {
        const places = [...this.#groups].map(([name, at]) => [
          name,
          Number(at),
        ]);
        this.#hearing.onGroupAck(() =>
          this.#ack({ groups: Object.fromEntries(places) }),
        );
      });
    this.#opening?.done();
  }

  #ack(places: object): void {
    this.ackCount++;
    this.#socket?.write(textFrame(JSON.stringify({ type: "ack", ...places })));
  }

  #message({
    number,
    seq,
    group,
    offset,
  }: Extract<Heard, { is: "message" }>): void {
    if (seq !== undefined) {
      if (seq <= this.#seq) {
        this.repeats++;
        return;
      }
      this.#seq = seq;
      this.#acks?.due();
    } else if (group !== undefined && offset !== undefined) {
      if (Number(offset) <= Number(this.#groups.get(group) ?? 0)) {
        this.repeats++;
        return;
      }
      this.#groups.set(group, offset);
      this.#groupAcks?.due();
    } else {
      this.#offset = offset ?? this.#offset;
    }
    this.#hearing.onMessage(number);
  }
}
