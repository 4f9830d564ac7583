// Reads the head of a function's answer to an upgrade while it passes: the status, and where a refusal's body ends.

/** A head larger than this is not one; the answer is then treated as complete. */
const MAX_HEAD_BYTES = 65_536;

export class ResponseHead {
  /** HTTP status, as soon as the head is complete; 502 for something that is not HTTP. */
  status: number | undefined;
  #seen: Buffer = Buffer.alloc(0);
  /** Bytes of the body that have not passed; infinite where only the end of the line ends it. */
  #bodyLeft = Number.POSITIVE_INFINITY;

  /** The function has begun to answer. */
  get begun(): boolean {
    return this.#seen.length > 0 || this.status !== undefined;
  }

  /** All of a body of known length has passed. */
  get bodyComplete(): boolean {
    return this.status !== undefined && this.#bodyLeft <= 0;
  }

  /** Reads on; returns what follows the head once it is complete. */
  push(chunk: Buffer): Buffer | undefined {
    if (this.status !== undefined) {
      this.#bodyLeft -= chunk.length;
      return chunk;
    }
    this.#seen =
      this.#seen.length === 0 ? chunk : Buffer.concat([this.#seen, chunk]);
    const end = this.#seen.indexOf("\r\n\r\n");
    if (end < 0) {
      if (this.#seen.length > MAX_HEAD_BYTES) this.#refuse();
      return undefined;
    }
    const rest = this.#seen.subarray(end + 4);
    this.#read(this.#seen.toString("latin1", 0, end));
    this.#bodyLeft -= rest.length;
    this.#seen = Buffer.alloc(0);
    return rest.length > 0 ? rest : undefined;
  }

  #read(head: string): void {
    const [, status] = /^HTTP\/1\.[01] (\d{3})/.exec(head) ?? [];
    if (status === undefined) return this.#refuse();
    this.status = Number(status);
    const [, length] = /\r\ncontent-length:[ \t]*(\d+)/i.exec(head) ?? [];
    if (length !== undefined) this.#bodyLeft = Number(length);
    if (this.status === 204 || this.status === 304) this.#bodyLeft = 0;
  }

  #refuse(): void {
    this.status = 502;
    this.#bodyLeft = 0;
  }
}
