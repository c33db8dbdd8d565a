const POLYNOMIAL = 0x82f63b78

/** At `n * 256 + byte`: the CRC of that byte with n zero bytes after it, so that eight bytes are one step. */
const TABLE = new Uint32Array(8 * 256)
for (let byte = 0; byte < 256; byte++) {
  let value = byte
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1
  TABLE[byte] = value
}
for (let at = 256; at < TABLE.length; at++) {
  const shorter = TABLE[at - 256] as number
  TABLE[at] = (shorter >>> 8) ^ (TABLE[shorter & 0xff] as number)
}

/** CRC-32C (Castagnoli, RFC 3720) of `bytes[from, to)`; `seed`: the CRC of what came before. */
export function crc32c(bytes: Uint8Array, seed = 0, from = 0, to = bytes.length): number {
  let crc = ~seed
  let at = from
  for (; at + 8 <= to; at += 8) {
    const low = crc ^ word(bytes, at)
    const high = word(bytes, at + 4)
    crc =
      (TABLE[1792 + (low & 0xff)] as number) ^
      (TABLE[1536 + ((low >>> 8) & 0xff)] as number) ^
      (TABLE[1280 + ((low >>> 16) & 0xff)] as number) ^
      (TABLE[1024 + (low >>> 24)] as number) ^
      (TABLE[768 + (high & 0xff)] as number) ^
      (TABLE[512 + ((high >>> 8) & 0xff)] as number) ^
      (TABLE[256 + ((high >>> 16) & 0xff)] as number) ^
      (TABLE[high >>> 24] as number)
  }
  for (; at < to; at++) crc = (TABLE[(crc ^ (bytes[at] as number)) & 0xff] as number) ^ (crc >>> 8)
  return ~crc >>> 0
}

const word = (bytes: Uint8Array, at: number): number =>
  (bytes[at] as number) |
  ((bytes[at + 1] as number) << 8) |
  ((bytes[at + 2] as number) << 16) |
  ((bytes[at + 3] as number) << 24)
