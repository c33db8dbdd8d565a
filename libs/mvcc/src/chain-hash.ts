import { u64At, writeU64 } from './bytes.js'

/** Of the state after the entry at `index`, and of all that led there: 16 hex digits. */
export interface IndexedHash {
  index: number
  hash: string
}

/** Kept at each index that this divides, so that members which stopped at different ones have some in common. */
const KEEP_EVERY = 64
const KEPT_MAX = 64

/**
 * A hash of everything that was applied, kept as it is applied. Two members at one index with different ones differ in state
 * or in history. It finds what went wrong, not what was forged; what rots on the disk afterwards is `hashKv`'s to find.
 *
 * Only what is the same on all members goes in: not where batches end, nor what was swept.
 */
export class ChainHash {
  private a = 0
  private b = 0
  private at = { index: 0, a: 0, b: 0 }
  private readonly kept: { index: number; a: number; b: number }[] = []

  number(value: number): void {
    this.mix(value | 0)
    this.mix(Math.floor(value / 0x1_0000_0000))
  }

  text(value: string): void {
    this.mix(value.length)
    for (let at = 0; at < value.length; at++) this.mix(value.charCodeAt(at))
  }

  bytes(bytes: Uint8Array, from = 0): void {
    let { a, b } = this
    const { length } = bytes
    let at = from
    for (; at + 4 <= length; at += 4) {
      const word =
        (bytes[at] as number) |
        ((bytes[at + 1] as number) << 8) |
        ((bytes[at + 2] as number) << 16) |
        ((bytes[at + 3] as number) << 24)
      a = Math.imul(a ^ word, 0x9e37_79b1)
      a ^= a >>> 15
      b = Math.imul((b + word) | 0, 0x85eb_ca6b)
      b ^= b >>> 13
    }
    this.a = a
    this.b = b
    let rest = length - from
    for (; at < length; at++) rest = (rest << 8) ^ (bytes[at] as number)
    this.mix(rest)
  }

  private mix(word: number): void {
    const a = Math.imul(this.a ^ word, 0x9e37_79b1)
    this.a = a ^ (a >>> 15)
    const b = Math.imul((this.b + word) | 0, 0x85eb_ca6b)
    this.b = b ^ (b >>> 13)
  }

  /** All of the entry at `index` went in. */
  end(index: number): void {
    this.number(index)
    const { a, b } = this
    this.at = { index, a, b }
    if (index % KEEP_EVERY !== 0) return
    this.kept.push(this.at)
    if (this.kept.length > KEPT_MAX) this.kept.shift()
  }

  get present(): IndexedHash {
    return shown(this.at)
  }

  /** Ascending; the present one last. */
  recent(): IndexedHash[] {
    return [...this.kept.filter(({ index }) => index !== this.at.index), this.at].map(shown)
  }

  encode(): Uint8Array {
    const bytes = new Uint8Array(24)
    writeU64(bytes, 0, this.at.index)
    writeU64(bytes, 8, this.at.a >>> 0)
    writeU64(bytes, 16, this.at.b >>> 0)
    return bytes
  }

  load(bytes: Uint8Array | undefined): void {
    this.at = bytes
      ? { index: u64At(bytes, 0), a: u64At(bytes, 8) | 0, b: u64At(bytes, 16) | 0 }
      : { index: 0, a: 0, b: 0 }
    this.a = this.at.a
    this.b = this.at.b
    this.kept.length = 0
  }
}

function shown({ index, a, b }: { index: number; a: number; b: number }): IndexedHash {
  const hex = (word: number) => (word >>> 0).toString(16).padStart(8, '0')
  return { index, hash: hex(a) + hex(b) }
}
