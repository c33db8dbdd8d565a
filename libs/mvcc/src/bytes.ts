/** Keys are held in memory as strings of code units 0 to 255: `<` then orders them as their bytes. */
export function toLatin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
}

export function fromLatin1(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length)
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at)
  return bytes
}

export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const shared = Math.min(a.length, b.length)
  for (let at = 0; at < shared; at++) {
    const difference = (a[at] as number) - (b[at] as number)
    if (difference !== 0) return difference < 0 ? -1 : 1
  }
  return a.length === b.length ? 0 : a.length < b.length ? -1 : 1
}

/** A safe integer as 8 big-endian bytes, which sort as the numbers do. */
export function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 0x1_0000_0000))
  view.setUint32(at + 4, value >>> 0)
}

export function getU64(view: DataView, at: number): number {
  return view.getUint32(at) * 0x1_0000_0000 + view.getUint32(at + 4)
}

/** As `putU64` and `getU64`, without a view. */
export function writeU64(bytes: Uint8Array, at: number, value: number): void {
  const high = Math.floor(value / 0x1_0000_0000)
  bytes[at] = high >>> 24
  bytes[at + 1] = high >>> 16
  bytes[at + 2] = high >>> 8
  bytes[at + 3] = high
  bytes[at + 4] = value >>> 24
  bytes[at + 5] = value >>> 16
  bytes[at + 6] = value >>> 8
  bytes[at + 7] = value
}

export function u64At(bytes: Uint8Array, at: number): number {
  const high =
    (bytes[at] as number) * 0x100_0000 +
    (((bytes[at + 1] as number) << 16) | ((bytes[at + 2] as number) << 8) | (bytes[at + 3] as number))
  const low =
    (bytes[at + 4] as number) * 0x100_0000 +
    (((bytes[at + 5] as number) << 16) | ((bytes[at + 6] as number) << 8) | (bytes[at + 7] as number))
  return high * 0x1_0000_0000 + low
}

/** Small arrays cut from larger pieces: an allocation of its own costs each several times as much. Each stays as given. */
export class Slab {
  private piece = new ArrayBuffer(0)
  private used = 0

  constructor(private readonly pieceBytes = 16 * 1024) {}

  take(length: number): Uint8Array {
    if (length > this.pieceBytes / 4) return new Uint8Array(length)
    if (this.used + length > this.piece.byteLength) {
      this.piece = new ArrayBuffer(this.pieceBytes)
      this.used = 0
    }
    const bytes = new Uint8Array(this.piece, this.used, length)
    this.used += length
    return bytes
  }
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

export function u64(value: number): Uint8Array {
  const bytes = new Uint8Array(8)
  putU64(viewOf(bytes), 0, value)
  return bytes
}

/** Half-open interval of keys as strings; no `to`: to the end. */
export interface KeySpan {
  from: string
  to: string | undefined
  /** One key only: `from`. */
  single: boolean
}

/** etcd's reading of (key, rangeEnd). An end not above the key gives an empty span. */
export function spanOf(range: { key: Uint8Array; rangeEnd?: Uint8Array }): KeySpan {
  const from = toLatin1(range.key)
  if (range.rangeEnd === undefined || range.rangeEnd.length === 0) return { from, to: `${from}\0`, single: true }
  if (range.rangeEnd.length === 1 && range.rangeEnd[0] === 0) return { from, to: undefined, single: false }
  return { from, to: toLatin1(range.rangeEnd), single: false }
}

export function spanHas(span: KeySpan, key: string): boolean {
  return span.single ? key === span.from : key >= span.from && (span.to === undefined || key < span.to)
}

/** The same in bytes. */
export interface ByteSpan {
  from: Uint8Array
  to: Uint8Array | undefined
  single: boolean
}

export function byteSpanOf({ key, rangeEnd }: { key: Uint8Array; rangeEnd?: Uint8Array }): ByteSpan {
  if (rangeEnd === undefined || rangeEnd.length === 0) return { from: key, to: undefined, single: true }
  if (rangeEnd.length === 1 && rangeEnd[0] === 0) return { from: key, to: undefined, single: false }
  return { from: key, to: rangeEnd, single: false }
}
