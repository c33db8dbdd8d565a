/** Of rows that travel together: some hundred microseconds of work for whoever hands them over. */
export const SLAB_BYTES = 256 * 1024
const REMOVED = 0xffff_ffff
const HEAD_BYTES = 6

interface Slab {
  readonly bytes: Buffer
  used: number
}

/**
 * Rows as they travel to the writing thread: key length (2 bytes), value length (4; 0xffffffff: the key is removed), key,
 * value. Kept in slabs, because as objects of their own each would be copied again and again by the collector of garbage.
 */
export class Rows {
  private slabs: Slab[] = []
  private last: Slab | undefined

  /** Copies both. Returns where the row is, for `valueAt`. */
  add(key: Uint8Array, value: Uint8Array | null): number {
    const length = HEAD_BYTES + key.length + (value?.length ?? 0)
    let slab = this.last
    if (!slab || slab.used + length > slab.bytes.length) {
      slab = { bytes: Buffer.allocUnsafeSlow(Math.max(SLAB_BYTES, length)), used: 0 }
      this.slabs.push(slab)
      this.last = slab
    }
    const { bytes, used: at } = slab
    bytes.writeUInt16BE(key.length, at)
    bytes.writeUInt32BE(value ? value.length : REMOVED, at + 2)
    bytes.set(key, at + HEAD_BYTES)
    if (value) bytes.set(value, at + HEAD_BYTES + key.length)
    slab.used = at + length
    // A row begins below this bound in any slab, also in one that is as large as the row.
    return (this.slabs.length - 1) * SLAB_BYTES + at
  }

  /** A view of what `add` copied; null: removed. */
  valueAt(where: number): Uint8Array | null {
    const at = where % SLAB_BYTES
    const { bytes } = this.slabs[(where - at) / SLAB_BYTES] as Slab
    const valueBytes = bytes.readUInt32BE(at + 2)
    if (valueBytes === REMOVED) return null
    const from = at + HEAD_BYTES + bytes.readUInt16BE(at)
    return new Uint8Array(bytes.buffer, bytes.byteOffset + from, valueBytes)
  }

  /** In the order in which they came, a slab at a time: each may be given away. */
  *copies(): Generator<Uint8Array> {
    for (const { bytes, used } of this.slabs) yield new Uint8Array(bytes.subarray(0, used))
  }
}

export function* decodeRows(rows: Uint8Array): Generator<[key: Buffer, value: Buffer | undefined]> {
  const bytes = Buffer.from(rows.buffer, rows.byteOffset, rows.byteLength)
  for (let at = 0; at < bytes.length; ) {
    const keyEnd = at + HEAD_BYTES + bytes.readUInt16BE(at)
    const valueBytes = bytes.readUInt32BE(at + 2)
    const key = bytes.subarray(at + HEAD_BYTES, keyEnd)
    at = valueBytes === REMOVED ? keyEnd : keyEnd + valueBytes
    yield [key, valueBytes === REMOVED ? undefined : bytes.subarray(keyEnd, at)]
  }
}
