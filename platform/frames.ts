// A passive RFC 6455 reader of one direction: it counts what passes and notes the Close frame. It keeps no payload,
// changes nothing and judges nothing; whether the bytes are right is the peers' business.

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
  /** Payload of the largest message so far, known as soon as its frame headers are. */
  largestMessage = 0;
  /** Code of the Close frame; `NO_CODE` when it carried none. */
  closeCode: number | undefined;

  readonly #header = new Uint8Array(MAX_HEADER_BYTES);
  #have = 0;
  #need = 2;
  #opcode = 0;
  #final = false;
  /** Payload bytes of the current frame that have not passed yet; -1 while its header is being read. */
  #left = -1;
  #length = 0;
  #messageSize = 0;
  #firstCodeByte = -1;
  #done = false;

  /** Reads the next bytes of the stream, cut anywhere. */
  push(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.length && !this.#done) {
      if (this.#left >= 0) {
        const passing = Math.min(this.#left, chunk.length - at);
        if (this.#opcode === CLOSE) this.#readCode(chunk, at, passing);
        at += passing;
        this.#left -= passing;
      } else {
        this.#header[this.#have++] = chunk[at++] ?? 0;
        if (this.#have === this.#need) this.#readHeader();
      }
      if (this.#left === 0) this.#frameEnded();
    }
  }

  #byte(index: number): number {
    return this.#header[index] ?? 0;
  }

  #readHeader(): void {
    const second = this.#byte(1);
    const short = second & 0x7f;
    const lengthBytes = short === 127 ? 8 : short === 126 ? 2 : 0;
    const maskBytes = second & 0x80 ? 4 : 0;
    this.#need = 2 + lengthBytes + maskBytes;
    if (this.#have < this.#need) return;

    let length = lengthBytes === 0 ? short : 0;
    for (let i = 2; i < 2 + lengthBytes; i++)
      length = length * 256 + this.#byte(i);
    const first = this.#byte(0);
    this.#final = (first & 0x80) !== 0;
    this.#opcode = first & 0x0f;
    this.#length = length;
    this.#left = length;
    // No peer can mean this; past it the position in the stream would be a guess.
    if (!Number.isSafeInteger(length)) this.#done = true;
    if (this.#isData()) {
      this.#messageSize += length;
      if (this.#messageSize > this.largestMessage)
        this.largestMessage = this.#messageSize;
    }
  }

  #isData(): boolean {
    return this.#opcode >= CONTINUATION && this.#opcode <= BINARY;
  }

  /** The code is in the first two payload bytes, masked with the first two bytes of the mask, if there is one. */
  #readCode(chunk: Uint8Array, at: number, passing: number): void {
    const passed = this.#length - this.#left;
    const masked = (this.#byte(1) & 0x80) !== 0;
    for (let i = passed; i < 2 && i - passed < passing; i++) {
      const mask = masked ? this.#byte(this.#need - 4 + i) : 0;
      const byte = (chunk[at + i - passed] ?? 0) ^ mask;
      if (i === 0) this.#firstCodeByte = byte;
      else this.closeCode = this.#firstCodeByte * 256 + byte;
    }
  }

  #frameEnded(): void {
    if (this.#opcode === CLOSE) {
      this.closeCode ??= NO_CODE;
      this.#done = true; // nothing may follow (RFC 6455 section 5.5.1)
    } else if (this.#isData()) {
      this.dataFrames++;
      this.bytes += this.#length;
      if (this.#final) {
        this.messages++;
        this.#messageSize = 0;
      }
    }
    this.#left = -1;
    this.#have = 0;
    this.#need = 2;
  }
}
