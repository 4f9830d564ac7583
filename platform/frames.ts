// A passive RFC 6455 reader of one direction: it counts what passes and notes the Close frame. It keeps no payload,
// changes nothing and judges nothing; whether the bytes are right is the peers' business. `push` reads whatever comes;
// who has to cut the stream looks at each header first (`peek`), then takes it (`begin`) and its payload (`pass`).

const CONTINUATION = 0x0;
const BINARY = 0x2;
const CLOSE = 0x8;

/** Largest frame header: 2 bytes, 8 bytes of length, 4 bytes of mask (RFC 6455 section 5.2). */
const MAX_HEADER_BYTES = 14;

/** Stands for a Close frame without a code (RFC 6455 section 7.4.1). */
export const NO_CODE = 1005;

export class FrameReader {
  /** Complete data messages. */
  messages = 0;
  /** Payload bytes of complete data frames, as they are on the wire. */
  bytes = 0;
  /** Complete data frames; what counts as traffic for the idle timeout [WS-CLOSE-13]. */
  dataFrames = 0;
  /** Complete pings and pongs; they count as traffic only where a switch says so [WS-CLOSE-13]. */
  controlFrames = 0;
  /** Payload of the largest message so far, known as soon as its frame headers are. */
  largestMessage = 0;
  /** Code of the Close frame; `NO_CODE` when it carried none. */
  closeCode: number | undefined;

  /** Data messages whose first frame has begun. */
  begun = 0;
  /** Payload bytes of data frames so far, complete or not. */
  passed = 0;
  /** Payload of the message under way as far as its frame headers tell; 0 between two messages. */
  messageSize = 0;

  /** The frame under way, or the one `peek` has seen. */
  opcode = 0;
  final = false;
  length = 0;

  readonly #header = new Uint8Array(MAX_HEADER_BYTES);
  #have = 0;
  #need = 2;
  /** Payload bytes of the current frame that have not passed yet; -1 while its header is being read. */
  #left = -1;
  #firstCodeByte = -1;
  #done = false;

  /** Some bytes of a frame have passed, but not all. */
  get isInFrame(): boolean {
    return this.#left >= 0 || this.#have > 0;
  }

  /** Nothing more is read: a Close frame has passed, or a length that nobody can mean. */
  get isDone(): boolean {
    return this.#done;
  }

  /** Payload bytes of the current frame that have not passed yet. */
  get left(): number {
    return Math.max(0, this.#left);
  }

  /** The current frame, or the one `peek` has seen, carries data. */
  get isData(): boolean {
    return this.opcode >= CONTINUATION && this.opcode <= BINARY;
  }

  get isClose(): boolean {
    return this.opcode === CLOSE;
  }

  /** It begins a message. */
  get isFirst(): boolean {
    return this.opcode !== CONTINUATION && this.isData;
  }

  /** Reads the next bytes of the stream, cut anywhere. */
  push(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.length && !this.#done) at = this.pushFrame(chunk, at);
  }

  /** Reads from `at` to the end of the frame, or of the chunk; returns how far it came. */
  pushFrame(chunk: Uint8Array, at: number): number {
    if (this.#left < 0) {
      const size = this.#have === 0 ? this.peek(chunk, at) : 0;
      if (size > 0) {
        this.begin(chunk, at);
        at += size;
      } else {
        while (at < chunk.length && this.#left < 0) {
          this.#header[this.#have++] = chunk[at++] ?? 0;
          if (this.#have < this.#need) continue;
          this.#need = this.#parse(this.#header, 0);
          if (this.#have === this.#need) this.#begun();
        }
        if (this.#left < 0) return at;
      }
    }
    return this.pass(chunk, at, chunk.length - at);
  }

  /** Looks at a header between two frames, without reading it: its size, or 0 when there is not all of it yet. */
  peek(chunk: Uint8Array, at: number): number {
    if (chunk.length - at < 2) return 0;
    const size = headerSize(chunk[at + 1] ?? 0);
    if (chunk.length - at < size) return 0;
    this.#parse(chunk, at);
    return size;
  }

  /** Reads the header that `peek` has just seen. */
  begin(chunk: Uint8Array, at: number): void {
    if (this.isClose) {
      // Only a Close frame's payload is looked at; the others' masks are of no interest.
      const size = headerSize(chunk[at + 1] ?? 0);
      for (let i = 0; i < size; i++) this.#header[i] = chunk[at + i] ?? 0;
      this.#need = size;
    }
    this.#begun();
  }

  /** Reads at most `max` bytes of the payload of the current frame; returns how far it came. */
  pass(chunk: Uint8Array, at: number, max: number): number {
    const passing = Math.min(this.#left, chunk.length - at, max);
    if (this.opcode === CLOSE) this.#readCode(chunk, at, passing);
    else if (this.isData) this.passed += passing;
    this.#left -= passing;
    if (this.#left === 0) this.#frameEnded();
    return at + passing;
  }

  /** Reads first byte and length of a header; returns the size it must have. */
  #parse(from: Uint8Array, at: number): number {
    const second = from[at + 1] ?? 0;
    const size = headerSize(second);
    const isOwn = from === this.#header;
    if (isOwn && this.#have < size) return size;
    const short = second & 0x7f;
    const lengthBytes = short === 127 ? 8 : short === 126 ? 2 : 0;
    let length = lengthBytes === 0 ? short : 0;
    for (let i = 2; i < 2 + lengthBytes; i++)
      length = length * 256 + (from[at + i] ?? 0);
    const first = from[at] ?? 0;
    this.final = (first & 0x80) !== 0;
    this.opcode = first & 0x0f;
    this.length = length;
    return size;
  }

  #begun(): void {
    this.#left = this.length;
    // No peer can mean this; past it the position in the stream would be a guess.
    if (!Number.isSafeInteger(this.length)) this.#done = true;
    if (!this.isData) return;
    if (this.isFirst) {
      this.begun++;
      this.messageSize = 0;
    }
    this.messageSize += this.length;
    if (this.messageSize > this.largestMessage)
      this.largestMessage = this.messageSize;
  }

  #byte(index: number): number {
    return this.#header[index] ?? 0;
  }

  /** The code is in the first two payload bytes, masked with the first two bytes of the mask, if there is one. */
  #readCode(chunk: Uint8Array, at: number, passing: number): void {
    const passed = this.length - this.#left;
    const masked = (this.#byte(1) & 0x80) !== 0;
    for (let i = passed; i < 2 && i - passed < passing; i++) {
      const mask = masked ? this.#byte(this.#need - 4 + i) : 0;
      const byte = (chunk[at + i - passed] ?? 0) ^ mask;
      if (i === 0) this.#firstCodeByte = byte;
      else this.closeCode = this.#firstCodeByte * 256 + byte;
    }
  }

  #frameEnded(): void {
    if (this.opcode === CLOSE) {
      this.closeCode ??= NO_CODE;
      this.#done = true; // nothing may follow (RFC 6455 section 5.5.1)
    } else if (this.isData) {
      this.dataFrames++;
      this.bytes += this.length;
      if (this.final) {
        this.messages++;
        this.messageSize = 0;
      }
    } else this.controlFrames++;
    this.#left = -1;
    this.#have = 0;
    this.#need = 2;
  }
}

/** Size of a header whose second byte this is. */
function headerSize(second: number): number {
  const short = second & 0x7f;
  const lengthBytes = short === 127 ? 8 : short === 126 ? 2 : 0;
  return 2 + lengthBytes + (second & 0x80 ? 4 : 0);
}
