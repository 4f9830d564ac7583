/** Which Cluster slot a hash tag lies in: CRC-16 (XMODEM) of the tag, modulo 16,384 (Redis Cluster specification). */

const slots = 16_384;

/** The slot of every key that carries `{tag}`. */
export function slotOf(tag: string): number {
  let crc = 0;
  for (const byte of Buffer.from(tag)) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++)
      crc = (crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1) & 0xffff;
  }
  return crc % slots;
}
