// The fragments of a message that may still have to be dropped, and the pings and pongs between them, in their order.

/** With more than this of pings and pongs between its fragments a message is dropped. */
const MAX_CONTROL_BYTES = 65_536;

export class HeldMessage {
  /** Payload of its fragments, as their headers say. */
  payload = 0;

  #pieces: { readonly bytes: Buffer; readonly isData: boolean }[] = [];
  #controlBytes = 0;

  get isEmpty(): boolean {
    return this.#pieces.length === 0;
  }

  get isTooMixed(): boolean {
    return this.#controlBytes > MAX_CONTROL_BYTES;
  }

  add(bytes: Buffer, isData: boolean): void {
    this.#pieces.push({ bytes, isData });
    if (!isData) this.#controlBytes += bytes.length;
  }

  /** Everything it holds, or only what is none of the message's; it is empty then. */
  take(part: "all" | "control"): Buffer[] {
    const taken = this.#pieces
      .filter(({ isData }) => part === "all" || !isData)
      .map(({ bytes }) => bytes);
    this.#pieces = [];
    this.payload = this.#controlBytes = 0;
    return taken;
  }
}
